"""Whether the queue drains and gives nothing up: pure verdicts, for asset checks."""

from __future__ import annotations

from collections.abc import Sequence

from v6_pipeline.state.queue import QueueItem
from v6_pipeline.sync.history_checks import Numbers, first_few
from v6_pipeline.sync.queue import QueueStats
from v6_pipeline.sync.stream_checks import Verdict

BATCH_SECONDS = 60
"""A batch's lease: a worker that needs longer for one has lost it."""


def queue_drains(stats: QueueStats, *, refresh_seconds: int, batch_size: int, is_expected: bool) -> Verdict:
    """Whether what is asked for is refreshed in time, and no more is asked for than can be.

    Args:
        stats: how full the queue is; dead letters do not count.
        refresh_seconds: no queued value may get older, so no item may wait longer.
        batch_size: items per batch; what a worker surely drains in ``refresh_seconds`` follows from it.
        is_expected: whether runs are expected to drain the queue: in session, the broker is there.
    """
    depth = batch_size * max(1, refresh_seconds // BATCH_SECONDS)
    age = stats.oldest_age_seconds or 0.0
    numbers: Numbers = {
        "pending": stats.pending,
        "waiting_for_retry": stats.waiting,
        "oldest_seconds": round(age, 1),
        "oldest_allowed_seconds": refresh_seconds,
        "pending_allowed": depth,
    }
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
