"""The bars that are requested, and the choice of the one that is a day's close."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.ib.close_plan import (
    Bar,
    BarType,
    CloseWindow,
    bar_types,
    close_window,
    closes_in,
    days_of,
    is_forgotten,
    spans,
)
from v6_pipeline.model import ContractSpec, SecType

CALENDAR = TradingCalendar()
DAY, EARLY = date(2026, 11, 19), date(2026, 11, 27)
LATER = datetime(2026, 12, 31, tzinfo=UTC)
HALF_HOURS = bar_types(SecType.OPTION)[0]
DAYS = bar_types(SecType.STOCK)[0]
HOURS = BarType(bar_size="1 hour", what_to_show="TRADES", seconds=3_600, longest_days=30)


def window(day: date = DAY, *, until_end: bool = False) -> CloseWindow:
    return close_window(CALENDAR, day, until_end=until_end)


def at(text: str, day: date = DAY) -> datetime:
    """Return an instant by its New York time."""
    opens = CALENDAR.session(day).opens_at  # 09:30
    hours, minutes = map(int, text.split(":"))
    return opens + timedelta(hours=hours - 9, minutes=minutes - 30)


def close(bars: list[Bar], bar_type: BarType = HALF_HOURS, day: date = DAY, *, now: datetime = LATER) -> float | None:
    found = closes_in(bars, bar_type, [window(day)], now=now).get(day)
    return None if found is None else found.close


# What is asked


@pytest.mark.parametrize(
    ("sec_type", "sizes", "whats"),
    [
        (SecType.STOCK, {"1 day"}, ["TRADES", "MIDPOINT"]),
        (SecType.INDEX, {"1 day"}, ["TRADES"]),
        (SecType.BOND, {"1 day"}, ["TRADES", "MIDPOINT"]),
        (SecType.OPTION, {"30 mins"}, ["MIDPOINT", "TRADES"]),
        (SecType.FUTURE_OPTION, {"30 mins"}, ["MIDPOINT", "TRADES"]),
        (SecType.FUTURE, {"30 mins"}, ["TRADES", "MIDPOINT"]),
        (SecType.CURRENCY, {"30 mins"}, ["MIDPOINT"]),
        (SecType.COMBO, set(), []),
    ],
)
def test_each_kind_of_contract_has_bars_that_ib_serves(sec_type: SecType, sizes: set[str], whats: list[str]) -> None:
    found = bar_types(sec_type)

    assert {item.bar_size for item in found} == sizes
    assert [item.what_to_show for item in found] == whats


def test_every_kind_has_a_plan() -> None:
    assert all(bar_types(sec_type) is not None for sec_type in SecType)


@pytest.mark.parametrize(
    ("sec_type", "expiry", "expired"),
    [
        (SecType.OPTION, DAY - timedelta(days=1), True),
        (SecType.OPTION, DAY, False),
        (SecType.WARRANT, DAY - timedelta(days=1), True),
        (SecType.FUTURE, DAY - timedelta(days=1), False),
        (SecType.STOCK, None, False),
    ],
)
def test_only_expired_options_are_forgotten(sec_type: SecType, expiry: date | None, expired: bool) -> None:
    contract = ContractSpec(conid=1, symbol="X", sec_type=sec_type, currency="USD", expiry=expiry)

    assert is_forgotten(contract, DAY) is expired


# Which bar is the close


def test_the_last_bar_of_the_session_is_the_close() -> None:
    assert close([Bar(at("15:00"), 1.0), Bar(at("15:30"), 2.0)]) == 2.0


def test_a_bar_that_ends_after_the_close_but_by_the_cut_off_counts() -> None:
    """Index options trade until 16:15."""
    assert close([Bar(at("15:30"), 2.0), Bar(at("16:00"), 3.0)]) == 3.0


def test_a_bar_that_straddles_the_cut_off_does_not() -> None:
    assert close([Bar(at("15:30"), 2.0), Bar(at("16:30"), 4.0)]) == 2.0
    assert close([Bar(at("15:00"), 2.0), Bar(at("16:00"), 4.0)], HOURS) == 2.0


def test_an_early_close_has_an_early_cut_off() -> None:
    bars = [Bar(at("12:30", EARLY), 1.0), Bar(at("13:00", EARLY), 2.0), Bar(at("13:30", EARLY), 3.0)]

    assert close(bars, day=EARLY) == 2.0
    assert close(bars[2:], day=EARLY) is None


@pytest.mark.parametrize("day", [date(2026, 3, 6), date(2026, 3, 9), date(2026, 10, 30), date(2026, 11, 2)])
def test_the_hour_of_summer_time_moves_with_the_session(day: date) -> None:
    closes_at = CALENDAR.session(day).closes_at
    bars = [Bar(closes_at + timedelta(minutes=30 * number), float(number)) for number in range(-3, 4)]

    assert close(bars, day=day) == 0.0


def test_a_days_bar_is_the_close_of_its_date_and_ends_with_the_session() -> None:
    found = closes_in([Bar(DAY, 5.0), Bar(DAY - timedelta(days=1), 4.0)], DAYS, [window()], now=LATER)

    assert (found[DAY].close, found[DAY].bar_time) == (5.0, CALENDAR.session(DAY).closes_at)


def test_a_bar_that_has_not_ended_is_no_close() -> None:
    assert close([Bar(DAY, 5.0)], DAYS, now=at("15:59")) is None
    assert close([Bar(DAY, 5.0)], DAYS, now=at("16:00")) == 5.0
    assert close([Bar(at("15:00"), 1.0), Bar(at("15:30"), 2.0)], now=at("15:45")) == 1.0


def test_bars_of_another_day_do_not_count() -> None:
    evening_before = at("15:30", date(2026, 11, 18))

    assert close([Bar(evening_before, 1.0), Bar(at("03:30"), 2.0)]) is None


def test_with_market_hours_always_the_cut_off_is_the_days_end() -> None:
    late = Bar(at("23:00"), 7.0)
    windows = [window(until_end=True)]

    assert closes_in([late], HALF_HOURS, windows, now=LATER)[DAY].close == 7.0


@given(
    st.lists(st.integers(-60 * 24, 60 * 24), max_size=60),
    st.sampled_from([HALF_HOURS, HOURS]),
    st.sampled_from([DAY, EARLY, date(2026, 3, 9), date(2026, 11, 2)]),
)
def test_no_bar_after_the_cut_off_ever_gives_a_close(minutes: list[int], bar_type: BarType, day: date) -> None:
    this = window(day)
    bars = [Bar(this.closes_at + timedelta(minutes=each), float(each)) for each in minutes]

    found = closes_in(bars, bar_type, [this], now=LATER)

    allowed = [
        each
        for each, bar in zip(minutes, bars, strict=True)
        if isinstance(bar.begin, datetime)
        and bar.begin >= this.begins_at
        and bar.begin + timedelta(seconds=bar_type.seconds) <= this.cut_off
    ]
    assert [item.close for item in found.values()] == ([float(max(allowed))] if allowed else [])
    assert all(item.bar_time <= this.cut_off for item in found.values())


# How many requests


def test_sixty_days_of_an_option_are_three_requests_and_of_a_stock_one() -> None:
    days = CALENDAR.sessions_between(date(2026, 8, 26), DAY)
    windows = [window(day) for day in days]

    assert len(days) == 61
    assert [len(spans(windows, kind.longest_days)) for kind in (HALF_HOURS, DAYS)] == [3, 1]


def test_no_request_spans_many_unwanted_days() -> None:
    groups = spans([window(DAY), window(date(2026, 1, 2))], 30)

    assert [[item.day for item in group] for group in groups] == [[DAY], [date(2026, 1, 2)]]


@given(st.sets(st.integers(0, 480), min_size=1, max_size=80), st.sampled_from([1, 7, 30, 365]), st.booleans())
def test_every_day_is_in_one_request_that_is_not_too_long(picked: set[int], longest: int, until_end: bool) -> None:
    sessions = CALENDAR.sessions_between(date(2025, 1, 2), date(2026, 12, 10))
    windows = [close_window(CALENDAR, sessions[index], until_end=until_end) for index in picked]

    groups = spans(windows, longest)

    assert sorted(item.day for group in groups for item in group) == sorted(item.day for item in windows)
    for group in groups:
        days = days_of(group[0].cut_off, group[-1])
        assert days <= longest or len(group) == 1
        assert group[0].cut_off - timedelta(days=days) <= group[-1].begins_at
