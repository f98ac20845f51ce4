"""One streamer and several refreshes against IB's limits: ``python benchmarks/line_budget.py [--drop]``.

Real processes on the paper gateway, judged by the gateway's statistics, the queue and the lake: lines and messages as
ratios of what IB allows, no error 100 or 101, the streams that run, the active contracts beyond them, the options that
got greeks. With ``--drop`` the gateway's limit falls to 40 lines while all of that runs, and rises again: how many 101s
that draws, whether every position gets a value in that time, and whether the streams return by themselves. Prints a
line for each limit or promise that was broken, and exits with 1 then. The probes upward come after minutes, so that
``--drop`` takes up to ten.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from subprocess import DEVNULL

import polars as pl

from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import latest_positions
from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.model import QueuePriority
from v6_pipeline.paper import GatewayConfig, GatewayThread, PaperGateway
from v6_pipeline.settings import load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue

LINES, RESERVE, FLOOR, MESSAGES = 100, 10, 10, 50
BUDGET = LINES - RESERVE
STREAMS = BUDGET - FLOOR
FEWER_LINES = 40
FEWER_FOR_SECONDS = 100
PATIENCE_SECONDS = 600
EARLY_SECONDS, EARLY_MOST = 30, 5
"""So many 101s may teach at first that there are fewer lines."""
PROBE_SECONDS, FURTHER_PROBES_SECONDS = 20, 120
"""After that one line more is tried: first after so long, where the number was halved on a guess, then in minutes."""
ROWS_WITHIN_SECONDS = 60
Key = tuple[str, int]
V6 = (sys.executable, "-m", "v6_pipeline.cli")


class Bench:
    """The gateway, the streamer and what they are judged by."""

    def __init__(self, gateway: GatewayThread, home: Path, active: int) -> None:
        self._gateway = gateway
        self.environment = os.environ | {"V6_HOME": str(home), "V6_IB_PORT": str(gateway.port)}
        held = gateway.call(lambda paper: sorted({item.conid for item in paper.book.held()}))
        self.active = frozenset(random.Random(3).sample(held, active))  # noqa: S311  (a choice, no secret)
        self.broken: list[str] = []
        self._settings = load_settings(home)
        subprocess.run(
            [*V6, "strategies", "add", "bench", *map(str, sorted(self.active))],
            env=self.environment,
            check=True,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )

    def perform(self, name: str, **fields: object) -> None:
        """An action of the gateway."""
        self._gateway.call(lambda paper: paper.perform(name, **fields))

    def streaming(self) -> int:
        """Return the number of active contracts that are subscribed at the gateway now."""
        return len(self._streamed())

    def _streamed(self) -> frozenset[int]:
        return self._gateway.call(lambda paper: self.active & set(+paper.statistics.subscriptions))

    def held(self) -> set[Key]:
        """All positions."""
        return self._gateway.call(lambda paper: {(item.account, item.conid) for item in paper.book.held()})

    def exhausted_at(self) -> list[float]:
        """Return the times at which the gateway sent 101, in seconds since its start."""
        return self._gateway.call(lambda paper: list(paper.statistics.error_times.get(101, ())))

    def now(self) -> float:
        """Seconds since the gateway's start."""
        return self._gateway.call(lambda paper: paper.statistics.seconds)

    def wait(self, streams: int, seconds: float) -> float:
        """Seconds until so many active contracts stream."""
        began = time.monotonic()
        while self.streaming() < streams:
            if time.monotonic() - began > seconds:
                self.judge(f"{self.streaming()} streams after {seconds:.0f} s, {streams} expected", holds=False)
                break
            time.sleep(0.05)
        return time.monotonic() - began

    def refresh(self, workers: int, *, with_greeks: bool = True) -> None:
        """So many processes refresh everything at once; every option gets greeks, where lines suffice for that."""
        began = time.monotonic()
        runs = [
            subprocess.Popen([*V6, "refresh", "--all", "--json"], env=self.environment, stdout=subprocess.PIPE)
            for _ in range(workers)
        ]
        outputs = [json.loads(run.communicate()[0]) for run in runs]
        print(
            f"{workers} refreshes: {time.monotonic() - began:.0f} s, "
            f"refreshed {sum(item['refreshed'] for item in outputs)}, quoted {sum(item['quoted'] for item in outputs)}"
        )
        self.judge(f"exit codes {[run.returncode for run in runs]}", holds=all(run.returncode == 0 for run in runs))
        newest = latest_positions([Lake.from_settings(self._settings).table(QUEUED_POSITIONS)])
        options = newest.filter(pl.col("sec_type") == "OPT")
        without = options["delta"].null_count()
        print(f"options with greeks: {options.height - without} of {options.height}")
        self.judge("options without greeks", holds=not without or not with_greeks)

    def beyond_the_budget(self) -> dict[Key, datetime]:
        """The positions of active contracts that found no line, and when the streamer asked for a refresh of each."""
        began = time.monotonic()
        while True:
            streamed = self._streamed()
            due = {key for key in self.held() if key[1] in self.active - streamed}
            asked = self._asked_first(due)
            if asked.keys() == due or time.monotonic() - began > ROWS_WITHIN_SECONDS:
                print(f"beyond the budget: {len(due)} positions, {len(asked)} in the queue at priority 1")
                self.judge(
                    f"{len(due - asked.keys())} active positions neither stream nor wait at priority 1",
                    holds=due <= asked.keys(),
                )
                return asked
            time.sleep(0.5)

    def _asked_first(self, due: Collection[Key]) -> dict[Key, datetime]:
        settings = self._settings
        database = StateDatabase.open(settings.state_database_url, name_for_messages=settings.safe_state_url)
        try:
            items = PositionQueue(database).items()
        finally:
            database.close()
        return {
            item.key: item.enqueued_at for item in items if item.key in due and item.priority == QueuePriority.OVERFLOW
        }

    def expect_rows(self, what: str, since: dict[Key, datetime]) -> None:
        """Each of these positions has a row that is newer than its instant, or has it soon."""
        lake = Lake.from_settings(self._settings)
        began = time.monotonic()
        while True:
            rows = latest_positions([lake.table(QUEUED_POSITIONS), lake.table(STREAMED_POSITIONS)])
            newest = {
                (account, conid): at for account, conid, at in rows.select("account", "conid", "timestamp").iter_rows()
            }
            old = sorted(key for key, at in since.items() if key not in newest or newest[key] <= at)
            if not old or time.monotonic() - began > ROWS_WITHIN_SECONDS:
                break
            time.sleep(1)
        print(f"{what}: {len(since) - len(old)} of {len(since)}")
        self.judge(f"{what}: {len(old)} not, such as {old[:3]}", holds=not old)

    def report(self) -> None:
        """The gateway's figures, as ratios of the limits."""

        def read(paper: PaperGateway) -> tuple[int, int, dict[int, int], int]:
            found = paper.statistics
            return found.peak_lines, found.peak_rate, dict(found.errors), found.order_messages

        lines, rate, errors, orders = self._gateway.call(read)
        unhealthy = {code: count for code, count in errors.items() if code not in {2104, 2106, 2158}}
        print(f"peak lines {lines} of {BUDGET} ({lines / BUDGET:.2f}), peak messages/s {rate} of {MESSAGES}")
        print(f"errors {unhealthy}, order messages {orders}")
        self.judge(f"{lines} lines", holds=lines <= BUDGET)
        self.judge(f"{rate} messages in a second", holds=rate <= MESSAGES)
        self.judge("order messages", holds=not orders)
        self.judge("error 100", holds=not errors.get(100))

    def judge(self, what: str, *, holds: bool) -> None:
        """Note a broken limit."""
        if not holds:
            print(f"BROKEN: {what}")
            self.broken.append(what)


def drop(bench: Bench, workers: int) -> None:
    """The limit falls while everything runs, and rises again."""
    before, fell_at = len(bench.exhausted_at()), bench.now()
    since = dict.fromkeys(bench.held(), datetime.now(UTC))
    bench.perform("lines", lines=FEWER_LINES)
    bench.refresh(workers, with_greeks=False)
    while bench.now() - fell_at < FEWER_FOR_SECONDS:
        time.sleep(0.2)
    print(f"limit {FEWER_LINES}: {bench.streaming()} stream")
    bench.expect_rows("positions with a value since the limit fell", since)
    bench.perform("lines", lines=LINES)
    print(f"limit {LINES} again: {STREAMS} stream after {bench.wait(STREAMS, PATIENCE_SECONDS):.0f} s")
    drawn = [round(at - fell_at, 1) for at in bench.exhausted_at()[before:]]
    early = sum(at <= EARLY_SECONDS for at in drawn)
    print(f"101s after {drawn} s, {early} in the first {EARLY_SECONDS} s")
    bench.judge(f"{early} 101s in the first {EARLY_SECONDS} s", holds=early <= EARLY_MOST)
    bench.judge(f"more 101s than attempts: after {drawn} s", holds=one_per_probe(drawn))


def one_per_probe(drawn: Sequence[float]) -> bool:
    """Return True if the 101s after the first ``EARLY_SECONDS`` are as far apart as attempts to find lines."""
    waits = [after - before for before, after in pairwise((0.0, *drawn)) if after > EARLY_SECONDS]
    return all(wait >= (FURTHER_PROBES_SECONDS if number else PROBE_SECONDS) for number, wait in enumerate(waits))


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=600)
    parser.add_argument("--active", type=int, default=150)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--drop", action="store_true", help="let the limit fall to 40 lines and rise again")
    options = parser.parse_args()
    config = GatewayConfig(positions=options.positions, lines=LINES, tick_seconds=1.0)
    with tempfile.TemporaryDirectory() as folder, GatewayThread(config) as gateway:
        bench = Bench(gateway, Path(folder), options.active)
        with subprocess.Popen([*V6, "stream"], env=bench.environment, stdout=DEVNULL, stderr=DEVNULL) as streamer:
            try:
                began = bench.wait(1, 60)
                print(f"first stream after {began:.1f} s, all {STREAMS} after {bench.wait(STREAMS, 60):.1f} s more")
                asked = bench.beyond_the_budget()
                bench.refresh(options.workers)
                bench.expect_rows("active positions beyond the budget with a row after their request", asked)
                bench.judge(f"{bench.streaming()} streams", holds=bench.streaming() == STREAMS)
                drawn = len(bench.exhausted_at())
                bench.judge(f"error 101 in normal use, {drawn} times", holds=not drawn)
                if options.drop:
                    drop(bench, options.workers)
                bench.report()
            finally:
                streamer.terminate()
    return 1 if bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())
