"""Instants that processes compare are the database's: a process whose clock is wrong harms no other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.model import QueuePriority, SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, DatabaseClock, utc_now
from v6_pipeline.state.leases.client_ids import ClientIds
from v6_pipeline.state.leases.named import NamedLease
from v6_pipeline.state.leases.streamer import GrantedBy, StreamerLease
from v6_pipeline.state.pacing import messages
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.slots.ledger import SlotChanges, SlotLedger

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
NEAR = timedelta(seconds=5)


def ahead() -> datetime:
    return utc_now() + timedelta(seconds=150)


def behind() -> datetime:
    return utc_now() - timedelta(seconds=150)


@pytest.fixture(params=[ahead, behind], ids=["150 s ahead", "150 s behind"])
def skewed(database: StateDatabase, request: pytest.FixtureRequest) -> Iterator[StateDatabase]:
    """The same database, seen by a process on a host with a wrong clock."""
    url = database._engine.url.render_as_string(hide_password=False)
    opened = StateDatabase.open(url, name_for_messages="skewed", host_clock=request.param)
    yield opened
    opened.close()


def ledger(database: StateDatabase) -> SlotLedger:
    return SlotLedger(database, ceiling=10, batch_floor=2, unconfirmed_lines=10)


def test_now_is_the_databases(database: StateDatabase, skewed: StateDatabase) -> None:
    assert abs(skewed.now() - database.now()) < NEAR
    assert abs(abs(skewed.clock_difference) - timedelta(seconds=150)) < NEAR
    assert database.clock_difference == timedelta(), "a difference within the round trip is none"


def test_a_skewed_process_sweeps_no_live_lines(database: StateDatabase, skewed: StateDatabase) -> None:
    ledger(database).record_and_acquire(
        SlotChanges(), [1, 2, 3], holder="streamer/5", purpose=SlotPurpose.STREAM, ttl_seconds=100
    )
    ledger(skewed).record_and_acquire(SlotChanges(), [4], holder="batch", purpose=SlotPurpose.BATCH, ttl_seconds=30)
    ledger(skewed).release("batch")

    assert {slot.conid for slot in ledger(skewed).usage().slots} == {1, 2, 3}
    assert ledger(database).renew("streamer/5", ttl_seconds=100) == {1, 2, 3}


def test_a_skewed_process_is_granted_no_epoch_while_another_lives(
    database: StateDatabase, skewed: StateDatabase
) -> None:
    epoch = StreamerLease(database).claim("a", granted_by=GrantedBy.SELF, ttl_seconds=120)
    assert epoch is not None

    assert StreamerLease(skewed).claim("b", granted_by=GrantedBy.SELF, ttl_seconds=120) is None
    assert StreamerLease(skewed).claim_grant("b") is None
    assert StreamerLease(skewed).read().is_live(skewed.now())
    assert StreamerLease(database).renew(epoch, ttl_seconds=120)


def test_an_epoch_of_a_skewed_process_ends_in_time(database: StateDatabase, skewed: StateDatabase) -> None:
    """A lease written 150 s ahead would outlive its owner by that time."""
    StreamerLease(skewed).claim("b", granted_by=GrantedBy.SELF, ttl_seconds=60)

    expires_at = StreamerLease(database).read().expires_at
    assert expires_at is not None
    assert abs(expires_at - database.now() - timedelta(seconds=60)) < NEAR


def test_named_leases_and_client_ids_are_not_taken_by_a_skewed_process(
    database: StateDatabase, skewed: StateDatabase
) -> None:
    assert NamedLease(database, "feed", "a", ttl_seconds=60).acquire() is not None
    assert ClientIds(database, range(61, 62)).acquire("a", ttl_seconds=60) == 61

    assert NamedLease(skewed, "feed", "b", ttl_seconds=60).acquire() is None
    assert ClientIds(skewed, range(61, 62)).acquire("b", ttl_seconds=60) is None


def test_a_leased_batch_is_not_served_to_a_skewed_process(database: StateDatabase, skewed: StateDatabase) -> None:
    queue = PositionQueue(database)
    queue.insert(1, "AAPL", QueuePriority.NORMAL, account="SIM1")
    batch = queue.get_batch(10, lease_seconds=60)

    assert PositionQueue(skewed).get_batch(10).items == ()
    assert queue.mark_success(batch.token, [("SIM1", 1)], database.now()) == {("SIM1", 1)}


def test_send_instants_of_a_skewed_process_follow_those_of_others(
    database: StateDatabase, skewed: StateDatabase
) -> None:
    def take(place: StateDatabase) -> tuple[datetime, ...]:
        return messages.take(place, "gateway", 5, configured_rate=45.0, clock=place.now)

    first, second, third = take(database), take(skewed), take(database)

    assert first[-1] < second[0] < second[-1] < third[0]
    assert third[-1] - first[0] < NEAR


class Pair:
    """A host's clock and the database's, ``difference`` ahead of it; an answer takes ``seconds``."""

    def __init__(self, difference: float) -> None:
        self.host = START
        self.difference = timedelta(seconds=difference)
        self.clock = DatabaseClock(lambda: self.host)

    def observe(self, *, before: float = 0.0, after: float = 0.0) -> None:
        self.clock.observe(self._reader(before, after))

    def _reader(self, before: float, after: float) -> Clock:
        def read() -> datetime:
            self.host += timedelta(seconds=before)
            read_at = self.host + self.difference
            self.host += timedelta(seconds=after)
            return read_at

        return read


@pytest.mark.parametrize("difference", [150.0, -150.0, 0.3])
def test_a_difference_is_known_to_the_time_of_the_round_trip(difference: float) -> None:
    pair = Pair(difference)
    pair.observe(before=0.02, after=0.02)
    assert abs(pair.clock.difference - pair.difference) <= timedelta(seconds=0.02)


def test_a_slow_answer_says_nothing() -> None:
    """A wait for the lock, or a stalled process, would look like a clock that is behind."""
    pair = Pair(0.0)
    for before, after in ((0.0, 30.0), (30.0, 0.0), (5.0, 5.0)):
        pair.observe(before=before, after=after)
    assert pair.clock.difference == timedelta()


def test_a_clock_that_is_set_is_followed_at_the_next_reading() -> None:
    pair = Pair(0.0)
    pair.observe()
    pair.difference = timedelta(seconds=-40)
    pair.observe()
    assert pair.clock.difference == pair.difference
    assert pair.clock() == pair.host + pair.difference


def test_a_reading_that_fails_changes_nothing() -> None:
    def fail() -> datetime:
        raise OSError("no answer")

    pair = Pair(3.0)
    pair.observe()
    with pytest.raises(OSError, match="no answer"):
        pair.clock.observe(fail)
    assert pair.clock.difference == pair.difference
