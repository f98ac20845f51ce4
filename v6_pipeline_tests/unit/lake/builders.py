"""Observations, frames and stores for the tests of the lake; instants are constants and no clock is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.recovery.durability import Fsync
from v6_pipeline.lake.rows import position_rows
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.model import PositionUpdate, UpdateSource

NOON = datetime(2026, 3, 4, 17, 0, tzinfo=UTC)
DAY = date(2026, 3, 4)
CODE = "0.1.0"


def trading_day(instant: datetime) -> date:
    return instant.date()


def no_fsync(path: Path) -> None:
    """Flush nothing, for tests that are not about durability."""


def update(conid: int = 1, account: str = "DU1", **changes: Any) -> PositionUpdate:
    base = PositionUpdate(
        account=account, conid=conid, symbol="SPX", sec_type="OPT", currency="USD", position=2.0, timestamp=NOON
    )
    return replace(base, **changes)


def queued(
    updates: Sequence[PositionUpdate], *, run_id: str = "run-1", spec: TableSpec = QUEUED_POSITIONS
) -> pl.DataFrame:
    return position_rows(
        updates, spec=spec, trading_day=trading_day, source=UpdateSource.QUEUE, run_id=run_id, ingested_at=NOON
    )


def streamed(updates: Sequence[PositionUpdate], *, epoch: int = 1) -> pl.DataFrame:
    return position_rows(
        updates,
        spec=STREAMED_POSITIONS,
        trading_day=trading_day,
        source=UpdateSource.STREAM,
        epoch=epoch,
        ingested_at=NOON,
    )


def flush(number: int, *, rows: int = 3, epoch: int = 1) -> pl.DataFrame:
    """Return the rows of the ``number``-th flush, a second after the previous one."""
    at = NOON + timedelta(seconds=number)
    return streamed([update(conid, timestamp=at) for conid in range(1, rows + 1)], epoch=epoch)


def by_run(run_id: str = "run-1", **changes: Any) -> CommitLineage:
    base = CommitLineage(asset="queued_positions", source="queue", code_version=CODE, run_id=run_id)
    return replace(base, **changes)


def by_epoch(epoch: int = 1, **changes: Any) -> CommitLineage:
    base = CommitLineage(asset="streamed_positions", source="stream", code_version=CODE, epoch=epoch)
    return replace(base, **changes)


def store(folder: Path, spec: TableSpec = QUEUED_POSITIONS, *, fsync: Fsync = no_fsync) -> DeltaTableStore:
    return DeltaTableStore(spec, str(folder / spec.name), fsync=fsync)


def stored_rows(table: DeltaTableStore) -> pl.DataFrame:
    return pl.scan_delta(table.uri).sort("account", "conid", "timestamp").collect()
