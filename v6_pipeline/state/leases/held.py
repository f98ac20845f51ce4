"""``HeldLease``: what a process knows by itself about the lease that it holds, without the database.

The database decides which process holds a lease, and may be out of reach when that matters most: an owner that waits
for it would go on after another process has taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from v6_pipeline.errors import FencedError

Elapsed = Callable[[], float]
"""Returns seconds since some fixed instant. Passed in, so that tests need not wait."""


def elapsed_seconds() -> float:
    """Return the seconds since the machine started, those asleep included, whatever is done to its wall clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; elsewhere the monotonic clock
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class HeldLease:
    """The time for which this process surely holds the lease of ``epoch``; usable from several threads.

    Args:
        asked_at: ``elapsed()`` before the database was asked for the lease.
        seconds: how long the lease lasted when the database answered.
        elapsed: seconds that no change of the wall clock affects.
    """

    def __init__(self, epoch: int, *, asked_at: float, seconds: float, elapsed: Elapsed = elapsed_seconds) -> None:
        self._epoch = epoch
        self._elapsed = elapsed
        self._renewed_at = asked_at
        self._until = asked_at + seconds

    def renewed(self, *, asked_at: float, seconds: float) -> None:
        """Note an answer of the database; arguments as at the beginning. It may also shorten the lease."""
        if asked_at >= self._renewed_at:  # an answer that another one has overtaken counts no more
            self._renewed_at, self._until = asked_at, asked_at + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until another process may hold the lease; negative after that."""
        return self._until - self._elapsed()

    @property
    def unconfirmed_seconds(self) -> float:
        """Seconds since the database last confirmed the lease."""
        return self._elapsed() - self._renewed_at

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            FencedError: it has ended, unless it was renewed without this process's knowledge.
        """
        if self.seconds_left <= 0:
            raise FencedError(
                f"the lease of epoch {self._epoch} was last confirmed {self.unconfirmed_seconds:.0f} s ago and has "
                "ended: nothing more is written"
            )
