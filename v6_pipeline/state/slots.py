"""The rows of the slot ledger: who uses a market-data line for which contract, until when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.keys import chunks
from v6_pipeline.state.schema import slots
from v6_pipeline.state.upsert import upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A market-data line in use."""

    conid: int
    holder: str
    purpose: SlotPurpose
    acquired_at: datetime
    expires_at: datetime


def sweep_expired(connection: Connection, *, now: datetime) -> int:
    """Delete slots that were not renewed in time; how many."""
    return connection.execute(delete(slots).where(slots.c.expires_at <= now)).rowcount


def live(connection: Connection, *, now: datetime) -> tuple[Slot, ...]:
    """The slots in use, by conid and holder."""
    query = select(slots).where(slots.c.expires_at > now).order_by(slots.c.conid, slots.c.holder)
    return tuple(
        Slot(**dict(row) | {"purpose": SlotPurpose(row["purpose"])}) for row in connection.execute(query).mappings()
    )


def put(connection: Connection, taken: Iterable[Slot]) -> None:
    """Add slots; one that its holder has already only gets the new expiry."""
    rows = [
        {
            "conid": slot.conid,
            "holder": slot.holder,
            "purpose": slot.purpose.value,
            "acquired_at": slot.acquired_at,
            "expires_at": slot.expires_at,
        }
        for slot in taken
    ]
    upsert(connection, slots, rows, changes=lambda new: {"expires_at": new.expires_at})


def renew(connection: Connection, *, holder: str, expires_at: datetime, now: datetime) -> frozenset[int]:
    """Give a holder's live slots a new expiry; their conids. An expired slot may be someone else's by now."""
    connection.execute(
        update(slots).where(slots.c.holder == holder, slots.c.expires_at > now).values(expires_at=expires_at)
    )
    return frozenset(
        connection.scalars(select(slots.c.conid).where(slots.c.holder == holder, slots.c.expires_at > now))
    )


def remove(connection: Connection, *, holder: str, conids: Iterable[int] | None) -> int:
    """Delete a holder's slots, all or those of ``conids``; how many."""
    statement = delete(slots).where(slots.c.holder == holder)
    if conids is None:
        return connection.execute(statement).rowcount
    return sum(connection.execute(statement.where(slots.c.conid.in_(chunk))).rowcount for chunk in chunks(set(conids)))
