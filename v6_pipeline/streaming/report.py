"""What is new in ``streamed_positions`` since it was last reported: pure, for the sensor.

At most one report a minute; a report covers Delta versions a to b, and reporting the same ones again says the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta

from v6_pipeline.lake.lineage import CommitInfo, CommitKind

REPORT_EVERY = timedelta(seconds=60)
PICTURE_EVERY = timedelta(minutes=15)
"""A picture is some 30 KB with its sample rows beside it, and Dagster keeps each."""


@dataclass(frozen=True, slots=True)
class ReportCursor:
    """The newest version that was reported (-1: none), and when; ``checks`` is the checks' part, which they read.

    ``pictured_at`` is when a report had a picture last.
    """

    version: int = -1
    reported_at: str | None = None
    checks: Mapping[str, object] = field(default_factory=dict)
    pictured_at: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> ReportCursor:
        """From the sensor's cursor; an unreadable one starts over, since reporting twice does no harm."""
        try:
            values = json.loads(text or "{}")
            version, reported_at = max(-1, int(values["version"])), values.get("reported_at")
            checks, pictured_at = values.get("checks") or {}, values.get("pictured_at")
            for instant in (reported_at, pictured_at):
                if instant is not None and datetime.fromisoformat(instant).tzinfo is None:
                    return cls(version, checks=checks)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return cls()
        return cls(version, reported_at, checks, pictured_at)

    def dump(self) -> str:
        """As the sensor's cursor."""
        return json.dumps(asdict(self))

    def is_due(self, now: datetime) -> bool:
        """Whether a report may be made at ``now``; also where the last one is in the future: a clock was set back."""
        if self.reported_at is None:
            return True
        return not timedelta() <= now - datetime.fromisoformat(self.reported_at) < REPORT_EVERY

    def is_picture_due(self, now: datetime) -> bool:
        """Whether a report at ``now`` may have a picture; also where the last one is in the future."""
        if self.pictured_at is None:
            return True
        return not timedelta() <= now - datetime.fromisoformat(self.pictured_at) < PICTURE_EVERY


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """New rows of one trading day: Delta versions that hold them, rows, epochs; ``contracts`` of the largest commit."""

    day: date
    first_version: int
    last_version: int
    commits: int
    rows: int
    contracts: int
    epochs: tuple[int, ...]
    newest: datetime | None


def summarize(commits: Sequence[CommitInfo]) -> list[DayReport]:
    """One report per trading day that got rows; fencing, compaction and schema changes brought none."""
    days: dict[date, list[CommitInfo]] = {}
    for commit in commits:
        if commit.kind is CommitKind.DATA:
            for day, rows in commit.rows_by_date.items():
                if rows:
                    days.setdefault(day, []).append(commit)
    return [
        DayReport(
            day=day,
            first_version=min(commit.version for commit in found),
            last_version=max(commit.version for commit in found),
            commits=len(found),
            rows=sum(commit.rows_by_date[day] for commit in found),
            contracts=max(commit.contracts for commit in found),
            epochs=tuple(sorted({commit.epoch for commit in found if commit.epoch is not None})),
            newest=max((commit.last_timestamp for commit in found if commit.last_timestamp), default=None),
        )
        for day, found in sorted(days.items())
    ]
