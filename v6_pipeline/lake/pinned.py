"""Reading rows at a recorded Delta version, and at the newest where the history no longer goes back that far."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from v6_pipeline.lake.reader import scan
from v6_pipeline.lake.table import DeltaTableStore


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedRows:
    """Rows of a trading day, the version that they were read at, and why it is not the one asked for.

    ``version`` is None where there is no table, or was none when the version was recorded.
    """

    rows: pl.DataFrame
    version: int | None
    note: str | None = None


def rows_at(store: DeltaTableStore, version: int | None, day: date, wanted: pl.Expr) -> PinnedRows:
    """A day's rows that are wanted, with the schema of the table, at a version; only the day's files are read.

    Log files expire and replaced data files are vacuumed: then the newest version is read instead. Of a log it holds
    the same rows; of a table whose days are replaced perhaps newer ones.

    Args:
        store: the table.
        version: as recorded; None reads nothing.
        day: the trading day, which is the partition.
        wanted: filter of the rows.

    Raises:
        LakeError: the table is damaged, unreachable, or newer than this code.
    """
    if version is None:
        return PinnedRows(rows=pl.DataFrame(schema=store.spec.schema), version=None)
    # The newest first: a damaged table is told as such, whichever of its versions could still be opened.
    newest = store.load()
    if newest is None:
        note = f"there is no table {store.spec.name} any more: its folder was removed"
        return PinnedRows(rows=pl.DataFrame(schema=store.spec.schema), version=None, note=note)
    if newest.version() == version:
        with store.faults():
            return PinnedRows(rows=scan(store, newest, day).filter(wanted).collect(), version=version)
    try:
        handle = DeltaTable(store.uri, version=version, storage_options=store.storage_options or None)
        return PinnedRows(rows=scan(store, handle, day).filter(wanted).collect(), version=version)
    except (DeltaError, OSError, pl.exceptions.PolarsError):
        # Nothing is hidden: where more is wrong than that this version is gone, the newest fails as well.
        with store.faults():
            rows = scan(store, newest, day).filter(wanted).collect()
    return PinnedRows(rows=rows, version=newest.version(), note=_why_newest(store.spec.name, version, newest.version()))


def _why_newest(table: str, asked: int, newest: int) -> str:
    if asked > newest:
        return f"{table} was restored or repaired: it ends at version {newest}, {asked} is gone; read at {newest}"
    return f"the history of {table} no longer goes back to version {asked}: read at {newest}, the newest"
