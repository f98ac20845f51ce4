"""The decision to refresh the queue this minute: pure functions behind the schedule, each with a readable reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.ib.resets import ExpectedOutage
from v6_pipeline.settings import Settings
from v6_pipeline.state.queue.due import DueCount
from v6_pipeline.state.queue.items import QueueStats

TICK_SECONDS = 60
"""The schedule ticks once a minute."""
RUN_ALLOWANCE_SECONDS = 30
"""Time from the tick to a run's first fresh row: about 15 s, or twice that under load."""
LOOKAHEAD_SECONDS = TICK_SECONDS + RUN_ALLOWANCE_SECONDS
"""A value that would get too old before the next tick's run could renew it is due now."""
OUTAGE_RETRY_SECONDS = 600
"""Wait after a failed refresh while IB is expected to be away."""
SLACK_SECONDS = 2 * TICK_SECONDS
"""Extra age of a value that late ticks and slow runs explain; beyond it, refreshes are missing."""


@dataclass(frozen=True, slots=True)
class RefreshDecision:
    """The decision, and the reason for it."""

    refresh: bool
    reason: str


def is_refresh_time(settings: Settings, calendar: TradingCalendar, instant: datetime) -> bool:
    """Return whether the schedule refreshes at an aware instant: from the open to the day's cut-off, or always.

    The schedule and the checks both use it, so that the checks expect refreshes exactly when the schedule makes them.
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
    """Decide whether to refresh in this minute.

    ``market_open`` is the result of ``is_refresh_time``, ``active_run_id`` a refresh that is queued or running. In
    an ``outage``, when IB is expected to be away, refreshes continue until one fails.
    """
    if active_run_id is not None:
        return RefreshDecision(refresh=False, reason=f"run {active_run_id[:8]} refreshes already")
    if not market_open:
        return RefreshDecision(refresh=False, reason="outside the exchange's hours (V6_MARKET_HOURS=session)")
    if outage is not None and last_run_failed and last_run_at is not None:
        left = min(_seconds_left(last_run_at, OUTAGE_RETRY_SECONDS, now), (outage.until - now).total_seconds())
        if left > 0:
            why = f"the last refresh failed, and it is {outage}: tried again in {left:.0f} s"
            return RefreshDecision(refresh=False, reason=why)
    if due.held == 0:
        # No position is known; only a run can find out whether the account still holds none.
        left = _seconds_left(last_run_at, refresh_seconds, now) if last_run_at else 0
        if left > 0:
            return RefreshDecision(refresh=False, reason=f"no positions known; looked for again in {left:.0f} s")
        return RefreshDecision(refresh=True, reason="no positions known yet: the run looks for them")
    counts = f"{due.held} held, {due.streamed} streamed, {due.fresh} fresh"
    if due.due or queue.open:
        return RefreshDecision(refresh=True, reason=f"{due.due} due, {queue.open} in the queue; {counts}")
    # The last run's age counts too: an account that cannot be downloaded must not start a run every minute.
    if due.accounts and (
        last_run_at is None or _seconds_left(last_run_at, refresh_seconds - LOOKAHEAD_SECONDS, now) <= 0
    ):
        return RefreshDecision(refresh=True, reason=f"values of {due.accounts} accounts due: {counts}")
    waiting = f", {queue.waiting} waiting for a retry" if queue.waiting else ""
    dead = f", {queue.dead} dead letters" if queue.dead else ""
    return RefreshDecision(
        refresh=False, reason=f"nothing due: {counts}{waiting}{dead}{_next(due, refresh_seconds, now)}"
    )


def overdue_before(now: datetime, *, refresh_seconds: int) -> datetime:
    """Return the instant before which a last refresh is overdue: late ticks and slow runs cannot explain it."""
    return now - timedelta(seconds=refresh_seconds + SLACK_SECONDS)


def _seconds_left(since: datetime, seconds: float, now: datetime) -> float:
    return seconds - (now - since).total_seconds()


def _next(due: DueCount, refresh_seconds: int, now: datetime) -> str:
    if due.oldest_refreshed_at is None:
        return ""
    left = _seconds_left(due.oldest_refreshed_at, refresh_seconds - LOOKAHEAD_SECONDS, now)
    return f"; next due in {max(0, left):.0f} s"
