"""A circuit breaker for attempts to connect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def loop_time() -> float:
    """Monotonic seconds, by the running loop."""
    return asyncio.get_running_loop().time()


class CircuitBreaker:
    """Stops attempts for a while after ``failures`` in a row, so that a dead gateway is not hammered all night.

    Args:
        failures: how many in a row open it.
        pause_seconds: how long it stays open; then one attempt decides.
        clock: monotonic seconds.
    """

    def __init__(self, failures: int, pause_seconds: float, clock: Callable[[], float] = loop_time) -> None:
        self._limit = failures
        self._pause = pause_seconds
        self._clock = clock
        self._failed = 0
        self._opened_at: float | None = None

    def seconds_open(self) -> float:
        """Seconds until the next attempt is allowed; 0 if it is now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._pause - self._clock())

    def record_success(self) -> None:
        """Close it."""
        self._failed = 0
        self._opened_at = None

    def record_failure(self) -> None:
        """Count a failure; the one that reaches the limit, and each after it, opens the breaker (again)."""
        self._failed += 1
        if self._failed >= self._limit:
            self._opened_at = self._clock()

    def open(self) -> None:
        """Open it at once: it is known that the next attempt would fail."""
        self._failed = self._limit
        self._opened_at = self._clock()
