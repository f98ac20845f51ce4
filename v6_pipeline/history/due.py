"""Whether a snapshot is due, and of which trading day: a pure function behind the schedule.

A day is snapshotted while it goes on (provisional), and once more after its cut-off (final). The reason is for people
and has numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.inputs import DayWindow

PROVISIONAL_EVERY = timedelta(minutes=10)
"""How often the current day is snapshotted before its cut-off."""
RETRY_AFTER = timedelta(minutes=30)
"""A day whose snapshot failed is tried again after that: the reason is mostly one that a person must remove."""
FLAT_AGAIN_AFTER = timedelta(hours=12)
"""A day on which nothing was held leaves no rows to tell that it is done: it is looked at again after that."""
LOOKBACK_SESSIONS = 5
"""Trading days looked back for one that was left without its final snapshot, as after a weekend's outage."""


@dataclass(frozen=True, slots=True)
class MadeSnapshot:
    """What the lake holds of a day's snapshot."""

    final: bool
    made_at: datetime


@dataclass(frozen=True, slots=True)
class SnapshotRun:
    """The newest run that made a day's snapshot, or failed to."""

    started_at: datetime
    succeeded: bool


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
    runs: Mapping[date, SnapshotRun],
    active_run_id: str | None,
    now: datetime,
) -> SnapshotDecision:
    """Decide for this tick.

    Args:
        rules: when a day's observations count.
        observed: days that the logs or a statement have rows of; others are nothing that a schedule could make.
        made: the snapshots that are there, by day.
        runs: the newest run of each day that has ended. One that succeeded without leaving rows found nothing held.
        active_run_id: a snapshot run that is queued or runs.
        now: UTC.
    """
    if active_run_id is not None:
        return SnapshotDecision(None, f"run {active_run_id[:8]} makes a snapshot already")
    today = rules.calendar.trading_day(now)
    days = [day for day in recent_days(rules.calendar, now) if day in observed]
    failed = {day for day in days if _rests(runs.get(day), now, RETRY_AFTER, succeeded=False)}
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
    rest = max(timedelta(), PROVISIONAL_EVERY - (now - looked_at)).total_seconds()
    return f"{today}: {kind} {_clock(looked_at)}, the next in {rest:.0f} s; final after {_clock(rules.cut_off(today))}"


def _rests(run: SnapshotRun | None, now: datetime, time: timedelta, *, succeeded: bool) -> bool:
    return run is not None and run.succeeded is succeeded and now - run.started_at < time


def _is_flat(day: date, rules: DayRules, run: SnapshotRun | None, now: datetime) -> bool:
    """Whether a run after the day's cut-off, to which rows would be its final ones, left none."""
    is_last = run is not None and rules.is_final(day, run.started_at)
    return is_last and _rests(run, now, FLAT_AGAIN_AFTER, succeeded=True)


def _looked_at(snapshot: MadeSnapshot | None, run: SnapshotRun | None) -> datetime | None:
    """When a day's snapshot was last made; as equal content makes no commit, the run may be newer than the rows."""
    found = [snapshot.made_at] if snapshot is not None else []
    found += [run.started_at] if run is not None and run.succeeded else []
    return max(found, default=None)


def _is_final(snapshot: MadeSnapshot | None) -> bool:
    return snapshot is not None and snapshot.final


def _clock(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
