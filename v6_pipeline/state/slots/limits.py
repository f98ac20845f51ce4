"""What the slot ledger knows beside the lines in use: the learned ceiling, and who waits for lines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, select

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.schema import slot_demands, slot_limits
from v6_pipeline.state.upsert import upsert

_GATEWAY = "gateway"
"""The only row's name until several gateways share a database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLimit:
    """What error 101 taught of the lines that are really there.

    ``learned`` is the ceiling, ``None`` while none is in force; ``reason`` says what taught it. ``exhaustions`` counts
    the 101s since a ceiling was last forgotten, ``strikes`` those in a row without a line granted in between, the last
    of them at ``exhausted_at``. No new line before ``retry_at``. From ``probe_at`` on one line more is tried at a time;
    ``probes`` counts the attempts that ended in a 101, ``proven`` is the most lines seen at once in the present one.
    """

    learned: int | None = None
    learned_at: datetime | None = None
    reason: str | None = None
    exhaustions: int = 0
    strikes: int = 0
    exhausted_at: datetime | None = None
    retry_at: datetime | None = None
    probes: int = 0
    probe_at: datetime | None = None
    proven: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A holder that waits for lines: for ``wanted`` in all, those that it has already not counted, since when."""

    holder: str
    purpose: SlotPurpose
    wanted: int
    since: datetime
    expires_at: datetime


def limit(connection: Connection) -> LearnedLimit:
    """What is known; nothing at first."""
    row = connection.execute(_LIMIT).one_or_none()
    return LearnedLimit() if row is None else LearnedLimit(**dict(zip(_LEARNED, row, strict=True)))


def save_limit(connection: Connection, known: LearnedLimit) -> None:
    """Keep what is known."""
    upsert(connection, slot_limits, [{"name": _GATEWAY, **asdict(known)}])


def demands(connection: Connection, *, now: datetime) -> tuple[Demand, ...]:
    """Who waits now, by holder and purpose."""
    return tuple(
        Demand(holder=holder, purpose=SlotPurpose(purpose), wanted=wanted, since=since, expires_at=expires_at)
        for holder, purpose, wanted, since, expires_at in connection.execute(_DEMANDS, {"now": now})
    )


def save_demand(connection: Connection, demand: Demand) -> None:
    """Let a holder wait; it has one place in the line per purpose."""
    upsert(connection, slot_demands, [asdict(demand) | {"purpose": demand.purpose.value}])


def drop_demand(connection: Connection, *, holder: str, purpose: SlotPurpose | None = None) -> None:
    """A holder waits no more, for this purpose or for any."""
    if purpose is None:
        connection.execute(_DROP_ALL, {"owner": holder})
    else:
        connection.execute(_DROP, {"owner": holder, "what_for": purpose.value})


def sweep_demands(connection: Connection, *, now: datetime) -> None:
    """Delete the demands of those who have stopped asking."""
    connection.execute(_SWEEP, {"now": now})


# Built once, for building a query costs more than running it.
_LEARNED = tuple(item.name for item in fields(LearnedLimit))
_LIMIT = select(*(slot_limits.c[name] for name in _LEARNED)).where(slot_limits.c.name == _GATEWAY)
_DEMANDS = (
    select(*(slot_demands.c[item.name] for item in fields(Demand)))
    .where(slot_demands.c.expires_at > bindparam("now"))
    .order_by(slot_demands.c.holder, slot_demands.c.purpose)
)
_DROP_ALL = delete(slot_demands).where(slot_demands.c.holder == bindparam("owner"))
_DROP = _DROP_ALL.where(slot_demands.c.purpose == bindparam("what_for"))
_SWEEP = delete(slot_demands).where(slot_demands.c.expires_at <= bindparam("now"))
