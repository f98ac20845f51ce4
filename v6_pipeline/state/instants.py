"""The clock type, the clock of this host, and that of the state database, which processes of several hosts share."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Returns an aware instant in UTC. Passed in, so that tests need not wait."""

OBSERVE_EVERY = 10.0
"""Seconds after which a reading of the database's clock is repeated by a transaction that only reads."""


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


class DatabaseClock:
    """Now by the state database's clock, for every instant that processes compare, without a query per instant.

    It is the host's clock plus the difference to the database's. Each reading bounds that difference: the database's
    clock was read between two readings of the host's. The difference moves only as far as a new bound forces it to, so
    that a slow answer says nothing, and none is assumed between clocks that agree.

    Args:
        host: the clock of this host.
    """

    def __init__(self, host: Clock = utc_now) -> None:
        self._host = host
        self._difference = timedelta()
        self._observed_at: float | None = None

    def __call__(self) -> datetime:
        """Return the time, UTC."""
        return self._host() + self._difference

    @property
    def difference(self) -> timedelta:
        """The database's clock minus this host's."""
        return self._difference

    @property
    def is_old(self) -> bool:
        """True if the database's clock was last read a while ago, or never."""
        return self._observed_at is None or time.monotonic() - self._observed_at > OBSERVE_EVERY

    def observe(self, read: Clock) -> None:
        """Compare with the database's clock, which ``read`` returns; its errors pass."""
        before = self._host()
        of_database = read()
        after = self._host()
        self._difference = min(max(self._difference, of_database - after), of_database - before)
        self._observed_at = time.monotonic()
