"""The loop under the simulation: time that jumps, executor functions in turn, processes that stop and die."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from v6_pipeline.errors import StateError
from v6_pipeline.lake.faults import safe_uri
from v6_pipeline.state.answers import ask, in_daemon_thread
from v6_pipeline_tests.simulation.loop import SimulatedProcess, State
from v6_pipeline_tests.simulation.wire import SimulatedLoop

BEGIN = datetime(2026, 3, 3, 9, tzinfo=UTC)


def on_loop(body: Callable[[SimulatedLoop], Coroutine[Any, Any, Any]], seed: int = 1) -> Any:
    async def run() -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        return await body(loop)

    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(random.Random(seed), BEGIN)) as runner:
        return runner.run(run())


def test_an_hour_passes_at_once_and_the_clock_with_it() -> None:
    async def body(loop: SimulatedLoop) -> float:
        await asyncio.sleep(3600)
        return (loop.utc() - BEGIN).total_seconds()

    assert 3600 <= on_loop(body) < 3601


def test_the_clock_never_tells_the_same_instant_twice() -> None:
    async def body(loop: SimulatedLoop) -> bool:
        return loop.utc() < loop.utc() < loop.utc()

    assert on_loop(body)


def test_threads_run_in_an_order_that_the_seed_decides() -> None:
    async def body(_loop: SimulatedLoop) -> list[int]:
        order: list[int] = []
        await asyncio.gather(*(asyncio.to_thread(order.append, number) for number in range(20)))
        return order

    first, again, other = on_loop(body, 1), on_loop(body, 1), on_loop(body, 2)
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == list(range(20))


def test_a_thread_that_was_begun_ends_though_its_caller_is_cancelled() -> None:
    async def body(_loop: SimulatedLoop) -> list[str]:
        done: list[str] = []
        task = asyncio.create_task(asyncio.to_thread(done.append, "written"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(1)
        return done

    assert on_loop(body) == ["written"]


def test_calls_of_a_state_database_that_hangs_are_made_when_it_answers_again() -> None:
    async def body(loop: SimulatedLoop) -> list[tuple[str, int]]:
        made: list[tuple[str, int]] = []
        loop.state_answers_at = 30.0
        with pytest.raises(StateError, match="has not answered for 20 s"):
            await ask(lambda: made.append(("state", round(loop.time()))))
        assert (made, round(loop.time())) == ([], 20)
        await in_daemon_thread(safe_uri, "s3://bucket/lake")
        assert round(loop.time()) == 20, "the lake is another matter"
        await asyncio.sleep(20)
        await ask(lambda: made.append(("state", round(loop.time()))))
        return made

    assert on_loop(body) == [("state", 30), ("state", 40)]


def test_what_a_stopped_process_missed_comes_when_it_goes_on() -> None:
    async def body(loop: SimulatedLoop) -> list[float]:
        beats: list[float] = []

        async def beat(_process: SimulatedProcess) -> None:
            while True:
                await asyncio.sleep(1)
                beats.append(round(loop.time()))

        process = loop.start_process("beating", beat)
        await asyncio.sleep(2.5)
        loop.stop_process(process)
        await asyncio.sleep(10)
        assert beats == [1, 2]
        loop.continue_process(process)
        await asyncio.sleep(2)
        loop.kill_process(process)
        await loop.bury()
        return beats

    assert on_loop(body) == [1, 2, 13, 14]


def test_no_clean_up_reaches_anything_after_a_kill() -> None:
    async def body(loop: SimulatedLoop) -> list[str]:
        said: list[str] = []

        async def live(_process: SimulatedProcess) -> None:
            try:
                await asyncio.sleep(5)
            finally:
                said.append("cleaned up")

        process = loop.start_process("doomed", live)
        await asyncio.sleep(1)
        loop.kill_process(process)
        await asyncio.sleep(60)
        before = list(said)
        assert process.state is State.DEAD
        await loop.bury()
        return before

    assert on_loop(body) == []


def test_an_exception_that_nobody_handles_is_a_finding() -> None:
    async def body(loop: SimulatedLoop) -> list[str]:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        return loop.failures

    assert "ZeroDivisionError" in on_loop(body)[0]
