"""The commits of a table from its log: read in order, or searched for the commit that wrote a row.

``DeltaTable.history()`` alone is not enough: it returns the newest commits of the table but numbers them down from the
version of the handle, so all numbers are wrong once another commit has landed, or when an older version is open.

A row names the run or the streamer's epoch that wrote it, and the time when it was handed to Delta; a commit names the
same author and the time when it landed. On a local disk the commit's data files confirm the match. In an object store
that would take a request per file: there the newest commits are listed in one request, and nothing is confirmed.

Functions that take a store raise ``LakeError`` if the table is damaged, unreachable, or newer than this code;
``durable_commits`` also if the disk fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from deltalake import DeltaTable

from v6_pipeline.lake.columns import PARTITION_COLUMN, TableSpec
from v6_pipeline.lake.lineage import CommitInfo, CommitKind
from v6_pipeline.lake.recovery.durability import (
    LOG_FOLDER,
    added_files,
    flushed_version,
    local_path,
    log_file,
    read_log,
)

if TYPE_CHECKING:
    from v6_pipeline.lake.table import DeltaTableStore

Row = Mapping[str, Any]
"""Any: cells of a table's row, by column."""

MOST_COMMITS = 2_000
"""Commits to search for one row in each direction: 0.2 s of local files. Few are needed unless a clock was set back."""
_ATTEMPTS = 5
_CLOCKS_APART = timedelta(seconds=5)
"""How far the clock of a row may be ahead of its commit's: an object store has a clock of its own."""


def commit_entries(handle: DeltaTable, uri: str, *, first: int, limit: int) -> list[dict[str, Any]]:
    """Return the ``commitInfo`` of at most ``limit`` versions from ``first`` on, oldest first.

    Versions whose log has expired or cannot be read are missing. In an object store the handle moves to the newest
    version.

    Raises:
        DeltaError, OSError: the log cannot be read.
    """
    folder = local_path(uri)
    if folder is None:
        return _from_history(handle, first, limit)
    newest = handle.version()
    entries: list[dict[str, Any]] = []
    version, oldest = first, -1
    while version <= newest and len(entries) < limit:
        try:
            entries.append(_entry(folder, version))
        except FileNotFoundError:
            if oldest < 0:  # thousands may have expired: skip them at once
                oldest = oldest_version(folder, newest)
            version = max(version + 1, oldest)
            continue
        except ValueError:
            pass  # damaged, and replaced by a checkpoint
        version += 1
    return entries


def oldest_version(folder: Path, newest: int) -> int:
    """Return the oldest version of a local table that has a log file; ``newest`` if none has.

    Raises:
        OSError: the log cannot be listed.
    """
    versions = [
        int(path.stem) for path in (folder / LOG_FOLDER).iterdir() if path.suffix == ".json" and path.stem.isdigit()
    ]
    return min(versions, default=newest)


def read_commits(store: DeltaTableStore, after_version: int, limit: int) -> list[CommitInfo]:
    """Return the oldest ``limit`` commits after a version, oldest first; -1 begins at the table's creation.

    A table that does not exist has none. If the log does not reach back that far, the list begins with the oldest
    commit left: the gap in ``version`` shows it. At 2,000 commits opening the table takes most of 22 ms, and a hundred
    commits take 5 ms.
    """
    handle = store.load()
    if handle is None or limit < 1:
        return []
    with store.faults():
        entries = commit_entries(handle, store.uri, first=after_version + 1, limit=limit)
    return [CommitInfo.parse(entry) for entry in entries]


def durable_commits(store: DeltaTableStore, after_version: int, limit: int) -> list[CommitInfo]:
    """As ``read_commits``, after making sure that each commit survives a power cut.

    A commit can be read some milliseconds before its writer flushes it, or after its writer was killed.
    """
    commits = read_commits(store, after_version, limit)
    folder = local_path(store.uri)
    if commits and folder is not None:
        flushed = flushed_version(folder)
        if flushed is None or flushed < commits[-1].version:
            with store.faults():
                store.make_durable(commits[-1].version)
    return commits


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The commit that wrote a row; ``confirmed`` if a file of the commit has the row.

    Without a commit ``note`` gives the reason.
    """

    commit: CommitInfo | None
    confirmed: bool = False
    note: str | None = None


class CommitLog:
    """The commits of a table as its log has them now, each read on its first use."""

    def __init__(self, store: DeltaTableStore) -> None:
        self._store = store
        self._folder = local_path(store.uri)
        self._known: dict[int, CommitInfo | None] = {}
        handle = store.load()
        self.newest = -1 if handle is None else handle.version()
        self.oldest = 0
        """The oldest version whose commit can still be read."""
        if handle is None:
            return
        with store.faults():
            if self._folder is not None:
                self.oldest = oldest_version(self._folder, self.newest)
                return
            first = max(self.newest - MOST_COMMITS + 1, 0)
            entries = commit_entries(handle, store.uri, first=first, limit=MOST_COMMITS)
        self._known = {int(entry["version"]): CommitInfo.parse(entry) for entry in entries}
        self.oldest = min(self._known, default=self.newest)

    def get(self, version: int) -> CommitInfo | None:
        """Return the commit of a version; None if its log has expired, or is damaged and replaced by a checkpoint."""
        if version not in self._known and self._folder is not None:
            self._known[version] = self._read(self._folder, version)
        return self._known.get(version)

    def writer_of(self, row: Row, *, up_to: int) -> Writer:
        """Return the commit that wrote a row of version ``up_to``."""
        start = self._first_since(row["ingested_at"] - _CLOCKS_APART, up_to)
        forward = range(start, min(up_to, start + MOST_COMMITS - 1) + 1)
        backward = range(start - 1, max(self.oldest, start - MOST_COMMITS) - 1, -1)
        likely: CommitInfo | None = None
        for version in (*forward, *backward):
            commit = self.get(version)
            if commit is None or not _may_have_written(self._store.spec, commit, row):
                continue
            found = self._is_in(version, row)
            if found:
                return Writer(commit=commit, confirmed=True)
            if found is None and likely is None:  # its files are gone, or in an object store
                likely = commit
        if likely is not None:
            return Writer(commit=likely)
        return Writer(commit=None, note=self._why_none())

    def of_run(self, run_id: str, *, prefix: bool = False) -> list[CommitInfo]:
        """Return the commits of a run, oldest first; with ``prefix``, of all runs whose ids begin with ``run_id``."""
        with self._store.faults():
            versions = list(self._versions_that_name(run_id))
        commits = [commit for version in versions if (commit := self.get(version)) is not None]
        if prefix:
            return [commit for commit in commits if (commit.run_id or "").startswith(run_id)]
        return [commit for commit in commits if commit.run_id == run_id]

    def _versions_that_name(self, run_id: str) -> Iterator[int]:
        for version in range(self.oldest, self.newest + 1):
            # 2,000 files: 0.07 s to search for the text, 0.19 s to parse.
            if self._folder is None or run_id.encode() in _bytes(log_file(self._folder, version)):
                yield version

    def _read(self, folder: Path, version: int) -> CommitInfo | None:
        with self._store.faults():
            try:
                return CommitInfo.parse(_entry(folder, version))
            except (FileNotFoundError, ValueError):
                return None

    def _first_since(self, instant: datetime, up_to: int) -> int:
        """Return the first version that landed at ``instant`` or later, by bisection; ``up_to + 1`` if none did."""
        low, high = self.oldest, up_to + 1
        while low < high:
            middle = (low + high) // 2
            commit = self.get(middle)
            if commit is None or commit.committed_at < instant:
                low = middle + 1
            else:
                high = middle
        return low

    def _is_in(self, version: int, row: Row) -> bool | None:
        """Return whether the files that a version added hold the row; None if they cannot be read."""
        if self._folder is None:
            return None
        try:
            # Without the partition, whose value is in the path and not in the file.
            files = [path for path in added_files(self._folder, version) if f"date={row['date']}" in path.parent.name]
            names = [name for name in (*self._store.spec.key, "timestamp", "ingested_at") if name != PARTITION_COLUMN]
            same = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(row[name])) for name in dict.fromkeys(names))
            return any(
                not pl.scan_parquet(path, hive_partitioning=False).filter(same).head(1).collect().is_empty()
                for path in files
            )
        except (OSError, pl.exceptions.PolarsError):
            return None

    def _why_none(self) -> str:
        name = self._store.spec.name
        if self.oldest > 0:
            return f"the log of {name} begins at version {self.oldest} now: the commit of this row has expired"
        return f"no commit of {name} among those searched wrote this row"


def _may_have_written(spec: TableSpec, commit: CommitInfo, row: Row) -> bool:
    if commit.kind is not CommitKind.DATA or commit.first_timestamp is None or commit.last_timestamp is None:
        return False
    same_author = all(getattr(commit, name) == row[name] for name in ("run_id", "epoch") if spec.has(name))
    in_time = commit.first_timestamp <= row["timestamp"] <= commit.last_timestamp
    return same_author and in_time and row["date"] in commit.rows_by_date


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _from_history(handle: DeltaTable, first: int, limit: int) -> list[dict[str, Any]]:
    """Read the history again until no commit lands during it: only then are its numbers right."""
    for _ in range(_ATTEMPTS):
        handle.update_incremental()
        before = handle.version()
        if before < first:
            return []
        entries = handle.history(before - first + 1)
        handle.update_incremental()
        if handle.version() == before:
            entries = [entry for entry in entries if entry["version"] >= first]
            return sorted(entries, key=lambda entry: int(entry["version"]))[:limit]
    raise OSError(f"commits landed while the log was read, {_ATTEMPTS} times in a row: timed out")


def _entry(folder: Path, version: int) -> dict[str, Any]:
    actions = read_log(folder, version)
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    return {**info, "version": version}
