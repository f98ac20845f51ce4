"""The verdicts of the checks of the stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from v6_pipeline.checks.stream import (
    BLIND_FOR,
    REPORTS_WITHIN,
    active_contracts_stream,
    slots_within_budget,
    stream_fresh,
)
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.ib.resets import ExpectedOutage
from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLeaseState
from v6_pipeline.state.slots.allocation import Slot, SlotUsage
from v6_pipeline.state.slots.ceiling import LearnedLimit, LineLimit

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
STOPPED = "the streamer was stopped on request: start it with 'v6 stream --start'"
RESET = ExpectedOutage("IB's nightly reset", NOW + timedelta(hours=1))


def lease(status: dict[str, Any] | None = None, **changes: Any) -> StreamerLeaseState:
    values: dict[str, Any] = {
        "epoch": 1,
        "owner": "me",
        "claimed_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(minutes=1),
        "granted_by": GrantedBy.SENSOR,
        "heartbeat_at": NOW,
        "status": {"state": "streaming", "streamed_contracts": 3} if status is None else status,
    }
    return StreamerLeaseState(**(values | changes))


def fresh(state: StreamerLeaseState, *, is_open: bool = True, outage: ExpectedOutage | None = None) -> Verdict:
    return stream_fresh(state, is_open=is_open, outage=outage, now=NOW)


def blind(since: timedelta) -> dict[str, Any]:
    return {"blind_since": (NOW - since).isoformat(), "feeds": {"options": {"reason": "farm usopt is broken"}}}


def test_a_stream_that_flows_passes_with_its_numbers() -> None:
    verdict = fresh(lease())
    assert verdict.passed
    assert verdict.numbers["streamed_contracts"] == 3


def test_a_failed_compaction_is_among_the_numbers() -> None:
    verdict = fresh(lease({"writer": {"last_compaction_error": "no space left"}}))
    assert verdict.passed
    assert verdict.numbers["last_compaction_error"] == "no space left"


def test_data_that_stays_away_fails_and_says_since_when_and_why() -> None:
    verdict = fresh(lease(blind(BLIND_FOR)))
    assert (verdict.passed, verdict.serious) == (False, True)
    assert verdict.reason == "no fresh market data since 2026-03-02 14:59:00 UTC (options: farm usopt is broken)"
    assert verdict.numbers["blind_seconds"] == 60


def test_a_short_gap_is_no_alarm() -> None:
    assert fresh(lease(blind(BLIND_FOR - timedelta(seconds=1)))).passed


def test_the_nightly_reset_raises_no_alarm() -> None:
    verdict = fresh(lease(blind(timedelta(minutes=30))), outage=RESET)
    assert verdict.passed
    assert "expected: IB's nightly reset until 16:00 UTC" in verdict.reason


def test_while_the_exchange_is_closed_a_gap_only_warns() -> None:
    verdict = fresh(lease(blind(timedelta(hours=3))), is_open=False)
    assert (verdict.passed, verdict.serious) == (False, False)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lease(expires_at=NOW), "no streamer runs: is ib_streamer_sensor on?"),
        (lease(owner=None), "no streamer runs: is ib_streamer_sensor on?"),
        (lease(heartbeat_at=NOW - REPORTS_WITHIN - timedelta(seconds=1)), "the streamer has not reported for 30 s"),
        (lease({"state": "failed", "error": "no gateway"}), "the streamer failed: no gateway"),
        (
            lease({"writer": {"failing_since": (NOW - timedelta(minutes=5)).isoformat(), "last_error": "disk full"}}),
            "no row could be written since 2026-03-02 14:55:00 UTC: disk full",
        ),
    ],
)
def test_a_streamer_that_is_away_or_cannot_write_fails(state: StreamerLeaseState, reason: str) -> None:
    verdict = fresh(state)
    assert (verdict.passed, verdict.serious, verdict.reason) == (False, True, reason)


def test_a_stop_on_request_only_warns() -> None:
    verdict = fresh(lease(desired_state=DesiredState.STOP, owner=None))
    assert (verdict.passed, verdict.serious, verdict.reason) == (False, False, STOPPED)


def test_a_streamer_that_was_just_started_is_given_a_minute() -> None:
    assert fresh(lease(blind(BLIND_FOR), claimed_at=NOW - timedelta(seconds=30), heartbeat_at=None)).passed


def usage(lines: int, *, learned: int | None = None) -> SlotUsage:
    slots = tuple(
        Slot(conid=conid, holder="h", purpose=SlotPurpose.STREAM, acquired_at=NOW, expires_at=NOW)
        for conid in range(lines)
    )
    known = LearnedLimit(learned=learned, learned_at=NOW)
    return SlotUsage(slots=slots, limit=LineLimit(configured=90, batch_floor=10, known=known, at=NOW))


def test_lines_within_the_ceiling_pass() -> None:
    verdict = slots_within_budget(usage(80))
    assert verdict.passed
    assert verdict.reason == "80 of 90 lines in use"


def test_a_line_too_many_fails() -> None:
    verdict = slots_within_budget(usage(91))
    assert (verdict.passed, verdict.serious) == (False, True)


def test_active_contracts_without_a_line_warn_with_their_number_and_some_of_them() -> None:
    status = {"streamed_contracts": 80, "overflow_contracts": 70, "overflow_sample": [11, 12, 13, 14, 15]}
    verdict = active_contracts_stream(lease(status), usage(80), now=NOW)
    assert (verdict.passed, verdict.serious) == (False, False)
    assert verdict.reason.startswith("70 active contracts have no line (11, 12, 13, 14, 15, …) and are refreshed")
    assert verdict.numbers == {
        "active": 150,
        "streamed": 80,
        "active_without_line": 70,
        "lines_for_streams": 80,
        "sample": "11, 12, 13, 14, 15",
    }


def test_active_contracts_that_all_stream_pass() -> None:
    status = {"streamed_contracts": 12, "overflow_contracts": 0, "overflow_sample": []}
    verdict = active_contracts_stream(lease(status), usage(12), now=NOW)
    assert (verdict.passed, verdict.reason) == (True, "every active contract that can stream has a line")


def test_active_contracts_that_never_tick_warn_by_name_with_what_ib_said() -> None:
    silent = {"800": "no tick since 2026-03-02 14:58 UTC (10089 requires additional subscription)"}
    status = {"streamed_contracts": 4, "overflow_contracts": 1, "overflow_sample": [800], "silent": silent}

    verdict = active_contracts_stream(lease(status), usage(4), now=NOW)

    assert (verdict.passed, verdict.serious, verdict.numbers["active_silent"]) == (False, False, 1)
    assert verdict.reason.startswith(
        "requests for 1 active contracts bring no tick; 1 active contracts have no line and are refreshed at priority "
        "1: 800: no tick since 2026-03-02 14:58 UTC (10089 requires additional subscription); they give their lines"
    )


OVERFLOWED = {"streamed_contracts": 80, "overflow_contracts": 70, "overflow_sample": [11, 12]}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lease(OVERFLOWED, owner=None), "no streamer runs, so no active contract streams: see stream_fresh"),
        (lease(OVERFLOWED, expires_at=NOW), "no streamer runs, so no active contract streams: see stream_fresh"),
        (StreamerLeaseState(), "no streamer runs, so no active contract streams: see stream_fresh"),
        (lease(OVERFLOWED, desired_state=DesiredState.STOP, owner=None), STOPPED),
    ],
)
def test_without_a_streamer_no_active_contract_streams_whatever_the_last_one_said(
    state: StreamerLeaseState, reason: str
) -> None:
    verdict = active_contracts_stream(state, usage(0), now=NOW)
    assert (verdict.passed, verdict.serious, verdict.reason, verdict.numbers) == (False, False, reason, {})


def test_a_streamer_that_has_not_reported_yet_is_starting() -> None:
    verdict = active_contracts_stream(lease({}), usage(0), now=NOW)
    assert (verdict.passed, verdict.reason) == (True, "the streamer is starting")


def test_a_learned_ceiling_warns_and_says_what_to_do() -> None:
    verdict = slots_within_budget(usage(40, learned=40))
    assert (verdict.passed, verdict.serious) == (False, False)
    assert verdict.reason.startswith("IB grants 40 of 90 lines since 2026-03-02 15:00 UTC: close windows")
