"""INSERT … ON CONFLICT DO UPDATE for the database at hand: both have it, SQLAlchemy spells it per dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Row = Mapping[str, Any]
"""A row by column name; ``Any`` because each column has a type of its own."""

Changes = Callable[[Any], Mapping[str, Any]]
"""From the row that was to be inserted (``excluded``) to the columns that change in the one that is there."""


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Row],
    *,
    changes: Changes | None = None,
    only_if: Callable[[Any], ColumnElement[bool]] | None = None,
) -> None:
    """Insert ``rows``; where the primary key is taken, change the row that has it.

    Args:
        connection: in a write transaction.
        table: found by its primary key.
        rows: all with the same columns.
        changes: what to set; all given columns but the key, if left out.
        only_if: a row that is there changes only if this holds.
    """
    if not rows:
        return
    key = [column.name for column in table.primary_key.columns]
    statement = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    excluded = statement.excluded
    new = {name: excluded[name] for name in rows[0] if name not in key} if changes is None else dict(changes(excluded))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=key, set_=new, where=None if only_if is None else only_if(excluded)
        ),
        [dict(row) for row in rows],
    )
