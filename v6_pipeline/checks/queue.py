"""Rules of the checks on the position queue and the account downloads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from v6_pipeline.checks.verdict import Numbers, Verdict
from v6_pipeline.refresh.due import overdue_before
from v6_pipeline.state.account.downloads import DownloadRecord
from v6_pipeline.state.queue.due import Overdue
from v6_pipeline.state.queue.items import QueueItem, QueueStats

BATCH_SECONDS = 60
"""Assumed time to refresh one batch."""
_NOT_EXPECTED = "; no refresh is expected now: the exchange is closed or IB is in its nightly reset"


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
    """Judge whether items are refreshed in time, and whether the queue is short enough for that.

    An empty queue alone proves nothing: if refreshes do not run, nothing fills it while values grow old. Old values
    alone prove nothing either: a streamer that has just died leaves some. So the newest download attempt counts too.

    Args:
        stats: counts of the queue, without dead letters.
        overdue: holdings without a refresh since ``overdue_before``.
        attempted_at: time of the newest account download, failed ones included; None if there was none.
        now: UTC.
        refresh_seconds: greatest allowed age of a queued value, and so of an item.
        batch_size: items per batch; determines how many items a worker can drain in ``refresh_seconds``.
        is_expected: True if runs are expected to drain the queue now.
        was_expected: True if they were expected to at ``overdue_before``.
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
        attempted = f"was attempted since {attempted_at:%H:%M:%S} UTC" if attempted_at else "was ever attempted"
        reason = (
            f"{overdue.count} positions are older than {(now - before).total_seconds():,.0f} s, the oldest "
            f"{_age(overdue.oldest_at, now):,.0f} s, and no refresh {attempted}: is "
            "queued_positions_schedule on, do runs start, and do they reach the gateway?"
        )
        return Verdict.error(reason, numbers)
    if age > refresh_seconds:
        reason = f"the oldest of {stats.pending} items has waited {age:.0f} s, {refresh_seconds} s are allowed"
        return Verdict.error(reason, numbers) if is_expected else Verdict.warning(reason + _NOT_EXPECTED, numbers)
    if stats.pending > depth:
        reason = f"{stats.pending} items wait, but a worker refreshes {depth} within {refresh_seconds} s"
        return Verdict.warning(reason, numbers)
    if not stats.pending:
        return Verdict.ok("the queue is empty", numbers)
    return Verdict.ok(f"{stats.pending} items wait, the oldest for {age:.0f} s", numbers)


def no_dead_letters(dead: Sequence[QueueItem]) -> Verdict:
    """Judge whether no item was given up after its last attempt."""
    numbers: Numbers = {"dead": len(dead)}
    if not dead:
        return Verdict.ok("no item was given up", numbers)
    offenders = (f"{item.account}/{item.conid} {item.symbol} ({item.last_error})" for item in dead)
    return Verdict.warning(f"{len(dead)} items were given up ('v6 queue retry --all' retries them)", numbers, offenders)


def account_feed_free(
    records: Sequence[DownloadRecord],
    accounts: Collection[str],
    *,
    now: datetime,
    refresh_seconds: int,
    is_expected: bool,
) -> Verdict:
    """Judge whether the accounts can be downloaded: IB serves one at a time, and another client may hold the feed.

    Args:
        records: outcomes of the downloads, by account.
        accounts: accounts that refreshes download: streamed rows need their exchange rates, and without a download a
            flat account would be unknown.
        now: UTC.
        refresh_seconds: greatest allowed age of a value, and so of the newest download.
        is_expected: True if downloads are expected to succeed now.
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
        return Verdict.ok(f"downloads of {len(judged)} accounts succeed", numbers)
    offenders = [f"{record.account}{_in_a_row(record.failures)}: {record.reason}" for record in failing]
    reason = f"{len(failing)} of {len(judged)} accounts could not be downloaded"
    if not is_expected:
        return Verdict.warning(reason, numbers, offenders, _NOT_EXPECTED)
    stale_before = now - timedelta(seconds=refresh_seconds)
    is_stale = any(record.completed_at is None or record.completed_at < stale_before for record in failing)
    return (Verdict.error if is_stale else Verdict.warning)(reason, numbers, offenders)


def _age(instant: datetime | None, now: datetime) -> float:
    return 0.0 if instant is None else round((now - instant).total_seconds(), 1)


def _in_a_row(failures: int) -> str:
    return f", {failures} times in a row" if failures > 1 else ""
