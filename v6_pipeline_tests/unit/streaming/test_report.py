"""Content and times of the sensor's reports on the stream's commits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from v6_pipeline.lake.lineage import CommitInfo, CommitKind
from v6_pipeline.streaming.report import REPORT_EVERY, ReportCursor, summarize

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
MONDAY, TUESDAY = date(2026, 3, 2), date(2026, 3, 3)


def commit(version: int, rows: dict[date, int], **changes: Any) -> CommitInfo:
    values: dict[str, Any] = {
        "version": version,
        "committed_at": NOW,
        "operation": "WRITE",
        "kind": CommitKind.DATA,
        "rows": sum(rows.values()),
        "contracts": sum(rows.values()),
        "rows_by_date": rows,
        "epoch": 1,
        "last_timestamp": NOW + timedelta(seconds=version),
    }
    return CommitInfo(**(values | changes))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "garbage",
        "null",
        "7",
        "[]",
        "{}",
        '{"version": null}',
        '{"version": "x"}',
        '{"version": Infinity}',
        '{"version": 3, "reported_at": "yesterday"}',
        '{"version": 3, "reported_at": 12}',
    ],
)
def test_an_unreadable_cursor_starts_over(text: str | None) -> None:
    """Reporting twice does no harm; a cursor that fails every tick does."""
    cursor = ReportCursor.parse(text)

    assert cursor == ReportCursor(-1, None)
    assert cursor.is_due(NOW)


def test_a_cursor_comes_back_as_it_was_stored() -> None:
    cursor = ReportCursor(41, NOW.isoformat())

    assert ReportCursor.parse(cursor.dump()) == cursor


def test_an_instant_without_a_zone_is_none() -> None:
    assert ReportCursor.parse('{"version": 3, "reported_at": "2026-03-02T15:00:00"}') == ReportCursor(3, None)


def test_no_version_before_the_first_is_read() -> None:
    assert ReportCursor.parse('{"version": -9}') == ReportCursor(-1)


@pytest.mark.parametrize(
    ("since", "due"),
    [
        (timedelta(seconds=59), False),
        (REPORT_EVERY, True),
        (timedelta(), False),
        (timedelta(hours=-1), True),  # the clock was set back
    ],
)
def test_at_most_one_report_a_minute(since: timedelta, due: bool) -> None:
    assert ReportCursor(1, (NOW - since).isoformat()).is_due(NOW) is due


def test_one_report_per_trading_day_with_its_own_versions() -> None:
    reports = summarize(
        [
            commit(1, {MONDAY: 3}),
            commit(2, {MONDAY: 2, TUESDAY: 1}, epoch=2),
            commit(3, {TUESDAY: 4}, epoch=2),
        ]
    )

    assert [(item.day, item.first_version, item.last_version, item.commits, item.rows) for item in reports] == [
        (MONDAY, 1, 2, 2, 5),
        (TUESDAY, 2, 3, 2, 5),
    ]
    assert [(item.contracts, item.epochs) for item in reports] == [(3, (1, 2)), (4, (2,))]
    assert [item.newest for item in reports] == [NOW + timedelta(seconds=2), NOW + timedelta(seconds=3)]


def test_commits_without_rows_are_no_report() -> None:
    commits = [
        commit(1, {}, kind=CommitKind.FENCE),
        commit(2, {MONDAY: 9}, kind=CommitKind.MAINTENANCE),
        commit(3, {MONDAY: 0}),
        commit(4, {}),
    ]

    assert summarize(commits) == []
    assert summarize([]) == []


def test_commits_that_do_not_say_who_and_when() -> None:
    (report,) = summarize([commit(1, {MONDAY: 1}, epoch=None, last_timestamp=None)])

    assert (report.epochs, report.newest) == ((), None)


@pytest.mark.parametrize(("minutes", "due"), [(None, True), (14.9, False), (15, True), (-1, True)])
def test_a_picture_comes_four_times_an_hour(minutes: float | None, due: bool) -> None:
    pictured_at = None if minutes is None else (NOW - timedelta(minutes=minutes)).isoformat()
    cursor = ReportCursor(1, NOW.isoformat(), {}, pictured_at)

    assert cursor.is_picture_due(NOW) is due
    assert ReportCursor.parse(cursor.dump()) == cursor


def test_a_cursor_of_an_older_version_is_read() -> None:
    old = f'{{"version": 41, "reported_at": "{NOW.isoformat()}", "checks": {{}}}}'

    assert ReportCursor.parse(old) == ReportCursor(41, NOW.isoformat())
