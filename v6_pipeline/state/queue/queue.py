"""``PositionQueue``: which holdings are to be refreshed, by whom, and what happens when that fails.

Durable, and shared by all processes. Each (account, conid) is in it once: open, leased, waiting out a failure, or dead.
A worker leases a batch and acknowledges it with the lease's token; what it does not acknowledge in time is served
again. So an item may be refreshed twice, and is never lost. Priorities: the lower number is served first
(``QueuePriority``), then the item that waits longest.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from v6_pipeline.model import QueuePriority
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.keys import Key, chunks, is_one_of
from v6_pipeline.state.queue import due
from v6_pipeline.state.queue.due import DueCount, due_before
from v6_pipeline.state.queue.items import Batch, NewItem, QueueItem, QueueState, QueueStats
from v6_pipeline.state.schema import queue_items
from v6_pipeline.state.upsert import Excluded, upsert

MIN_LEASE_SECONDS = 30.0
"""An account download and a quote take several seconds each; a shorter lease would expire during ordinary work."""

_Q = queue_items.c
_ORDER = (_Q.priority, _Q.queued_at, _Q.account, _Q.conid)
_UNLEASED = {"token": None, "leased_until": None, "requeued_at": None, "requeued_priority": None}


def _normal(_key: Key) -> int:
    return QueuePriority.NORMAL


class PositionQueue:
    """The queue of holdings to be refreshed.

    After its first failure an item waits ``backoff_seconds``, twice as long after each further one, at most
    ``backoff_cap_seconds``; after ``max_attempts`` failures it is dead.
    """

    def __init__(
        self,
        database: StateDatabase,
        clock: Clock | None = None,
        *,
        max_attempts: int = 5,
        backoff_seconds: float = 15.0,
        backoff_cap_seconds: float = 300.0,
    ) -> None:
        self._database = database
        self._clock = clock or database.now
        self._max_attempts = max_attempts
        self._backoff_seconds = backoff_seconds
        self._backoff_cap_seconds = backoff_cap_seconds

    # Insert

    def insert(self, conid: int, symbol: str, priority: int = QueuePriority.NORMAL, *, account: str) -> None:
        """Request the refresh of a holding; one requested twice is one item, with the better priority.

        One that a worker has is refreshed once more afterwards. A dead letter starts afresh.
        """
        self.insert_many([NewItem(account, conid, symbol, priority)])

    def insert_many(self, items: Iterable[tuple[str, int, str, int]]) -> None:
        """``insert`` for several ``NewItem``s, or (account, conid, symbol, priority), in one transaction."""
        with self._database.write() as connection:
            now = self._clock()
            _end_expired_leases(connection, now=now)
            _put(connection, items, now=now)

    def enqueue_due(
        self, *, refresh_seconds: float, interval_seconds: float, priority_of: Callable[[Key], int] = _normal
    ) -> int:
        """Insert every holding that is due (see ``due_before``): open, not streamed, not queued. Return how many.

        This does not revive a dead letter, which would fail for ever. ``priority_of`` is called within the
        transaction: it must not touch the database.
        """
        with self._database.write() as connection:
            now = self._clock()
            before = due_before(now, refresh_seconds=refresh_seconds, interval_seconds=interval_seconds)
            found = due.due_keys(connection, refreshed_before=before, now=now)
            _put(connection, [NewItem(*key, symbol, priority_of(key)) for key, symbol in found], now=now)
        return len(found)

    def enqueue_all_unstreamed(self, *, priority_of: Callable[[Key], int] = _normal) -> int:
        """Insert every open holding that is not streamed, dead letters included; otherwise as ``enqueue_due``."""
        with self._database.write() as connection:
            now = self._clock()
            found = due.unstreamed_keys(connection, now=now)
            _end_expired_leases(connection, now=now)
            _put(connection, [NewItem(*key, symbol, priority_of(key)) for key, symbol in found], now=now)
        return len(found)

    def count_due(self, *, refresh_seconds: float, interval_seconds: float) -> DueCount:
        """Count what ``enqueue_due`` would insert, and the other open holdings by state."""
        now = self._clock()
        before = due_before(now, refresh_seconds=refresh_seconds, interval_seconds=interval_seconds)
        return due.count_due(self._database, refreshed_before=before, now=now)

    def due_accounts(self, *, refresh_seconds: float, interval_seconds: float) -> tuple[str, ...]:
        """Accounts due for a download even if the queue has no item of theirs: see ``due_accounts``."""
        now = self._clock()
        before = due_before(now, refresh_seconds=refresh_seconds, interval_seconds=interval_seconds)
        return due.due_accounts(self._database, refreshed_before=before, now=now)

    # Lease

    def get_batch(
        self, size: int, *, lease_seconds: float = 60.0, without_accounts: Collection[str] = frozenset()
    ) -> Batch:
        """Lease up to ``size`` items; the batch is empty if none is open.

        Unless acknowledged, they are served again after ``lease_seconds``. Items of ``without_accounts`` are left to
        other workers.

        Raises:
            ValueError: ``lease_seconds`` is less than 30, or ``size`` less than 1.
        """
        _check_lease(lease_seconds)
        if size < 1:
            msg = f"a batch of {size} items"
            raise ValueError(msg)
        with self._database.write() as connection:
            now = self._clock()
            token, leased_until = uuid.uuid4().hex, now + timedelta(seconds=lease_seconds)
            _end_expired_leases(connection, now=now)
            is_open = _state(now) == QueueState.OPEN.value
            first = select(_Q.account, _Q.conid).where(is_open, _Q.account.not_in(sorted(without_accounts)))
            found = connection.execute(first.order_by(*_ORDER).limit(size))
            keys = [(row.account, row.conid) for row in found]
            _execute_for(connection, update(queue_items).values(token=token, leased_until=leased_until), keys)
            held = _held(connection, token=token, now=now)
        return Batch(token=token, items=tuple(held[key] for key in keys), leased_until=leased_until)

    def extend(self, token: str, *, lease_seconds: float = 60.0) -> datetime | None:
        """Prolong a lease to ``lease_seconds`` from now; it never becomes shorter.

        Return its new end, or ``None`` if the token no longer holds any item.
        """
        _check_lease(lease_seconds)
        with self._database.write() as connection:
            now = self._clock()
            leased_until = now + timedelta(seconds=lease_seconds)
            longer = case((_Q.leased_until < leased_until, leased_until), else_=_Q.leased_until)
            held = connection.execute(
                update(queue_items).where(_Q.token == token, _Q.leased_until > now).values(leased_until=longer)
            ).rowcount
        return leased_until if held else None

    # Acknowledge

    def mark_success(self, token: str, keys: Iterable[Key], refreshed_at: datetime) -> frozenset[Key]:
        """Acknowledge items whose rows are durable in the lake, observed at ``refreshed_at``.

        Items requested again during the lease are open again, as new. Return the accepted keys. This token does not, or
        no longer, lease the others: those in the queue stay there and are served again.
        """
        with self._database.write() as connection:
            accepted = sorted(frozenset(keys) & _held(connection, token=token, now=self._clock()).keys())
            _execute_for(connection, delete(queue_items).where(_Q.requeued_at.is_(None)), accepted)
            as_new = {"priority": _Q.requeued_priority, "queued_at": _Q.requeued_at, "enqueued_at": _Q.requeued_at}
            clean = {"attempts": 0, "not_before": None, "last_error": None}
            _execute_for(connection, update(queue_items).values(**as_new, **clean, **_UNLEASED), accepted)
            holdings.set_refreshed(connection, accepted, refreshed_at=refreshed_at)
        return frozenset(accepted)

    def mark_failed(self, token: str, keys: Iterable[Key], reason: str) -> frozenset[Key]:
        """Return items that could not be refreshed: each waits, longer each time; after the last attempt it is dead.

        An item that was requested again during the lease does not die: the new request gets an attempt. Return the
        accepted keys, as for ``mark_success``.
        """

        def after_failure(item: QueueItem, now: datetime) -> dict[str, Any]:
            attempts = item.attempts + 1
            if attempts >= self._max_attempts and item.requeued_at is None:
                return {"new_attempts": attempts, "new_not_before": None, "new_dead_at": now}
            wait = self._backoff_seconds * 2.0 ** min(attempts - 1, 30)
            not_before = now + timedelta(seconds=min(wait, self._backoff_cap_seconds))
            return {"new_attempts": attempts, "new_not_before": not_before, "new_dead_at": None}

        return self._end_lease(token, keys, reason, after_failure)

    def give_back(self, token: str, keys: Iterable[Key], reason: str, *, delay_seconds: float) -> frozenset[Key]:
        """Return items for a reason unrelated to them (the account feed was taken): no attempt is counted.

        They are served again after ``delay_seconds``. Return the accepted keys, as for ``mark_success``.
        """

        def after_delay(item: QueueItem, now: datetime) -> dict[str, Any]:
            not_before = now + timedelta(seconds=delay_seconds)
            return {"new_attempts": item.attempts, "new_not_before": not_before, "new_dead_at": None}

        return self._end_lease(token, keys, reason, after_delay)

    def _end_lease(
        self, token: str, keys: Iterable[Key], reason: str, outcome: Callable[[QueueItem, datetime], Mapping[str, Any]]
    ) -> frozenset[Key]:
        with self._database.write() as connection:
            now = self._clock()
            held = _held(connection, token=token, now=now)
            accepted = frozenset(keys) & held.keys()
            rows = [{"of_account": key[0], "of_conid": key[1], **outcome(held[key], now)} for key in sorted(accepted)]
            if rows:
                connection.execute(_END_LEASE, [row | {"reason": reason} for row in rows])
        return accepted

    # Inspect and repair

    def stats(self) -> QueueStats:
        """Count the items by state and priority."""
        with self._database.read() as connection:
            now = self._clock()
            state = _state(now).label("state")
            query = select(state, _Q.priority, func.count().label("items"), func.min(_Q.queued_at).label("oldest"))
            counted = connection.execute(query.group_by(state, _Q.priority)).all()
        by_state: Counter[QueueState] = Counter()
        by_priority: Counter[int] = Counter()
        for row in counted:
            by_state[QueueState(row.state)] += row.items
            if row.state != QueueState.DEAD:
                by_priority[row.priority] += row.items
        oldest = min((row.oldest for row in counted if row.state != QueueState.DEAD), default=None)
        return QueueStats(
            open=by_state[QueueState.OPEN],
            leased=by_state[QueueState.LEASED],
            waiting=by_state[QueueState.WAITING],
            dead=by_state[QueueState.DEAD],
            oldest_age_seconds=None if oldest is None else (now - oldest).total_seconds(),
            by_priority=dict(sorted(by_priority.items())),
        )

    def items(self, state: QueueState | None = None, *, limit: int | None = None) -> tuple[QueueItem, ...]:
        """List the items in the order in which they are served."""
        with self._database.read() as connection:
            now = self._clock()
            query = select(queue_items, _state(now).label("state")).order_by(*_ORDER).limit(limit)
            return _items(connection, query if state is None else query.where(_state(now) == state.value))

    def retry(self, keys: Iterable[Key] | None = None) -> int:
        """Put dead letters back, all or those with ``keys``. Return how many."""
        with self._database.write() as connection:
            now = self._clock()
            revive = update(queue_items).where(_Q.dead_at.is_not(None))
            revive = revive.values(dead_at=None, attempts=0, not_before=None, queued_at=now, enqueued_at=now)
            return _execute_for(connection, revive, keys)

    def purge(self, *states: QueueState, keys: Iterable[Key] | None = None) -> int:
        """Delete items in ``states`` (dead letters, if none is given), all or those with ``keys``. Return how many.

        Raises:
            ValueError: leased items, which a worker is about to acknowledge, are not to be deleted.
        """
        if QueueState.LEASED in states:
            msg = "leased items cannot be purged: wait until the lease ends"
            raise ValueError(msg)
        with self._database.write() as connection:
            state = _state(self._clock())
            in_states = or_(*(state == wanted.value for wanted in states or (QueueState.DEAD,)))
            return _execute_for(connection, delete(queue_items).where(in_states), keys)


def _check_lease(lease_seconds: float) -> None:
    if lease_seconds < MIN_LEASE_SECONDS:
        msg = f"a lease of {lease_seconds} s is shorter than {MIN_LEASE_SECONDS:g} s"
        raise ValueError(msg)


def _put(connection: Connection, items: Iterable[tuple[str, int, str, int]], *, now: datetime) -> None:
    """Insert items, or fold them into those that are there; expired leases must have been ended.

    The better priority wins and a place in the queue is kept. A dead item starts afresh; a waiting one keeps waiting.
    """
    rows = {
        (account, conid): {
            "account": account,
            "conid": conid,
            "symbol": symbol,
            "priority": int(priority),
            "queued_at": now,
            "enqueued_at": now,
            "attempts": 0,
        }
        for account, conid, symbol, priority in sorted(items, key=lambda item: -item[3])  # of two, the better is kept
    }
    upsert(connection, queue_items, list(rows.values()), changes=_folded)


def _folded(new: Excluded) -> dict[str, Any]:
    leased, dead = _Q.token.is_not(None), _Q.dead_at.is_not(None)
    return {
        "symbol": new.symbol,
        "priority": case(
            (leased, _Q.priority), (or_(dead, new.priority < _Q.priority), new.priority), else_=_Q.priority
        ),
        "queued_at": case((dead, new.queued_at), else_=_Q.queued_at),
        "enqueued_at": case((leased, _Q.enqueued_at), else_=new.enqueued_at),
        "requeued_at": case((leased, new.enqueued_at), else_=None),
        "requeued_priority": case(
            (and_(leased, _Q.requeued_priority < new.priority), _Q.requeued_priority),
            (leased, new.priority),
            else_=None,
        ),
        "attempts": case((dead, 0), else_=_Q.attempts),
        "not_before": case((dead, None), else_=_Q.not_before),
        "last_error": case((dead, None), else_=_Q.last_error),
        "dead_at": None,
    }


def _end_expired_leases(connection: Connection, *, now: datetime) -> None:
    """Reopen the items of expired leases: the first step of every transaction that inserts or leases."""
    expired = update(queue_items).where(_Q.token.is_not(None), _Q.leased_until <= now)
    connection.execute(expired.values(**_REQUESTED_AGAIN, **_UNLEASED))


_REQUESTED_AGAIN: dict[str, ColumnElement[Any]] = {
    "priority": case((_Q.requeued_priority < _Q.priority, _Q.requeued_priority), else_=_Q.priority),
    "enqueued_at": func.coalesce(_Q.requeued_at, _Q.enqueued_at),
}
"""An item whose lease ends without success takes over a request that was made during the lease."""

_END_LEASE = (
    update(queue_items)
    .where(_Q.account == bindparam("of_account"), _Q.conid == bindparam("of_conid"))
    .values(
        attempts=bindparam("new_attempts"),
        not_before=bindparam("new_not_before", type_=_Q.not_before.type),
        dead_at=bindparam("new_dead_at", type_=_Q.dead_at.type),
        last_error=bindparam("reason"),
        **_REQUESTED_AGAIN,
        **_UNLEASED,
    )
)


def _execute_for(connection: Connection, statement: Update | Delete, keys: Iterable[Key] | None) -> int:
    """Run a statement on all items, or on those with ``keys``; return the number of items it met."""
    if keys is None:
        return connection.execute(statement).rowcount
    parts = (statement.where(is_one_of(queue_items, chunk)) for chunk in chunks(set(keys)))
    return sum(connection.execute(part).rowcount for part in parts)


def _state(now: datetime) -> ColumnElement[str]:
    """An item's state; if its lease has expired, the state that it gets when the lease is ended."""
    return case(
        (_Q.dead_at.is_not(None), QueueState.DEAD.value),
        (and_(_Q.token.is_not(None), _Q.leased_until > now), QueueState.LEASED.value),
        (_Q.not_before > now, QueueState.WAITING.value),
        else_=QueueState.OPEN.value,
    )


def _held(connection: Connection, *, token: str, now: datetime) -> dict[Key, QueueItem]:
    """The items that a lease still holds."""
    query = select(queue_items, _state(now).label("state")).where(_Q.token == token, _Q.leased_until > now)
    return {item.key: item for item in _items(connection, query)}


def _items(connection: Connection, query: Select[Any]) -> tuple[QueueItem, ...]:
    names = [field.name for field in fields(QueueItem)]  # all but the token, which only the lease's owner may know
    return tuple(
        _unleased(QueueItem(**{name: row[name] for name in names} | {"state": QueueState(row["state"])}))
        for row in connection.execute(query).mappings()
    )


def _unleased(item: QueueItem) -> QueueItem:
    """An item of an expired lease as ``_end_expired_leases`` will leave it: a read transaction cannot do that."""
    if item.leased_until is None or item.state is QueueState.LEASED:
        return item
    return replace(
        item,
        priority=item.priority if item.requeued_priority is None else min(item.priority, item.requeued_priority),
        enqueued_at=item.requeued_at or item.enqueued_at,
        leased_until=None,
        requeued_at=None,
        requeued_priority=None,
    )
