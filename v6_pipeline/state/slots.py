"""The rows of the slot ledger: who uses a market-data line for which contract, until when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, select, update

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.keys import chunks
from v6_pipeline.state.schema import slots
from v6_pipeline.state.upsert import upsert


@dataclass(frozen=True, slots=True)
class Slot:
    """A market-data line in use.

    ``priority`` is the strategy's (lower is more important), ``None`` for a batch. ``confirmed_at`` says since when the
    gateway is known to have granted the line, ``closing_at`` since when its holder is cancelling it.
    """

    conid: int
    holder: str
    purpose: SlotPurpose
    acquired_at: datetime
    expires_at: datetime
    priority: int | None = None
    confirmed_at: datetime | None = None
    closing_at: datetime | None = None

    @property
    def is_standing(self) -> bool:
        """Whether the gateway surely has the line: granted, and not being cancelled."""
        return self.confirmed_at is not None and self.closing_at is None


def sweep_expired(connection: Connection, *, now: datetime) -> int:
    """Delete slots that were not renewed in time; how many."""
    return connection.execute(_SWEEP, {"now": now}).rowcount


def live(connection: Connection, *, now: datetime) -> tuple[Slot, ...]:
    """The slots in use, by conid and holder."""
    # By position: the ledger is read several times a second by each process, and rows by name cost four times as much.
    return tuple(
        Slot(conid, holder, SlotPurpose(purpose), acquired_at, expires_at, priority, confirmed_at, closing_at)
        for conid, holder, purpose, acquired_at, expires_at, priority, confirmed_at, closing_at in connection.execute(
            _LIVE, {"now": now}
        )
    )


# Built once, for building a query costs more than running it.
_SWEEP = delete(slots).where(slots.c.expires_at <= bindparam("now"))
_LIVE = (
    select(*(slots.c[item.name] for item in fields(Slot)))
    .where(slots.c.expires_at > bindparam("now"))
    .order_by(slots.c.conid, slots.c.holder)
)


def put(connection: Connection, taken: Iterable[Slot]) -> None:
    """Add slots; one that its holder has already gets the new expiry and priority only."""
    rows = [
        {
            "conid": slot.conid,
            "holder": slot.holder,
            "purpose": slot.purpose.value,
            "priority": slot.priority,
            "acquired_at": slot.acquired_at,
            "expires_at": slot.expires_at,
        }
        for slot in taken
    ]
    upsert(connection, slots, rows, changes=lambda new: {"expires_at": new.expires_at, "priority": new.priority})


def renew(connection: Connection, *, holder: str, expires_at: datetime, now: datetime) -> frozenset[int]:
    """Give a holder's live slots a new expiry; their conids. An expired slot may be someone else's by now."""
    connection.execute(
        update(slots).where(slots.c.holder == holder, slots.c.expires_at > now).values(expires_at=expires_at)
    )
    return frozenset(
        connection.scalars(select(slots.c.conid).where(slots.c.holder == holder, slots.c.expires_at > now))
    )


def confirm(connection: Connection, *, holder: str, conids: Iterable[int], now: datetime) -> None:
    """Note that the gateway has granted these lines."""
    for chunk in chunks(set(conids)):
        connection.execute(
            update(slots).where(_of(holder, chunk), slots.c.confirmed_at.is_(None)).values(confirmed_at=now)
        )


def close(connection: Connection, *, holder: str, conids: Iterable[int], now: datetime) -> None:
    """Note that the holder is about to cancel these lines; they are in use until they are removed."""
    for chunk in chunks(set(conids)):
        connection.execute(update(slots).where(_of(holder, chunk), slots.c.closing_at.is_(None)).values(closing_at=now))


def remove(connection: Connection, *, holder: str, conids: Iterable[int] | None) -> int:
    """Delete a holder's slots, all or those of ``conids``; how many."""
    statement = delete(slots).where(slots.c.holder == holder)
    if conids is None:
        return connection.execute(statement).rowcount
    return sum(connection.execute(statement.where(slots.c.conid.in_(chunk))).rowcount for chunk in chunks(set(conids)))


def _of(holder: str, conids: list[int]) -> ColumnElement[bool]:
    return and_(slots.c.holder == holder, slots.c.conid.in_(conids))
