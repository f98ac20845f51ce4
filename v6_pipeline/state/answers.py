"""Waiting for an answer with a deadline: of the state database, and of whatever else a thread may hang in.

A frozen disk, a stopped server or a pooler that holds its clients never answers, and a thread that waits for it cannot
be stopped. So the wait ends, not the call: it goes on in a daemon thread, which does not keep the process from ending.
What such a call does later is one transaction that the caller may repeat, or a lease that expires. One case does harm
for a moment: a report of lines that takes effect after it was repeated may delete the row of a line that was taken
again since. The next renewal finds that line without a row and cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NoReturn, ParamSpec, TypeVar

from v6_pipeline.errors import StateError

P = ParamSpec("P")
R = TypeVar("R")

ANSWER_SECONDS = 20.0
"""Longer than a call waits for other writers (three times five seconds)."""


END_SECONDS = 8.0
"""How long a cancelled call of the lake may go on; less than a supervisor waits before it kills (10 s)."""

_running: set[threading.Thread] = set()


class _DaemonThreads(Executor):
    """A daemon thread per call. Those of ``asyncio.to_thread`` would keep a process alive until their calls end."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:  # noqa: ANN401  (as the base)
        answer: Future[R] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                _running.discard(threading.current_thread())
                return
            try:
                answer.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  (handed to the caller, as an executor does)
                answer.set_exception(error)
            finally:
                _running.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=getattr(fn, "__name__", "call"), daemon=True)
        _running.add(thread)
        thread.start()
        return answer


_THREADS = _DaemonThreads()


async def in_daemon_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``function`` in a thread that does not outlive the process; otherwise as ``asyncio.to_thread``."""
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


async def to_its_end(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``function`` as ``in_daemon_thread``; a cancellation waits up to ``END_SECONDS`` for the end of the call.

    For calls of the lake: a commit under way is finished, and no native code runs while the interpreter ends, which
    would crash the process.
    """
    loop = asyncio.get_running_loop()
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    # A future, not a task: the end of ``asyncio.run`` cancels every task.
    answer = loop.run_in_executor(_THREADS, call)
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        ends_at = loop.time() + END_SECONDS
        while not answer.done() and (left := ends_at - loop.time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):  # a repeated one; the first is raised below
                await asyncio.wait({answer}, timeout=left)
        if answer.done() and not answer.cancelled():
            answer.exception()  # retrieved, so that asyncio does not log it
        raise


def leave(code: int) -> NoReturn:
    """End this process with ``code``, at once if a call still hangs: native code in it would crash a normal end.

    Only for the last line of a process that is wholly ours.
    """
    if _running:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


async def ask(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function of the state database in a thread, and wait ``ANSWER_SECONDS`` for it.

    Raises:
        StateError: the database failed, or did not answer in time; the call may still take effect later.
    """
    return await ask_within(ANSWER_SECONDS, function, *args, **kwargs)


async def ask_within(seconds: float, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Wait ``seconds`` for the answer, otherwise as ``ask``.

    Raises:
        StateError: as ``ask``.
    """
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await in_daemon_thread(function, *args, **kwargs)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise StateError(
            f"the state database has not answered for {seconds:g} s: check its disk, or its server and what is between"
        ) from error
