"""Another login of the same username has the market data (error 10197): how long, when to try, when to tell.

Pure. IB leaves the requests open and sends nothing on them, and lets go of the data some minutes after the other login
(TWS, phone, live or paper) has ended, without a word. So one contract is asked for again now and then; what it brings
ends the pause.
"""

from __future__ import annotations

from datetime import datetime, timedelta

RETRY = timedelta(seconds=20)
"""One contract a probe is nothing against what may be sent, and what it finds is to flow within 45 s."""
EAGER_FOR = timedelta(minutes=15)
"""Users report that IB lets go within that time; a login that lasts longer may last for hours."""
RETRY_MAX = timedelta(minutes=5)
ALERT_EVERY = timedelta(minutes=15)
SETTLE = timedelta(seconds=2)
"""What arrives this soon after the code was under way before it."""


class CompetingSession:
    """Whether another login has the data."""

    def __init__(self) -> None:
        self.since: datetime | None = None
        self._told_at: datetime | None = None
        self._heard_at: datetime | None = None
        self._retry_at: datetime | None = None
        self._pause = RETRY

    def heard(self, now: datetime) -> bool:
        """The code came, for one contract or for all; whether to alert: once, and again in a quarter of an hour."""
        if self.since is None:
            self.since, self._pause, self._retry_at = now, RETRY, now + RETRY
        self._heard_at = now
        if self._told_at is not None and timedelta() <= now - self._told_at < ALERT_EVERY:
            return False
        self._told_at = now
        return True

    def ticked(self, now: datetime) -> bool:
        """Data came; whether that ends it."""
        if self.since is None or (self._heard_at is not None and now - self._heard_at <= SETTLE):
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """It is over, or the session is; what was told stays told."""
        self.since = self._heard_at = self._retry_at = None

    def is_retry_due(self, now: datetime) -> bool:
        """Whether to ask for one contract again now; asking counts as done."""
        if self.since is None or self._retry_at is None or now < self._retry_at:
            return False
        if now - self.since >= EAGER_FOR:
            self._pause = min(2 * self._pause, RETRY_MAX)
        self._retry_at = now + self._pause
        return True
