"""Trading days: the day of an instant, the opening and closing of its session, its cut-off.

Sessions come from ``data/sessions.csv``, which ships with the package, so that the streamer needs no pandas;
``scripts/generate_sessions.py`` writes it. This module reads that one file and nothing else: no settings, no clock.

Trading day D runs from 04:00 of session D to 04:00 of the next session: a weekend's observations belong to Friday, and
Monday's pre-market to Monday.
"""

from __future__ import annotations

import csv
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

from v6_pipeline.errors import CalendarError

DAY_BEGINS = time(4, 0)
"""Local time at which a trading day begins: the start of US pre-market trading."""
CUT_OFF_AFTER_CLOSE = timedelta(minutes=35)
"""Last observations of a day's snapshot: index options trade 15 minutes longer, and IB's marks lag."""
EXCHANGE = ZoneInfo("America/New_York")
"""Sessions open and close by the exchange's clock, in whatever zone the trading day begins."""
_OPEN = time(9, 30)
_REGULAR_CLOSE = time(16, 0)


@dataclass(frozen=True, slots=True)
class Session:
    """One session of the exchange. ``opens_at`` and ``closes_at`` are UTC."""

    day: date
    opens_at: datetime
    closes_at: datetime

    @property
    def cut_off(self) -> datetime:
        """The last instant whose observations count for this day's snapshot, UTC."""
        return self.closes_at + CUT_OFF_AFTER_CLOSE


@dataclass(frozen=True, slots=True)
class _Table:
    first: date
    last: date
    closes: dict[date, time | None]
    sessions: tuple[date, ...]


class TradingCalendar:
    """The sessions of the US exchanges, and trading days that begin at 04:00 of one time zone.

    Args:
        timezone: IANA name of the zone whose 04:00 begins a day. Sessions keep New York's hours in any case.
    """

    def __init__(self, timezone: str = "America/New_York") -> None:
        self._zone = ZoneInfo(timezone)
        self._table = _load_table()

    @property
    def first(self) -> date:
        """First day of the table."""
        return self._table.first

    @property
    def last(self) -> date:
        """Last day of the table."""
        return self._table.last

    def trading_day(self, instant: datetime) -> date:
        """The trading day that an aware instant belongs to.

        Raises:
            CalendarError: the instant is naive, or outside the table.
        """
        local = _local(instant, self._zone)
        day = local.date() if local.time() >= DAY_BEGINS else local.date() - timedelta(days=1)
        self._check_range(day)
        index = bisect_right(self._table.sessions, day)
        if index == 0:
            raise CalendarError(f"{day}: before the first session of the calendar, {self._table.sessions[0]}")
        return self._table.sessions[index - 1]

    def is_session(self, day: date) -> bool:
        """Return whether the exchange trades on ``day``."""
        self._check_range(day)
        index = bisect_left(self._table.sessions, day)
        return index < len(self._table.sessions) and self._table.sessions[index] == day

    def session(self, day: date) -> Session:
        """The session of a trading day.

        Raises:
            CalendarError: ``day`` is not a session; the message names the session before it.
        """
        if not self.is_session(day):
            before = self.previous_session(day)
            raise CalendarError(f"{day} is not a trading day of the exchange: the one before it is {before}")
        close = self._table.closes.get(day) or _REGULAR_CLOSE
        return Session(day, _utc(day, _OPEN, EXCHANGE), _utc(day, close, EXCHANGE))

    def begins_at(self, day: date) -> datetime:
        """Start of trading day ``day``, 04:00 local, in UTC."""
        return _utc(self.session(day).day, DAY_BEGINS, self._zone)

    def ends_at(self, day: date) -> datetime:
        """End of trading day ``day``, which is the start of the next one, in UTC."""
        return self.begins_at(self.next_session(day))

    def next_session(self, day: date) -> date:
        """The first session after ``day``."""
        self._check_range(day)
        index = bisect_right(self._table.sessions, day)
        if index == len(self._table.sessions):
            raise CalendarError(f"{day}: the calendar ends on {self.last}; a newer version of v6_pipeline has more")
        return self._table.sessions[index]

    def previous_session(self, day: date) -> date:
        """The last session before ``day``."""
        self._check_range(day)
        index = bisect_left(self._table.sessions, day)
        if index == 0:
            raise CalendarError(f"{day}: the calendar begins on {self.first}")
        return self._table.sessions[index - 1]

    def sessions_between(self, first: date, last: date) -> list[date]:
        """Sessions from ``first`` to ``last``, both included."""
        self._check_range(first)
        self._check_range(last)
        sessions = self._table.sessions
        return list(sessions[bisect_left(sessions, first) : bisect_right(sessions, last)])

    def closed_weekdays(self, first: date, last: date) -> list[date]:
        """Weekdays from ``first`` to ``last`` without a session: the holidays."""
        return [day for day, close in self._table.closes.items() if close is None and first <= day <= last]

    def is_open(self, instant: datetime, *, until_cut_off: bool = False) -> bool:
        """Return whether the exchange is in session at an aware instant.

        With ``until_cut_off`` the minutes from the close to the day's cut-off count as open.
        """
        day = _local(instant, EXCHANGE).date()
        if not self.is_session(day):
            return False
        session = self.session(day)
        return session.opens_at <= instant < (session.cut_off if until_cut_off else session.closes_at)

    def _check_range(self, day: date) -> None:
        if not self.first <= day <= self.last:
            raise CalendarError(
                f"{day}: outside the calendar, {self.first} to {self.last}; a newer version of v6_pipeline may have it"
            )


def _local(instant: datetime, zone: ZoneInfo) -> datetime:
    if instant.tzinfo is None:
        raise CalendarError(f"{instant.isoformat()}: an instant without a time zone has no trading day")
    return instant.astimezone(zone)


def _utc(day: date, at: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


@lru_cache(maxsize=1)
def _load_table() -> _Table:
    """The exceptions of ``sessions.csv`` (date, close; empty: closed), and all sessions from first to last row."""
    text = resources.files("v6_pipeline").joinpath("data/sessions.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    closes = {
        date.fromisoformat(row["date"]): time.fromisoformat(row["close"]) if row["close"] else None for row in rows
    }
    first, last = min(closes), max(closes)
    days = (first + timedelta(days=offset) for offset in range((last - first).days + 1))
    sessions = tuple(day for day in days if day.weekday() < 5 and closes.get(day, _REGULAR_CLOSE) is not None)
    return _Table(first, last, closes, sessions)
