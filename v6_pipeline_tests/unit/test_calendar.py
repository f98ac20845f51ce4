"""Trading days: the shipped table against two independent calendars, and the day's borders."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import exchange_calendars
import pandas_market_calendars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import CalendarError

NEW_YORK = ZoneInfo("America/New_York")
CALENDAR = TradingCalendar()
# Both oracles call functions that pandas 3.1 deprecates.
THIRD_PARTY = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


@THIRD_PARTY
def test_the_shipped_table_is_what_exchange_calendars_says() -> None:
    oracle = exchange_calendars.get_calendar("XNYS", start=str(CALENDAR.first), end=str(CALENDAR.last))

    ours = [CALENDAR.session(day) for day in CALENDAR.sessions_between(CALENDAR.first, CALENDAR.last)]

    assert [session.day for session in ours] == [stamp.date() for stamp in oracle.sessions]
    assert [session.opens_at for session in ours] == [stamp.to_pydatetime() for stamp in oracle.opens]
    assert [session.closes_at for session in ours] == [stamp.to_pydatetime() for stamp in oracle.closes]


@THIRD_PARTY
def test_the_shipped_table_is_what_pandas_market_calendars_says() -> None:
    oracle = pandas_market_calendars.get_calendar("NYSE").schedule(str(CALENDAR.first), str(CALENDAR.last))

    ours = [CALENDAR.session(day) for day in CALENDAR.sessions_between(CALENDAR.first, CALENDAR.last)]

    assert [session.day for session in ours] == [stamp.date() for stamp in oracle.index]
    assert [session.closes_at for session in ours] == [stamp.to_pydatetime() for stamp in oracle["market_close"]]


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        ("2026-11-20T04:00", date(2026, 11, 20)),
        ("2026-11-20T23:59", date(2026, 11, 20)),
        ("2026-11-20T03:59", date(2026, 11, 19)),
        ("2026-11-21T12:00", date(2026, 11, 20)),
        ("2026-11-22T23:00", date(2026, 11, 20)),
        ("2026-11-23T03:59", date(2026, 11, 20)),
        ("2026-11-23T04:00", date(2026, 11, 23)),
        ("2026-11-26T15:00", date(2026, 11, 25)),  # Thanksgiving belongs to Wednesday
        ("2026-03-08T12:00", date(2026, 3, 6)),  # the day on which the clocks change
    ],
)
def test_an_instant_belongs_to_the_session_whose_day_has_begun(instant: str, day: date) -> None:
    assert CALENDAR.trading_day(new_york(instant)) == day


@given(
    st.integers(0, 5_800 * 86_400).map(lambda seconds: datetime(2015, 1, 6, tzinfo=UTC) + timedelta(seconds=seconds))
)
def test_days_tile_time(instant: datetime) -> None:
    day = CALENDAR.trading_day(instant)

    assert CALENDAR.is_session(day)
    assert CALENDAR.begins_at(day) <= instant < CALENDAR.ends_at(day)


def test_an_early_close_moves_the_cut_off() -> None:
    session = CALENDAR.session(date(2026, 11, 27))

    assert session.closes_at == new_york("2026-11-27T13:00")
    assert session.cut_off == new_york("2026-11-27T13:35")


def test_open_means_the_sessions_hours_and_on_request_the_minutes_to_the_cut_off() -> None:
    assert not CALENDAR.is_open(new_york("2026-11-20T09:29"))
    assert CALENDAR.is_open(new_york("2026-11-20T09:30"))
    assert not CALENDAR.is_open(new_york("2026-11-20T16:00"))
    assert CALENDAR.is_open(new_york("2026-11-20T16:34"), until_cut_off=True)
    assert not CALENDAR.is_open(new_york("2026-11-20T16:35"), until_cut_off=True)
    assert not CALENDAR.is_open(new_york("2026-11-21T12:00"), until_cut_off=True)


def test_a_day_without_a_session_is_named_with_the_one_before_it() -> None:
    with pytest.raises(
        CalendarError, match="2026-11-22 is not a trading day of the exchange: the one before it is 2026-11-20"
    ):
        CALENDAR.session(date(2026, 11, 22))


def test_a_day_outside_the_table_is_refused() -> None:
    with pytest.raises(CalendarError, match="2031-01-02: outside the calendar, 2015-01-01 to 2030-12-31"):
        CALENDAR.is_session(date(2031, 1, 2))


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(CalendarError, match="without a time zone"):
        CALENDAR.trading_day(datetime(2026, 11, 20, 12))  # noqa: DTZ001


def test_neighbours_skip_weekends_and_holidays() -> None:
    assert CALENDAR.next_session(date(2026, 11, 25)) == date(2026, 11, 27)
    assert CALENDAR.previous_session(date(2026, 11, 27)) == date(2026, 11, 25)
    assert CALENDAR.closed_weekdays(date(2026, 11, 1), date(2026, 12, 31)) == [date(2026, 11, 26), date(2026, 12, 25)]
    assert CALENDAR.begins_at(date(2026, 11, 23)) - CALENDAR.begins_at(date(2026, 11, 20)) == timedelta(days=3)


def test_another_time_zone_moves_the_trading_day_and_not_the_exchanges_hours() -> None:
    berlin = TradingCalendar("Europe/Berlin")

    assert berlin.session(date(2026, 11, 20)) == CALENDAR.session(date(2026, 11, 20))
    assert berlin.is_open(new_york("2026-11-20T13:00"))
    assert berlin.begins_at(date(2026, 11, 20)) == datetime(2026, 11, 20, 3, tzinfo=UTC)
