"""``PositionQueue``: which holdings are to be refreshed, by whom, and what happens when that fails.

Durable, and shared by all processes. Each (account, conid) is in it once. A worker leases a batch and acknowledges it
with the lease's token; whatever it does not acknowledge in time is served again. So an item may be refreshed twice, and
is never lost. Priorities: the lower number is served first (``QueuePriority``), then the one that waits longest.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from v6_pipeline.model import QueuePriority
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.keys import Key
from v6_pipeline.state.queue import due, rows
from v6_pipeline.state.queue.due import DueCount
from v6_pipeline.state.queue.rows import FailedItem, NewItem, QueueItem, QueueState

__all__ = ["Batch", "DueCount", "NewItem", "PositionQueue", "QueueItem", "QueueState", "QueueStats", "due_before"]

MIN_LEASE_SECONDS = 30.0
"""An account download and a quote take several seconds each; a shorter lease would be lost in ordinary work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Items leased to one worker. ``token`` acknowledges them until ``leased_until``."""

    token: str
    items: tuple[QueueItem, ...]
    leased_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How full the queue is.

    ``oldest_age_seconds`` is how long ago the oldest item that is not dead was first asked for. ``by_priority`` counts
    all that are not dead.
    """

    open: int
    leased: int
    waiting: int
    dead: int
    oldest_age_seconds: float | None
    by_priority: dict[int, int] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """All that are still to be refreshed."""
        return self.open + self.leased + self.waiting


def due_before(now: datetime, *, refresh_seconds: float, interval_seconds: float) -> datetime:
    """The time at or before which a holding's last row makes it due at ``now``.

    A row may not get older than ``refresh_seconds``; the next chance to act on it comes in ``interval_seconds``.
    """
    return now + timedelta(seconds=interval_seconds) - timedelta(seconds=refresh_seconds)


class PositionQueue:
    """The queue of holdings to be refreshed.

    Args:
        database: the state database.
        clock: tells the time.
        max_attempts: failures after which an item is dead.
        backoff_seconds: how long an item waits after its first failure; doubles with each further one.
        backoff_cap_seconds: what the wait never exceeds.
    """

    def __init__(
        self,
        database: StateDatabase,
        clock: Clock = utc_now,
        *,
        max_attempts: int = 5,
        backoff_seconds: float = 15.0,
        backoff_cap_seconds: float = 300.0,
    ) -> None:
        self._database = database
        self._clock = clock
        self._max_attempts = max_attempts
        self._backoff_seconds = backoff_seconds
        self._backoff_cap_seconds = backoff_cap_seconds

    def insert(self, conid: int, symbol: str, priority: int = QueuePriority.NORMAL, *, account: str) -> None:
        """Ask for a holding to be refreshed. Asked for twice it is one item, with the better priority.

        While a worker has it, it is refreshed once more afterwards. A dead letter starts afresh.
        """
        self.insert_many([NewItem(account, conid, symbol, priority)])

    def insert_many(self, items: Iterable[tuple[str, int, str, int]]) -> None:
        """``insert`` for several ``NewItem``s, or (account, conid, symbol, priority), in one transaction."""
        with self._database.write() as connection:
            now = self._clock()
            rows.sweep_expired(connection, now=now)
            rows.put(connection, items, now=now)

    def get_batch(
        self, size: int, *, lease_seconds: float = 60.0, without_accounts: Collection[str] = frozenset()
    ) -> Batch:
        """Lease up to ``size`` items; the batch is empty if none is open.

        Args:
            size: how many at most.
            lease_seconds: how long they are the caller's.
            without_accounts: whose items are left to others.

        Raises:
            ValueError: ``lease_seconds`` is less than 30, or ``size`` less than 1.
        """
        self._check_lease(lease_seconds)
        if size < 1:
            msg = f"a batch of {size} items"
            raise ValueError(msg)
        with self._database.write() as connection:
            now = self._clock()
            token, leased_until = uuid.uuid4().hex, now + timedelta(seconds=lease_seconds)
            rows.sweep_expired(connection, now=now)
            items = rows.lease(
                connection,
                size=size,
                token=token,
                leased_until=leased_until,
                now=now,
                without_accounts=without_accounts,
            )
        return Batch(token=token, items=items, leased_until=leased_until)

    def extend(self, token: str, *, lease_seconds: float = 60.0) -> datetime | None:
        """Prolong a lease to ``lease_seconds`` from now; its new end, or ``None`` if the token holds nothing more."""
        self._check_lease(lease_seconds)
        with self._database.write() as connection:
            now = self._clock()
            leased_until = now + timedelta(seconds=lease_seconds)
            held = rows.extend(connection, token=token, leased_until=leased_until, now=now)
        return leased_until if held else None

    def mark_success(self, token: str, keys: Iterable[Key], refreshed_at: datetime) -> frozenset[Key]:
        """Acknowledge items whose rows are durable in the lake, observed at ``refreshed_at``.

        Returns:
            The keys that were accepted. The others are not leased by this token, or not any more: if they are in the
            queue, they stay there and are served again.
        """
        with self._database.write() as connection:
            now = self._clock()
            held = rows.held(connection, token=token, now=now)
            accepted = frozenset(keys) & held.keys()
            rows.finish(connection, sorted(accepted))
            holdings.set_refreshed(connection, sorted(accepted), refreshed_at=refreshed_at)
        return accepted

    def mark_failed(self, token: str, keys: Iterable[Key], reason: str) -> frozenset[Key]:
        """Give items back that could not be refreshed: each waits, longer each time; after the last attempt it is dead.

        An item that was asked for again meanwhile is not dead yet: that may have been for a good reason.

        Returns:
            The keys that were accepted, as for ``mark_success``.
        """
        with self._database.write() as connection:
            now = self._clock()
            held = rows.held(connection, token=token, now=now)
            accepted = frozenset(keys) & held.keys()
            rows.fail(connection, [self._failed(held[key], now) for key in sorted(accepted)], reason=reason)
        return accepted

    def give_back(self, token: str, keys: Iterable[Key], reason: str, *, delay_seconds: float) -> frozenset[Key]:
        """Give items back for a reason that is not theirs (the account feed was taken): no attempt is counted.

        Returns:
            The keys that were accepted, as for ``mark_success``; they are served again after ``delay_seconds``.
        """
        with self._database.write() as connection:
            now = self._clock()
            held = rows.held(connection, token=token, now=now)
            accepted = frozenset(keys) & held.keys()
            not_before = now + timedelta(seconds=delay_seconds)
            rows.fail(
                connection,
                [
                    FailedItem(key=key, attempts=held[key].attempts, not_before=not_before, dead_at=None)
                    for key in sorted(accepted)
                ],
                reason=reason,
            )
        return accepted

    def stats(self) -> QueueStats:
        """How full the queue is."""
        with self._database.read() as connection:
            now = self._clock()
            counted = rows.count(connection, now=now)
        by_state: Counter[QueueState] = Counter()
        by_priority: Counter[int] = Counter()
        for state, priority, number, _ in counted:
            by_state[state] += number
            if state is not QueueState.DEAD:
                by_priority[priority] += number
        oldest = min((since for state, _, _, since in counted if state is not QueueState.DEAD), default=None)
        return QueueStats(
            open=by_state[QueueState.OPEN],
            leased=by_state[QueueState.LEASED],
            waiting=by_state[QueueState.WAITING],
            dead=by_state[QueueState.DEAD],
            oldest_age_seconds=None if oldest is None else (now - oldest).total_seconds(),
            by_priority=dict(sorted(by_priority.items())),
        )

    def items(self, state: QueueState | None = None, *, limit: int | None = None) -> tuple[QueueItem, ...]:
        """What is in the queue, in the order in which it is served."""
        with self._database.read() as connection:
            return rows.list_items(connection, now=self._clock(), state=state, limit=limit)

    def retry(self, keys: Iterable[Key] | None = None) -> int:
        """Put dead letters back, all or those with ``keys``; how many."""
        with self._database.write() as connection:
            return rows.revive(connection, None if keys is None else set(keys), now=self._clock())

    def purge(self, *states: QueueState, keys: Iterable[Key] | None = None) -> int:
        """Delete items in ``states`` (dead letters, if none is given), all or those with ``keys``; how many.

        Raises:
            ValueError: leased items, which a worker is about to acknowledge, are not to be deleted.
        """
        if QueueState.LEASED in states:
            msg = "leased items cannot be purged: wait until the lease ends"
            raise ValueError(msg)
        with self._database.write() as connection:
            return rows.purge(
                connection,
                states or (QueueState.DEAD,),
                None if keys is None else set(keys),
                now=self._clock(),
            )

    def enqueue_due(
        self,
        *,
        refresh_seconds: float,
        interval_seconds: float,
        priority_of: Callable[[Key], int] = lambda _: QueuePriority.NORMAL,
    ) -> int:
        """Insert every holding that is due (see ``due_before``): open, not streamed, not queued; how many.

        A dead letter is not revived by this, or it would fail for ever. ``priority_of`` is asked within the
        transaction: it must not touch the database.
        """
        with self._database.write() as connection:
            now = self._clock()
            before = due_before(now, refresh_seconds=refresh_seconds, interval_seconds=interval_seconds)
            found = due.due_keys(connection, refreshed_before=before, now=now)
            rows.put(connection, [_new(key, symbol, priority_of(key)) for key, symbol in found], now=now)
        return len(found)

    def count_due(self, *, refresh_seconds: float, interval_seconds: float) -> DueCount:
        """What ``enqueue_due`` would insert, and the numbers around it."""
        with self._database.read() as connection:
            now = self._clock()
            before = due_before(now, refresh_seconds=refresh_seconds, interval_seconds=interval_seconds)
            return due.count_due(connection, refreshed_before=before, now=now)

    def due_accounts(self, *, refresh_seconds: float, interval_seconds: float) -> tuple[str, ...]:
        """Accounts to be downloaded though nothing of theirs need be in the queue: see ``DueCount.accounts``."""
        with self._database.read() as connection:
            now = self._clock()
            before = due_before(now, refresh_seconds=refresh_seconds, interval_seconds=interval_seconds)
            return due.due_accounts(connection, refreshed_before=before, now=now)

    def enqueue_all_unstreamed(self, *, priority_of: Callable[[Key], int] = lambda _: QueuePriority.NORMAL) -> int:
        """Insert every open holding that is not streamed, dead letters included; how many. As for ``enqueue_due``."""
        with self._database.write() as connection:
            now = self._clock()
            found = due.unstreamed_keys(connection, now=now)
            rows.sweep_expired(connection, now=now)
            rows.put(connection, [_new(key, symbol, priority_of(key)) for key, symbol in found], now=now)
        return len(found)

    def _failed(self, item: QueueItem, now: datetime) -> FailedItem:
        attempts = item.attempts + 1
        if attempts >= self._max_attempts and item.requeued_at is None:
            return FailedItem(key=item.key, attempts=attempts, not_before=None, dead_at=now)
        wait = self._backoff_seconds * 2.0 ** min(attempts - 1, 30)
        not_before = now + timedelta(seconds=min(wait, self._backoff_cap_seconds))
        return FailedItem(key=item.key, attempts=attempts, not_before=not_before, dead_at=None)

    @staticmethod
    def _check_lease(lease_seconds: float) -> None:
        if lease_seconds < MIN_LEASE_SECONDS:
            msg = f"a lease of {lease_seconds} s is shorter than {MIN_LEASE_SECONDS:g} s"
            raise ValueError(msg)


def _new(key: Key, symbol: str, priority: int) -> NewItem:
    return NewItem(*key, symbol, priority)
