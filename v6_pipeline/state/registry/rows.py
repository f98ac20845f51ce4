"""The rows of the registry: strategies, and their memberships and selectors, each with the time it was in force.

A change closes the row in force and adds another, so that the entries in force at any instant stay known.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, and_, insert, or_, select, update

from v6_pipeline.state.registry.assignments import RegistryEntry
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline.state.schema import memberships, selectors, strategies

ANY_ACCOUNT = ""
"""The stored form of "any account"."""


def strategy_exists(connection: Connection, strategy: str) -> bool:
    """Return whether a strategy is in force."""
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


def open_entry(connection: Connection, entry: RegistryEntry) -> None:
    """Put an entry in force from its ``valid_from``."""
    row = {"strategy": entry.strategy, "priority": entry.priority, "valid_from": entry.valid_from}
    if entry.selector is not None:
        connection.execute(insert(selectors).values(row | {"selector": entry.selector.text}))
    else:
        member = {"account": entry.account or ANY_ACCOUNT, "conid": entry.conid, "quantity": entry.quantity}
        connection.execute(insert(memberships).values(row | member))


def close_entry(connection: Connection, entry: RegistryEntry, *, at: datetime) -> None:
    """End an entry; if the clock went back, it ends when it began."""
    table = memberships if entry.selector is None else selectors
    connection.execute(update(table).where(table.c.id == entry.id).values(valid_to=max(at, entry.valid_from)))


def in_force(connection: Connection, strategy: str | None = None) -> tuple[RegistryEntry, ...]:
    """Memberships, then selectors in force, of one strategy or all, sorted by strategy and contract or text."""

    def condition(table: Table) -> ColumnElement[bool]:
        open_ended = table.c.valid_to.is_(None)
        return open_ended if strategy is None else open_ended & (table.c.strategy == strategy)

    return _entries(connection, condition)


def between(connection: Connection, start: datetime, end: datetime) -> tuple[RegistryEntry, ...]:
    """Memberships, then selectors that were in force at some instant from ``start`` to ``end`` (exclusive)."""

    def condition(table: Table) -> ColumnElement[bool]:
        never_in_force = table.c.valid_to == table.c.valid_from
        ended_later = and_(table.c.valid_to > start, ~never_in_force)
        return and_(table.c.valid_from < end, or_(table.c.valid_to.is_(None), ended_later))

    return _entries(connection, condition)


def _entries(connection: Connection, condition: Callable[[Table], ColumnElement[bool]]) -> tuple[RegistryEntry, ...]:
    member, selector = memberships.c, selectors.c
    of_contracts = select(memberships).where(condition(memberships))
    of_contracts = of_contracts.order_by(member.strategy, member.conid, member.account, member.id)
    of_kinds = select(selectors).where(condition(selectors))
    of_kinds = of_kinds.order_by(selector.strategy, selector.selector, selector.id)
    found = [
        RegistryEntry(**dict(row) | {"account": row["account"] or None})
        for row in connection.execute(of_contracts).mappings()
    ]
    found += [
        RegistryEntry(**dict(row) | {"selector": Selector.parse(row["selector"])})
        for row in connection.execute(of_kinds).mappings()
    ]
    return tuple(found)
