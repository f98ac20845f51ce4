"""Waiting for the state database with a deadline."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from v6_pipeline.errors import StateError
from v6_pipeline.state.answers import ask, ask_within, in_daemon_thread, to_its_end


async def test_an_answer_is_returned_and_an_error_raised() -> None:
    assert await ask(max, 3, 4) == 4
    with pytest.raises(ZeroDivisionError):
        await ask(divmod, 1, 0)


async def test_a_call_that_hangs_is_given_up() -> None:
    hangs = threading.Event()
    with pytest.raises(StateError, match=r"has not answered for 0.05 s: check its disk, or its server"):
        await ask_within(0.05, hangs.wait)
    hangs.set()


async def test_a_time_out_of_the_call_itself_is_not_taken_for_the_deadline() -> None:
    def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await ask_within(5, late)


async def test_other_calls_are_answered_while_many_hang() -> None:
    """The threads of ``asyncio.to_thread`` are few: hung calls would take them all."""
    hangs = threading.Event()
    hung = [asyncio.create_task(in_daemon_thread(hangs.wait)) for _ in range(100)]
    await asyncio.sleep(0)
    assert await ask_within(5, max, 1, 2) == 2
    hangs.set()
    await asyncio.gather(*hung)


def test_a_process_ends_though_a_call_hangs() -> None:
    program = (
        "import asyncio, threading\n"
        "from v6_pipeline.errors import StateError\n"
        "from v6_pipeline.state.answers import ask_within\n"
        "async def main():\n"
        "    try:\n"
        "        await ask_within(0.05, threading.Event().wait)\n"
        "    except StateError:\n"
        "        print('given up')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "given up\n"


async def test_a_cancelled_call_of_the_lake_ends_before_the_cancellation_goes_on() -> None:
    begun, may_end, done = threading.Event(), threading.Event(), list[str]()

    def commit() -> None:
        begun.set()
        may_end.wait(5)
        done.append("committed")

    call = asyncio.create_task(to_its_end(commit))
    await asyncio.to_thread(begun.wait, 5)
    for _ in range(2):  # the second as at the end of ``asyncio.run``
        call.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not call.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert done == ["committed"]


def test_a_process_that_a_call_outlives_leaves_at_once_with_its_code() -> None:
    program = (
        "import asyncio, threading\n"
        "from v6_pipeline.errors import StateError\n"
        "from v6_pipeline.state.answers import ask_within, leave\n"
        "async def main():\n"
        "    try:\n"
        "        await ask_within(0.05, threading.Event().wait)\n"
        "    except StateError:\n"
        "        print('given up')\n"
        "asyncio.run(main())\n"
        "leave(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (3, "given up\n")
