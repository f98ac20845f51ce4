"""Partitions are trading days, as the calendar has them, at every hour."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.partitions import (
    KEY_FORMAT,
    PARTITION_TAG,
    RANGE_END,
    RANGE_START,
    days_of_run,
    require_begun,
    trading_days,
)
from v6_pipeline.settings import Settings

CALENDAR = TradingCalendar()
DAYS = trading_days(Settings(), CALENDAR)


@given(st.integers(0, 700 * 24).map(lambda hours: datetime(2025, 1, 6, tzinfo=UTC) + timedelta(hours=hours)))
def test_the_last_key_is_the_current_trading_day_at_every_hour_but_on_holidays(now: datetime) -> None:
    keys = DAYS.get_partition_keys(current_time=now)

    current = CALENDAR.trading_day(now)
    expected = [day.strftime(KEY_FORMAT) for day in CALENDAR.sessions_between(Settings().start_date, current)]
    # On a holiday Dagster already offers the next session, which require_begun refuses.
    assert keys[: len(expected)] == expected
    assert len(keys) - len(expected) in {0, 1}
    if len(keys) > len(expected):
        local = now.astimezone(CALENDAR.begins_at(current).tzinfo)
        assert not CALENDAR.is_session((local - timedelta(hours=9)).date())
        with pytest.raises(dg.Failure, match="begins at"):
            require_begun(keys[-1], calendar=CALENDAR, now=now)


def test_a_fridays_window_runs_to_monday_morning() -> None:
    window = DAYS.time_window_for_partition_key("2026-11-20")

    day = datetime(2026, 11, 20).date()  # noqa: DTZ001
    assert (window.start, window.end) == (CALENDAR.begins_at(day), CALENDAR.ends_at(day))


def test_a_range_skips_weekends_and_holidays() -> None:
    keys = DAYS.get_partition_keys_in_range(dg.PartitionKeyRange("2026-11-25", "2026-11-30"))

    assert list(keys) == ["2026-11-25", "2026-11-27", "2026-11-30"]


def test_a_day_that_has_not_begun_is_refused_with_the_hour_at_which_it_does() -> None:
    before = datetime(2026, 11, 23, 8, 59, tzinfo=UTC)

    with pytest.raises(dg.Failure) as caught:
        require_begun("2026-11-23", calendar=CALENDAR, now=before)
    assert "trading day 2026-11-23 begins at 2026-11-23 09:00 UTC" in str(caught.value.description)
    require_begun("2026-11-23", calendar=CALENDAR, now=before + timedelta(minutes=1))


def test_the_first_key_is_the_first_session_from_the_start_date_on() -> None:
    settings = Settings.model_validate({"start_date": "2026-07-03"})  # closed for Independence Day

    days = trading_days(settings, CALENDAR)

    assert days.get_first_partition_key() == "2026-07-06"


def test_the_days_of_a_run_are_those_of_its_tags() -> None:
    assert days_of_run({}) is None
    assert days_of_run({PARTITION_TAG: "2026-11-20"}) == (date(2026, 11, 20), date(2026, 11, 20))
    assert days_of_run({RANGE_START: "2026-11-19", RANGE_END: "2026-11-20"}) == (date(2026, 11, 19), date(2026, 11, 20))
