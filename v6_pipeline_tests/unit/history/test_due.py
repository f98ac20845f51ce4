"""A snapshot is due every ten minutes until the day's cut-off (provisional), and once after it (final)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta

import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.due import (
    FLAT_AGAIN_AFTER,
    DayRules,
    MadeSnapshot,
    SnapshotDecision,
    SnapshotRun,
    decide_snapshot,
    recent_days,
)

CALENDAR = TradingCalendar()
FRIDAY = date(2026, 11, 20)
THURSDAY = date(2026, 11, 19)
WEDNESDAY = date(2026, 11, 18)
NOON = datetime(2026, 11, 20, 17, tzinfo=UTC)
CUT_OFF = datetime(2026, 11, 20, 21, 35, tzinfo=UTC)
HALF_DAY = date(2026, 11, 27)  # the day after Thanksgiving closes at 13:00


def decide(
    now: datetime,
    *,
    observed: Collection[date] = (THURSDAY, FRIDAY),
    made: Mapping[date, MadeSnapshot] | None = None,
    runs: Mapping[date, SnapshotRun] | None = None,
    active: str | None = None,
    always: bool = False,
) -> SnapshotDecision:
    thursday = {THURSDAY: MadeSnapshot(final=True, made_at=NOON - timedelta(hours=19))}
    return decide_snapshot(
        rules=DayRules(CALENDAR, always=always),
        observed=observed,
        made=thursday | dict(made or {}),
        runs=runs or {},
        active_run_id=active,
        now=now,
    )


def provisional(at: datetime) -> Mapping[date, MadeSnapshot]:
    return {FRIDAY: MadeSnapshot(final=False, made_at=at)}


def ran(at: datetime, day: date = FRIDAY, *, succeeded: bool = True) -> Mapping[date, SnapshotRun]:
    return {day: SnapshotRun(at, succeeded)}


def test_the_first_snapshot_of_a_day_is_made_once_something_was_observed_in_its_session() -> None:
    assert decide(NOON) == SnapshotDecision(FRIDAY, "2026-11-20: observed, and no snapshot yet")
    assert decide(NOON, observed=[THURSDAY]).reason == "nothing was observed yet on 2026-11-20"
    before_the_open = decide(datetime(2026, 11, 20, 14, tzinfo=UTC))
    assert before_the_open == SnapshotDecision(None, "2026-11-20: the session opens at 2026-11-20 14:30 UTC")


def test_a_provisional_snapshot_is_renewed_every_ten_minutes() -> None:
    early = decide(NOON, made=provisional(NOON - timedelta(minutes=9)))
    due = decide(NOON, made=provisional(NOON - timedelta(minutes=10)))

    assert early == SnapshotDecision(
        None,
        "2026-11-20: provisional snapshot of 2026-11-20 16:51 UTC, the next in 60 s; final after 2026-11-20 21:35 UTC",
    )
    assert due == SnapshotDecision(FRIDAY, "2026-11-20: the provisional snapshot is 10 minutes old")


def test_after_the_cut_off_the_final_one_is_made_once() -> None:
    just_made = provisional(CUT_OFF - timedelta(minutes=1))
    assert decide(CUT_OFF, made=just_made).day is None, "what is observed at the cut-off itself still counts"
    due = decide(CUT_OFF + timedelta(seconds=1), made=just_made)
    assert due == SnapshotDecision(FRIDAY, "2026-11-20: the cut-off 2026-11-20 21:35 UTC has passed")
    done = decide(CUT_OFF + timedelta(hours=1), made={FRIDAY: MadeSnapshot(final=True, made_at=CUT_OFF)})
    assert done == SnapshotDecision(None, "2026-11-20: final snapshot of 2026-11-20 21:35 UTC")


def test_a_half_day_is_final_three_hours_earlier() -> None:
    rules = DayRules(CALENDAR, always=False)
    assert rules.cut_off(HALF_DAY) == datetime(2026, 11, 27, 18, 35, tzinfo=UTC)


def test_with_market_hours_always_a_friday_is_provisional_until_monday_morning() -> None:
    sunday = datetime(2026, 11, 22, 15, tzinfo=UTC)
    monday = datetime(2026, 11, 23, 9, 0, 1, tzinfo=UTC)
    assert decide(sunday, always=True).day == FRIDAY
    assert decide(sunday, made=provisional(sunday), always=True).day is None
    assert decide(monday, made=provisional(monday), always=True).day == FRIDAY


def test_a_day_left_provisional_by_an_outage_is_finished_afterwards_the_oldest_first() -> None:
    left = {THURSDAY: MadeSnapshot(final=False, made_at=NOON - timedelta(days=1))}
    assert decide(NOON, made=left).day == THURSDAY
    assert decide(NOON, observed=[FRIDAY], made=left).day == FRIDAY, "nothing to make it from"


def test_a_failed_day_waits_and_does_not_stop_the_others() -> None:
    left = {THURSDAY: MadeSnapshot(final=False, made_at=NOON - timedelta(days=1))}
    failed = ran(NOON - timedelta(minutes=29), THURSDAY, succeeded=False)
    assert decide(NOON, made=left, runs=failed).day == FRIDAY
    resting = decide(NOON, made={**left, **provisional(NOON)}, runs=failed)
    assert resting.reason == "the snapshot of 2026-11-19 failed less than 30 minutes ago"
    assert decide(NOON + timedelta(minutes=1), made={**left, **provisional(NOON)}, runs=failed).day == THURSDAY


def test_a_provisional_snapshot_that_stayed_as_it_was_is_renewed_ten_minutes_after_the_run() -> None:
    """Equal content makes no commit: by its rows it stays old, and was asked for every minute."""
    old = provisional(NOON - timedelta(hours=3))

    early = decide(NOON, made=old, runs=ran(NOON - timedelta(minutes=9)))
    due = decide(NOON, made=old, runs=ran(NOON - timedelta(minutes=10)))
    after_a_failure = decide(NOON, made=old, runs=ran(NOON - timedelta(minutes=30), succeeded=False))

    assert early == SnapshotDecision(
        None,
        "2026-11-20: provisional snapshot of 2026-11-20 16:51 UTC, the next in 60 s; final after 2026-11-20 21:35 UTC",
    )
    assert due == SnapshotDecision(FRIDAY, "2026-11-20: the provisional snapshot is 10 minutes old")
    assert after_a_failure == SnapshotDecision(FRIDAY, "2026-11-20: the provisional snapshot is 180 minutes old")


# Nothing held: a snapshot without rows


def test_a_flat_day_is_tried_every_ten_minutes() -> None:
    early = decide(NOON, runs=ran(NOON - timedelta(minutes=9)))
    due = decide(NOON, runs=ran(NOON - timedelta(minutes=10)))

    assert early == SnapshotDecision(
        None, "2026-11-20: no position at 2026-11-20 16:51 UTC, the next in 60 s; final after 2026-11-20 21:35 UTC"
    )
    assert due.day == FRIDAY


def test_a_flat_day_waits_for_twelve_hours_once_it_is_final() -> None:
    """No rows show that it is done: it was requested every minute without end."""
    seen = CUT_OFF + timedelta(minutes=1)

    resting = decide(seen + FLAT_AGAIN_AFTER - timedelta(seconds=1), runs=ran(seen))
    due = decide(seen + FLAT_AGAIN_AFTER, runs=ran(seen))

    assert resting == SnapshotDecision(None, "2026-11-20: nothing was held, as seen at 2026-11-20 21:36 UTC")
    assert due == SnapshotDecision(FRIDAY, "2026-11-20: the cut-off 2026-11-20 21:35 UTC has passed")


def test_a_flat_day_does_not_stop_later_ones() -> None:
    observed = [WEDNESDAY, THURSDAY, FRIDAY]
    flat = ran(NOON - timedelta(hours=1), WEDNESDAY)

    assert decide(NOON, observed=observed).day == WEDNESDAY
    assert decide(NOON, observed=observed, runs=flat).day == FRIDAY
    after_hours = decide(CUT_OFF + timedelta(minutes=1), observed=observed, made=provisional(CUT_OFF), runs=flat)
    assert after_hours.day == FRIDAY


@pytest.mark.parametrize("started_at", [CUT_OFF - timedelta(minutes=1), CUT_OFF])
def test_a_run_that_started_by_the_cut_off_does_not_make_a_day_flat(started_at: datetime) -> None:
    assert decide(CUT_OFF + timedelta(seconds=1), runs=ran(started_at)).day == FRIDAY


def test_a_failed_run_does_not_make_a_day_flat() -> None:
    failed = ran(CUT_OFF + timedelta(minutes=1), succeeded=False)

    resting = decide(CUT_OFF + timedelta(minutes=30), runs=failed)
    due = decide(CUT_OFF + timedelta(minutes=31), runs=failed)

    assert resting == SnapshotDecision(None, "the snapshot of 2026-11-20 failed less than 30 minutes ago")
    assert due.day == FRIDAY


def test_two_runs_never_overlap() -> None:
    busy = decide(NOON, active="0123456789abcdef")
    assert busy == SnapshotDecision(None, "run 01234567 is already making a snapshot")


@pytest.mark.parametrize(
    ("now", "days"),
    [
        (NOON, ["11-13", "11-16", "11-17", "11-18", "11-19", "11-20"]),
        (datetime(2026, 11, 22, 12, tzinfo=UTC), ["11-13", "11-16", "11-17", "11-18", "11-19", "11-20"]),
    ],
)
def test_five_sessions_before_the_current_one_are_checked_without_weekends(now: datetime, days: list[str]) -> None:
    assert [f"{day:%m-%d}" for day in recent_days(CALENDAR, now)] == days
