"""One Delta table: open, create and append, atomically.

Many processes may append at once: appends never conflict with each other nor with compaction. A table with a single
owner at a time is written through ``lake.fencing`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake import definition
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.commits import commit_entries
from v6_pipeline.lake.faults import damaged, gone, is_conflict, lake_error, lake_faults, safe_uri, too_many_conflicts
from v6_pipeline.lake.lineage import COMMIT_ID, CommitLineage, FrameSummary
from v6_pipeline.lake.recovery.durability import (
    LOG_FOLDER,
    Fsync,
    fsync_path,
    local_path,
    log_file,
    make_durable,
    read_log,
)
from v6_pipeline.lake.recovery.inspection import Damage, DamageKind, inspect, tail_damage
from v6_pipeline.lake.validation import conform

Admit = Callable[[Sequence[str]], None]
"""Raises ``LakeError`` if the lake does not admit rows of these accounts."""

CompactionLease = Callable[[str], AbstractContextManager[None]]
"""Held during a compaction of the table with this name; raises ``LakeConflictError`` if it cannot be had."""

CONFLICT_ATTEMPTS = 10
"""An append conflicts only with a change of the table itself; each failed attempt means that one has landed."""
_HOOKS = PostCommitHookProperties(
    # Removing expired logs lists the whole log folder, which made an append at 1,600 log files take 28 ms instead of
    # 16. Compaction removes them, once per ~50 commits.
    create_checkpoint=True,
    cleanup_expired_logs=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Result of an append; ``version`` is None without rows, ``contracts`` counts (account, conid)."""

    version: int | None
    rows: int = 0
    contracts: int = 0
    rows_by_date: dict[date, int] = field(default_factory=dict)
    commit_id: str | None = None


class DeltaTableStore:
    """A table of the lake at ``uri``; the first use reads or creates it.

    Not safe for threads: one per thread, any number of processes. Methods raise ``LakeError`` if the table is damaged,
    not writable, unreachable, or newer than this code.
    """

    def __init__(
        self,
        spec: TableSpec,
        uri: str,
        *,
        storage_options: Mapping[str, str] | None = None,
        admit: Admit | None = None,
        fsync: Fsync = fsync_path,
        compaction_lease: CompactionLease | None = None,
    ) -> None:
        self.spec = spec
        self.uri = uri
        self.folder = local_path(uri)
        """The table on a local disk; None for an object store."""
        self.storage_options = dict(storage_options or {})
        self._admit = admit
        self._fsync = fsync
        self.compaction_lease = compaction_lease
        """The lease of a table that is in an object store; without one it is not compacted."""
        self._handle: DeltaTable | None = None
        self._doubtful: dict[str, int] = {}
        """Commits that failed but may have landed: commit id to the version before."""

    def __repr__(self) -> str:
        return f"DeltaTableStore({self.spec.name!r}, {safe_uri(self.uri)!r})"

    def faults(self) -> AbstractContextManager[None]:
        """Turn errors of delta-rs, polars and the disk within the context into ``LakeError``."""
        return lake_faults(table=self.spec.name, uri=self.uri, options=self.storage_options)

    def load(self) -> DeltaTable | None:
        """Return a new handle on the table as it is now, neither created nor migrated; None if there is no table."""
        with self.faults():
            try:
                handle = DeltaTable(self.uri, storage_options=self.storage_options or None)
            except TableNotFoundError as error:
                if "scheme" in str(error).lower():
                    raise
                if (damage := self._why_unreadable()) is not None:  # no version could be read at all
                    raise self._damaged(damage) from error
                return None
            except DeltaError as error:
                if (damage := self._why_unreadable()) is not None:
                    raise self._damaged(damage) from error
                raise
            self._check_newest_log(handle.version())
        definition.stored_version(handle, self.spec)
        return handle

    def open(self) -> DeltaTable:
        """Return a new handle on the table, after creating it if it is missing and migrating it if it is older.

        The newest files of a table on a local disk are inspected: delta-rs opens a table damaged by a power cut as if
        nothing were missing, and a commit on top would hide the damage.

        Raises:
            LakeError: the table has other columns.
        """
        handle = self.load()
        with self.faults():
            if handle is not None and self.folder is not None:
                damage = tail_damage(self.folder, handle.version())
                if damage is not None:
                    raise self._damaged(damage)
            if handle is None:
                handle = definition.create(self.spec, self.uri, self.storage_options)
                self.make_durable(0)
            before = handle.version()
            definition.migrate(handle, self.spec)
            for version in range(before + 1, handle.version() + 1):
                self.make_durable(version)
        return handle

    def append(self, frame: pl.DataFrame, commit: CommitLineage) -> Commit:
        """Append rows in one commit, durable on return; an empty frame makes none.

        All rows are checked before anything is written. After a failure, call again with the same ``commit``: if the
        first attempt has landed, it is returned and nothing is written twice.

        Raises:
            LakeError: rows refused.
            LakeConflictError: other writers changed the table during each of ten attempts.
        """
        rows = self.prepare(frame, commit)
        if not rows.height:
            return Commit(version=None)
        for _ in range(CONFLICT_ATTEMPTS):
            handle = self.current()
            landed = self.look_up(handle, commit.commit_id)
            if landed is not None:
                return self.describe(landed, rows, commit)
            try:
                return self.commit(handle, rows, commit)
            except LakeConflictError:
                continue
        raise too_many_conflicts(self.spec.name, CONFLICT_ATTEMPTS)

    def current(self) -> DeltaTable:
        """Return the store's own handle at the newest version, after opening or creating the table."""
        if self._handle is None:
            self._handle = self.open()
        self.refresh(self._handle)
        return self._handle

    def prepare(self, frame: pl.DataFrame, commit: CommitLineage, *, accounts: Collection[str] = ()) -> pl.DataFrame:
        """Return the frame in the table's form, its accounts admitted to the lake; nothing is written.

        ``accounts`` are those of the rows, for a table without that column.

        Raises:
            LakeError: the rows are refused.
        """
        rows = conform(frame, self.spec, partition=commit.partition)
        if self._admit is not None and rows.height:
            named = rows.get_column("account").unique().to_list() if self.spec.has("account") else sorted(accounts)
            if not named:
                raise LakeError(f"rows of {self.spec.name} name no account: pass their accounts")
            self._admit(named)
        return rows

    def commit(
        self,
        handle: DeltaTable,
        rows: pl.DataFrame,
        commit: CommitLineage,
        transaction: Transaction | None = None,
        *,
        replacing: str | None = None,
    ) -> Commit:
        """Commit in one attempt on this handle, without refreshing it first; durable on return.

        ``handle`` is from ``open``, and afterwards at the new version. ``rows`` are from ``prepare``; an empty frame
        makes a commit without rows. ``replacing`` is a predicate of the rows to replace.

        Raises:
            LakeConflictError: lost against another commit; nothing was written.
            LakeError: failed, or the outcome is unknown until ``look_up`` finds it.
        """
        self._check_present()
        before = handle.version()
        try:
            if replacing is None:
                self.write(handle, rows, commit, transaction)
            else:
                self.overwrite(handle, rows, commit, replacing)
        except (DeltaError, OSError) as error:
            if is_conflict(error):
                raise LakeConflictError(f"table {self.spec.name}: another commit came first: {error}") from error
            self._doubtful[commit.commit_id] = before
            failure = lake_error(error, table=self.spec.name, uri=self.uri, options=self.storage_options)
            try:
                landed = self.look_up(handle, commit.commit_id)
            except LakeError:
                raise failure from None  # still unknown: the next attempt with this lineage looks it up again
            if landed is None:
                raise failure from error
            return self.describe(landed, rows, commit)
        version = handle.version()
        with self.faults():
            self._doubtful[commit.commit_id] = before
            self.make_durable(self._own_version(version, before, commit))
            del self._doubtful[commit.commit_id]
        return self.describe(version, rows, commit)

    def write(
        self, handle: DeltaTable, rows: pl.DataFrame, commit: CommitLineage, transaction: Transaction | None
    ) -> None:
        """Append with delta-rs; a method of its own so that tests can make it fail at a chosen moment."""
        write_deltalake(
            handle,
            rows,
            mode="append",
            commit_properties=CommitProperties(
                custom_metadata=commit.metadata(FrameSummary.of(rows)),
                app_transactions=None if transaction is None else [transaction],
            ),
            post_commithook_properties=_HOOKS,
        )

    def overwrite(self, handle: DeltaTable, rows: pl.DataFrame, commit: CommitLineage, predicate: str) -> None:
        """Replace the rows of ``predicate``; conflicts with any commit since the handle's version."""
        write_deltalake(
            handle,
            rows,
            mode="overwrite",
            predicate=predicate,
            # delta-rs would retry commits that it takes for compatible. Without retries exactly the rows that were
            # compared before are replaced, whatever the other commit did.
            commit_properties=CommitProperties(
                custom_metadata=commit.metadata(FrameSummary.of(rows)), max_commit_retries=0
            ),
            post_commithook_properties=_HOOKS,
        )

    def look_up(self, handle: DeltaTable, commit_id: str) -> int | None:
        """Return the version of a commit whose outcome was unknown, made durable; None if it has not landed.

        Raises:
            LakeError: the table cannot be read: the outcome stays unknown.
        """
        before = self._doubtful.get(commit_id)
        if before is None:
            return None
        with self.faults():
            handle.update_incremental()
            entries = commit_entries(handle, self.uri, first=before + 1, limit=handle.version() - before)
            version = next((int(entry["version"]) for entry in entries if entry.get(COMMIT_ID) == commit_id), None)
            if version is not None:
                self.make_durable(version)
        del self._doubtful[commit_id]
        return version

    def refresh(self, handle: DeltaTable) -> None:
        """Bring a handle to the newest version."""
        with self.faults():
            handle.update_incremental()
        definition.stored_version(handle, self.spec)

    def describe(self, version: int, rows: pl.DataFrame, commit: CommitLineage) -> Commit:
        """Return the result of a commit that has landed."""
        summary = FrameSummary.of(rows)
        return Commit(
            version=version,
            rows=summary.rows,
            contracts=summary.contracts,
            rows_by_date=summary.rows_by_date,
            commit_id=commit.commit_id,
        )

    def make_durable(self, version: int) -> None:
        """Flush a version to the disk, if the table is on one.

        Raises:
            OSError: the disk failed; the version may not survive a power cut.
        """
        if self.folder is not None:
            make_durable(self.folder, version, self._fsync)

    def _own_version(self, version: int, before: int, commit: CommitLineage) -> int:
        """Return the version of this commit: the handle's, which a local log must confirm."""
        if self.folder is None:
            return version
        for candidate in range(version, before, -1):
            if any(
                action.get("commitInfo", {}).get(COMMIT_ID) == commit.commit_id
                for action in read_log(self.folder, candidate)
            ):
                return candidate
        raise OSError(f"the log of version {version} does not hold the commit just made")

    def _check_present(self) -> None:
        """Refuse to write into the empty folder of an unmounted disk, as delta-rs would."""
        if self.folder is not None and not (self.folder / LOG_FOLDER).exists():
            raise gone(table=self.spec.name, uri=self.uri)

    def _check_newest_log(self, version: int) -> None:
        """Refuse an empty newest log file: delta-rs opens such a table as if the rows had never existed."""
        if self.folder is None:
            return
        found = log_file(self.folder, version)
        if found.exists() and found.stat().st_size == 0:
            raise self._damaged(Damage.of(DamageKind.EMPTY_LOG, self.folder, found, version))

    def _why_unreadable(self) -> Damage | None:
        """Return the damage that keeps delta-rs from opening a table on a local disk."""
        if self.folder is None or not self.folder.is_dir():
            return None
        return next(iter(inspect(self.folder).log_damage), None)

    def _damaged(self, damage: Damage) -> LakeError:
        return damaged(damage, table=self.spec.name, uri=self.uri)
