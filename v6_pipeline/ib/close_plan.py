"""The bars that give a contract's close, and the choice of the one that is the close of a trading day.

Pure functions; the requests are in ``ib.history``. IB has no daily bars for options
(https://interactivebrokers.github.io/tws-api/historical_limitations.html), and those of futures and currencies end at
17:00 New York, after a day's cut-off: for them the close is the last half-hour bar that ends by then.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.model import ContractSpec, SecType

_DAY = timedelta(days=1)


class CloseReason(enum.StrEnum):
    """Reason that a day has no close."""

    EXPIRED = "expired"
    """IB has no history of expired options."""
    NO_DATA = "no_data"
    NO_PERMISSION = "no_permission"
    UNKNOWN_CONTRACT = "unknown_contract"
    NO_ANSWER = "no_answer"
    """The request failed or was not answered; the next fetch tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarType:
    """A kind of bars; ``longest_days`` is the most that one request may span (IB's step sizes)."""

    bar_size: str
    what_to_show: str
    seconds: int
    longest_days: int

    @property
    def is_day(self) -> bool:
        """True for bars of a whole session, labelled with its date."""
        return self.seconds == 86_400


@dataclass(frozen=True, slots=True)
class Bar:
    """The beginning (a date for daily bars) and the close of a bar."""

    begin: datetime | date
    close: float


@dataclass(frozen=True, slots=True)
class CloseWindow:
    """Bounds of the bars that may give a day's close: begin at ``begins_at`` or later, end by ``cut_off``; UTC."""

    day: date
    begins_at: datetime
    closes_at: datetime
    cut_off: datetime


@dataclass(frozen=True, slots=True)
class FoundClose:
    """A close and the end of the bar that gave it."""

    close: float
    bar_time: datetime


def _days(what: str) -> BarType:
    return BarType(bar_size="1 day", what_to_show=what, seconds=86_400, longest_days=365)


def _half_hours(what: str) -> BarType:
    return BarType(bar_size="30 mins", what_to_show=what, seconds=1_800, longest_days=30)


_SESSION_BOUND = (_days("TRADES"), _days("MIDPOINT"))
_INTRADAY = (_half_hours("TRADES"), _half_hours("MIDPOINT"))
# An option's last trade may be from the morning, so the quotes at the close come first.
_QUOTED = (_half_hours("MIDPOINT"), _half_hours("TRADES"))
_PLANS: dict[SecType, tuple[BarType, ...]] = {
    **dict.fromkeys((SecType.STOCK, SecType.FUND, SecType.BOND, SecType.BILL), _SESSION_BOUND),
    SecType.INDEX: (_days("TRADES"),),
    **dict.fromkeys((SecType.FUTURE, SecType.INTER_COMMODITY, SecType.INTER_COMMODITY_SPREAD), _INTRADAY),
    **dict.fromkeys((SecType.OPTION, SecType.FUTURE_OPTION, SecType.WARRANT), _QUOTED),
    **dict.fromkeys((SecType.CURRENCY, SecType.CFD, SecType.COMMODITY), (_half_hours("MIDPOINT"),)),
    SecType.CRYPTO: (_half_hours("AGGTRADES"), _half_hours("MIDPOINT")),
    # A combination has no history of its own.
    SecType.COMBO: (),
}


def bar_types(sec_type: SecType) -> tuple[BarType, ...]:
    """Return the kinds of bars that may give a close, best first; a later kind serves days missing in the earlier."""
    return _PLANS.get(sec_type, _SESSION_BOUND)


def is_forgotten(contract: ContractSpec, today: date) -> bool:
    """Return whether IB has dropped the contract's history by ``today``, the exchange's date: options only."""
    return contract.sec_type.is_option and contract.has_expired(today)


def close_window(calendar: TradingCalendar, day: date, *, until_end: bool = False) -> CloseWindow:
    """Return the window of a trading day; ``until_end`` cuts off at its end (``V6_MARKET_HOURS=always``)."""
    session = calendar.session(day)
    cut_off = calendar.ends_at(day) if until_end else session.cut_off
    return CloseWindow(day, calendar.begins_at(day), session.closes_at, cut_off)


def closes_in(
    bars: Iterable[Bar], bar_type: BarType, windows: Iterable[CloseWindow], *, now: datetime
) -> dict[date, FoundClose]:
    """Return the close of each day: of the last bar that ends by the day's cut-off, and that has ended.

    A bar that straddles the cut-off may hold a later price and is left out, even if the session ends within it. A daily
    bar ends with the session.
    """
    if bar_type.is_day:
        by_date = {bar.begin: bar.close for bar in bars if not isinstance(bar.begin, datetime)}
        return {
            window.day: FoundClose(by_date[window.day], window.closes_at)
            for window in windows
            if window.day in by_date and window.closes_at <= min(window.cut_off, now)
        }
    length = timedelta(seconds=bar_type.seconds)
    known = sorted((bar.begin, bar.close) for bar in bars if isinstance(bar.begin, datetime))
    begins = [begin for begin, _ in known]
    found: dict[date, FoundClose] = {}
    for window in windows:
        last = bisect_right(begins, min(window.cut_off, now) - length) - 1
        if last >= 0 and begins[last] >= window.begins_at:
            found[window.day] = FoundClose(known[last][1], begins[last] + length)
    return found


def spans(windows: Sequence[CloseWindow], longest_days: int) -> list[list[CloseWindow]]:
    """Group the windows into as few requests as their length allows, the newest first; days in between cost nothing."""
    groups: list[list[CloseWindow]] = []
    for window in sorted(windows, key=lambda item: item.day, reverse=True):
        if groups and days_of(groups[-1][0].cut_off, window) <= longest_days:
            groups[-1].append(window)
        else:
            groups.append([window])
    return groups


def days_of(end: datetime, first: CloseWindow) -> int:
    """Return the days of a request that ends at ``end`` and reaches back to the beginning of ``first``."""
    return max(1, math.ceil((end - first.begins_at) / _DAY))
