"""The queue: who is served, what an acknowledgement needs, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from v6_pipeline.model import QueuePriority
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.items import QueueItem, QueueState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline_tests.unit.state.databases import START, ManualClock
from v6_pipeline_tests.unit.state.samples import holding, stock

KEY = ("SIM1", 1)


@pytest.fixture
def queue(database: StateDatabase, clock: ManualClock) -> PositionQueue:
    return PositionQueue(database, clock, max_attempts=3, backoff_seconds=10.0, backoff_cap_seconds=15.0)


def _put(queue: PositionQueue, *conids: int, priority: int = QueuePriority.NORMAL) -> None:
    queue.insert_many([("SIM1", conid, "AAPL", priority) for conid in conids])


def _conids(items: Iterable[QueueItem]) -> list[int]:
    return [item.conid for item in items]


def _only(queue: PositionQueue) -> QueueItem:
    (item,) = queue.items()
    return item


def _fail(queue: PositionQueue, reason: str = "time-out") -> None:
    batch = queue.get_batch(10)
    assert queue.mark_failed(batch.token, [item.key for item in batch.items], reason)


# Inserting and serving


def test_an_item_is_one_per_account_and_contract(queue: PositionQueue) -> None:
    queue.insert(1, "AAPL", account="SIM1")
    queue.insert(1, "AAPL", account="SIM1")
    queue.insert(1, "AAPL", account="SIM2")

    assert [item.key for item in queue.items()] == [("SIM1", 1), ("SIM2", 1)]


@pytest.mark.parametrize(("first", "second"), [(2, 0), (0, 2)])
def test_the_better_priority_wins_whatever_the_order(queue: PositionQueue, first: int, second: int) -> None:
    _put(queue, 1, priority=first)
    _put(queue, 1, priority=second)

    assert _only(queue).priority == 0


def test_the_better_priority_wins_within_one_call(queue: PositionQueue) -> None:
    queue.insert_many([("SIM1", 1, "AAPL", 0), ("SIM1", 1, "AAPL", 2)])

    assert _only(queue).priority == 0


def test_items_are_served_by_priority_then_by_age(queue: PositionQueue, clock: ManualClock) -> None:
    for conid, priority in ((1, 2), (2, 1), (3, 2), (4, 0)):
        _put(queue, conid, priority=priority)
        clock.advance(1)
    _put(queue, 1)  # asked for again, it keeps its place

    assert _conids(queue.get_batch(2).items) == [4, 2]
    assert _conids(queue.get_batch(5).items) == [1, 3]
    assert queue.get_batch(5).items == ()


def test_accounts_can_be_left_out_whatever_their_turn(queue: PositionQueue) -> None:
    queue.insert_many([(account, 1, "AAPL", QueuePriority.NORMAL) for account in ("SIM1", "SIM2", "SIM3")])

    served = queue.get_batch(1, without_accounts={"SIM1", "SIM3"})

    assert [item.key for item in served.items] == [("SIM2", 1)]
    assert queue.get_batch(1, without_accounts={"SIM1", "SIM3"}).items == ()
    assert [(item.account, item.attempts) for item in queue.items(QueueState.OPEN)] == [("SIM1", 0), ("SIM3", 0)]


def test_an_item_asked_for_again_needs_an_observation_made_after_that(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    later = clock.advance(30)
    _put(queue, 1)

    item = _only(queue)
    assert (item.queued_at, item.enqueued_at) == (START, later)


def test_a_batch_of_many_is_served_whole(queue: PositionQueue) -> None:
    _put(queue, *range(1, 1501))

    batch = queue.get_batch(2000)

    assert len(batch.items) == 1500
    assert len(queue.mark_success(batch.token, [item.key for item in batch.items], START)) == 1500
    assert queue.items() == ()


@pytest.mark.parametrize(("size", "seconds"), [(0, 60), (1, 29)])
def test_a_batch_that_cannot_be_is_refused(queue: PositionQueue, size: int, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"batch|lease"):
        queue.get_batch(size, lease_seconds=seconds)


def test_workers_that_ask_at_once_get_different_items(queue: PositionQueue) -> None:
    _put(queue, *range(1, 31))
    with ThreadPoolExecutor(5) as pool:
        batches = list(pool.map(queue.get_batch, [7] * 5))

    served = [conid for batch in batches for conid in _conids(batch.items)]
    assert sorted(served) == list(range(1, 31))


# Leases and acknowledgements


def test_success_removes_the_items_and_dates_their_holdings(
    database: StateDatabase, queue: PositionQueue, clock: ManualClock
) -> None:
    with database.write() as connection:
        holdings.upsert_holdings(connection, [holding(stock(1)), holding(stock(2))])
    _put(queue, 1, 2)
    batch = queue.get_batch(2)
    refreshed_at = clock.advance(5)

    assert queue.mark_success(batch.token, [KEY], refreshed_at) == {KEY}

    assert _conids(queue.items()) == [2]
    with database.read() as connection:
        stored = holdings.find(connection, [KEY, ("SIM1", 2)])
    assert stored[KEY].refreshed_at == refreshed_at
    assert stored["SIM1", 2].refreshed_at is None


def test_an_unacknowledged_item_is_served_again_when_the_lease_ends(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    first = queue.get_batch(1, lease_seconds=30)
    clock.advance(29)
    assert queue.get_batch(1).items == ()
    clock.advance(1)

    second = queue.get_batch(1, lease_seconds=30)

    assert _conids(second.items) == [1]
    assert second.token != first.token


def test_a_token_whose_lease_ended_acknowledges_nothing(
    database: StateDatabase, queue: PositionQueue, clock: ManualClock
) -> None:
    with database.write() as connection:
        holdings.upsert_holdings(connection, [holding(stock(1))])
    _put(queue, 1)
    late = queue.get_batch(1, lease_seconds=30)
    clock.advance(30)

    assert queue.mark_success(late.token, [KEY], START) == frozenset()
    assert queue.mark_failed(late.token, [KEY], "late") == frozenset()
    assert queue.extend(late.token) is None
    again = queue.get_batch(1)
    assert queue.mark_success(late.token, [KEY], START) == frozenset()

    assert _only(queue).state is QueueState.LEASED
    assert _only(queue).attempts == 0
    with database.read() as connection:
        assert holdings.find(connection, [KEY])[KEY].refreshed_at is None
    assert queue.mark_success(again.token, [KEY], START) == {KEY}


def test_a_foreign_token_and_foreign_keys_are_refused(queue: PositionQueue) -> None:
    _put(queue, 1, 2)
    mine, others = queue.get_batch(1), queue.get_batch(1)

    assert queue.mark_success("invented", [KEY], START) == frozenset()
    assert queue.mark_success(mine.token, [others.items[0].key], START) == frozenset()
    assert len(queue.items(QueueState.LEASED)) == 2


def test_an_extended_lease_lasts_longer(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    batch = queue.get_batch(1, lease_seconds=30)
    clock.advance(20)

    assert queue.extend(batch.token, lease_seconds=30) == clock.now + timedelta(seconds=30)
    clock.advance(29)

    assert queue.get_batch(1).items == ()
    assert queue.mark_success(batch.token, [KEY], START) == {KEY}


def test_extending_never_shortens_a_lease(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    batch = queue.get_batch(1, lease_seconds=600)
    queue.extend(batch.token, lease_seconds=30)
    clock.advance(100)

    assert queue.get_batch(1).items == ()


# Asked for again while leased


def test_an_item_asked_for_while_leased_is_refreshed_again(queue: PositionQueue, clock: ManualClock) -> None:
    """The observation in flight may have been made before whatever the new request is about."""
    _put(queue, 1)
    batch = queue.get_batch(1)
    asked_at = clock.advance(5)
    _put(queue, 1, priority=QueuePriority.VERIFY)
    assert queue.get_batch(1).items == ()

    assert queue.mark_success(batch.token, [KEY], START) == {KEY}

    (item,) = queue.get_batch(1).items
    assert (item.priority, item.queued_at, item.enqueued_at) == (QueuePriority.VERIFY, asked_at, asked_at)


def test_the_better_priority_of_two_requests_while_leased_wins(queue: PositionQueue) -> None:
    _put(queue, 1)
    batch = queue.get_batch(1)
    for priority in (1, 0, 2):
        _put(queue, 1, priority=priority)
    queue.mark_success(batch.token, [KEY], START)

    assert _only(queue).priority == 0


def test_a_request_while_leased_survives_the_leases_end(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    queue.get_batch(1, lease_seconds=30)
    asked_at = clock.advance(5)
    _put(queue, 1, priority=0)
    clock.advance(25)

    (item,) = queue.get_batch(1).items

    assert (item.priority, item.queued_at, item.enqueued_at) == (0, START, asked_at)


def test_a_request_after_the_leases_end_is_an_ordinary_one(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    queue.get_batch(1, lease_seconds=30)
    asked_at = clock.advance(30)
    _put(queue, 1, priority=0)

    item = _only(queue)
    assert (item.state, item.priority, item.enqueued_at, item.requeued_at) == (QueueState.OPEN, 0, asked_at, None)


# Failures


def test_each_failure_waits_longer_up_to_the_cap_and_the_last_one_is_dead(
    queue: PositionQueue, clock: ManualClock
) -> None:
    _put(queue, 1)
    waits = []
    for _ in range(2):
        _fail(queue)
        item = _only(queue)
        assert item.state is QueueState.WAITING
        assert item.not_before is not None
        waits.append((item.not_before - clock.now).total_seconds())
        clock.advance(waits[-1] - 1)
        assert queue.get_batch(1).items == ()
        clock.advance(1)
    _fail(queue, "no such contract")
    clock.advance(10_000)

    assert waits == [10, 15]
    assert queue.get_batch(1).items == ()
    item = _only(queue)
    assert (item.state, item.attempts, item.last_error) == (QueueState.DEAD, 3, "no such contract")


def test_a_success_forgets_earlier_failures(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    _fail(queue)
    clock.advance(10)
    batch = queue.get_batch(1)
    _put(queue, 1)
    queue.mark_success(batch.token, [KEY], START)

    item = _only(queue)
    assert (item.state, item.attempts, item.last_error) == (QueueState.OPEN, 0, None)


def test_an_item_given_back_is_served_again_after_the_delay_and_comes_no_nearer_to_its_death(
    queue: PositionQueue, clock: ManualClock
) -> None:
    _put(queue, 1, 2)
    for _ in range(5):
        batch = queue.get_batch(10)
        assert queue.give_back(batch.token, [KEY], "the feed is taken", delay_seconds=20) == {KEY}
        queue.mark_success(batch.token, [("SIM1", 2)], clock.now)
        assert queue.get_batch(10).items == ()
        clock.advance(20)
    assert (_only(queue).state, _only(queue).attempts, _only(queue).last_error) == (
        QueueState.OPEN,
        0,
        "the feed is taken",
    )


def test_a_foreign_token_gives_nothing_back(queue: PositionQueue) -> None:
    _put(queue, 1)
    queue.get_batch(10)

    assert queue.give_back("foreign", [KEY], "why", delay_seconds=20) == frozenset()
    assert _only(queue).state is QueueState.LEASED


def test_an_item_asked_for_again_while_leased_is_not_dead_by_that_lease(
    queue: PositionQueue, clock: ManualClock
) -> None:
    _put(queue, 1)
    for _ in range(2):
        _fail(queue)
        clock.advance(15)
    batch = queue.get_batch(1)
    asked_at = clock.advance(1)
    _put(queue, 1, priority=0)
    queue.mark_failed(batch.token, [KEY], "time-out")

    item = _only(queue)
    assert (item.state, item.priority, item.enqueued_at) == (QueueState.WAITING, 0, asked_at)


def test_asking_again_does_not_end_the_wait(queue: PositionQueue) -> None:
    _put(queue, 1)
    _fail(queue)
    _put(queue, 1, priority=0)

    assert _only(queue).state is QueueState.WAITING
    assert _only(queue).priority == 0


def test_inserting_a_dead_letter_starts_afresh(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1, priority=0)
    for _ in range(3):
        _fail(queue)
        clock.advance(15)
    _put(queue, 1, priority=2)

    item = _only(queue)
    assert (item.state, item.attempts, item.priority) == (QueueState.OPEN, 0, 2)
    assert (item.queued_at, item.last_error) == (clock.now, None)


def test_dead_letters_are_retried_all_or_by_key(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1, 2, 3)
    for _ in range(3):
        _fail(queue)
        clock.advance(15)
    _put(queue, 4)
    clock.advance(1)

    assert queue.retry([("SIM1", 2), ("SIM1", 4)]) == 1
    assert _conids(queue.get_batch(5).items) == [4, 2]
    assert queue.retry() == 2
    assert _conids(queue.get_batch(5).items) == [1, 3]


def test_purging_deletes_only_dead_letters_unless_states_are_given(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1, 2)
    for _ in range(3):
        _fail(queue)
        clock.advance(15)
    _put(queue, 3, 4)
    leased = queue.get_batch(1)

    assert queue.purge(keys=[("SIM1", 1), ("SIM1", 4)]) == 1
    assert queue.purge() == 1
    assert _conids(queue.items()) == [3, 4]
    assert queue.purge(QueueState.OPEN, QueueState.WAITING) == 1
    assert _conids(queue.items()) == _conids(leased.items)
    with pytest.raises(ValueError, match="leased"):
        queue.purge(QueueState.LEASED)


# Numbers


def test_stats_count_by_state_and_priority(queue: PositionQueue, clock: ManualClock) -> None:
    _put(queue, 1)
    for _ in range(3):
        _fail(queue)
        clock.advance(15)
    since = clock.now
    _put(queue, 2)
    _fail(queue)
    _put(queue, 3, 4, priority=1)
    _put(queue, 5, priority=0)
    queue.get_batch(1)
    clock.advance(7)

    stats = queue.stats()

    assert (stats.open, stats.leased, stats.waiting, stats.dead, stats.pending) == (2, 1, 1, 1, 4)
    assert stats.by_priority == {0: 1, 1: 2, 2: 1}
    assert stats.oldest_age_seconds == (clock.now - since).total_seconds()


def test_an_empty_queue_has_no_age(queue: PositionQueue) -> None:
    stats = queue.stats()

    assert (stats.pending, stats.dead, stats.oldest_age_seconds, stats.by_priority) == (0, 0, None, {})


def test_items_can_be_listed_by_state_and_number(queue: PositionQueue) -> None:
    _put(queue, 1, 2, 3)
    queue.get_batch(1)

    assert _conids(queue.items(limit=2)) == [1, 2]
    assert _conids(queue.items(QueueState.OPEN)) == [2, 3]
    assert _conids(queue.items(QueueState.DEAD)) == []
