"""Timers and background tasks of a gateway, which end when it stops.

All use the loop's time, so that a loop with a virtual clock drives them too.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable


class Timers:
    """Named timers, and tasks; `failed` is called with any exception of theirs."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def after(self, key: Hashable, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after `seconds`; a timer of the same name is replaced."""
        self.cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._fire, key, callback)

    def cancel(self, key: Hashable) -> None:
        """Cancel a timer, if there is one of this name."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(self._run(work), name="paper gateway")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all timers and end all tasks."""
        for key in list(self._timers):
            self.cancel(key)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fire(self, key: Hashable, callback: Callable[[], None]) -> None:
        del self._timers[key]
        try:
            callback()
        except Exception as problem:  # noqa: BLE001 - raised by `PaperGateway.stop`
            self._failed(problem)

    async def _run(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as problem:  # noqa: BLE001 - raised by `PaperGateway.stop`
            self._failed(problem)
