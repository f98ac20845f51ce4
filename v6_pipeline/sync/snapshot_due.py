"""Whether a snapshot is due, and of which trading day: a pure function behind the schedule.

A day is snapshotted while it goes on (provisional), and once more after its cut-off (final). The reason is for people
and has numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.lake.day import DayWindow

PROVISIONAL_EVERY = timedelta(minutes=10)
"""How often the current day is snapshotted before its cut-off."""
RETRY_AFTER = timedelta(minutes=30)
"""A day whose snapshot failed is tried again after that: the reason is mostly one that a person must remove."""
LOOKBACK_SESSIONS = 5
"""Trading days looked back for one that was left without its final snapshot, as after a weekend's outage."""


@dataclass(frozen=True, slots=True)
class MadeSnapshot:
    """What the lake holds of a day's snapshot."""

    final: bool
    made_at: datetime


@dataclass(frozen=True, slots=True)
class SnapshotDecision:
    """The trading day to snapshot now, or None; and why or why not."""

    day: date | None
    reason: str


@dataclass(frozen=True, slots=True)
class DayRules:
    """When a trading day's observations count.

    Args:
        calendar: the trading days.
        always: ``V6_MARKET_HOURS=always``: a day counts until its end, else until its session's cut-off.
    """

    calendar: TradingCalendar
    always: bool

    def cut_off(self, day: date) -> datetime:
        """The last instant whose observations count for ``day``, UTC."""
        return DayWindow.of(self.calendar, day, always=self.always).cut_off

    def opens_at(self, day: date) -> datetime:
        """From when on a provisional snapshot of ``day`` is worth making, UTC."""
        return self.calendar.begins_at(day) if self.always else self.calendar.session(day).opens_at

    def is_final(self, day: date, now: datetime) -> bool:
        """Whether nothing observed from now on counts for ``day``."""
        return now > self.cut_off(day)


def recent_days(calendar: TradingCalendar, now: datetime) -> list[date]:
    """The current trading day and those before it that are looked at, oldest first."""
    today = calendar.trading_day(now)
    first = today
    for _ in range(LOOKBACK_SESSIONS):
        if first <= calendar.first + timedelta(days=1):
            break
        first = calendar.previous_session(first)
    return calendar.sessions_between(first, today)


def decide_snapshot(
    *,
    rules: DayRules,
    observed: Collection[date],
    made: Mapping[date, MadeSnapshot],
    failed_at: Mapping[date, datetime],
    active_run_id: str | None,
    now: datetime,
) -> SnapshotDecision:
    """Decide for this tick.

    Args:
        rules: when a day's observations count.
        observed: days that the logs or a statement have rows of; others are nothing that a schedule could make.
        made: the snapshots that are there, by day.
        failed_at: when a day's snapshot last failed, if it was not made since.
        active_run_id: a snapshot run that is queued or runs.
        now: UTC.
    """
    if active_run_id is not None:
        return SnapshotDecision(None, f"run {active_run_id[:8]} makes a snapshot already")
    today = rules.calendar.trading_day(now)
    days = [day for day in recent_days(rules.calendar, now) if day in observed]
    resting = {day for day in days if day in failed_at and now - failed_at[day] < RETRY_AFTER}
    for day in days:
        if rules.is_final(day, now) and not _is_final(made.get(day)) and day not in resting:
            return SnapshotDecision(day, f"{day}: the cut-off {_clock(rules.cut_off(day))} has passed")
    if today in days and today not in resting and not rules.is_final(today, now) and now >= rules.opens_at(today):
        snapshot = made.get(today)
        if snapshot is None:
            return SnapshotDecision(today, f"{today}: observed, and no snapshot yet")
        if now - snapshot.made_at >= PROVISIONAL_EVERY:
            minutes = (now - snapshot.made_at).total_seconds() / 60
            return SnapshotDecision(today, f"{today}: the provisional snapshot is {minutes:.0f} minutes old")
    return SnapshotDecision(None, _why_not(rules, today, days, resting, made, now))


def _why_not(
    rules: DayRules,
    today: date,
    days: Collection[date],
    resting: Collection[date],
    made: Mapping[date, MadeSnapshot],
    now: datetime,
) -> str:
    if resting:
        listed = ", ".join(day.isoformat() for day in sorted(resting))
        return f"the snapshot of {listed} failed less than {RETRY_AFTER.total_seconds() / 60:.0f} minutes ago"
    if today not in days:
        return f"nothing was observed yet on {today}"
    snapshot = made.get(today)
    if snapshot is None:
        return f"{today}: the session opens at {_clock(rules.opens_at(today))}"
    kind = "final" if snapshot.final else "provisional"
    if snapshot.final:
        return f"{today}: final snapshot of {_clock(snapshot.made_at)}"
    rest = max(timedelta(), PROVISIONAL_EVERY - (now - snapshot.made_at)).total_seconds()
    return f"{today}: {kind} snapshot of {_clock(snapshot.made_at)}, the next in {rest:.0f} s; final after " + _clock(
        rules.cut_off(today)
    )


def _is_final(snapshot: MadeSnapshot | None) -> bool:
    return snapshot is not None and snapshot.final


def _clock(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
