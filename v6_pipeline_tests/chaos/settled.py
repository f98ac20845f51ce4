"""The end of a run: all faults are healed, and the lake must be what the gateway says.

Done in the order in which one thing depends on another; each failure is a violation and the rest is looked at all the
same.
"""

from __future__ import annotations

import contextlib
import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from deltalake import DeltaTable

from v6_pipeline.errors import GatewayError
from v6_pipeline.state.instants import utc_now
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.slots.ledger import SlotLedger, stream_holder
from v6_pipeline_tests.chaos.lake_log import Key
from v6_pipeline_tests.chaos.runner import Runner

STREAM_COLUMNS = {
    "bid": "bid",
    "ask": "ask",
    "last": "last",
    "close": "close",
    "mark": "market_price",
    "implied_vol": "implied_vol",
    "delta": "delta",
    "gamma": "gamma",
    "vega": "vega",
    "theta": "theta",
    "underlying_price": "underlying_price",
}
"""The gateway's name of a value -> our column."""
SLOT_TTL_SECONDS = 100.0


class Settling:
    """Brings a run to its end and judges it.

    Args:
        runner: of the run.
        pass_time: end leases of the dead by a clock that is ahead, rather than wait for minutes.
    """

    def __init__(self, runner: Runner, *, pass_time: bool = False) -> None:
        self._clock = _later if pass_time else utc_now
        self._pass_time = pass_time
        self._runner = runner
        self._world = runner.world
        self._oracle = runner.oracle

    def run(self) -> None:
        """Everything, in order."""
        with contextlib.suppress(GatewayError):
            self._world.gateway.request("heal")
        self._world.workers.enabled = True
        self.drain_queue()
        self.check_markers()
        self.check_streams()
        self.refresh_everything()
        self.check_positions()
        self.stop()
        self.check_whole_tables()
        for swollen in self._runner.figures.swollen():
            self._fail("memory is flat", swollen)

    def drain_queue(self) -> None:
        """Workers go on until nothing is left to do; what is in its backoff, or leased to the dead, is waited for."""
        queue = self._world.queue
        if self._pass_time:
            self._end_leases()
        deadline = time.monotonic() + 90.0

        def drained() -> bool:
            nonlocal deadline
            stats = queue.stats()
            until = [moment for item in queue.items() for moment in (item.not_before, item.leased_until)]
            waiting = [moment for moment in until if moment is not None]
            if waiting:
                rest = (max(waiting) - datetime.now(UTC)).total_seconds()
                deadline = max(deadline, time.monotonic() + rest + 60.0)
            return stats.open + stats.leased + stats.waiting == 0

        while not drained():
            if time.monotonic() > deadline:
                self._fail("the queue drains", str(queue.stats()))
                break
            self._runner.step()
        self._world.workers.enabled = False
        if not self._runner.wait_for(lambda: self._world.workers.idle, 120.0):
            self._fail("workers end", "one still runs two minutes after the queue was empty")
        dead = [f"{item.key} {item.last_error}" for item in queue.items() if item.dead_at is not None]
        if dead:
            self._fail("no dead letters", f"{len(dead)}: {dead[:3]}")

    def _end_leases(self) -> None:
        """End the leases of dead processes, as minutes of waiting would."""
        self._world.workers.enabled = False
        self._runner.wait_for(lambda: self._world.workers.idle, 60.0)
        PositionQueue(self._world.database, self._clock).insert_many([])
        self._world.workers.enabled = True

    def check_markers(self) -> None:
        """Check that each requested refresh was made, unless the contract streams now or its position ended."""
        self._oracle.look()
        queued = {item.key for item in PositionQueue(self._world.database).items()}
        for marker in self._world.markers:
            row = self._world.queued.newest.get(marker.key)
            if marker.key not in queued and (row is None or row["timestamp"] < marker.at):
                newest = None if row is None else row["timestamp"]
                self._fail("no queue item is lost", f"{marker.key} asked for at {marker.at}, newest row {newest}")

    def check_streams(self) -> None:
        """Each contract that should stream does, once, and its last values are in the lake."""
        world = self._world
        if self._runner.wait_for_streams(datetime.now(UTC)) is None:
            self._fail("streaming at the end", f"not within {self._runner.deadline_seconds:g} s of calm")
        if not self._runner.wait_for(self._streams_once):
            self._fail("each contract is subscribed once", self._subscriptions())
        streaming = sorted(int(conid) for conid in self._oracle.statistics["subscriptions"])
        world.gateway.request("quiet", conids=streaming)
        delivered = world.gateway.statistics()["last_values"]
        if not self._runner.wait_for(lambda: not self._differences(streaming, delivered)):
            self._fail("last values right", "; ".join(self._differences(streaming, delivered)[:5]))

    def refresh_everything(self) -> None:
        """One ``v6 refresh --all``: every holding that does not stream has the value that IB's download said."""
        world = self._world
        begun = datetime.now(UTC)
        run = world.workers.start(everything=True)
        while run.process.poll() is None:
            self._oracle.look()
            self._oracle.note_portfolio()
            time.sleep(0.2)
        self._oracle.look()
        self._oracle.note_portfolio()
        if run.process.returncode != 0:
            self._fail("a refresh succeeds in calm", run.err.read_text()[-500:])
            return
        streaming = {int(conid) for conid in self._oracle.statistics["subscriptions"]}
        for key in sorted(world.truth.held()):
            if key[1] in streaming:
                continue
            row = world.queued.newest.get(key)
            if row is None or row["timestamp"] < begun:
                self._fail("every holding is in one feed", f"{key} neither streams nor was refreshed")
            elif (row["position"], round(row["market_value"] or math.nan, 2)) not in self._said(key):
                self._fail("values are the gateway's", f"{key} {row['market_value']}, not in {self._said(key)}")

    def check_positions(self) -> None:
        """The newest row of each key says what is held; what was closed ends with 0."""
        held, closed = self._world.truth.held(), self._world.truth.closed()
        newest = self._newest()
        for key, quantity in held.items():
            said = newest[key]["position"] if key in newest else None
            if said != quantity:
                self._fail("positions are the gateway's", f"{key} is {quantity:g} there and {said} in the lake")
        for key in closed:
            if key in newest and newest[key]["position"] != 0:
                self._fail("what was closed is closed", f"{key} ends with {newest[key]['position']:g}")
        for key in newest.keys() - held.keys() - closed:
            self._fail("nothing is invented", f"{key} was never held")

    def stop(self) -> None:
        """Stop as ``v6 stream --stop`` does: lines, clients, slots and processes are gone."""
        world = self._world
        world.sensor.pause()
        streamer = world.sensor.streamer
        if streamer is not None:
            streamer.terminate()
        alive = [process for process in world.sensor.streamers.values() if _runs(process)]
        _, left = psutil.wait_procs(alive, timeout=20)
        if left:
            self._fail("no orphans", f"streamers {[process.pid for process in left]} outlive their stop")
        if not self._runner.wait_for(lambda: world.gateway.statistics()["lines"] == 0, 10.0):
            self._fail("lines are given back", f"{world.gateway.statistics()['subscriptions']}")
        ledger = SlotLedger.from_settings(world.settings, world.database, self._clock)
        if not self._runner.wait_for(lambda: not ledger.usage().slots, SLOT_TTL_SECONDS + 5):
            self._fail("no slot outlives its lease", str(ledger.usage().slots))

    def check_whole_tables(self) -> None:
        """delta-rs and the log read as files agree, and no (account, conid, timestamp) is there twice."""
        self._oracle.read_lake()
        for log in (self._world.streamed, self._world.queued):
            folder = Path(self._world.settings.lake_root) / log.table
            if not folder.exists():
                continue
            rows = pl.scan_delta(DeltaTable(str(folder))).select("account", "conid", "timestamp").collect()
            if rows.height != log.rows:
                self._fail("nothing written is lost", f"{log.table}: {rows.height} rows of {log.rows} committed")
            if rows.n_unique() != rows.height:
                self._fail("no row twice", f"{log.table}: {rows.height - rows.n_unique()} are")

    def _newest(self) -> dict[Key, dict[str, Any]]:
        newest = dict(self._world.streamed.newest)
        for key, row in self._world.queued.newest.items():
            if key not in newest or newest[key]["timestamp"] < row["timestamp"]:
                newest[key] = row
        return newest

    def _said(self, key: Key) -> set[tuple[float, float]]:
        return self._oracle.portfolio_seen.get(key, set())

    def _streams_once(self) -> bool:
        world = self._world
        found = {int(conid): count for conid, count in self._oracle.statistics["subscriptions"].items()}
        streamed = set(found) & world.wanted()
        slots = SlotLedger.from_settings(world.settings, world.database).usage().slots
        holders = {slot.holder for slot in slots}
        return (
            set(found.values()) <= {1}
            and found.keys() <= world.wanted()
            and len(streamed) >= world.stream_count()
            and {slot.conid for slot in slots} == found.keys()
            and holders <= {stream_holder(world.sensor.epoch)}
        )

    def _subscriptions(self) -> str:
        world = self._world
        found = self._oracle.statistics["subscriptions"]
        slots = SlotLedger.from_settings(world.settings, world.database).usage().slots
        holders = sorted({f"{slot.holder} until {slot.expires_at:%H:%M:%S}" for slot in slots})
        return (
            f"{len(found)} subscribed of {world.stream_count()} (active and held: {len(world.wanted())}), "
            f"more than once: {[conid for conid, count in found.items() if count > 1]}, "
            f"not wanted: {sorted({int(conid) for conid in found} - world.wanted())}, slots {len(slots)} of {holders}"
        )

    def _differences(self, conids: list[int], delivered: dict[str, dict[str, float]]) -> list[str]:
        """Return the contracts whose newest streamed row differs from what the gateway sent last."""
        rows: dict[int, dict[str, Any]] = {}
        for (_, conid), row in self._world.streamed.newest.items():
            if conid not in rows or rows[conid]["timestamp"] < row["timestamp"]:
                rows[conid] = row
        found = []
        for conid in conids:
            last, sent = rows.get(conid, {}), delivered.get(str(conid), {})
            contract = self._world.contracts[conid]
            for name, column in STREAM_COLUMNS.items():
                if name == "mark" and contract["sec_type"] == "CASH":
                    continue  # currency pairs have none
                if name in sent and not _equal(last.get(column), sent[name], contract["price_magnifier"]):
                    found.append(f"{conid} {column}: {last.get(column)} for {sent[name]}")
        return found

    def _fail(self, rule: str, detail: str) -> None:
        self._world.violations.add(rule, detail)
        self._runner.log.write("violation", rule=rule, detail=detail)


def _later() -> datetime:
    return utc_now() + timedelta(minutes=10)


def _equal(ours: float | None, sent: float, magnifier: int) -> bool:
    """Compare with a quoted number; only futures, which have no greeks, are quoted in cents here."""
    if sent == -1:  # how IB says that there is no quote
        return ours is None
    return ours is not None and math.isclose(ours, sent / magnifier, abs_tol=1e-9)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
