"""An event loop whose time jumps to the next timer when nothing is ready: minutes of pacing in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("nothing is ready and no timer is set: the test would hang")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs no threads, because virtual time would not wait for them."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def stall(self, seconds: float) -> None:
        """Delay all other callbacks, as a callback does that computes for ``seconds``."""
        self._jumping.now += seconds


def run_virtually(body: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own; tasks that it leaves are a failure."""
    loop = VirtualTimeLoop()
    try:
        result = loop.run_until_complete(body)
        assert not asyncio.all_tasks(loop)
        return result
    finally:
        loop.close()
