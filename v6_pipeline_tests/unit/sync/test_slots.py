"""The slot ledger: what is granted to whom, and what happens to slots that nobody renews."""

from __future__ import annotations

from datetime import timedelta

import pytest

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state import slots as slot_rows
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.slots import AcquiredSlots, SlotLedger
from v6_pipeline_tests.unit.state.databases import ManualClock

STREAM, BATCH = SlotPurpose.STREAM, SlotPurpose.BATCH


@pytest.fixture
def ledger(database: StateDatabase, clock: ManualClock) -> SlotLedger:
    """Five lines, two of which streams cannot take."""
    return SlotLedger(database, ceiling=5, batch_floor=2, clock=clock)


def _take(ledger: SlotLedger, conids: list[int], holder: str, purpose: SlotPurpose, ttl: float = 60) -> AcquiredSlots:
    return ledger.acquire(conids, holder=holder, purpose=purpose, ttl_seconds=ttl)


def test_streams_leave_the_floor_to_batches(ledger: SlotLedger) -> None:
    assert _take(ledger, [4, 3, 2, 1], "streamer", STREAM) == AcquiredSlots((4, 3, 2), (1,))
    assert _take(ledger, [7, 8, 9], "run", BATCH) == AcquiredSlots((7, 8), (9,))


def test_batches_use_what_is_free_and_streams_wait_for_it(ledger: SlotLedger) -> None:
    assert _take(ledger, [1, 2, 3, 4, 5, 6], "run", BATCH) == AcquiredSlots((1, 2, 3, 4, 5), (6,))
    assert _take(ledger, [7], "streamer", STREAM) == AcquiredSlots((), (7,))

    ledger.release("run", [1])

    assert _take(ledger, [7], "streamer", STREAM) == AcquiredSlots((7,), ())


def test_usage_says_who_uses_what(ledger: SlotLedger) -> None:
    _take(ledger, [1, 2], "streamer", STREAM)
    _take(ledger, [1], "run", BATCH)

    usage = ledger.usage()

    assert [(slot.conid, slot.holder, slot.purpose) for slot in usage.slots] == [
        (1, "run", BATCH),
        (1, "streamer", STREAM),
        (2, "streamer", STREAM),
    ]
    assert (usage.streams, usage.batches, usage.free, usage.free_for_streams) == (2, 1, 2, 1)
    assert (usage.ceiling, usage.batch_floor, ledger.stream_capacity) == (5, 2, 3)


def test_what_a_holder_has_is_granted_again_without_another_line(ledger: SlotLedger) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)

    assert _take(ledger, [3, 3, 1, 9], "streamer", STREAM) == AcquiredSlots((3, 1), (9,))
    assert ledger.usage().streams == 3


def test_a_contract_is_streamed_once_overall(ledger: SlotLedger) -> None:
    _take(ledger, [1], "streamer", STREAM)

    assert _take(ledger, [1, 2], "another", STREAM) == AcquiredSlots((2,), (1,))


def test_several_batches_may_quote_one_contract(ledger: SlotLedger) -> None:
    _take(ledger, [1], "run 1", BATCH)

    assert _take(ledger, [1], "run 2", BATCH).granted == (1,)
    assert ledger.usage().batches == 2


def test_a_holder_has_a_contract_for_one_purpose_only(ledger: SlotLedger) -> None:
    _take(ledger, [1], "streamer", STREAM)

    assert _take(ledger, [1], "streamer", BATCH) == AcquiredSlots((), (1,))


def test_a_slot_that_is_not_renewed_is_free_for_others(ledger: SlotLedger, clock: ManualClock) -> None:
    _take(ledger, [1, 2, 3], "dead", STREAM, ttl=60)
    clock.advance(60)

    assert ledger.usage().slots == ()
    assert _take(ledger, [1, 2, 3], "streamer", STREAM).granted == (1, 2, 3)


def test_a_renewed_slot_lives_on(ledger: SlotLedger, clock: ManualClock) -> None:
    _take(ledger, [1, 2], "streamer", STREAM, ttl=60)
    _take(ledger, [9], "run", BATCH, ttl=60)
    clock.advance(59)

    assert ledger.renew("streamer", ttl_seconds=60) == {1, 2}
    clock.advance(59)

    assert [slot.conid for slot in ledger.usage().slots] == [1, 2]


def test_an_expired_slot_cannot_be_renewed(ledger: SlotLedger, clock: ManualClock) -> None:
    """It may be another's by now: whoever stalled must cancel its subscription."""
    _take(ledger, [1], "stalled", STREAM, ttl=10)
    _take(ledger, [2], "stalled", STREAM, ttl=60)
    clock.advance(10)
    _take(ledger, [1], "streamer", STREAM)

    assert ledger.renew("stalled", ttl_seconds=60) == {2}
    assert [(slot.conid, slot.holder) for slot in ledger.usage().slots] == [(1, "streamer"), (2, "stalled")]


def test_the_rows_of_expired_slots_are_not_renewed_even_before_they_are_swept(
    database: StateDatabase, ledger: SlotLedger, clock: ManualClock
) -> None:
    _take(ledger, [1], "stalled", STREAM, ttl=10)
    now = clock.advance(10)

    with database.write() as connection:
        assert slot_rows.renew(connection, holder="stalled", expires_at=now + timedelta(hours=1), now=now) == set()


def test_releasing_gives_back_only_ones_own(ledger: SlotLedger) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    _take(ledger, [1], "run", BATCH)

    assert ledger.release("streamer", [1, 2, 99]) == 2
    assert [(slot.conid, slot.holder) for slot in ledger.usage().slots] == [(1, "run"), (3, "streamer")]
    assert ledger.release("streamer") == 1
    assert ledger.release("streamer") == 0


def test_a_lower_ceiling_takes_nothing_away_and_grants_nothing(
    database: StateDatabase, ledger: SlotLedger, clock: ManualClock
) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    lower = SlotLedger(database, ceiling=2, batch_floor=1, clock=clock)

    assert _take(lower, [1, 4], "streamer", STREAM) == AcquiredSlots((1,), (4,))
    assert _take(lower, [5], "run", BATCH).granted == ()
    assert (lower.usage().free, lower.usage().free_for_streams) == (0, 0)


@pytest.mark.parametrize(("ceiling", "floor"), [(5, 6), (5, -1), (-1, -1)])
def test_a_ledger_that_cannot_be_is_refused(database: StateDatabase, ceiling: int, floor: int) -> None:
    with pytest.raises(ValueError, match="floor"):
        SlotLedger(database, ceiling=ceiling, batch_floor=floor)
