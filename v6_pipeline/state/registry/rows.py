"""Strategies, their contracts and selectors, each with the time it was in force.

A change closes the row in force and adds another, so that who was active at any instant stays answerable.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, and_, insert, or_, select, update

from v6_pipeline.state.schema import memberships, selectors, strategies

ANY_ACCOUNT = ""
"""How "any account" is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipRow:
    """A strategy uses a contract: in one account or any (``None``), a quantity of it or all (``None``)."""

    id: int
    strategy: str
    account: str | None
    conid: int
    quantity: float | None
    priority: int
    valid_from: datetime
    valid_to: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorRow:
    """A strategy uses every holding that a selector, here its text, matches."""

    id: int
    strategy: str
    selector: str
    priority: int
    valid_from: datetime
    valid_to: datetime | None


def strategy_exists(connection: Connection, strategy: str) -> bool:
    """Whether a strategy is in force."""
    query = select(strategies.c.id).where(strategies.c.strategy == strategy, strategies.c.valid_to.is_(None))
    return connection.scalar(query) is not None


def names_in_force(connection: Connection) -> tuple[str, ...]:
    """The strategies in force, sorted."""
    query = select(strategies.c.strategy).where(strategies.c.valid_to.is_(None)).order_by(strategies.c.strategy)
    return tuple(connection.scalars(query))


def open_strategy(connection: Connection, strategy: str, *, at: datetime) -> None:
    """Put a strategy in force."""
    connection.execute(insert(strategies).values(strategy=strategy, valid_from=at))


def close_strategy(connection: Connection, strategy: str, *, at: datetime) -> None:
    """End a strategy."""
    connection.execute(
        update(strategies).where(strategies.c.strategy == strategy, strategies.c.valid_to.is_(None)).values(valid_to=at)
    )


def open_membership(
    connection: Connection,
    *,
    strategy: str,
    account: str | None,
    conid: int,
    quantity: float | None,
    priority: int,
    at: datetime,
) -> None:
    """Put a membership in force."""
    connection.execute(
        insert(memberships).values(
            strategy=strategy,
            account=account or ANY_ACCOUNT,
            conid=conid,
            quantity=quantity,
            priority=priority,
            valid_from=at,
        )
    )


def open_selector(connection: Connection, *, strategy: str, selector: str, priority: int, at: datetime) -> None:
    """Put a selector in force."""
    connection.execute(insert(selectors).values(strategy=strategy, selector=selector, priority=priority, valid_from=at))


def close_membership(connection: Connection, row: MembershipRow, *, at: datetime) -> None:
    """End a membership; a clock that went back ends it where it began."""
    _close(connection, memberships, row.id, max(at, row.valid_from))


def close_selector(connection: Connection, row: SelectorRow, *, at: datetime) -> None:
    """End a selector; a clock that went back ends it where it began."""
    _close(connection, selectors, row.id, max(at, row.valid_from))


def memberships_in_force(connection: Connection, strategy: str | None = None) -> tuple[MembershipRow, ...]:
    """Memberships in force, of one strategy or all."""
    condition = memberships.c.valid_to.is_(None)
    return _memberships(connection, condition if strategy is None else condition & (memberships.c.strategy == strategy))


def selectors_in_force(connection: Connection, strategy: str | None = None) -> tuple[SelectorRow, ...]:
    """Selectors in force, of one strategy or all."""
    condition = selectors.c.valid_to.is_(None)
    return _selectors(connection, condition if strategy is None else condition & (selectors.c.strategy == strategy))


def memberships_between(connection: Connection, start: datetime, end: datetime) -> tuple[MembershipRow, ...]:
    """Memberships that were in force at some instant from ``start`` until before ``end``."""
    return _memberships(connection, _overlaps(memberships, start, end))


def selectors_between(connection: Connection, start: datetime, end: datetime) -> tuple[SelectorRow, ...]:
    """Selectors that were in force at some instant from ``start`` until before ``end``."""
    return _selectors(connection, _overlaps(selectors, start, end))


def _overlaps(table: Table, start: datetime, end: datetime) -> ColumnElement[bool]:
    never_in_force = table.c.valid_to == table.c.valid_from
    return and_(
        table.c.valid_from < end, or_(table.c.valid_to.is_(None), and_(table.c.valid_to > start, ~never_in_force))
    )


def _close(connection: Connection, table: Table, row_id: int, at: datetime) -> None:
    connection.execute(update(table).where(table.c.id == row_id).values(valid_to=at))


def _memberships(connection: Connection, condition: ColumnElement[bool]) -> tuple[MembershipRow, ...]:
    query = (
        select(memberships)
        .where(condition)
        .order_by(memberships.c.strategy, memberships.c.conid, memberships.c.account, memberships.c.id)
    )
    return tuple(
        MembershipRow(**dict(row) | {"account": row["account"] or None}) for row in connection.execute(query).mappings()
    )


def _selectors(connection: Connection, condition: ColumnElement[bool]) -> tuple[SelectorRow, ...]:
    query = select(selectors).where(condition).order_by(selectors.c.strategy, selectors.c.selector, selectors.c.id)
    return tuple(SelectorRow(**row) for row in connection.execute(query).mappings())
