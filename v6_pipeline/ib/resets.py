"""Known outages of Interactive Brokers: the nightly resets and the weekend's maintenance.

Pure. Times are IBKR's (https://www.interactivebrokers.com/en/software/systemStatus.php), each in its region's own zone,
so that they move with daylight saving. Within such a window an outage is expected: it raises no alarm, and attempts to
connect are rare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from v6_pipeline.model import IBRegion


@dataclass(frozen=True, slots=True)
class ExpectedOutage:
    """A window in which the broker may be away; ``until`` is UTC."""

    reason: str
    until: datetime

    def __str__(self) -> str:
        """Return text such as ``IB's nightly reset until 05:45 UTC``."""
        return f"{self.reason} until {self.until:%H:%M} UTC"


@dataclass(frozen=True, slots=True)
class _Window:
    reason: str
    begins: time
    ends: time
    weekdays: frozenset[int]
    """Weekdays of the beginning; Monday is 0."""


_EVERY_DAY = frozenset(range(7))
_NEW_YORK = ZoneInfo("America/New_York")
_WEEKEND = _Window("IB's weekend maintenance", time(23, 0), time(3, 0), frozenset({4}))
_NIGHTLY = "IB's nightly reset"
_RESETS: dict[IBRegion, tuple[ZoneInfo, tuple[_Window, ...]]] = {
    IBRegion.AMERICA: (_NEW_YORK, (_Window(_NIGHTLY, time(0, 15), time(1, 45), _EVERY_DAY),)),
    IBRegion.EUROPE: (ZoneInfo("Europe/Zurich"), (_Window(_NIGHTLY, time(6, 25), time(7, 45), _EVERY_DAY),)),
    IBRegion.ASIA: (
        ZoneInfo("Asia/Hong_Kong"),
        (
            _Window(_NIGHTLY, time(4, 45), time(6, 5), _EVERY_DAY - {5}),
            _Window(_NIGHTLY, time(20, 15), time(21, 15), _EVERY_DAY - {5}),
        ),
    ),
}
_REALIZED_OF_SECURITIES = (time(20, 30),)
_REALIZED_OF_FUTURES = (time(7, 10), time(17, 30))


def expected_outage(instant: datetime, region: IBRegion = IBRegion.AMERICA) -> ExpectedOutage | None:
    """Return the window around an aware instant, or None; if there are several, the one that ends last."""
    zone, resets = _RESETS[region]
    windows = [(_NEW_YORK, _WEEKEND), *((zone, reset) for reset in resets)]
    found = [
        ExpectedOutage(window.reason, end)
        for zone, window in windows
        for begin, end in _around(instant, zone, window)
        if begin <= instant < end
    ]
    return max(found, key=lambda outage: outage.until, default=None)


def realized_since(instant: datetime, *, futures: bool) -> datetime:
    """Return the beginning of the period that IB's realized profit covers at an aware instant, in UTC.

    IB resets it at 20:30 New York for securities, at 17:30 and 07:10 for futures and their options (knowledge base
    2738).
    """
    today = instant.astimezone(_NEW_YORK).date()
    resets = _REALIZED_OF_FUTURES if futures else _REALIZED_OF_SECURITIES
    days = (today - timedelta(days=1), today)
    begins = (datetime.combine(day, at, _NEW_YORK).astimezone(UTC) for day in days for at in resets)
    return max(begin for begin in begins if begin <= instant)


def _around(instant: datetime, zone: ZoneInfo, window: _Window) -> Iterator[tuple[datetime, datetime]]:
    """Yield the window's occurrences near an instant: it may have begun the day before."""
    today = instant.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        if day.weekday() in window.weekdays:
            last = day if window.ends > window.begins else day + timedelta(days=1)
            begin, end = datetime.combine(day, window.begins, zone), datetime.combine(last, window.ends, zone)
            yield begin.astimezone(UTC), end.astimezone(UTC)
