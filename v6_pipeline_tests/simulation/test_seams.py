"""The product reads the time from one clock and from the loop, never from the system."""

from __future__ import annotations

import asyncio

from v6_pipeline.ib.connection import CircuitBreaker
from v6_pipeline_tests.simulation.test_loop import on_loop
from v6_pipeline_tests.simulation.wire import SimulatedLoop


def test_the_breakers_pause_passes_in_the_loops_time() -> None:
    async def body(_loop: SimulatedLoop) -> tuple[float, float]:
        breaker = CircuitBreaker(failures=1, pause_seconds=300)
        breaker.record_failure()
        before = breaker.seconds_open()
        await asyncio.sleep(301)
        return round(before), breaker.seconds_open()

    assert on_loop(body) == (300, 0.0)
