"""The rows of the slot ledger: who uses a market-data line for which contract, until when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, select, update

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import reads
from v6_pipeline.state.keys import chunks
from v6_pipeline.state.schema import slots
from v6_pipeline.state.upsert import Excluded, upsert


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


@reads
def streams(connection: Connection, *, now: datetime) -> tuple[Slot, ...]:
    """The slots in use by streams, by conid."""
    return tuple(slot for slot in live(connection, now=now) if slot.purpose is SlotPurpose.STREAM)


# Built once, for building a query costs more than running it.
_SWEEP = delete(slots).where(slots.c.expires_at <= bindparam("now"))
_LIVE = (
    select(*(slots.c[item.name] for item in fields(Slot)))
    .where(slots.c.expires_at > bindparam("now"))
    .order_by(slots.c.conid, slots.c.holder)
)
_IS_OWNERS = slots.c.holder == bindparam("owner")
_ARE_OWNERS = and_(_IS_OWNERS, slots.c.conid.in_(bindparam("conids", expanding=True)))
_IS_LIVE = slots.c.expires_at > bindparam("now")
_RENEW = update(slots).where(_IS_OWNERS, _IS_LIVE).values(expires_at=bindparam("until"))
_HELD = select(slots.c.conid).where(_IS_OWNERS, _IS_LIVE)
_CONFIRM = update(slots).where(_ARE_OWNERS, slots.c.confirmed_at.is_(None)).values(confirmed_at=bindparam("now"))
_CLOSE = update(slots).where(_ARE_OWNERS, slots.c.closing_at.is_(None)).values(closing_at=bindparam("now"))
_REMOVE_ALL = delete(slots).where(_IS_OWNERS)
_REMOVE = delete(slots).where(_ARE_OWNERS)


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
    upsert(connection, slots, rows, changes=_renewed)


def _renewed(new: Excluded) -> dict[str, Any]:
    return {"expires_at": new.expires_at, "priority": new.priority}


def renew(connection: Connection, *, holder: str, expires_at: datetime, now: datetime) -> frozenset[int]:
    """Give a holder's live slots a new expiry; their conids. An expired slot may be someone else's by now."""
    connection.execute(_RENEW, {"owner": holder, "now": now, "until": expires_at})
    return frozenset(connection.scalars(_HELD, {"owner": holder, "now": now}))


def confirm(connection: Connection, *, holder: str, conids: Iterable[int], now: datetime) -> None:
    """Note that the gateway has granted these lines."""
    for chunk in chunks(set(conids)):
        connection.execute(_CONFIRM, {"owner": holder, "conids": chunk, "now": now})


def close(connection: Connection, *, holder: str, conids: Iterable[int], now: datetime) -> None:
    """Note that the holder is about to cancel these lines; they are in use until they are removed."""
    for chunk in chunks(set(conids)):
        connection.execute(_CLOSE, {"owner": holder, "conids": chunk, "now": now})


def remove(connection: Connection, *, holder: str, conids: Iterable[int] | None) -> int:
    """Delete a holder's slots, all or those of ``conids``; how many."""
    if conids is None:
        return connection.execute(_REMOVE_ALL, {"owner": holder}).rowcount
    return sum(
        connection.execute(_REMOVE, {"owner": holder, "conids": chunk}).rowcount for chunk in chunks(set(conids))
    )
