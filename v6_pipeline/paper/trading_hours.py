"""Expiries and trading hours of simulated contracts: closed-form dates only.

The product's own calendar is not used, so that the two can disagree in a test.
"""

import functools
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from v6_pipeline.paper.contracts import CASH, FUTURE, INDEX, OPTION, STOCK, Contract

_MONDAY, _THURSDAY, _FRIDAY = 0, 3, 4
_FIXED_HOLIDAYS = frozenset({(1, 1), (6, 19), (7, 4), (12, 25)})
# Month, weekday and which one: Martin Luther King, Presidents', Labor and Thanksgiving Day.
_NTH_WEEKDAYS = frozenset({(1, _MONDAY, 3), (2, _MONDAY, 3), (9, _MONDAY, 1), (11, _THURSDAY, 4)})

_SPECIAL_CLOSINGS = frozenset({date(2025, 1, 9)})  # the day of mourning for President Carter
NEW_YORK = ZoneInfo("America/New_York")
_REGULAR_CLOSE, _EARLY_CLOSE = time(16), time(13)
_EUROPEAN_ZONES = {"EUR": "MET", "GBP": "GB-Eire"}


def _easter(year: int) -> date:
    """Return Easter Sunday by the anonymous Gregorian computus."""
    a, b, c = year % 19, year // 100, year % 100
    d, e = b // 4, b % 4
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = c // 4, c % 4
    correction = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * correction) // 451
    month, day = divmod(h + correction - 7 * m + 114, 31)
    return date(year, month, day + 1)


@functools.cache
def is_trading_day(day: date) -> bool:
    """Return whether US exchanges open, by the rules in force since 2022."""
    weekday = day.weekday()
    if day in _SPECIAL_CLOSINGS or weekday > _FRIDAY or day == _easter(day.year) - timedelta(days=2):
        return False
    if (day.month, weekday, (day.day + 6) // 7) in _NTH_WEEKDAYS:
        return False
    if weekday == _MONDAY and day.month == 5 and day.day > 24:
        return False  # Memorial Day, the last Monday of May
    before, after = day - timedelta(days=1), day + timedelta(days=1)
    # A holiday on a Sunday moves to Monday; one on a Saturday to Friday, except New Year's Day.
    moved = (weekday == _MONDAY and (before.month, before.day) in _FIXED_HOLIDAYS) or (
        weekday == _FRIDAY and (after.month, after.day) in _FIXED_HOLIDAYS - {(1, 1)}
    )
    return (day.month, day.day) not in _FIXED_HOLIDAYS and not moved


def session_before(day: date) -> date:
    """Return the last session of US exchanges before a day."""
    day -= timedelta(days=1)
    while not is_trading_day(day):
        day -= timedelta(days=1)
    return day


def is_european(contract: Contract) -> bool:
    """Return whether a stock trades in Europe, on the holidays of US exchanges too."""
    return contract.sec_type == STOCK and contract.currency in _EUROPEAN_ZONES


def closes_early(day: date) -> bool:
    """Return whether US exchanges close at 13:00: eves of Independence Day and Christmas, day after Thanksgiving."""
    is_eve = (day.month, day.day) in {(7, 3), (12, 24)} and day.weekday() < _FRIDAY
    after_thanksgiving = day.month == 11 and day.weekday() == _FRIDAY and 23 <= day.day <= 29
    return is_trading_day(day) and (is_eve or after_thanksgiving)


def us_close(day: date) -> datetime:
    """Return the close of US exchanges on a trading day."""
    return datetime.combine(day, _EARLY_CLOSE if closes_early(day) else _REGULAR_CLOSE, tzinfo=NEW_YORK)


def weekly_expiries(as_of: date, count: int) -> list[date]:
    """Return `count` weekly option expiries from ten days after `as_of`; Thursday if Friday is a holiday."""
    first = as_of + timedelta(days=10)
    first += timedelta(days=(_FRIDAY - first.weekday()) % 7)
    fridays = (first + timedelta(weeks=week) for week in range(count))
    return [friday if is_trading_day(friday) else friday - timedelta(days=1) for friday in fridays]


def quarterly_expiries(as_of: date, count: int) -> list[date]:
    """Return `count` third Fridays of March, June, September and December from ten days after `as_of`."""
    expiries: list[date] = []
    year, month = as_of.year, 3
    while len(expiries) < count:
        first = date(year, month, 1)
        third_friday = first + timedelta(days=(_FRIDAY - first.weekday()) % 7 + 14)
        if third_friday >= as_of + timedelta(days=10):
            expiries.append(third_friday if is_trading_day(third_friday) else third_friday - timedelta(days=1))
        year, month = (year, month + 3) if month < 12 else (year + 1, 3)
    return expiries


def time_zone(contract: Contract) -> str:
    """Return the time zone of a contract's hours, as IB names it."""
    if contract.sec_type == FUTURE:
        return "US/Eastern" if contract.exchanges[0] in {"NYMEX", "COMEX"} else "US/Central"
    if contract.sec_type == STOCK and contract.currency in _EUROPEAN_ZONES:
        return _EUROPEAN_ZONES[contract.currency]
    return "US/Eastern"


def last_trade_time(contract: Contract) -> str:
    """Time of day at which an expiring contract stops trading, in its zone; empty without an expiry."""
    if contract.sec_type == OPTION:
        return "16:00:00"
    return {"CME": "08:30:00", "NYMEX": "14:30:00", "COMEX": "13:30:00"}.get(contract.exchanges[0], "12:00:00") * (
        contract.sec_type == FUTURE
    )


def hours(contract: Contract, today: date, days: int = 6) -> tuple[str, str]:
    """Return trading and liquid hours of the next `days` days in IB's format.

    A day is ``20240722:0400-20240722:2000`` or ``20240721:CLOSED``, days are separated by ``;``.
    """
    wide, liquid = _spans(contract)
    dates = [today + timedelta(days=offset) for offset in range(days)]
    return ";".join(_session(day, wide) for day in dates), ";".join(_session(day, liquid) for day in dates)


def session(contract: Contract, day: date, *, regular: bool) -> tuple[datetime, datetime] | None:
    """Return begin and end of a contract's session on a day, aware in its own zone; `None` if it has none.

    On early closes the extended hours of stocks end at 17:00, and futures a quarter of an hour after the exchange.
    """
    if not is_trading_day(day):
        return None
    wide, liquid = _spans(contract)
    zone = ZoneInfo(time_zone(contract))
    opens, closes = (time(int(text[:2]), int(text[2:])) for text in (liquid if regular else wide))
    begin = datetime.combine(day - timedelta(days=1) if opens > closes else day, opens, tzinfo=zone)
    end = datetime.combine(day, closes, tzinfo=zone)
    if closes_early(day) and contract.sec_type != CASH and contract.currency not in _EUROPEAN_ZONES:
        later = {FUTURE: timedelta(minutes=15), STOCK: timedelta(0) if regular else timedelta(hours=4)}
        end = min(end, (us_close(day) + later.get(contract.sec_type, timedelta(0))).astimezone(zone))
    return begin, end


def auction_at(contract: Contract, day: date) -> datetime | None:
    """Return the time of a contract's close on a day; `None` without a session.

    It is the close of US exchanges or, if earlier, the end of the regular session; Xetra has a close of its own.
    """
    hours = session(contract, day, regular=True)
    if hours is None:
        return None
    begin, end = hours
    return end if contract.currency in _EUROPEAN_ZONES else max(begin, min(end, us_close(day)))


def _spans(contract: Contract) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return trading and liquid hours of a day, in the contract's zone."""
    if contract.sec_type == STOCK and contract.currency in _EUROPEAN_ZONES:
        return (("0900", "1730"),) * 2 if contract.currency == "EUR" else (("0800", "1630"),) * 2
    spans = {
        STOCK: (("0400", "2000"), ("0930", "1600")),
        OPTION: (("0930", "1600"), ("0930", "1600")),
        INDEX: (("0930", "1600"), ("0930", "1600")),
        FUTURE: (("1700", "1600"), ("0830", "1600")),
        CASH: (("1715", "1700"), ("1715", "1700")),
    }
    return spans.get(contract.sec_type, spans[STOCK])


def _session(day: date, span: tuple[str, str]) -> str:
    if not is_trading_day(day):
        return f"{day:%Y%m%d}:CLOSED"
    opens, closes = span
    # A session whose opening time is after its closing time begins on the evening before.
    opened_on = day - timedelta(days=1) if opens > closes else day
    return f"{opened_on:%Y%m%d}:{opens}-{day:%Y%m%d}:{closes}"
