"""Decide which trading day's snapshot is due: a pure function for the schedule.

A day gets provisional snapshots until its cut-off and a final one after it. The reason is shown as the tick's text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.inputs import DayWindow

PROVISIONAL_EVERY = timedelta(minutes=10)
"""Interval of the current day's provisional snapshots."""
RETRY_AFTER = timedelta(minutes=30)
"""Wait before a failed day is tried again: in most cases a person must remove the cause first."""
FLAT_AGAIN_AFTER = timedelta(hours=12)
"""Wait before a flat day is tried again: it writes no rows that would mark it as done."""
LOOKBACK_SESSIONS = 5
"""Trading days before today that are checked for a missing final snapshot, such as after a weekend's outage."""


@dataclass(frozen=True, slots=True)
class MadeSnapshot:
    """A day's snapshot in the lake."""

    final: bool
    made_at: datetime


@dataclass(frozen=True, slots=True)
class SnapshotRun:
    """The newest ended run for a day's snapshot."""

    started_at: datetime
    succeeded: bool


@dataclass(frozen=True, slots=True)
class SnapshotDecision:
    """The trading day to snapshot now, or None, and the reason."""

    day: date | None
    reason: str


@dataclass(frozen=True, slots=True)
class DayRules:
    """The span in which a trading day's observations count: to its end if ``always``, else to its session's cut-off."""

    calendar: TradingCalendar
    always: bool

    def cut_off(self, day: date) -> datetime:
        """Return the last instant whose observations count for ``day`` (UTC)."""
        return DayWindow.of(self.calendar, day, always=self.always).cut_off

    def opens_at(self, day: date) -> datetime:
        """Return the instant from which provisional snapshots of ``day`` are made (UTC)."""
        return self.calendar.begins_at(day) if self.always else self.calendar.session(day).opens_at

    def is_final(self, day: date, now: datetime) -> bool:
        """Return whether no later observation counts for ``day``."""
        return now > self.cut_off(day)


def recent_days(calendar: TradingCalendar, now: datetime) -> list[date]:
    """Return the current trading day and the days before it that are checked, oldest first."""
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
    runs: Mapping[date, SnapshotRun],
    active_run_id: str | None,
    now: datetime,
) -> SnapshotDecision:
    """Decide for this tick.

    ``observed`` are the days with rows in the logs or in a statement, ``runs`` the newest ended run of each day (one
    that succeeded and left no rows found nothing held), ``active_run_id`` a snapshot run that is queued or running.
    """
    if active_run_id is not None:
        return SnapshotDecision(None, f"run {active_run_id[:8]} is already making a snapshot")
    today = rules.calendar.trading_day(now)
    days = [day for day in recent_days(rules.calendar, now) if day in observed]
    failed = {day for day in days if _is_waiting(runs.get(day), now, RETRY_AFTER, succeeded=False)}
    flat = {day for day in days if day not in made and _is_flat(day, rules, runs.get(day), now)}
    for day in days:
        if rules.is_final(day, now) and not _is_final(made.get(day)) and day not in failed | flat:
            return SnapshotDecision(day, f"{day}: the cut-off {_clock(rules.cut_off(day))} has passed")
    looked_at = _looked_at(made.get(today), runs.get(today))
    if today in days and today not in failed and not rules.is_final(today, now) and now >= rules.opens_at(today):
        if looked_at is None:
            return SnapshotDecision(today, f"{today}: observed, and no snapshot yet")
        if now - looked_at >= PROVISIONAL_EVERY:
            minutes = (now - looked_at).total_seconds() / 60
            return SnapshotDecision(today, f"{today}: the provisional snapshot is {minutes:.0f} minutes old")
    if failed:
        listed = ", ".join(day.isoformat() for day in sorted(failed))
        reason = f"the snapshot of {listed} failed less than {RETRY_AFTER.total_seconds() / 60:.0f} minutes ago"
        return SnapshotDecision(None, reason)
    if today not in days:
        return SnapshotDecision(None, f"nothing was observed yet on {today}")
    return SnapshotDecision(None, _why_not_today(rules, today, made.get(today), looked_at, now))


def _why_not_today(
    rules: DayRules, today: date, snapshot: MadeSnapshot | None, looked_at: datetime | None, now: datetime
) -> str:
    if looked_at is None:
        return f"{today}: the session opens at {_clock(rules.opens_at(today))}"
    if _is_final(snapshot):
        return f"{today}: final snapshot of {_clock(looked_at)}"
    if rules.is_final(today, now):
        return f"{today}: nothing was held, as seen at {_clock(looked_at)}"
    kind = "no position at" if snapshot is None else "provisional snapshot of"
    seconds = max(timedelta(), PROVISIONAL_EVERY - (now - looked_at)).total_seconds()
    return (
        f"{today}: {kind} {_clock(looked_at)}, the next in {seconds:.0f} s; final after {_clock(rules.cut_off(today))}"
    )


def _is_waiting(run: SnapshotRun | None, now: datetime, time: timedelta, *, succeeded: bool) -> bool:
    return run is not None and run.succeeded is succeeded and now - run.started_at < time


def _is_flat(day: date, rules: DayRules, run: SnapshotRun | None, now: datetime) -> bool:
    """Return whether the last run was after the cut-off and left no rows."""
    is_last = run is not None and rules.is_final(day, run.started_at)
    return is_last and _is_waiting(run, now, FLAT_AGAIN_AFTER, succeeded=True)


def _looked_at(snapshot: MadeSnapshot | None, run: SnapshotRun | None) -> datetime | None:
    """Return when a day's snapshot was last made; a run with equal content is newer than the rows."""
    found = [snapshot.made_at] if snapshot is not None else []
    found += [run.started_at] if run is not None and run.succeeded else []
    return max(found, default=None)


def _is_final(snapshot: MadeSnapshot | None) -> bool:
    return snapshot is not None and snapshot.final


def _clock(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
