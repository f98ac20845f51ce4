"""What happens by itself later: the ends of lasting faults, scenarios, ports that open again.

Belongs here: timers and tasks of the running loop that a gateway takes with it when it stops. Only the loop's time is
used, so that a loop with a virtual clock moves all of it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable


class Timers:
    """Timers by name and nameless tasks; `failed` is handed whatever one of them raises."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def after(self, key: Hashable, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after `seconds`; a timer of the same name is replaced."""
        self.cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._fire, key, callback)

    def cancel(self, key: Hashable) -> None:
        """Forget a timer, if there is one of this name."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run something in the background."""
        task = asyncio.get_running_loop().create_task(self._run(work), name="paper gateway")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Forget all timers and end all tasks."""
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
        except Exception as problem:  # noqa: BLE001 - handed to whoever stops the gateway
            self._failed(problem)

    async def _run(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as problem:  # noqa: BLE001 - handed to whoever stops the gateway
            self._failed(problem)
