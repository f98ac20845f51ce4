"""One simulated day, from seed to verdict."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.simulation.ledgers import check_lake
from v6_pipeline_tests.simulation.oracle import Oracle
from v6_pipeline_tests.simulation.storms import Storms
from v6_pipeline_tests.simulation.wire import SimulatedLoop
from v6_pipeline_tests.simulation.world import DiaryHandler, Figures, Span, World, session_span

_DAYS = (date(2026, 3, 3), date(2026, 7, 1), date(2026, 11, 27), date(2026, 1, 20), date(2026, 3, 6))
"""An ordinary Tuesday, one in summer, an early close, the day after a holiday, a Friday before the clocks change."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a day."""

    seed: str
    span: Span
    violation: str | None
    at: str
    hash: str
    figures: Figures
    checks: int
    convergences: int
    virtual_hours: float
    wall_seconds: float
    cpu_seconds: float
    peak_lines: int
    peak_rate: int
    line_errors: int
    diary: list[str] = field(default_factory=list)


def span_of(seed: str, hours: tuple[float, float] | None = None) -> Span:
    """The day that a seed simulates."""
    return session_span(random.Random(f"{seed}/day").choice(_DAYS), hours=hours)


def simulate(seed: str, *, hours: tuple[float, float] | None = None) -> Verdict:
    """Simulate a trading day, or hours of it counted from 04:00 New York; stops at the first violation."""
    span = span_of(seed, hours)
    began, cpu = time.perf_counter(), time.process_time()
    state = random.getstate()
    random.seed(f"{seed}/product")  # the jitter of reconnecting
    try:
        with _rare_collections(), _folder() as folder, asyncio.Runner(loop_factory=lambda: _loop(seed, span)) as runner:
            verdict = runner.run(_day(seed, span, folder))
    finally:
        random.setstate(state)
    return _timed(verdict, time.perf_counter() - began, time.process_time() - cpu)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Python walks through its objects for every 700 new ones; a day makes many millions, few of them in rings."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()  # of the day nothing is left to be frozen
        gc.freeze()


def _timed(verdict: Verdict, wall: float, cpu: float) -> Verdict:
    return replace(verdict, wall_seconds=wall, cpu_seconds=cpu)


def _loop(seed: str, span: Span) -> SimulatedLoop:
    return SimulatedLoop(random.Random(f"{seed}/loop"), span.begin)


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a folder, in memory if possible: a day makes thousands of small files, each flushed to the disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="v6-simulation-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _day(seed: str, span: Span, folder: Path) -> Verdict:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    template = folder / "template.db"
    StateDatabase.open(f"sqlite:///{template}", name_for_messages="template").close()
    world = World(loop, seed, span, folder, template)
    logger, handler = logging.getLogger(), DiaryHandler(world)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        async with world.life():
            oracle = Oracle(world)
            storms = Storms(world, oracle)
            tasks = [asyncio.create_task(storms.rage()), asyncio.create_task(oracle.watch())]
            length = (span.end - span.begin).total_seconds()
            ends: list[asyncio.Future[Any]] = [oracle.violation, *tasks]
            await asyncio.wait(ends, timeout=length, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and task.exception() is not None:
                    oracle.wrong(f"the simulation itself failed: {task.exception()!r}")
                    logging.getLogger("simulation").error("failed", exc_info=task.exception())
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not oracle.violation.done():
                check_lake(world, oracle)
            statistics = world.gateway.statistics
            world.figures.ticks = statistics.ticks_sent
            return Verdict(
                seed=seed,
                span=span,
                violation=oracle.violation.result() if oracle.violation.done() else None,
                at=f"{world.local_time}",
                hash=loop.trace.digest(),
                figures=world.figures,
                checks=oracle.checks,
                convergences=oracle.convergences,
                virtual_hours=loop.time() / 3600,
                wall_seconds=0.0,
                cpu_seconds=0.0,
                peak_lines=max(oracle.peak_lines, statistics.peak_lines),
                peak_rate=statistics.peak_rate,
                line_errors=statistics.errors[101],
                diary=list(world.diary),
            )
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
