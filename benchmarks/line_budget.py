"""One streamer and several refreshes against IB's limits: ``python benchmarks/line_budget.py [--drop]``.

Real processes on the paper gateway, judged by the gateway's statistics alone: lines and messages as ratios of what IB
allows, the streams that run, the options that got greeks. With ``--drop`` the gateway's limit falls to 40 lines while
all of that runs, and rises again: how many 101s that draws, and whether the streams return by themselves. Exits with 1
if a limit was broken. The probes upward come after minutes, so that ``--drop`` takes up to ten.
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
from pathlib import Path
from subprocess import DEVNULL

import polars as pl

from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.schemas import QUEUED_POSITIONS
from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline.paper.runner import GatewayThread
from v6_pipeline.settings import load_settings

LINES, RESERVE, FLOOR, MESSAGES = 100, 10, 10, 50
BUDGET = LINES - RESERVE
STREAMS = BUDGET - FLOOR
FEWER_LINES = 40
FEWER_FOR_SECONDS = 100
PATIENCE_SECONDS = 600
V6 = (sys.executable, "-m", "v6_pipeline.cli")


class Bench:
    """The gateway, the streamer and what they are judged by."""

    def __init__(self, gateway: GatewayThread, home: Path, active: int) -> None:
        self._gateway = gateway
        self._home = home
        self.environment = os.environ | {"V6_HOME": str(home), "V6_IB_PORT": str(gateway.port)}
        held = gateway.call(lambda paper: sorted({item.conid for item in paper.book.held()}))
        self.active = frozenset(random.Random(3).sample(held, active))  # noqa: S311  (a choice, no secret)
        self.broken: list[str] = []
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
        """Active contracts subscribed at the gateway now."""
        return self._gateway.call(lambda paper: len(self.active & set(+paper.statistics.subscriptions)))

    def exhausted_at(self) -> list[float]:
        """When the gateway answered 101, in seconds since its start."""
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
        rows = pl.scan_delta(Lake.from_settings(load_settings(self._home)).table(QUEUED_POSITIONS).open()).collect()
        newest = rows.sort("timestamp").group_by("account", "conid").last().filter(pl.col("position") != 0)
        options = newest.filter(pl.col("sec_type") == "OPT")
        without = options["delta"].null_count()
        print(f"options with greeks: {options.height - without} of {options.height}")
        self.judge("options without greeks", holds=not without or not with_greeks)

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
    bench.perform("lines", lines=FEWER_LINES)
    bench.refresh(workers, with_greeks=False)
    while bench.now() - fell_at < FEWER_FOR_SECONDS:
        time.sleep(0.2)
    drawn = [round(at - fell_at, 1) for at in bench.exhausted_at()[before:]]
    early = sum(at <= 30 for at in drawn)
    print(f"limit {FEWER_LINES}: 101s after {drawn} s, {early} in the first 30 s, {bench.streaming()} stream")
    bench.judge(f"{early} 101s in the first 30 s", holds=early <= 5)
    bench.perform("lines", lines=LINES)
    print(f"limit {LINES} again: {STREAMS} stream after {bench.wait(STREAMS, PATIENCE_SECONDS):.0f} s")


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
                bench.refresh(options.workers)
                bench.judge(f"{bench.streaming()} streams", holds=bench.streaming() == STREAMS)
                if options.drop:
                    drop(bench, options.workers)
                bench.report()
            finally:
                streamer.terminate()
    return 1 if bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())
