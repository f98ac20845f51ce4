"""The streamer's report: its JSON form, and the forms of other releases that it still reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.streaming.status import FeedStatus, HandlerStatus, StreamerStatus, StreamState, WriterStatus

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)

BEFORE_TYPED = """{
  "state": "blind", "connection": "connected", "gateway": "127.0.0.1:4002", "client_id": 17, "connects": 2,
  "started_at": "2026-11-30T12:00:00+00:00", "blind_since": "2026-11-30T12:01:00+00:00",
  "feeds": {"options": {"state": "verifying", "since": "2026-11-30T12:01:00+00:00", "reason": "farm usopt is broken"}},
  "competing_session_since": null, "expected_outage": "IB's nightly reset until 06:45 UTC", "holdings": 58,
  "streamed_contracts": 12, "overflow_contracts": 2, "overflow_sample": [265598, 272093], "queued_holdings": 46,
  "refused": {"4815": "354 Requested market data is not subscribed"}, "ticks": 9001,
  "last_tick_at": "2026-11-30T12:00:59.500000+00:00", "error_codes": {"354": 1, "2104": 3},
  "writer": {"epoch": 7, "commits": 20, "rows": 240, "buffered": 12, "last_version": 33,
             "last_commit_at": "2026-11-30T12:00:57+00:00", "failing_since": "2026-11-30T12:01:00+00:00",
             "last_error": "disk full"},
  "handlers": [{"name": "delta", "handled": 240, "conflated": 3, "failed": 0, "waiting": 1, "last_error": null}]
}"""
"""A report as the release before the typed one left it in the lease row."""

SAME_TYPED = StreamerStatus(
    state=StreamState.BLIND,
    connection="connected",
    gateway="127.0.0.1:4002",
    client_id=17,
    connects=2,
    started_at=NOON,
    blind_since=NOON + timedelta(minutes=1),
    feeds={
        "options": FeedStatus(state="verifying", since=NOON + timedelta(minutes=1), reason="farm usopt is broken"),
    },
    expected_outage="IB's nightly reset until 06:45 UTC",
    holdings=58,
    streamed_contracts=12,
    overflow_contracts=2,
    overflow_sample=(265598, 272093),
    queued_holdings=46,
    refused={4815: "354 Requested market data is not subscribed"},
    ticks=9001,
    last_tick_at=NOON + timedelta(seconds=59.5),
    error_codes={354: 1, 2104: 3},
    writer=WriterStatus(
        epoch=7,
        commits=20,
        rows=240,
        buffered=12,
        last_version=33,
        last_commit_at=NOON + timedelta(seconds=57),
        failing_since=NOON + timedelta(minutes=1),
        last_error="disk full",
    ),
    handlers=(HandlerStatus("delta", 240, 3, 0, 1, None),),
)


def test_a_report_of_the_release_before_is_read_in_full() -> None:
    assert StreamerStatus.parse(json.loads(BEFORE_TYPED)) == SAME_TYPED


def test_the_json_form_keeps_the_keys_and_forms_of_the_release_before() -> None:
    expected = json.loads(BEFORE_TYPED)
    expected["writer"]["last_compaction_error"] = None
    expected["silent"] = {}
    assert json.loads(json.dumps(SAME_TYPED.as_json())) == expected


def test_a_failed_streamer_reports_its_error_and_nothing_else() -> None:
    report = StreamerStatus.failure("no gateway").as_json()
    assert report == {"state": "failed", "error": "no gateway"}
    assert StreamerStatus.parse(report) == StreamerStatus.failure("no gateway")


@pytest.mark.parametrize(
    ("report", "status"),
    [
        ({}, StreamerStatus()),
        ({"ticks": 3, "of_a_later_release": {"x": 1}}, StreamerStatus(ticks=3)),
        ({"writer": {"rows": 5, "of_a_later_release": 1}}, StreamerStatus(writer=WriterStatus(rows=5))),
        ({"state": "of a later release", "ticks": 3}, StreamerStatus(ticks=3)),
        ({"writer": None, "blind_since": "noon", "feeds": ["options"], "ticks": 3}, StreamerStatus(ticks=3)),
    ],
)
def test_a_key_that_is_missing_unknown_or_unreadable_counts_as_not_reported(
    report: dict[str, object], status: StreamerStatus
) -> None:
    assert StreamerStatus.parse(report) == status
