"""Keeping tables small: merge the many small files of frequent commits, delete files that no recent version needs.

Readers and writers continue during maintenance. A damaged table is reported and left alone; the others are maintained.
Functions of one table raise ``LakeError`` if it is damaged, not writable or unreachable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import polars as pl
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError
from filelock import FileLock, Timeout

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake.columns import PARTITION_COLUMN, TableSpec
from v6_pipeline.lake.faults import is_conflict, lake_error
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import KIND, CommitKind
from v6_pipeline.lake.table import DeltaTableStore

TARGET_BYTES = 4 * 2**20
"""Files of this size are not rewritten, which bounds the work of a compaction, however long the day."""

SMALL_FILES = 50
"""Number of small files of one day that are worth merging, so that the cost of an append does not grow over the day."""

LOCK = "_v6_compaction.lock"
"""File of a table that is locked during a compaction; Delta ignores names that begin with ``_``."""

RETENTION_HOURS = 168
"""A replaced file is kept for a week, Delta's own rule: a reader or a writer may still use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """Result of a compaction; ``version`` is None if there was nothing to merge."""

    version: int | None
    files_removed: int = 0
    files_added: int = 0


@contextlib.contextmanager
def compacting(store: DeltaTableStore) -> Iterator[None]:
    """Exclude other compactions of a table.

    delta-rs finds no conflict between two compactions of the same files (seen with 1.6.6, whatever transaction or
    number of retries they get): both add their merged copy, and every row is doubled. On a local disk the operating
    system keeps the lock for a stalled process and frees it when a process dies. An object store has no such lock: a
    lease of the state database takes its place.

    Raises:
        LakeConflictError: another compaction is under way, or the lease cannot be had.
    """
    if store.folder is None:
        if store.compaction_lease is None:
            raise LakeConflictError(f"table {store.spec.name} is in an object store and is compacted only with a lease")
        with store.compaction_lease(store.spec.name):
            yield
        return
    if not store.folder.is_dir():
        yield
        return
    try:
        with FileLock(store.folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise LakeConflictError(f"table {store.spec.name}: another compaction is under way") from None


def compact(
    store: DeltaTableStore, handle: DeltaTable | None = None, *, target_bytes: int = TARGET_BYTES
) -> Compaction:
    """Merge small files, then drop expired log files; other processes may append in the meantime.

    ``handle`` is at the newest version before, and at the new one afterwards; by default a new one. Files of
    ``target_bytes`` and more are not rewritten.

    Raises:
        LakeConflictError: another compaction is under way, or another commit came first; nothing is lost.
    """
    with compacting(store):
        newest = store.open()
        if handle is not None and handle.version() != newest.version():
            raise LakeConflictError(f"table {store.spec.name}: version {newest.version()} came before the compaction")
        return _merge(store, newest if handle is None else handle, target_bytes)


def _merge(store: DeltaTableStore, table: DeltaTable, target_bytes: int = TARGET_BYTES) -> Compaction:
    before = table.version()
    try:
        metrics = table.optimize.compact(
            target_size=target_bytes,
            commit_properties=CommitProperties(custom_metadata={KIND: CommitKind.MAINTENANCE.value}),
        )
    except (DeltaError, OSError) as error:
        if is_conflict(error):
            raise LakeConflictError(f"table {store.spec.name}: compaction came second: {error}") from error
        raise lake_error(error, table=store.spec.name, uri=store.uri, options=store.storage_options) from error
    if table.version() == before:
        return Compaction(version=None)
    with store.faults():
        # The merged file replaces files that are on the disk: flush it before they are deleted. Likewise the checkpoint
        # before the log files that it replaces.
        store.make_durable(table.version())
        table.cleanup_metadata()
    return Compaction(
        version=table.version(), files_removed=metrics["numFilesRemoved"], files_added=metrics["numFilesAdded"]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuum:
    """Data files that a vacuum deleted, or would delete: paths within the table, and their total size."""

    files: list[str]
    size_bytes: int | None
    """None in an object store, where it would take a request per file."""


def vacuum(store: DeltaTableStore, *, retention_hours: int = RETENTION_HOURS, dry_run: bool = False) -> Vacuum:
    """Delete the data files that no version of the last ``retention_hours`` needs.

    These are files that a compaction replaced, and leftovers of failed commits, for example on a full disk.

    Raises:
        LakeError: the retention is shorter than a reader or a writer may take.
    """
    if retention_hours < RETENTION_HOURS:
        raise LakeError(f"a retention of {retention_hours} h is below {RETENTION_HOURS}: files in use would be deleted")
    handle = store.load()
    if handle is None:
        return Vacuum(files=[], size_bytes=0)
    with store.faults():
        files = handle.vacuum(retention_hours=retention_hours, dry_run=True, full=True)
        folder = store.folder
        size = None if folder is None else sum((folder / unquote(path)).stat().st_size for path in files)
        if files and not dry_run:
            metadata = CommitProperties(custom_metadata={KIND: CommitKind.MAINTENANCE.value})
            files = handle.vacuum(retention_hours=retention_hours, dry_run=False, full=True, commit_properties=metadata)
            handle.update_incremental()
            store.make_durable(handle.version())
    return Vacuum(files=sorted(files), size_bytes=size)


def compact_if_fragmented(store: DeltaTableStore, *, small_files: int = SMALL_FILES) -> Compaction:
    """Compact once a trading day has ``small_files`` files below the target size; for writers that commit rarely.

    Nothing is done if another process compacts the table. Without a compaction the only cost is opening the table.
    """
    try:
        if store.folder is None and not _may_be_fragmented(store, small_files):
            return Compaction(version=None)  # without the lease, whose database costs more than this look
        with compacting(store):
            # Loaded under the lock: no other compaction can come between this and the commit.
            handle = store.load()
            if handle is None or not _is_fragmented(store, handle, small_files):
                return Compaction(version=None)
            return _merge(store, handle)
    except LakeConflictError:
        return Compaction(version=None)


def _may_be_fragmented(store: DeltaTableStore, small_files: int) -> bool:
    handle = store.load()
    return handle is not None and _is_fragmented(store, handle, small_files)


def _is_fragmented(store: DeltaTableStore, handle: DeltaTable, small_files: int) -> bool:
    with store.faults():
        files = pl.DataFrame(handle.get_add_actions(flatten=True))
    # Per day, because a year of days with one small file each has nothing to merge.
    per_day = files.filter(pl.col("size_bytes") < TARGET_BYTES).group_by(f"partition.{PARTITION_COLUMN}").len()
    return not per_day.filter(pl.col("len") >= small_files).is_empty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """Work done on a table; ``note`` gives the reason for work not done, ``failed`` if the table needs attention."""

    table: str
    files_merged: int = 0
    files_deleted: int = 0
    bytes_deleted: int = 0
    note: str = ""
    failed: bool = False


def maintain(lake: Lake, specs: Sequence[TableSpec]) -> list[Upkeep]:
    """Compact and vacuum the tables that exist."""
    done = [_maintain(lake, spec) for spec in specs]
    return [upkeep for upkeep in done if upkeep is not None]


def _maintain(lake: Lake, spec: TableSpec) -> Upkeep | None:
    store = lake.table(spec)
    merged, note = 0, ""
    try:
        if store.load() is None:
            return None
        try:
            merged = compact(store).files_removed
        except LakeConflictError as error:
            note = str(error)  # no failure: another process compacts the table
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
