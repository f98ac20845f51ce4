"""Insert or change: what changes where the key is taken, and that the statement is built once."""

from __future__ import annotations

from sqlalchemy import select

from v6_pipeline.state import revisions
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.revisions import Revision
from v6_pipeline.state.schema import slot_limits
from v6_pipeline.state.slots import ledger as slot_ledger
from v6_pipeline.state.slots.ceiling import LearnedLimit
from v6_pipeline.state.upsert import _statement


def test_a_statement_is_built_once(database: StateDatabase) -> None:
    """Building one takes longer than running it, and the ledger runs several a second."""
    _statement.cache_clear()
    for _ in range(3):
        with database.write() as connection:
            revisions.bump(connection, Revision.REGISTRY)
            slot_ledger._save_limit(connection, LearnedLimit(learned=7))
    assert _statement.cache_info().misses == 2
    with database.read() as connection:
        assert revisions.read(connection)[Revision.REGISTRY] == 3
        assert connection.scalar(select(slot_limits.c.learned)) == 7
