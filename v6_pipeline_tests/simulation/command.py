"""The command line: many seeds, one line each, and a summary; exit code 1 if anything did not hold."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from typing import TypeVar

from v6_pipeline_tests.simulation.day import Verdict, simulate

MODULE = "v6_pipeline_tests.simulation"
DAYS_PER_PROCESS = 8
Seed = TypeVar("Seed")
Day = TypeVar("Day")


def main() -> None:
    """Parse, re-execute with fixed hashes, simulate, print."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="how many days (50)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (2)")
    parser.add_argument("--hours", type=_hours, help="only FROM-TO hours after 04:00 New York, such as 5-7")
    parser.add_argument("--diary", action="store_true", help="print what happened, all of it")
    options = parser.parse_args()
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    _fix_environment()
    sys.exit(run(options))


def run(options: argparse.Namespace) -> int:
    """Simulate the days; the exit code."""
    seeds = [str(options.first + number) for number in range(options.seeds)]
    work = partial(simulate, hours=options.hours)
    days = map(work, seeds) if options.jobs == 1 else in_processes(work, seeds, options.jobs)
    verdicts = [_told(day, options) for day in days]
    _say(_summary(verdicts))
    return 1 if any(verdict.violation for verdict in verdicts) else 0


def in_processes(work: Callable[[Seed], Day], seeds: Sequence[Seed], jobs: int) -> Iterator[Day]:
    """Yield the day of each seed as it is done, from processes that are replaced regularly because they grow.

    Not by ``max_tasks_per_child``: in Python 3.11 a pool whose processes all end at once waits for ever.
    """
    at_once = jobs * DAYS_PER_PROCESS
    for begin in range(0, len(seeds), at_once):
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            done = as_completed([pool.submit(work, seed) for seed in seeds[begin : begin + at_once]])
            yield from (day.result() for day in done)


def _told(verdict: Verdict, options: argparse.Namespace) -> Verdict:
    figures = verdict.figures
    state = "ok" if verdict.violation is None else "VIOLATION"
    _say(
        f"seed {verdict.seed:>4} {verdict.span.day} {state}: {verdict.virtual_hours:.1f} h in "
        f"{verdict.wall_seconds:.0f} s (cpu {verdict.cpu_seconds:.0f}), "
        f"{figures.ticks} ticks, {figures.commits} commits, {figures.rows} rows, "
        f"{figures.runs} runs ({figures.failed_runs} failed), {figures.streamers} streamers, "
        f"{sum(figures.faults.values())} faults, {verdict.convergences} looks in calm, lines <= {verdict.peak_lines}, "
        f"messages <= {verdict.peak_rate}/s, 101 x {verdict.line_errors}, trace {verdict.hash}"
    )
    if verdict.violation is not None or options.diary:
        for line in verdict.diary if options.diary else verdict.diary[-40:]:
            _say(f"    {line}")
    if verdict.violation is not None:
        hours = "" if options.hours is None else f" --hours {options.hours[0]:g}-{options.hours[1]:g}"
        _say(f"  at {verdict.at} New York: {verdict.violation}")
        _say(f"  replay: python -m {MODULE} --seeds 1 --first {verdict.seed} --jobs 1{hours} --diary")
    return verdict


def _summary(verdicts: list[Verdict]) -> str:
    faults: Counter[str] = sum((verdict.figures.faults for verdict in verdicts), Counter())
    broken = sorted((verdict.seed for verdict in verdicts if verdict.violation is not None), key=int)
    hours = sum(verdict.virtual_hours for verdict in verdicts)
    wall, cpu = (sum(getattr(verdict, name) for verdict in verdicts) for name in ("wall_seconds", "cpu_seconds"))
    ticks, commits, rows, runs = (
        sum(getattr(verdict.figures, name) for verdict in verdicts) for name in ("ticks", "commits", "rows", "runs")
    )
    shown = ", ".join(f"{name} {count}" for name, count in sorted(faults.items()))
    amount = f"{len(verdicts)} days, {hours:.0f} virtual hours, {wall:.0f} s ({cpu:.0f} s of processor time)"
    lines = [
        f"{amount}, {ticks} ticks, {commits} commits, {rows} rows, {runs} runs",
        f"{faults.total()} faults: {shown}",
        f"violations: {len(broken)}" + (f" (seeds {', '.join(broken)})" if broken else ""),
    ]
    return "\n".join(lines)


def _hours(text: str) -> tuple[float, float]:
    first, _, last = text.partition("-")
    try:
        hours = float(first), float(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM-TO, such as 5-7") from None
    if not 0 <= hours[0] < hours[1] <= 24:
        raise argparse.ArgumentTypeError(f"{text!r} is not within 0-24")
    return hours


_ENVIRONMENT = {"PYTHONHASHSEED": "0", "POLARS_MAX_THREADS": "1", "TOKIO_WORKER_THREADS": "1"}
"""Fixed hashes of strings, for the order of sets is part of what a seed decides; one thread for each small table."""


def _fix_environment() -> None:
    """Start again with the environment that a simulation needs."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("V6_")} | _ENVIRONMENT
        os.execve(sys.executable, [sys.executable, "-m", MODULE, *sys.argv[1:]], environment)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
