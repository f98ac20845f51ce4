"""INSERT … ON CONFLICT DO UPDATE for the database at hand: both have it, SQLAlchemy spells it per dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import KeyedColumnElement

Row = Mapping[str, Any]
"""A row by column name; ``Any`` because each column has a type of its own."""

Excluded = ReadOnlyColumnCollection[str, KeyedColumnElement[Any]]
"""The row that was to be inserted, by column."""

Changes = Callable[[Excluded], Mapping[str, Any]]
"""From the row that was to be inserted (``excluded``) to the columns that change in the one that is there."""

Condition = Callable[[Excluded], ColumnElement[bool]]
"""From the row that was to be inserted (``excluded``) to whether the one that is there changes."""


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Row],
    *,
    changes: Changes | None = None,
    only_if: Condition | None = None,
) -> None:
    """Insert ``rows``; where the primary key is taken, change the row that has it.

    Args:
        connection: in a write transaction.
        table: found by its primary key.
        rows: all with the same columns.
        changes: what to set; all given columns but the key, if left out. A function of a module: a statement is built
            once for each.
        only_if: a row that is there changes only if this holds; likewise.
    """
    if not rows:
        return
    statement = _statement(connection.dialect.name, table, tuple(rows[0]), changes, only_if)
    connection.execute(statement, [dict(row) for row in rows])


@cache
def _statement(
    dialect: str, table: Table, columns: tuple[str, ...], changes: Changes | None, only_if: Condition | None
) -> Insert:
    """Building it costs more than running it."""
    key = [column.name for column in table.primary_key.columns]
    statement = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    excluded = statement.excluded
    new = {name: excluded[name] for name in columns if name not in key} if changes is None else dict(changes(excluded))
    return statement.on_conflict_do_update(
        index_elements=key, set_=new, where=None if only_if is None else only_if(excluded)
    )
