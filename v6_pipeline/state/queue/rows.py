"""The rows of the position queue: one per (account, conid), open, leased, waiting out a failure, or dead.

``queued_at`` is when the item was first asked for and decides its turn; ``enqueued_at`` is when it was last asked for:
an observation made before that does not answer it. An item asked for again while leased carries that in
``requeued_at`` and ``requeued_priority`` until the lease ends. ``sweep_expired`` turns expired leases into open items,
and so comes first in every transaction that inserts or leases.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Label,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from v6_pipeline.state.keys import Key, chunks, is_one_of
from v6_pipeline.state.schema import queue_items
from v6_pipeline.state.upsert import Excluded, upsert

_Q = queue_items.c


class QueueState(enum.StrEnum):
    """Where an item stands."""

    OPEN = "open"
    """Served next."""
    LEASED = "leased"
    """A worker has it."""
    WAITING = "waiting"
    """It failed and is not served before ``not_before``."""
    DEAD = "dead"
    """It failed too often and waits for a person, or to be inserted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """A holding to be refreshed. Its observation must be made after ``enqueued_at``."""

    account: str
    conid: int
    symbol: str
    priority: int
    queued_at: datetime
    enqueued_at: datetime
    attempts: int
    not_before: datetime | None
    leased_until: datetime | None
    requeued_at: datetime | None
    requeued_priority: int | None
    last_error: str | None
    dead_at: datetime | None
    state: QueueState

    @property
    def key(self) -> Key:
        """(account, conid)."""
        return self.account, self.conid


class NewItem(NamedTuple):
    """An item to be put into the queue."""

    account: str
    conid: int
    symbol: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedItem:
    """What becomes of an item that failed."""

    key: Key
    attempts: int
    not_before: datetime | None
    dead_at: datetime | None


def put(connection: Connection, items: Iterable[tuple[str, int, str, int]], *, now: datetime) -> None:
    """Insert items (see ``NewItem``), or fold them into those that are there; leases must have been swept.

    The better priority wins and a place in the line is kept. A dead item starts afresh; one in its backoff stays there.
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


def sweep_expired(connection: Connection, *, now: datetime) -> int:
    """Return items whose lease has ended to the queue; how many."""
    return connection.execute(
        update(queue_items)
        .where(_Q.token.is_not(None), _Q.leased_until <= now)
        .values(
            token=None,
            leased_until=None,
            priority=case((_Q.requeued_priority < _Q.priority, _Q.requeued_priority), else_=_Q.priority),
            enqueued_at=func.coalesce(_Q.requeued_at, _Q.enqueued_at),
            requeued_at=None,
            requeued_priority=None,
        )
    ).rowcount


def lease(
    connection: Connection,
    *,
    size: int,
    token: str,
    leased_until: datetime,
    now: datetime,
    without_accounts: Collection[str] = (),
) -> tuple[QueueItem, ...]:
    """Lease the ``size`` open items whose turn it is, those of some accounts apart; leases must have been swept."""
    turn = (
        select(_Q.account, _Q.conid)
        .where(_is(QueueState.OPEN, now), _Q.account.not_in(sorted(without_accounts)))
        .order_by(_Q.priority, _Q.queued_at, _Q.account, _Q.conid)
        .limit(size)
    )
    keys = [(row.account, row.conid) for row in connection.execute(turn)]
    for chunk in chunks(keys):
        connection.execute(
            update(queue_items).where(is_one_of(queue_items, chunk)).values(token=token, leased_until=leased_until)
        )
    by_key = held(connection, token=token, now=now)
    return tuple(by_key[key] for key in keys)


def held(connection: Connection, *, token: str, now: datetime) -> dict[Key, QueueItem]:
    """The items that a lease still holds."""
    query = select(queue_items, _state(now)).where(_Q.token == token, _Q.leased_until > now)
    return {item.key: item for item in _items(connection, query)}


def extend(connection: Connection, *, token: str, leased_until: datetime, now: datetime) -> int:
    """Prolong a lease that has not ended; how many items it holds. A lease never becomes shorter."""
    longer = case((_Q.leased_until < leased_until, leased_until), else_=_Q.leased_until)
    return connection.execute(
        update(queue_items).where(_Q.token == token, _Q.leased_until > now).values(leased_until=longer)
    ).rowcount


def finish(connection: Connection, keys: Sequence[Key]) -> None:
    """Remove leased items that were refreshed; those asked for again meanwhile are open again, as new."""
    for chunk in chunks(keys):
        connection.execute(delete(queue_items).where(is_one_of(queue_items, chunk), _Q.requeued_at.is_(None)))
        connection.execute(
            update(queue_items)
            .where(is_one_of(queue_items, chunk))
            .values(
                priority=_Q.requeued_priority,
                queued_at=_Q.requeued_at,
                enqueued_at=_Q.requeued_at,
                attempts=0,
                not_before=None,
                last_error=None,
                **_UNLEASED,
            )
        )


def fail(connection: Connection, items: Sequence[FailedItem], *, reason: str) -> None:
    """End the lease of items that failed."""
    if not items:
        return
    connection.execute(
        update(queue_items)
        .where(_Q.account == bindparam("of_account"), _Q.conid == bindparam("of_conid"))
        .values(
            attempts=bindparam("new_attempts"),
            not_before=bindparam("new_not_before", type_=_Q.not_before.type),
            dead_at=bindparam("new_dead_at", type_=_Q.dead_at.type),
            last_error=reason,
            priority=case((_Q.requeued_priority < _Q.priority, _Q.requeued_priority), else_=_Q.priority),
            enqueued_at=func.coalesce(_Q.requeued_at, _Q.enqueued_at),
            **_UNLEASED,
        ),
        [
            {
                "of_account": item.key[0],
                "of_conid": item.key[1],
                "new_attempts": item.attempts,
                "new_not_before": item.not_before,
                "new_dead_at": item.dead_at,
            }
            for item in items
        ],
    )


def revive(connection: Connection, keys: Iterable[Key] | None, *, now: datetime) -> int:
    """Put dead items back, all or those with ``keys``; how many."""
    statement = (
        update(queue_items)
        .where(_Q.dead_at.is_not(None))
        .values(dead_at=None, attempts=0, not_before=None, queued_at=now, enqueued_at=now)
    )
    if keys is None:
        return connection.execute(statement).rowcount
    return sum(connection.execute(statement.where(is_one_of(queue_items, chunk))).rowcount for chunk in chunks(keys))


def purge(connection: Connection, states: Iterable[QueueState], keys: Iterable[Key] | None, *, now: datetime) -> int:
    """Delete items in ``states``, all or those with ``keys``; how many."""
    statement = delete(queue_items).where(or_(*(_is(state, now) for state in states)))
    if keys is None:
        return connection.execute(statement).rowcount
    return sum(connection.execute(statement.where(is_one_of(queue_items, chunk))).rowcount for chunk in chunks(keys))


def list_items(
    connection: Connection, *, now: datetime, state: QueueState | None, limit: int | None
) -> tuple[QueueItem, ...]:
    """Items in the order in which they are served."""
    query = select(queue_items, _state(now)).order_by(_Q.priority, _Q.queued_at, _Q.account, _Q.conid).limit(limit)
    return _items(connection, query if state is None else query.where(_is(state, now)))


def count(connection: Connection, *, now: datetime) -> list[tuple[QueueState, int, int, datetime]]:
    """State, priority, number of items, and when the oldest of them was first asked for."""
    state = _state(now)
    query = select(state, _Q.priority, func.count().label("items"), func.min(_Q.queued_at).label("oldest"))
    rows = connection.execute(query.group_by(state, _Q.priority))
    return [(QueueState(row.state), row.priority, row.items, row.oldest) for row in rows]


_UNLEASED = {"token": None, "leased_until": None, "requeued_at": None, "requeued_priority": None}


def _state(now: datetime) -> Label[str]:
    return _state_case(now).label("state")


def _state_case(now: datetime) -> ColumnElement[str]:
    """An item's state; of an expired lease, what it is once swept."""
    return case(
        (_Q.dead_at.is_not(None), QueueState.DEAD.value),
        (and_(_Q.token.is_not(None), _Q.leased_until > now), QueueState.LEASED.value),
        (_Q.not_before > now, QueueState.WAITING.value),
        else_=QueueState.OPEN.value,
    )


def _is(state: QueueState, now: datetime) -> ColumnElement[bool]:
    return _state_case(now) == state.value


def _items(connection: Connection, query: Select[Any]) -> tuple[QueueItem, ...]:
    names = [field.name for field in fields(QueueItem)]  # all but the token, which only the lease's owner may know
    return tuple(
        _as_swept(QueueItem(**{name: row[name] for name in names} | {"state": QueueState(row["state"])}))
        for row in connection.execute(query).mappings()
    )


def _as_swept(item: QueueItem) -> QueueItem:
    """An item whose lease has ended as ``sweep_expired`` will leave it: who only reads cannot sweep."""
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
