"""The Delta log read as files, without delta-rs and without the product's reader: a second opinion on what was written.

Each table is followed commit by commit, so that a run of ten minutes costs no more per look than one of ten seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

Key = tuple[str, int]
"""(account, conid)."""


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """A commit that added rows, or the empty one with which a new streamer takes over."""

    table: str
    version: int
    epoch: int | None
    kind: str
    rows: list[dict[str, Any]]


class TableLog:
    """The commits of one table, each returned once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._next = 0

    def read(self) -> list[LoggedCommit]:
        """Return the commits since the last call; none while the table does not exist."""
        found: list[LoggedCommit] = []
        while True:
            path = self.folder / "_delta_log" / f"{self._next:020d}.json"
            try:
                actions = [json.loads(line) for line in path.read_text().splitlines() if line]
                commit = self._commit(actions)
            except (FileNotFoundError, NotADirectoryError):
                return found
            self._next += 1
            found.append(commit)

    def _commit(self, actions: list[dict[str, Any]]) -> LoggedCommit:
        info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        rows: list[dict[str, Any]] = []
        for action in actions:
            added = action.get("add")
            if added and added["dataChange"]:  # a compaction adds files too, and changes nothing
                rows += pl.read_parquet(self.folder / unquote(added["path"]), hive_partitioning=False).to_dicts()
        return LoggedCommit(
            table=self.folder.name,
            version=self._next,
            epoch=info.get("v6.epoch"),
            kind=str(info.get("v6.kind", "")),
            rows=rows,
        )


class PositionLog:
    """Every row of one position table so far: the newest of each key, and what no table may hold.

    ``faults`` collects, in words, duplicated keys and epochs that went backwards.
    """

    def __init__(self, folder: Path) -> None:
        self._log = TableLog(folder)
        self._seen: set[tuple[str, int, datetime]] = set()
        self._epoch = 0
        self.table = folder.name
        self.newest: dict[Key, dict[str, Any]] = {}
        self.rows = 0
        self.commits = 0
        self.epochs: set[int] = set()
        self.faults: list[str] = []

    def read(self) -> list[dict[str, Any]]:
        """Take in what landed since the last call; its rows, in the order of the log."""
        fresh: list[dict[str, Any]] = []
        for commit in self._log.read():
            self.take_in(commit)
            fresh += commit.rows
        return fresh

    def take_in(self, commit: LoggedCommit) -> None:
        """One commit more."""
        self._check_epochs(commit)
        self.commits += bool(commit.rows)
        for row in commit.rows:
            self.rows += 1
            key = (row["account"], row["conid"])
            identity = (*key, row["timestamp"])
            if identity in self._seen:
                self.faults.append(f"{self.table} version {commit.version}: {identity} is there already")
            self._seen.add(identity)
            before = self.newest.get(key)
            if before is None or before["timestamp"] < row["timestamp"]:
                self.newest[key] = row

    def _check_epochs(self, commit: LoggedCommit) -> None:
        """A row of an older streamer after one of a newer would be two streamers writing at once."""
        epochs = {row["epoch"] for row in commit.rows if "epoch" in row}
        if commit.epoch is not None:
            epochs.add(commit.epoch)
        if not epochs:
            return
        if min(epochs) < self._epoch:
            self.faults.append(
                f"{self.table} version {commit.version}: epoch {min(epochs)} wrote after epoch {self._epoch}"
            )
        self._epoch = max(self._epoch, *epochs)
        self.epochs |= epochs
