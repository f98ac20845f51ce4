"""An event loop whose clock jumps to the next timer when nothing is ready, and simulated processes on it.

Everything runs on one thread in an order that the seed alone decides: executor functions too, each after a drawn delay,
so that real interleavings of "threads" are tried and the same seed tries the same ones again. (``looptime`` from PyPI
bends the time of an existing loop; it leaves executor threads and sockets to the operating system, and with them the
order of events.)

A simulated process is a context variable: whatever runs with it belongs to that process. So a process can be stopped as
by SIGSTOP (its callbacks and timers are set aside until it goes on) and killed as by SIGKILL (they never run again, no
clean-up reaches anything). What this cannot show: a function of the executor is atomic, for it runs to its end in one
go.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import hashlib
import heapq
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

STEP_SECONDS = 1e-6
"""Time that one turn of the loop takes: code that compares clock readings in a loop makes progress."""
_THREAD_SECONDS = 0.004
_SLOW_THREAD_SECONDS = 0.4
_SLOW_THREADS = 0.01
_OF_LAKE = ("v6_pipeline.lake", "v6_pipeline.streaming.writer", "v6_pipeline.refresh.writer")


class State(enum.Enum):
    """State of a process."""

    RUNNING = enum.auto()
    STOPPED = enum.auto()
    DEAD = enum.auto()
    ENDED = enum.auto()


class KernelObject(Protocol):
    """An object that the operating system closes when its process dies."""

    def close_as_kernel(self) -> None:
        """Close it without a word to the process."""


@dataclass(eq=False, slots=True)
class SimulatedProcess:
    """A process of the simulation; ``reachable`` is whether the control plane's host can see and kill it."""

    name: str
    pid: int
    started_at: datetime
    reachable: bool = True
    state: State = State.RUNNING
    main: asyncio.Task[Any] | None = None
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    set_aside: list[Any] = field(default_factory=list)
    files: list[KernelObject] = field(default_factory=list)
    continued_at: float = 0.0

    @property
    def is_alive(self) -> bool:
        return self.state in {State.RUNNING, State.STOPPED}


PROCESS: contextvars.ContextVar[SimulatedProcess | None] = contextvars.ContextVar("process", default=None)
KERNEL = contextvars.Context()
"""Context outside of all processes: it runs even if they die."""


class Trace:
    """A hash over everything that happened, in order: equal for equal days."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self.events = 0

    def add(self, *parts: object) -> None:
        self._hash.update(repr(parts).encode())
        self.events += 1

    def digest(self) -> str:
        return self._hash.hexdigest()


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; ``begin`` is the UTC time at which the simulation starts.

    Args:
        rng: draws the delays of executor functions.
        begin: UTC.
    """

    def __init__(self, rng: random.Random, begin: datetime) -> None:
        super().__init__()
        self._rng = rng
        self._begin = begin
        self._virtual = 0.0
        self._told = begin
        self._pids = 1000
        self.trace = Trace()
        self.processes: list[SimulatedProcess] = []
        self.failures: list[str] = []
        self.state_answers_at = 0.0
        """Until then calls of the state database hang, each in its thread; then all are made, wanted still or not."""
        self.set_task_factory(_make_task)
        self.set_exception_handler(_note_failure)

    # Time

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._virtual

    def utc(self) -> datetime:
        """UTC now; never the same instant twice, as of a real clock."""
        self._told = max(self._told + timedelta(microseconds=1), self.peek())
        return self._told

    def peek(self) -> datetime:
        """UTC now, for those who only look."""
        return self._begin + timedelta(seconds=self._virtual)

    @property
    def utc_begin(self) -> datetime:
        """UTC at the start."""
        return self._begin

    # The loop's turn

    # mypy knows nothing of the private parts of asyncio's loops, which have been the same from 3.11 to 3.13.
    def _run_once(self: Any) -> None:
        self._virtual += STEP_SECONDS
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:
            for key, _ in self._selector.select(0):  # the loop's own wake-up pipe: a signal
                self._add_callback(key.data[0])
            if not ready:
                if not scheduled:
                    msg = "the simulation stands still: nothing is ready and no timer is set"
                    raise RuntimeError(msg)
                self._virtual = max(self._virtual, scheduled[0]._when)
        end = self._virtual + self._clock_resolution
        while scheduled and scheduled[0]._when < end:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None and process.state is not State.RUNNING and process.state is not State.ENDED:
                process.set_aside.append(handle)
                continue
            handle._run()
        handle = None

    def run_in_executor(  # type: ignore[override]  # typed for the caller's function there
        self, _executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run ``func`` on the loop's thread after a drawn delay; its result arrives after another one.

        It runs even if the caller is cancelled, like a function that a thread has begun.
        """
        answer: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            try:
                result, error = func(*args), None
            except Exception as problem:  # noqa: BLE001  (handed to the caller, as an executor does)
                result, error = None, problem
            self.call_later(self._thread_delay(), deliver, result, error)

        def deliver(result: Any, error: BaseException | None) -> None:
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        delay = self._thread_delay()
        if not _is_of_lake(func):
            delay = max(delay, self.state_answers_at - self._virtual)
        self.call_later(delay, run)
        return answer

    def _thread_delay(self) -> float:
        if self._rng.random() < _SLOW_THREADS:
            return self._rng.random() * _SLOW_THREAD_SECONDS
        return self._rng.random() * _THREAD_SECONDS

    # Processes

    def start_process(
        self, name: str, body: Callable[[SimulatedProcess], Coroutine[Any, Any, Any]], *, reachable: bool = True
    ) -> SimulatedProcess:
        """Start a process whose main task is ``body``."""
        self._pids += 1
        process = SimulatedProcess(name, self._pids, self.peek(), reachable)
        self.processes.append(process)
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        process.main = self.create_task(_main(process, body), name=name, context=context)
        return process

    def stop_process(self, process: SimulatedProcess) -> None:
        """Stop a process, as SIGSTOP does."""
        if process.state is State.RUNNING:
            process.state = State.STOPPED

    def continue_process(self, process: SimulatedProcess) -> None:
        """Continue a process, as SIGCONT does: what became due while it was stopped runs at once, in order."""
        if process.state is State.STOPPED:
            process.state = State.RUNNING
            process.continued_at = self._virtual
            self._resume(process)

    def kill_process(self, process: SimulatedProcess) -> None:
        """Kill a process, as SIGKILL does: none of its code runs again, and the kernel closes its sockets."""
        if process.is_alive:
            process.state = State.DEAD
            self._close_files(process)

    async def bury(self) -> None:
        """Let the remains of killed processes end, after the simulation: else garbage collection wakes them."""
        for process in self.processes:
            if process.state is State.ENDED and all(task.done() for task in process.tasks):
                continue
            process.state = State.ENDED
            self._close_files(process)
            self._resume(process)
            for task in process.tasks:
                task.cancel()
        for process in self.processes:
            waiting = [task for task in process.tasks if not task.done()]
            if waiting:
                await asyncio.wait(waiting, timeout=600)
        self.failures.clear()

    def _close_files(self, process: SimulatedProcess) -> None:
        for file in process.files:
            file.close_as_kernel()
        process.files.clear()

    def _resume(self: Any, process: SimulatedProcess) -> None:
        self._ready.extend(process.set_aside)
        process.set_aside = []


async def _main(process: SimulatedProcess, body: Callable[[SimulatedProcess], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await body(process)
    finally:
        if process.state is State.RUNNING:
            process.state = State.ENDED


def _is_of_lake(call: Callable[..., Any]) -> bool:
    """True for a call of the lake; all others in threads are of the state database."""
    work = call.args[0] if isinstance(call, functools.partial) and call.args else call
    owner = getattr(work, "__self__", work)
    return getattr(owner, "__module__", type(owner).__module__).startswith(_OF_LAKE)


def _make_task(loop: Any, coro: Any, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        if len(process.tasks) > 64:
            process.tasks = [old for old in process.tasks if not old.done()]
        process.tasks.append(task)
    return task


def _note_failure(loop: Any, context: dict[str, Any]) -> None:
    """Record an unhandled exception as a finding."""
    error = context.get("exception")
    loop.failures.append(f"{context.get('message')}: {error!r}")
