"""The decision to refresh in this minute, and the numbers in its reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.ib.resets import ExpectedOutage
from v6_pipeline.refresh.due import LOOKAHEAD_SECONDS, RefreshDecision, decide_refresh, is_refresh_time
from v6_pipeline.settings import MarketHours, Settings
from v6_pipeline.state.queue.due import DueCount
from v6_pipeline.state.queue.items import QueueStats

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


def due_count(**changes: Any) -> DueCount:
    values: dict[str, Any] = {"held": 10, "streamed": 4, "queued": 0, "due": 0, "fresh": 6, "oldest_refreshed_at": None}
    return DueCount(**(values | changes))


def queue_stats(**changes: int) -> QueueStats:
    values: dict[str, Any] = {"open": 0, "leased": 0, "waiting": 0, "dead": 0, "oldest_age_seconds": None}
    return QueueStats(**(values | changes))


def decide(**changes: Any) -> RefreshDecision:
    values: dict[str, Any] = {
        "market_open": True,
        "active_run_id": None,
        "due": due_count(),
        "queue": queue_stats(),
        "last_run_at": NOW - timedelta(seconds=60),
        "last_run_failed": False,
        "outage": None,
        "refresh_seconds": 300,
        "now": NOW,
    }
    return decide_refresh(**(values | changes))


SOMETHING_DUE = {"due": due_count(due=2, fresh=4), "queue": queue_stats(open=1)}


def test_due_or_queued_holdings_are_refreshed() -> None:
    assert decide(**SOMETHING_DUE) == RefreshDecision(
        refresh=True, reason="2 due, 1 in the queue; 10 held, 4 streamed, 4 fresh"
    )
    assert decide(due=due_count(due=2, fresh=4)).refresh
    assert decide(queue=queue_stats(open=1)).refresh


def test_one_run_at_a_time() -> None:
    decision = decide(active_run_id="abcdef0123456789", **SOMETHING_DUE)

    assert decision == RefreshDecision(refresh=False, reason="run abcdef01 refreshes already")


def test_outside_the_exchanges_hours_nothing_is_refreshed() -> None:
    decision = decide(market_open=False, **SOMETHING_DUE)

    assert decision == RefreshDecision(refresh=False, reason="outside the exchange's hours (V6_MARKET_HOURS=session)")


NOTHING_HELD = {"due": due_count(held=0, streamed=0, fresh=0)}


def test_with_nothing_held_the_first_run_looks_for_positions() -> None:
    assert decide(last_run_at=None, **NOTHING_HELD) == RefreshDecision(
        refresh=True, reason="no positions known yet: the run looks for them"
    )


@pytest.mark.parametrize(
    ("ago", "refresh", "reason"),
    [
        (100, False, "no positions known; looked for again in 200 s"),
        (299, False, "no positions known; looked for again in 1 s"),
        (300, True, "no positions known yet: the run looks for them"),
    ],
)
def test_with_nothing_held_it_looks_again_after_refresh_seconds(ago: int, refresh: bool, reason: str) -> None:
    decision = decide(last_run_at=NOW - timedelta(seconds=ago), **NOTHING_HELD)

    assert decision == RefreshDecision(refresh=refresh, reason=reason)


@pytest.mark.parametrize(
    ("ago", "refresh"),
    [(None, True), (60, False), (300 - LOOKAHEAD_SECONDS - 1, False), (300 - LOOKAHEAD_SECONDS, True)],
)
def test_accounts_whose_holdings_all_stream_are_refreshed_every_refresh_seconds(ago: int | None, refresh: bool) -> None:
    """An account that cannot be downloaded stays due, and must not start a run each minute."""
    last_run_at = None if ago is None else NOW - timedelta(seconds=ago)

    decision = decide(due=due_count(accounts=2, streamed=10, fresh=0), last_run_at=last_run_at)

    reason = "values of 2 accounts due: " if refresh else "nothing due: "
    assert decision == RefreshDecision(refresh=refresh, reason=f"{reason}10 held, 10 streamed, 0 fresh")


def test_nothing_due_says_when_the_next_is() -> None:
    oldest = NOW - timedelta(seconds=100)

    decision = decide(due=due_count(oldest_refreshed_at=oldest))

    seconds = 300 - LOOKAHEAD_SECONDS - 100
    assert decision == RefreshDecision(
        refresh=False, reason=f"nothing due: 10 held, 4 streamed, 6 fresh; next due in {seconds} s"
    )


def test_an_overdue_holding_is_due_in_0_seconds() -> None:
    decision = decide(due=due_count(oldest_refreshed_at=NOW - timedelta(seconds=1000)))

    assert decision.reason.endswith("; next due in 0 s")


def test_items_that_wait_or_are_dead_are_counted_and_start_no_run() -> None:
    decision = decide(due=due_count(fresh=0, queued=6), queue=queue_stats(waiting=4, dead=2, leased=1))

    assert decision == RefreshDecision(
        refresh=False,
        reason="nothing due: 10 held, 4 streamed, 0 fresh, 4 waiting for a retry, 2 dead letters",
    )


RESET = ExpectedOutage("IB's nightly reset", NOW + timedelta(minutes=45))


@pytest.mark.parametrize(
    "wanted", [SOMETHING_DUE, NOTHING_HELD, {"due": due_count(accounts=2)}], ids=["due", "nothing held", "accounts"]
)
@pytest.mark.parametrize(("ago", "refresh"), [(200, False), (599, False), (600, True)])
def test_in_ibs_reset_a_failed_refresh_is_tried_again_every_ten_minutes(
    wanted: dict[str, Any], ago: int, *, refresh: bool
) -> None:
    """With V6_MARKET_HOURS=always a run failed in each minute of a reset."""
    decision = decide(outage=RESET, last_run_failed=True, last_run_at=NOW - timedelta(seconds=ago), **wanted)

    assert decision.refresh is refresh
    if not refresh:
        assert decision.reason == (
            f"the last refresh failed, and it is IB's nightly reset until 15:45 UTC: tried again in {600 - ago} s"
        )


def test_in_ibs_reset_refreshes_that_succeed_continue() -> None:
    assert decide(outage=RESET, **SOMETHING_DUE).refresh


def test_outside_a_reset_a_failed_refresh_is_tried_again_at_once() -> None:
    assert decide(last_run_failed=True, **SOMETHING_DUE).refresh


def test_a_refresh_follows_a_reset_that_ends_sooner() -> None:
    ending = ExpectedOutage("IB's nightly reset", NOW + timedelta(seconds=90))

    decision = decide(outage=ending, last_run_failed=True, **SOMETHING_DUE)

    assert decision.reason.endswith("until 15:01 UTC: tried again in 90 s")


@pytest.mark.parametrize(
    ("at", "in_session"),
    [("09:29", False), ("09:30", True), ("16:20", True), ("16:34", True), ("16:35", False), ("23:00", False)],
)
def test_refreshes_run_from_the_open_to_the_days_cut_off_or_always(at: str, in_session: bool, tmp_path: Path) -> None:
    instant = datetime.fromisoformat(f"2026-03-02T{at}").replace(tzinfo=ZoneInfo("America/New_York"))

    for hours, expected in ((MarketHours.SESSION, in_session), (MarketHours.ALWAYS, True)):
        settings = Settings(home=tmp_path, market_hours=hours)
        assert is_refresh_time(settings, TradingCalendar(), instant) is expected
