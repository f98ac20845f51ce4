"""(account, conid), the key of holdings and queue items, and conditions on many keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from sqlalchemy import ColumnElement, Table, tuple_

T = TypeVar("T")

Key = tuple[str, int]
"""(account, conid)."""

_CHUNK = 500
"""Rows per statement: far below the 32,766 variables that SQLite allows."""


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Split ``items`` into lists that fit into one statement."""
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def is_one_of(table: Table, keys: Iterable[Key]) -> ColumnElement[bool]:
    """Condition that a row of ``table`` has one of ``keys``, at most a chunk."""
    return tuple_(table.c.account, table.c.conid).in_(list(keys))
