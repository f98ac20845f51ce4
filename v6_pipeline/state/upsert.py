"""INSERT … ON CONFLICT DO UPDATE, which SQLAlchemy writes in the dialect of each database."""

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
"""From the row that was to be inserted (``excluded``) to the columns that change in the existing one."""

Condition = Callable[[Excluded], ColumnElement[bool]]
"""From the row that was to be inserted (``excluded``) to the condition under which the existing one changes."""


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
        table: rows are matched by its primary key.
        rows: all with the same columns.
        changes: columns to set; all given ones except the key, if left out. A module-level function, because the
        statement built for it is cached.
        only_if: condition under which an existing row changes; a function of a module likewise.
    """
    if not rows:
        return
    statement = _statement(connection.dialect.name, table, tuple(rows[0]), changes, only_if)
    connection.execute(statement, [dict(row) for row in rows])


@cache
def _statement(
    dialect: str, table: Table, columns: tuple[str, ...], changes: Changes | None, only_if: Condition | None
) -> Insert:
    """Built once: building a statement costs more than running it."""
    key = [column.name for column in table.primary_key.columns]
    statement = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    excluded = statement.excluded
    new = {name: excluded[name] for name in columns if name not in key} if changes is None else dict(changes(excluded))
    return statement.on_conflict_do_update(
        index_elements=key, set_=new, where=None if only_if is None else only_if(excluded)
    )
