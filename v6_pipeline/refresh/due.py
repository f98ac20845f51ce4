"""Whether a refresh of the queue is due this minute: a pure function behind the schedule.

The reason is for people and has numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.ib.resets import ExpectedOutage
from v6_pipeline.settings import Settings
from v6_pipeline.state.queue.due import DueCount
from v6_pipeline.state.queue.items import QueueStats

TICK_SECONDS = 60
"""The schedule looks once a minute."""
RUN_ALLOWANCE_SECONDS = 30
"""From the tick to the first fresh row a run takes about 15 s; under load twice that."""
LOOKAHEAD_SECONDS = TICK_SECONDS + RUN_ALLOWANCE_SECONDS
"""A value that would get too old before the next tick's run could renew it is due now."""
OUTAGE_RETRY_SECONDS = 600
"""While IB is expected to be away, after a refresh that failed."""
SLACK_SECONDS = 2 * TICK_SECONDS
"""A tick may be late, and a run takes its time: a value that is older by this was not to be refreshed at all."""


@dataclass(frozen=True, slots=True)
class RefreshDecision:
    """Whether to refresh now, and why or why not."""

    refresh: bool
    reason: str


def is_refresh_time(settings: Settings, calendar: TradingCalendar, instant: datetime) -> bool:
    """Return whether the schedule refreshes at an aware instant: from the open to the day's cut-off, or always.

    Schedule and checks both use it, so that checks expect refreshes when the schedule makes them, and at no other time.
    """
    return settings.market_hours.is_open(calendar, instant, until_cut_off=True)


def decide_refresh(
    *,
    market_open: bool,
    active_run_id: str | None,
    due: DueCount,
    queue: QueueStats,
    last_run_at: datetime | None,
    last_run_failed: bool,
    outage: ExpectedOutage | None,
    refresh_seconds: int,
    now: datetime,
) -> RefreshDecision:
    """Decide for this minute.

    Args:
        market_open: whether schedules refresh at this time of day.
        active_run_id: a refresh that is queued or runs.
        due: holdings by what becomes of them.
        queue: how full the queue is.
        last_run_at: when the last refresh was launched; None if never.
        last_run_failed: whether it ended in failure.
        outage: within which IB is expected to be away now. It may be there all the same: what works goes on.
        refresh_seconds: no value gets older than that.
        now: UTC.
    """
    if active_run_id is not None:
        return RefreshDecision(refresh=False, reason=f"run {active_run_id[:8]} refreshes already")
    if not market_open:
        return RefreshDecision(refresh=False, reason="outside the exchange's hours (V6_MARKET_HOURS=session)")
    if outage is not None and last_run_failed and last_run_at is not None:
        rest = min(_rest(last_run_at, OUTAGE_RETRY_SECONDS, now), (outage.until - now).total_seconds())
        if rest > 0:
            why = f"the last refresh failed, and it is {outage}: tried again in {rest:.0f} s"
            return RefreshDecision(refresh=False, reason=why)
    if due.held == 0:
        # Nothing is known to be held; only asking the broker tells whether that is still so.
        rest = _rest(last_run_at, refresh_seconds, now) if last_run_at else 0
        if rest > 0:
            return RefreshDecision(refresh=False, reason=f"no positions known; looked for again in {rest:.0f} s")
        return RefreshDecision(refresh=True, reason="no positions known yet: the run looks for them")
    counts = f"{due.held} held, {due.streamed} streamed, {due.fresh} fresh"
    if due.due or queue.open:
        return RefreshDecision(refresh=True, reason=f"{due.due} due, {queue.open} in the queue; {counts}")
    # By the last run as well: an account that cannot be downloaded must not start one each minute.
    if due.accounts and (last_run_at is None or _rest(last_run_at, refresh_seconds - LOOKAHEAD_SECONDS, now) <= 0):
        return RefreshDecision(refresh=True, reason=f"values of {due.accounts} accounts due: {counts}")
    waiting = f", {queue.waiting} waiting for a retry" if queue.waiting else ""
    dead = f", {queue.dead} dead letters" if queue.dead else ""
    return RefreshDecision(
        refresh=False, reason=f"nothing due: {counts}{waiting}{dead}{_next(due, refresh_seconds, now)}"
    )


def overdue_before(now: datetime, *, refresh_seconds: int) -> datetime:
    """What was refreshed at or before it is older than any tick and run can explain."""
    return now - timedelta(seconds=refresh_seconds + SLACK_SECONDS)


def _rest(since: datetime, seconds: float, now: datetime) -> float:
    return seconds - (now - since).total_seconds()


def _next(due: DueCount, refresh_seconds: int, now: datetime) -> str:
    if due.oldest_refreshed_at is None:
        return ""
    rest = _rest(due.oldest_refreshed_at, refresh_seconds - LOOKAHEAD_SECONDS, now)
    return f"; next due in {max(0, rest):.0f} s"
