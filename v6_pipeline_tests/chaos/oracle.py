"""Rules that hold at every moment, checked with the gateway's statistics and the Delta log alone.

The rules for the end, after all faults, are in ``settled``.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from v6_pipeline.errors import GatewayError
from v6_pipeline_tests.chaos.lake_log import Key
from v6_pipeline_tests.chaos.scale import Scale
from v6_pipeline_tests.chaos.truth import PositionTruth
from v6_pipeline_tests.chaos.world import World

STALE_POSITION = timedelta(seconds=120)
"""A row may repeat a position that changed so long ago: while the product was cut off it could not know."""
MESSAGES_PER_SECOND = 50
"""IB's limit at 100 lines, over all clients."""
NEVER = frozenset({321, 322, 102})
"""Requests that are wrong in themselves."""
EXPLAINED = frozenset({100, 101, 354, 200})
"""Codes that only a fault may bring about."""


@dataclass(slots=True)
class Oracle:
    """Looks at the world now and then; what it finds goes to ``world.violations``.

    Args:
        world: under test.
        enforce_rate: whether more than ``MESSAGES_PER_SECOND`` is a violation, or only a figure.
    """

    world: World
    enforce_rate: bool = True
    statistics: dict[str, Any] = field(default_factory=dict)
    """The newest."""
    price_times: dict[int, datetime] = field(default_factory=dict)
    """When the price or greeks of the newest streamed row of the newest streamer were received, by conid."""
    _greeks: dict[int, tuple[float | None, float | None]] = field(default_factory=dict)
    portfolio_seen: dict[Key, set[tuple[float, float]]] = field(default_factory=dict)
    """Every (position, market value) that the gateway has sent in an account download, by key."""

    def look(self) -> None:
        """One look at everything."""
        with contextlib.suppress(GatewayError):
            self.world.settle_truth()
        self.read_lake()
        with contextlib.suppress(GatewayError):  # stopped or restarting: its peaks are read later
            self.statistics = self.world.gateway.statistics()
            seen, excuses = self.statistics, self.world.excuses
            excuses.logged_in(self.world.logins_in(seen))
            explained = excuses.explained(seen)
            self._report(gateway_faults(seen, self.world.scale, explained, enforce_rate=self.enforce_rate))
        if self.world.sensor.failure is not None:
            self.world.violations.add("the sensor ticks", repr(self.world.sensor.failure))

    def streams_fresh_since(self, moment: datetime) -> bool:
        """Return True if all active contracts that must stream have a row with a price received after ``moment``.

        If there are more contracts than lines, the product chooses among them.
        """
        world = self.world
        fresh = {conid for conid in world.wanted() if self.price_times.get(conid, moment) > moment}
        if world.all_stream():
            return fresh >= world.wanted() - world.excuses.unsold
        return len(fresh) >= world.stream_count()

    def read_lake(self) -> None:
        """Take in new rows and check each."""
        world = self.world
        for row in world.streamed.read():
            self._report(row_faults(row, world.truth))
            # The last words of a streamer that is replaced are no recovery.
            if row["price_time"] is not None and row["epoch"] >= world.sensor.epoch:
                moment = self._ticked_at(row)
                before = self.price_times.get(row["conid"])
                if before is None or before < moment:
                    self.price_times[row["conid"]] = moment
        for row in world.queued.read():
            self._report(row_faults(row, world.truth))
        for log in (world.streamed, world.queued):
            for fault in log.faults:
                world.violations.add("no row twice, no epoch backwards", fault)

    def _report(self, found: list[tuple[str, str]]) -> None:
        for rule, detail in found:
            self.world.violations.add(rule, detail)

    def note_portfolio(self) -> None:
        """Remember what the account downloads say now, for rows are as of a download."""
        for text, values in self.statistics.get("last_portfolio", {}).items():
            account, conid = text.split(":")
            said = (values["position"], round(values["market_value"], 2))
            self.portfolio_seen.setdefault((account, int(conid)), set()).add(said)

    def _ticked_at(self, row: dict[str, Any]) -> datetime:
        """Return when a row's contract last ticked: its price, or greeks that moved while its price did not."""
        greeks = (row["delta"], row["underlying_price"])
        moved = None not in greeks and self._greeks.get(row["conid"], greeks) != greeks
        self._greeks[row["conid"]] = greeks
        price_time: datetime = row["price_time"]
        return max(price_time, row["timestamp"]) if moved else price_time


def row_faults(row: dict[str, Any], truth: PositionTruth) -> list[tuple[str, str]]:
    """Return the violations in a row of the lake, each as rule and detail."""
    found: list[tuple[str, str]] = []
    key: Key = (row["account"], row["conid"])
    if not truth.allows(key, row["position"], row["timestamp"], patience=STALE_POSITION):
        detail = f"{row['source']}: {key} had no position {row['position']:g} at {row['timestamp']:%H:%M:%S.%f}"
        found.append(("rows say what the gateway said", detail))
    for name in ("market_price", "bid", "ask", "last", "market_value", "delta"):
        value = row[name]
        if value is not None and not (math.isfinite(value) and abs(value) < 1e12):
            found.append(("unknown is null", f"{row['source']}: {key} {name} is {value}"))
    if row["position"] == 0 and row["market_value"] not in {0.0, None}:
        found.append(("closed is worth nothing", f"{row['source']}: {key} is closed and {row['market_value']}"))
    return found


def gateway_faults(
    seen: dict[str, Any], scale: Scale, allowed: set[int], *, enforce_rate: bool
) -> list[tuple[str, str]]:
    """Return the violations of clients by the gateway's statistics, each as rule and detail.

    Args:
        seen: the statistics.
        scale: which lines are ours.
        allowed: codes that faults explain.
        enforce_rate: whether more than ``MESSAGES_PER_SECOND`` counts.
    """
    found: list[tuple[str, str]] = []
    if seen["peak_lines"] > scale.ceiling:
        found.append(("never over the limit", f"{seen['peak_lines']} lines at once, {scale.ceiling} are ours"))
    if seen["order_messages"]:
        found.append(("never an order", f"{seen['order_messages']} order messages"))
    if seen["unknown_messages"]:
        found.append(("only known messages", str(seen["unknown_messages"])))
    found += [
        ("a contract takes one line", f"conid {conid}: {most} lines at once")
        for conid, most in seen["peak_subscriptions"].items()
        if most > 1 + scale.workers  # a stream, and a quote of each worker: for different accounts that hold it
    ]
    for code in sorted({int(code) for code in seen["errors"]} & (NEVER | (EXPLAINED - allowed))):
        found.append(("no avoidable error", f"code {code} without a fault that explains it"))
    if enforce_rate and seen["peak_rate"] > MESSAGES_PER_SECOND:
        found.append(("paced", f"more than {MESSAGES_PER_SECOND} messages of all clients in one second"))
    return found
