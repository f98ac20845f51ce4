"""The holdings that are due for a refresh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from v6_pipeline.model import QueuePriority, SlotPurpose
from v6_pipeline.state.account import downloads as account_downloads
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue import due
from v6_pipeline.state.queue.due import due_before
from v6_pipeline.state.queue.items import QueueItem, QueueState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import START, ManualClock
from v6_pipeline_tests.unit.state.samples import holding, stock

KEY = ("SIM1", 1)


@pytest.fixture
def queue(database: StateDatabase, clock: ManualClock) -> PositionQueue:
    return PositionQueue(database, clock, max_attempts=1)


def _put(queue: PositionQueue, *conids: int) -> None:
    queue.insert_many([("SIM1", conid, "AAPL", QueuePriority.NORMAL) for conid in conids])


def _conids(items: Iterable[QueueItem]) -> list[int]:
    return [item.conid for item in items]


def _let_die(queue: PositionQueue, conid: int) -> None:
    _put(queue, conid)
    assert queue.mark_failed(queue.get_batch(1).token, [("SIM1", conid)], "no such contract")


def test_due_is_what_would_be_too_old_at_the_next_tick() -> None:
    assert due_before(START, refresh_seconds=300, interval_seconds=60) == START - timedelta(seconds=240)


@pytest.fixture
def held(database: StateDatabase) -> StateDatabase:
    """Contracts 1 to 5; 1 was never refreshed, the others 100, 200, 300 and 400 seconds ago."""
    with database.write() as connection:
        holdings.upsert_holdings(connection, [holding(stock(conid)) for conid in range(1, 6)])
        for conid in range(2, 6):
            refreshed_at = START - timedelta(seconds=100 * (conid - 1))
            holdings.set_refreshed(connection, [("SIM1", conid)], refreshed_at=refreshed_at)
    return database


def _due(queue: PositionQueue) -> set[int]:
    before = {item.key for item in queue.items()}
    queue.enqueue_due(refresh_seconds=300, interval_seconds=60)
    return {item.conid for item in queue.items() if item.key not in before}


def test_what_was_never_refreshed_or_gets_too_old_is_due(held: StateDatabase, queue: PositionQueue) -> None:
    counted = queue.count_due(refresh_seconds=300, interval_seconds=60)

    assert (counted.held, counted.due, counted.fresh, counted.streamed, counted.queued) == (5, 3, 2, 0, 0)
    assert counted.oldest_refreshed_at == START - timedelta(seconds=200)
    assert _due(queue) == {1, 4, 5}
    assert queue.count_due(refresh_seconds=300, interval_seconds=60).queued == 3


def test_the_edge_is_due(held: StateDatabase, queue: PositionQueue, clock: ManualClock) -> None:
    clock.advance(40)
    assert 3 in _due(queue)


def test_what_is_in_the_queue_is_not_due_again(held: StateDatabase, queue: PositionQueue, clock: ManualClock) -> None:
    """A dead letter neither: it would fail for ever."""
    _let_die(queue, 1)
    _put(queue, 4)

    assert _due(queue) == {5}
    assert _conids(queue.items(QueueState.DEAD)) == [1]


def test_what_is_streamed_is_not_due_while_its_slot_lives(
    held: StateDatabase, queue: PositionQueue, clock: ManualClock
) -> None:
    ledger = StepLedger(held, ceiling=9, batch_floor=1, clock=clock)
    ledger.acquire([1, 4], holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=10)
    ledger.acquire([5], holder="run", purpose=SlotPurpose.BATCH, ttl_seconds=10)

    assert queue.count_due(refresh_seconds=300, interval_seconds=60).streamed == 2
    assert _due(queue) == {5}
    clock.advance(10)
    assert _due(queue) == {1, 4}


def test_overdue_holdings_are_neither_refreshed_nor_queued_nor_streamed(
    held: StateDatabase, queue: PositionQueue, clock: ManualClock
) -> None:
    def overdue(seconds: float) -> tuple[int, datetime | None]:
        with held.read() as connection:
            found = due.overdue(connection, refreshed_before=START - timedelta(seconds=seconds), now=clock.now)
        return found.count, found.oldest_at

    assert overdue(401) == (0, None)
    assert overdue(400) == (1, START - timedelta(seconds=400))
    assert overdue(300) == (2, START - timedelta(seconds=400))
    assert overdue(0) == (5, START - timedelta(seconds=400)), "without a row it counts from what was observed"
    _put(queue, 4)
    _let_die(queue, 3)
    StepLedger(held, ceiling=9, batch_floor=1, clock=clock).acquire(
        [5], holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=10
    )
    assert overdue(100) == (1, START - timedelta(seconds=100))
    with held.write() as connection:
        holdings.mark_closed(connection, [("SIM1", 2)], closed_at=START)
    assert overdue(100) == (0, None)


def test_an_account_of_which_something_streams_is_due_by_its_newest_download(
    held: StateDatabase, queue: PositionQueue, clock: ManualClock
) -> None:
    with held.write() as connection:
        holdings.upsert_holdings(connection, [replace(holding(stock(conid)), account="SIM2") for conid in (4, 9)])

    def accounts() -> tuple[str, ...]:
        found = queue.due_accounts(refresh_seconds=300, interval_seconds=60)
        assert queue.count_due(refresh_seconds=300, interval_seconds=60).accounts == len(found)
        return found

    def complete(account: str) -> None:
        with held.write() as connection:
            account_downloads.completed(connection, account, at=clock.now)

    assert accounts() == ()
    ledger = StepLedger(held, ceiling=9, batch_floor=1, clock=clock)
    ledger.acquire([9], holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=10_000)
    assert accounts() == ("SIM2",)
    ledger.acquire([4], holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=10_000)
    assert accounts() == ("SIM1", "SIM2")
    complete("SIM1")
    assert accounts() == ("SIM2",)
    complete("SIM2")
    clock.advance(239)
    assert accounts() == ()
    clock.advance(1)
    with held.write() as connection:
        account_downloads.failed(connection, "SIM2", at=clock.now, reason="refused")
        holdings.mark_closed(connection, [("SIM1", 4)], closed_at=clock.now)
    assert accounts() == ("SIM2",)


def test_what_was_closed_is_not_due(held: StateDatabase, queue: PositionQueue) -> None:
    with held.write() as connection:
        holdings.mark_closed(connection, [KEY], closed_at=START)

    assert _due(queue) == {4, 5}
    assert queue.count_due(refresh_seconds=300, interval_seconds=60).held == 4


def test_everything_unstreamed_can_be_asked_for_dead_letters_included(
    held: StateDatabase, queue: PositionQueue, clock: ManualClock
) -> None:
    ledger = StepLedger(held, ceiling=9, batch_floor=1, clock=clock)
    ledger.acquire([4], holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=1000)
    _let_die(queue, 1)

    assert queue.enqueue_all_unstreamed() == 4
    assert sorted(_conids(queue.items(QueueState.OPEN))) == [1, 2, 3, 5]


def test_everything_asked_for_while_leased_is_refreshed_again(held: StateDatabase, queue: PositionQueue) -> None:
    _put(queue, 1)
    batch = queue.get_batch(1)

    queue.enqueue_all_unstreamed()
    queue.mark_success(batch.token, [KEY], START)

    assert 1 in _conids(queue.items())


def test_an_account_that_holds_nothing_is_due_by_its_newest_download(
    held: StateDatabase, queue: PositionQueue, clock: ManualClock
) -> None:
    """Without a download it would be unknown that it is flat."""

    def accounts() -> tuple[str, ...]:
        return queue.due_accounts(refresh_seconds=300, interval_seconds=60)

    with held.write() as connection:
        account_downloads.completed(connection, "FLAT", at=clock.now)
        account_downloads.failed(connection, "NEVER", at=clock.now, reason="refused")
        account_downloads.completed(connection, "SIM1", at=clock.now)
    assert accounts() == ("NEVER",)
    clock.advance(240)
    assert accounts() == ("FLAT", "NEVER"), "the items of SIM1 have it downloaded"
    with held.write() as connection:
        keys = [item.key for item in holdings.list_open(connection, account="SIM1")]
        holdings.mark_closed(connection, keys, closed_at=clock.now)
    assert accounts() == ("FLAT", "NEVER", "SIM1")
    with held.write() as connection:
        account_downloads.keep_accounts(connection, ["FLAT", "SIM1"])
    assert accounts() == ("FLAT", "SIM1")


def test_the_record_of_an_account_that_holds_something_is_kept(held: StateDatabase) -> None:
    with held.write() as connection:
        account_downloads.completed(connection, "SIM1", at=START)
        account_downloads.keep_accounts(connection, ["OTHER"])

        assert [record.account for record in account_downloads.list_all(connection)] == ["SIM1"]
