"""Metadata of commits, written and parsed: which run or epoch committed which rows.

Every commit of this project carries custom metadata under ``v6.``; Delta's history shows it. ``CommitKind`` separates
commits that add no observations: compaction, the empty commit with which a new owner fences off the old one, changes of
schema.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import polars as pl

COMMIT_ID = "v6.commit_id"
KIND = "v6.kind"
_AUTHOR = ("asset", "source", "code_version", "partition", "run_id", "epoch", "gateway")
"""Fields of ``CommitLineage`` and ``CommitInfo`` that metadata keeps as they are."""


class CommitKind(enum.StrEnum):
    """Purpose of a commit."""

    DATA = "data"
    FENCE = "fence"
    MAINTENANCE = "maintenance"
    SCHEMA = "schema"
    FOREIGN = "foreign"
    """Rows that another program wrote."""


_OPERATIONS = {
    "CREATE TABLE": CommitKind.SCHEMA,
    "ADD COLUMN": CommitKind.SCHEMA,
    "SET TBLPROPERTIES": CommitKind.SCHEMA,
    "OPTIMIZE": CommitKind.MAINTENANCE,
    "VACUUM START": CommitKind.MAINTENANCE,
    "VACUUM END": CommitKind.MAINTENANCE,
    "FSCK": CommitKind.MAINTENANCE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitLineage:
    """Author of a commit: the Dagster asset, its partition if the commit belongs to one, and the run or the epoch.

    Attributes:
        gateway: ``host:port`` that sent the rows; None for rows that are read or computed.
        partition: ISO date; rows of any other date are refused. None where a commit may span two trading days.
        replaced: groups of rows that the commit replaces, column to text.
        commit_id: unique; shows after a failure whether the commit landed, so a retry passes the same object.
    """

    asset: str
    source: str
    code_version: str
    partition: str | None = None
    run_id: str | None = None
    epoch: int | None = None
    gateway: str | None = None
    kind: CommitKind = CommitKind.DATA
    replaced: tuple[Mapping[str, str], ...] = ()
    commit_id: str = field(default_factory=lambda: uuid4().hex)

    def metadata(self, summary: FrameSummary) -> dict[str, Any]:
        """Custom metadata of the Delta commit, without values that are None."""
        values: dict[str, Any] = {
            KIND: self.kind.value,
            COMMIT_ID: self.commit_id,
            **{f"v6.{name}": getattr(self, name) for name in _AUTHOR},
            "v6.replaced": [dict(group) for group in self.replaced] or None,
            "v6.rows": summary.rows,
            "v6.contracts": summary.contracts,
            "v6.rows_by_date": {day.isoformat(): count for day, count in summary.rows_by_date.items()},
            "v6.first_timestamp": summary.first_timestamp and summary.first_timestamp.isoformat(),
            "v6.last_timestamp": summary.last_timestamp and summary.last_timestamp.isoformat(),
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSummary:
    """Numbers of a frame; ``contracts`` counts distinct (account, conid), or conids where rows have no account."""

    rows: int
    contracts: int
    rows_by_date: dict[date, int]
    first_timestamp: datetime | None
    last_timestamp: datetime | None

    @classmethod
    def of(cls, frame: pl.DataFrame) -> FrameSummary:
        """Summarize a frame of a table's exact schema; ``contracts`` is 0 for a table without contracts."""
        days = frame.group_by("date").len().sort("date")
        of_contract = [name for name in ("account", "conid") if name in frame.columns]
        contracts = frame.select(of_contract).n_unique() if "conid" in of_contract and frame.height else 0
        return cls(
            rows=frame.height,
            contracts=contracts,
            rows_by_date=dict(days.iter_rows()),
            first_timestamp=frame.get_column("timestamp").min(),  # type: ignore[arg-type]  # typed for any column
            last_timestamp=frame.get_column("timestamp").max(),  # type: ignore[arg-type]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitInfo:
    """A commit as the log has it; without metadata of this project, its fields are None and ``rows`` is 0."""

    version: int
    committed_at: datetime
    operation: str
    kind: CommitKind
    rows: int = 0
    contracts: int = 0
    rows_by_date: dict[date, int] = field(default_factory=dict)
    asset: str | None = None
    source: str | None = None
    partition: str | None = None
    run_id: str | None = None
    epoch: int | None = None
    gateway: str | None = None
    code_version: str | None = None
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    replaced: tuple[Mapping[str, str], ...] = ()
    commit_id: str | None = None

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> CommitInfo:
        """Parse a ``commitInfo`` of the log with its ``version``."""
        operation = str(entry.get("operation", ""))
        return cls(
            version=int(entry["version"]),
            committed_at=datetime.fromtimestamp(entry.get("timestamp", 0) / 1000, UTC),
            operation=operation,
            kind=_kind(entry, operation),
            rows=int(entry.get("v6.rows", 0)),
            contracts=int(entry.get("v6.contracts", 0)),
            rows_by_date={date.fromisoformat(day): int(n) for day, n in entry.get("v6.rows_by_date", {}).items()},
            **{name: entry.get(f"v6.{name}") for name in _AUTHOR},
            first_timestamp=_instant(entry.get("v6.first_timestamp")),
            last_timestamp=_instant(entry.get("v6.last_timestamp")),
            replaced=tuple(entry.get("v6.replaced", ())),
            commit_id=entry.get(COMMIT_ID),
        )


def _kind(entry: dict[str, Any], operation: str) -> CommitKind:
    given = entry.get(KIND)
    if given in set(CommitKind):
        return CommitKind(given)
    return _OPERATIONS.get(operation, CommitKind.FOREIGN)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
