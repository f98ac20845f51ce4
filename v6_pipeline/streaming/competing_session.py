"""Another login of the same username has the market data (error 10197): since when, when to retry, when to alert.

Pure. IB keeps the requests open but sends nothing on them, and releases the data without a notice some minutes after
the other login (TWS, phone, live or paper) has ended. So one contract is retried from time to time until it ticks.
"""

from __future__ import annotations

from datetime import datetime, timedelta

RETRY = timedelta(seconds=20)
"""One contract at a time hardly counts towards the message rate, and released data must flow within 45 s."""
FREQUENT_RETRIES_FOR = timedelta(minutes=15)
"""Users report that IB releases the data within that time; a login that lasts longer may last for hours."""
RETRY_MAX = timedelta(minutes=5)
ALERT_EVERY = timedelta(minutes=15)
IN_FLIGHT = timedelta(seconds=2)
"""Data that arrives this soon after the error was sent before the error."""


class CompetingSession:
    """The other login that has the data, if there is one."""

    def __init__(self) -> None:
        self.since: datetime | None = None
        self._alerted_at: datetime | None = None
        self._reported_at: datetime | None = None
        self._retry_at: datetime | None = None
        self._interval = RETRY

    def reported(self, now: datetime) -> bool:
        """Record the error; return True if an alert is due, which is at most every 15 minutes."""
        if self.since is None:
            self.since, self._interval, self._retry_at = now, RETRY, now + RETRY
        self._reported_at = now
        if self._alerted_at is not None and timedelta() <= now - self._alerted_at < ALERT_EVERY:
            return False
        self._alerted_at = now
        return True

    def ticked(self, now: datetime) -> bool:
        """Record that data came; return True if that ends the competing session."""
        if self.since is None or (self._reported_at is not None and now - self._reported_at <= IN_FLIGHT):
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """Forget the competing session, as it or the connection has ended; keep the time of the last alert."""
        self.since = self._reported_at = self._retry_at = None

    def is_retry_due(self, now: datetime) -> bool:
        """Return True if one contract is to be subscribed again now; the retry counts as made."""
        if self.since is None or self._retry_at is None or now < self._retry_at:
            return False
        if now - self.since >= FREQUENT_RETRIES_FOR:
            self._interval = min(2 * self._interval, RETRY_MAX)
        self._retry_at = now + self._interval
        return True
