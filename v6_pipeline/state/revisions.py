"""Counters by which a poller detects changes with one small read."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import Connection, select

from v6_pipeline.state.schema import revisions
from v6_pipeline.state.upsert import Excluded, upsert


class Revision(enum.StrEnum):
    """The part of the database whose changes a counter counts."""

    REGISTRY = "registry"
    """Strategies, memberships, selectors."""
    HOLDINGS = "holdings"
    """The contracts that are held, and their facts; a change of a position does not count."""


def bump(connection: Connection, name: Revision) -> None:
    """Count one change, in the transaction that makes it."""
    upsert(connection, revisions, [{"name": name.value, "revision": 1}], changes=_one_more)


def _one_more(_new: Excluded) -> dict[str, Any]:
    return {"revision": revisions.c.revision + 1}


def read(connection: Connection) -> dict[Revision, int]:
    """Read all counters; one that never changed is 0."""
    found = {row.name: row.revision for row in connection.execute(select(revisions))}
    return {name: found.get(name.value, 0) for name in Revision}
