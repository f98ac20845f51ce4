"""Whether the queue drains and gives nothing up: pure verdicts, for asset checks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from v6_pipeline.checks.verdict import Numbers, Verdict, first_few
from v6_pipeline.refresh.due import overdue_before
from v6_pipeline.state.account.downloads import DownloadRecord
from v6_pipeline.state.queue.due import Overdue
from v6_pipeline.state.queue.items import QueueItem, QueueStats

BATCH_SECONDS = 60
"""A batch's lease: a worker that needs longer for one has lost it."""


def queue_drains(
    stats: QueueStats,
    overdue: Overdue,
    *,
    attempted_at: datetime | None,
    now: datetime,
    refresh_seconds: int,
    batch_size: int,
    is_expected: bool,
    was_expected: bool,
) -> Verdict:
    """Whether what is asked for is refreshed in time, and no more is asked for than can be.

    An empty queue proves nothing where nobody fills it: then values get old, and no account is downloaded. Values that
    alone are old do not: a streamer that has just died leaves such.

    Args:
        stats: how full the queue is; dead letters do not count.
        overdue: holdings that nobody has refreshed since ``overdue_before``.
        attempted_at: when an account was downloaded last, or could not be; None if never.
        now: UTC.
        refresh_seconds: no queued value may get older, so no item may wait longer.
        batch_size: items per batch; what a worker surely drains in ``refresh_seconds`` follows from it.
        is_expected: whether runs are expected to drain the queue: in session, the broker is there.
        was_expected: whether they were at ``overdue_before`` as well.
    """
    depth = batch_size * max(1, refresh_seconds // BATCH_SECONDS)
    age = stats.oldest_age_seconds or 0.0
    numbers: Numbers = {
        "pending": stats.pending,
        "waiting_for_retry": stats.waiting,
        "oldest_seconds": round(age, 1),
        "oldest_allowed_seconds": refresh_seconds,
        "pending_allowed": depth,
        "overdue": overdue.count,
        "oldest_overdue_seconds": _age(overdue.oldest_at, now),
    }
    before = overdue_before(now, refresh_seconds=refresh_seconds)
    if overdue.count and (attempted_at is None or attempted_at < before) and is_expected and was_expected:
        since = f" since {attempted_at:%H:%M:%S} UTC" if attempted_at else ""
        reason = (
            f"{overdue.count} positions are older than {(now - before).total_seconds():,.0f} s, the oldest "
            f"{_age(overdue.oldest_at, now):,.0f} s, and nothing has refreshed{since}: is queued_positions_schedule "
            "on, do runs start, and do they reach the gateway?"
        )
        return Verdict(passed=False, reason=reason, numbers=numbers)
    if age > refresh_seconds:
        reason = f"the oldest of {stats.pending} items waits for {age:.0f} s, {refresh_seconds} s are allowed"
        if not is_expected:
            reason += "; nothing is refreshed now: the exchange is closed or IB is in its nightly reset"
        return Verdict(passed=False, reason=reason, serious=is_expected, numbers=numbers)
    if stats.pending > depth:
        reason = f"{stats.pending} items wait, {depth} are surely refreshed within {refresh_seconds} s"
        return Verdict(passed=False, reason=reason, serious=False, numbers=numbers)
    if not stats.pending:
        return Verdict(passed=True, reason="the queue is empty", numbers=numbers)
    return Verdict(passed=True, reason=f"{stats.pending} items wait, the oldest for {age:.0f} s", numbers=numbers)


def no_dead_letters(dead: Sequence[QueueItem]) -> Verdict:
    """Whether no item was given up after its last attempt."""
    numbers: Numbers = {"dead": len(dead)}
    if not dead:
        return Verdict(passed=True, reason="no item was given up", numbers=numbers)
    listed = first_few(f"{item.account}/{item.conid} {item.symbol} ({item.last_error})" for item in dead)
    return Verdict(
        passed=False,
        serious=False,
        reason=f"{len(dead)} items were given up and are not refreshed: {listed}",
        numbers=numbers | {"sample": listed},
    )


def account_feed_free(
    records: Sequence[DownloadRecord],
    accounts: Collection[str],
    *,
    now: datetime,
    refresh_seconds: int,
    is_expected: bool,
) -> Verdict:
    """Whether the accounts can be downloaded: IB serves one at a time, and another client may hold the feed.

    Args:
        records: what has become of the downloads of each account.
        accounts: those that are downloaded, since they hold something; what streams needs their exchange rates.
        now: UTC.
        refresh_seconds: no value may get older, so no account may go without a download for longer.
        is_expected: whether downloads are expected to succeed: in session, the broker is there.
    """
    judged = [record for record in records if record.account in accounts]
    failing = [record for record in judged if record.failures]
    completed = [record.completed_at for record in judged if record.completed_at is not None]
    numbers: Numbers = {
        "accounts": len(accounts),
        "failing": len(failing),
        "failures_in_a_row": max((record.failures for record in failing), default=0),
    }
    if completed:
        numbers["oldest_download_seconds"] = round((now - min(completed)).total_seconds(), 1)
    if not failing:
        return Verdict(
            passed=True, reason=f"nothing keeps {len(judged)} accounts from being downloaded", numbers=numbers
        )
    stale_before = now - timedelta(seconds=refresh_seconds)
    is_stale = any(record.completed_at is None or record.completed_at < stale_before for record in failing)
    listed = first_few(f"{record.account}{_in_a_row(record.failures)}: {record.reason}" for record in failing)
    reason = f"{len(failing)} of {len(judged)} accounts could not be downloaded: {listed}"
    if not is_expected:
        reason += "; nothing is expected of it now: the exchange is closed or IB is in its nightly reset"
    return Verdict(passed=False, reason=reason, serious=is_stale and is_expected, numbers=numbers | {"sample": listed})


def _age(instant: datetime | None, now: datetime) -> float:
    return 0.0 if instant is None else round((now - instant).total_seconds(), 1)


def _in_a_row(failures: int) -> str:
    return f", {failures} times in a row" if failures > 1 else ""
