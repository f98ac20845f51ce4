"""The days that a statement covers, and the ranges to request: pure functions."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.flex.archive import covered_days, missing_ranges
from v6_pipeline.flex.replies import Period
from v6_pipeline.flex.service import MOST_DAYS

CALENDAR = TradingCalendar()
SESSIONS = CALENDAR.sessions_between(date(2025, 1, 2), date(2026, 12, 31))
THURSDAY, FRIDAY, MONDAY = date(2026, 11, 19), date(2026, 11, 20), date(2026, 11, 23)


def period(first: date, last: date, account: str = "U1") -> Period:
    return Period(account=account, first=first, last=last)


@pytest.mark.parametrize(
    ("statement", "day"),
    [
        (period(FRIDAY, FRIDAY), FRIDAY),
        (period(THURSDAY, FRIDAY), FRIDAY),
        (period(FRIDAY, FRIDAY + timedelta(days=2)), FRIDAY),
        (period(date(2026, 1, 2), FRIDAY + timedelta(days=1)), FRIDAY),
        (period(FRIDAY + timedelta(days=1), FRIDAY + timedelta(days=2)), None),
    ],
)
def test_a_statement_covers_the_session_at_its_end(statement: Period, day: date | None) -> None:
    assert covered_days([statement], [THURSDAY, FRIDAY, MONDAY], CALENDAR) == ({day} if day else set())


def test_with_accounts_a_day_needs_all_of_them() -> None:
    statements = [period(FRIDAY, FRIDAY, "U1"), period(FRIDAY, FRIDAY, "U2"), period(MONDAY, MONDAY, "U1")]

    assert covered_days(statements, [FRIDAY, MONDAY], CALENDAR) == {FRIDAY, MONDAY}
    assert covered_days(statements, [FRIDAY, MONDAY], CALENDAR, ["U1", "U2"]) == {FRIDAY}


def test_a_weekend_does_not_split_a_range_and_a_covered_day_does() -> None:
    assert missing_ranges([THURSDAY, FRIDAY, MONDAY], []) == [(THURSDAY, MONDAY)]
    assert missing_ranges([THURSDAY, FRIDAY, MONDAY], [FRIDAY]) == [(THURSDAY, THURSDAY), (MONDAY, MONDAY)]
    assert missing_ranges([], []) == []


@given(wanted=st.sets(st.sampled_from(SESSIONS)), covered=st.sets(st.sampled_from(SESSIONS)))
def test_every_missing_day_is_requested_once_and_no_covered_one(wanted: set[date], covered: set[date]) -> None:
    ranges = missing_ranges(sorted(wanted), covered)

    asked = [day for first, last in ranges for day in sorted(wanted) if first <= day <= last]
    assert asked == sorted(wanted - covered)
    assert all(0 <= (last - first).days < MOST_DAYS for first, last in ranges)
