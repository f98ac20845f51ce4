"""The daily upkeep of all tables: merge small files, delete what no version of the last week needs.

A table that is in use goes on being used; one that is damaged is left alone and reported, the others are kept up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.maintenance import compact, vacuum
from v6_pipeline.lake.recovery.durability import local_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What was done to a table. ``note`` says why something was not; with ``failed`` someone must look at it."""

    table: str
    files_merged: int = 0
    files_deleted: int = 0
    bytes_deleted: int = 0
    note: str = ""
    failed: bool = False


def maintain(lake: Lake, specs: Sequence[TableSpec], *, compacted_elsewhere: Sequence[str] = ()) -> list[Upkeep]:
    """Keep up the tables that exist.

    Args:
        lake: where they are.
        specs: the tables.
        compacted_elsewhere: tables whose writer compacts them. In an object store, where no lock keeps two compactions
            of one table apart (see ``maintenance.compacting``), they are only cleaned here.
    """
    return [
        found
        for spec in specs
        if (found := _keep_up(lake, spec, only_clean=spec.name in compacted_elsewhere)) is not None
    ]


def _keep_up(lake: Lake, spec: TableSpec, *, only_clean: bool) -> Upkeep | None:
    store = lake.table(spec)
    merged, note = 0, ""
    try:
        if store.load() is None:
            return None
        if only_clean and local_path(store.uri) is None:
            note = "its writer compacts it"
        else:
            try:
                merged = compact(store).files_removed
            except LakeConflictError as error:
                note = str(error)  # as good as done: another was at it
        deleted = vacuum(store)
    except LakeError as error:
        return Upkeep(table=spec.name, files_merged=merged, note=str(error), failed=True)
    return Upkeep(
        table=spec.name,
        files_merged=merged,
        files_deleted=len(deleted.files),
        bytes_deleted=deleted.size_bytes or 0,
        note=note,
    )
