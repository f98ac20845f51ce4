"""``python -m v6_pipeline_tests.chaos``: chaos for as long as asked, with its figures.

Exit code 0 without violations, 1 with them: the seed and the event log's path are printed, and the homes are kept.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from v6_pipeline_tests.chaos.dagster_owner import DagsterOwner
from v6_pipeline_tests.chaos.figures import EventLog
from v6_pipeline_tests.chaos.kills import kill_in_turn
from v6_pipeline_tests.chaos.oracle import Oracle
from v6_pipeline_tests.chaos.runner import RECOVERY_SECONDS, Runner
from v6_pipeline_tests.chaos.scale import LONG
from v6_pipeline_tests.chaos.schedule import CATALOGUE, PROCESS_FAULTS, WEIGHTS, Round, each_alone, rounds
from v6_pipeline_tests.chaos.settled import Settling
from v6_pipeline_tests.chaos.state_store import STORES
from v6_pipeline_tests.chaos.world import running_world

START_SECONDS = 90.0
DAGSTER_LEASE_SECONDS = 60
"""Longer than a code server takes to load, as in real use (120): its sensor ticks every 10 s, but not during that."""


def main(arguments: list[str] | None = None) -> int:
    """Run, judge, print."""
    parser = argparse.ArgumentParser(prog="python -m v6_pipeline_tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what everything is drawn from (default 1)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults are injected (default 10)")
    parser.add_argument("--workers", type=int, default=LONG.workers, help="refreshing processes (default 2)")
    parser.add_argument("--positions", type=int, default=LONG.positions, help="positions of the account")
    parser.add_argument("--state", choices=STORES, default=STORES[0], help="where the state is (default sqlite)")
    parser.add_argument("--only", default="", help="only these faults, comma separated")
    parser.add_argument(
        "--processes-only", action="store_true", help="kill, stop, disk and database; no gateway faults"
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=0,
        help="instead: so many kill -9 of streamer, worker run and code server in turn",
    )
    parser.add_argument("--each", action="store_true", help="instead of mixed rounds: every kind of fault once, alone")
    parser.add_argument(
        "--deadline",
        type=float,
        default=RECOVERY_SECONDS,
        help="seconds after which a recovery is too late (default 45)",
    )
    options = parser.parse_args(arguments)
    catalogue = PROCESS_FAULTS if options.processes_only else CATALOGUE
    if options.only:
        names = [name.strip() for name in options.only.split(",")]
        unknown = sorted(set(names) - CATALOGUE.keys())
        if unknown:
            parser.error(f"no such fault: {', '.join(unknown)}; one of {', '.join(sorted(CATALOGUE))}")
        catalogue = {name: CATALOGUE[name] for name in names}
    folder = Path(tempfile.mkdtemp(prefix=f"v6-chaos-{options.seed}-"))
    scale = replace(LONG, workers=options.workers, positions=options.positions)
    if options.kills:
        scale = replace(scale, lease_seconds=DAGSTER_LEASE_SECONDS)
    log = EventLog(folder / "events.jsonl")
    amount = (
        f"{options.kills} kills" if options.kills else "each once" if options.each else f"{options.minutes:g} minutes"
    )
    say(f"seed {options.seed}, {amount}, state in {options.state}, events in {log.path}")
    started = time.monotonic()
    # A run that is ended from outside must leave no process behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    with running_world(scale, options.seed, folder, DagsterOwner if options.kills else None, options.state) as world:
        runner = Runner(world, Oracle(world), log, options.deadline)
        if runner.wait_for_streams(datetime.now(UTC), seconds=START_SECONDS) is None:
            world.violations.add("streaming at the start", f"not within {START_SECONDS:g} s")
        if options.kills:
            kill_in_turn(runner, options.kills)
        else:
            planned = each_alone(options.seed, catalogue) if options.each else rounds(options.seed, catalogue, WEIGHTS)
            _play(runner, planned, math.inf if options.each else options.minutes)
        Settling(runner).run()
        say("\n".join(runner.figures.lines(world, runner.oracle, time.monotonic() - started)))
        found = world.violations.found
    log.close()
    for violation in found:
        say(f"VIOLATION {violation}")
    if found:
        say(f"{len(found)} violations with seed {options.seed}; events: {log.path}, processes: {folder}")
        return 1
    shutil.rmtree(folder)
    say(f"no violations with seed {options.seed}; every fault was recovered from within {options.deadline:g} s")
    return 0


def _play(runner: Runner, planned: Iterable[Round], minutes: float) -> None:
    """Rounds until the time is over, or there are no more."""
    until = time.monotonic() + minutes * 60
    for current in planned:
        if time.monotonic() >= until:
            break
        before = len(runner.world.violations)
        taken = runner.play(current)
        names = ", ".join(item.fault.name for item in current.faults)
        fresh = len(runner.world.violations) - before
        violations = f", {fresh} VIOLATIONS" if fresh else ""
        said = "too late" if taken is None else f"{taken:.1f} s"
        say(f"{datetime.now(UTC):%H:%M:%S} round {current.number}: {said} after {names}{violations}")


def say(text: str) -> None:
    """To the terminal, at once."""
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
