"""Pure: what the sensor reports of new rows in ``streamed_positions``, at most once a minute.

A report covers a range of Delta versions; repeating it reports the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta

from v6_pipeline.lake.lineage import CommitInfo, CommitKind

REPORT_EVERY = timedelta(seconds=60)
PICTURE_EVERY = timedelta(minutes=15)
"""A picture with its sample rows takes some 30 KB, and Dagster keeps all of them."""


@dataclass(frozen=True, slots=True)
class ReportCursor:
    """Cursor of the sensor.

    ``version`` is the newest version reported, -1 for none, at ``reported_at``; ``pictured_at`` is the time of the last
    report with a picture; ``checks`` is the part that belongs to the checks.
    """

    version: int = -1
    reported_at: str | None = None
    checks: Mapping[str, object] = field(default_factory=dict)
    pictured_at: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> ReportCursor:
        """Read the sensor's cursor; an unreadable one starts over, since reporting twice does no harm."""
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
        """Return the text of the sensor's cursor."""
        return json.dumps(asdict(self))

    def is_due(self, now: datetime) -> bool:
        """Return whether a report is due at ``now``."""
        return _has_passed(REPORT_EVERY, self.reported_at, now)

    def is_picture_due(self, now: datetime) -> bool:
        """Return whether a report at ``now`` gets a picture."""
        return _has_passed(PICTURE_EVERY, self.pictured_at, now)


def _has_passed(span: timedelta, since: str | None, now: datetime) -> bool:
    # An instant in the future means that the clock was set back.
    return since is None or not timedelta() <= now - datetime.fromisoformat(since) < span


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReport:
    """New rows of one trading day, with their Delta versions and epochs; ``contracts`` is the most in one commit."""

    day: date
    first_version: int
    last_version: int
    commits: int
    rows: int
    contracts: int
    epochs: tuple[int, ...]
    newest: datetime | None


def summarize(commits: Sequence[CommitInfo]) -> list[DayReport]:
    """Return one report per trading day with new rows; other kinds of commit (fence, compaction, schema) bring none."""
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
