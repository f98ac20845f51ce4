"""The slot ledger: grants to holders, and the slots that are not renewed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.slots import ledger as slot_ledger
from v6_pipeline.state.slots import samples as slot_samples
from v6_pipeline.state.slots.allocation import AcquiredSlots, Wait
from v6_pipeline.state.slots.ceiling import PROBE_AFTER, RETRY_AFTER
from v6_pipeline.state.slots.ledger import SlotChanges
from v6_pipeline.state.slots.samples import SlotSample
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import ManualClock

STREAM, BATCH = SlotPurpose.STREAM, SlotPurpose.BATCH


@pytest.fixture
def ledger(database: StateDatabase, clock: ManualClock) -> StepLedger:
    """Five lines, two of which streams cannot take."""
    return StepLedger(database, ceiling=5, batch_floor=2, clock=clock)


def _take(ledger: StepLedger, conids: list[int], holder: str, purpose: SlotPurpose, ttl: float = 60) -> AcquiredSlots:
    """Take lines as a holder does: granted lines are confirmed before the next request."""
    granted: list[int] = []
    while True:
        answer = ledger.acquire(conids, holder=holder, purpose=purpose, ttl_seconds=ttl)
        ledger.confirm(holder, answer.granted)
        granted += [conid for conid in answer.granted if conid not in granted]
        if answer.wait is not Wait.CONFIRM:
            refused = tuple(conid for conid in dict.fromkeys(conids) if conid not in granted)
            return AcquiredSlots(tuple(granted), refused, answer.wait)


def test_streams_leave_the_floor_to_batches(ledger: StepLedger) -> None:
    assert _take(ledger, [4, 3, 2, 1], "streamer", STREAM) == AcquiredSlots((4, 3, 2), (1,))
    assert _take(ledger, [7, 8, 9], "run", BATCH) == AcquiredSlots((7, 8), (9,))


def test_batches_use_what_is_free_and_streams_wait_for_it(ledger: StepLedger) -> None:
    assert _take(ledger, [1, 2, 3, 4, 5, 6], "run", BATCH) == AcquiredSlots((1, 2, 3, 4, 5), (6,))
    assert _take(ledger, [7], "streamer", STREAM) == AcquiredSlots((), (7,))

    ledger.release("run", [1])

    assert _take(ledger, [7], "streamer", STREAM) == AcquiredSlots((7,), ())


def test_a_connected_streamer_frees_the_lines_of_those_before_it(ledger: StepLedger) -> None:
    """Also of epoch 9 before 10; those of a later one, of a batch and of itself stay."""
    for conid, holder in enumerate(["streamer/9", "streamer/10", "streamer/11", "run"], start=1):
        _take(ledger, [conid], holder, BATCH)

    assert ledger.release_earlier_streams("run") == 0
    assert ledger.release_earlier_streams("streamer/10") == 1

    assert {slot.holder for slot in ledger.usage().slots} == {"streamer/10", "streamer/11", "run"}


def test_usage_says_who_uses_what(ledger: StepLedger) -> None:
    _take(ledger, [1, 2], "streamer", STREAM)
    _take(ledger, [1], "run", BATCH)

    usage = ledger.usage()

    assert [(slot.conid, slot.holder, slot.purpose) for slot in usage.slots] == [
        (1, "run", BATCH),
        (1, "streamer", STREAM),
        (2, "streamer", STREAM),
    ]
    assert (usage.streams, usage.batches, usage.free, usage.free_for_streams) == (2, 1, 2, 1)
    assert (usage.ceiling, usage.batch_floor, usage.limit.stream_capacity) == (5, 2, 3)


def test_what_a_holder_has_is_granted_again_without_another_line(ledger: StepLedger) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)

    assert _take(ledger, [3, 3, 1, 9], "streamer", STREAM) == AcquiredSlots((3, 1), (9,))
    assert ledger.usage().streams == 3


def test_a_contract_is_streamed_once_overall(ledger: StepLedger) -> None:
    _take(ledger, [1], "streamer", STREAM)

    assert _take(ledger, [1, 2], "another", STREAM) == AcquiredSlots((2,), (1,))


def test_several_batches_may_quote_one_contract(ledger: StepLedger) -> None:
    _take(ledger, [1], "run 1", BATCH)

    assert _take(ledger, [1], "run 2", BATCH).granted == (1,)
    assert ledger.usage().batches == 2


def test_a_holder_has_a_contract_for_one_purpose_only(ledger: StepLedger) -> None:
    _take(ledger, [1], "streamer", STREAM)

    assert _take(ledger, [1], "streamer", BATCH) == AcquiredSlots((), (1,))


def test_a_slot_that_is_not_renewed_is_free_for_others(ledger: StepLedger, clock: ManualClock) -> None:
    _take(ledger, [1, 2, 3], "dead", STREAM, ttl=60)
    clock.advance(60)

    assert ledger.usage().slots == ()
    assert _take(ledger, [1, 2, 3], "streamer", STREAM).granted == (1, 2, 3)


def test_a_renewed_slot_lives_on(ledger: StepLedger, clock: ManualClock) -> None:
    _take(ledger, [1, 2], "streamer", STREAM, ttl=60)
    _take(ledger, [9], "run", BATCH, ttl=60)
    clock.advance(59)

    assert ledger.renew("streamer", ttl_seconds=60) == {1, 2}
    clock.advance(59)

    assert [slot.conid for slot in ledger.usage().slots] == [1, 2]


def test_an_expired_slot_cannot_be_renewed(ledger: StepLedger, clock: ManualClock) -> None:
    """It may be another's by now: the holder that stalled must cancel its subscription."""
    _take(ledger, [1], "stalled", STREAM, ttl=10)
    _take(ledger, [2], "stalled", STREAM, ttl=60)
    clock.advance(10)
    _take(ledger, [1], "streamer", STREAM)

    assert ledger.renew("stalled", ttl_seconds=60) == {2}
    assert [(slot.conid, slot.holder) for slot in ledger.usage().slots] == [(1, "streamer"), (2, "stalled")]


def test_the_rows_of_expired_slots_are_not_renewed_even_before_they_are_swept(
    database: StateDatabase, ledger: StepLedger, clock: ManualClock
) -> None:
    _take(ledger, [1], "stalled", STREAM, ttl=10)
    now = clock.advance(10)

    with database.write() as connection:
        assert slot_ledger._renew(connection, "stalled", expires_at=now + timedelta(hours=1), now=now) == set()


def test_releasing_gives_back_only_ones_own(ledger: StepLedger) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    _take(ledger, [1], "run", BATCH)

    assert ledger.release("streamer", [1, 2, 99]) == 2
    assert [(slot.conid, slot.holder) for slot in ledger.usage().slots] == [(1, "run"), (3, "streamer")]
    assert ledger.release("streamer") == 1
    assert ledger.release("streamer") == 0


def test_a_lower_ceiling_takes_nothing_away_and_grants_nothing(
    database: StateDatabase, ledger: StepLedger, clock: ManualClock
) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    lower = StepLedger(database, ceiling=2, batch_floor=1, clock=clock)

    assert _take(lower, [1, 4], "streamer", STREAM) == AcquiredSlots((1,), (4,))
    assert _take(lower, [5], "run", BATCH).granted == ()
    assert (lower.usage().free, lower.usage().free_for_streams) == (0, 0)


@pytest.mark.parametrize(("ceiling", "floor"), [(5, 6), (5, -1), (-1, -1)])
def test_a_ledger_that_cannot_be_is_refused(database: StateDatabase, ceiling: int, floor: int) -> None:
    with pytest.raises(ValueError, match="floor"):
        StepLedger(database, ceiling=ceiling, batch_floor=floor)


def test_few_lines_are_unconfirmed_at_a_time_over_all_holders(ledger: StepLedger) -> None:
    """Each of them may draw an error 101 if the limit has fallen."""
    first = ledger.acquire([1, 2, 3], holder="streamer", purpose=STREAM, ttl_seconds=60)
    second = ledger.acquire([7], holder="run", purpose=BATCH, ttl_seconds=60)
    assert (first.granted, first.wait) == ((1, 2), Wait.CONFIRM)
    assert (second.granted, second.wait) == ((), Wait.CONFIRM)

    ledger.confirm("streamer", [1])

    assert ledger.acquire([7, 8], holder="run", purpose=BATCH, ttl_seconds=60).granted == (7,)


def test_a_holder_that_never_confirms_does_not_keep_the_others_waiting(ledger: StepLedger, clock: ManualClock) -> None:
    ledger.acquire([1, 2], holder="stalled", purpose=STREAM, ttl_seconds=60)
    clock.advance(15)

    assert ledger.acquire([7], holder="run", purpose=BATCH, ttl_seconds=60).granted == (7,)
    assert len(ledger.usage().slots) == 3


def test_a_line_that_is_being_cancelled_is_in_use_until_it_is_released(ledger: StepLedger) -> None:
    _take(ledger, [1, 2, 3, 4, 5], "run", BATCH)
    ledger.close("run", [1])

    assert (ledger.usage().free, ledger.usage().standing) == (0, 4)
    assert _take(ledger, [1], "run", BATCH).granted == ()
    ledger.release("run", [1])
    assert _take(ledger, [1], "run", BATCH).granted == (1,)


def test_one_transaction_records_and_acquires(ledger: StepLedger) -> None:
    _take(ledger, [1, 2, 3, 4, 5], "run", BATCH)
    ledger.close("run", [1, 2])

    changes = SlotChanges(released={1, 2}, closing={3})
    answer = ledger.record_and_acquire(changes, [6, 7, 8], holder="run", purpose=BATCH, ttl_seconds=60)

    assert answer.granted == (6, 7)
    ledger.record("run", SlotChanges(confirmed={6}, exhausted={7}))
    assert {slot.conid: slot.is_standing for slot in ledger.usage().slots} == {3: False, 4: True, 5: True, 6: True}


def test_an_error_101_lowers_the_ceiling_to_what_stands_for_every_process(
    database: StateDatabase, ledger: StepLedger, clock: ManualClock
) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    ledger.acquire([4], holder="run", purpose=BATCH, ttl_seconds=60)

    ledger.report_exhausted("run", 4)

    usage = StepLedger(database, ceiling=5, batch_floor=2, clock=clock).usage()
    assert [slot.conid for slot in usage.slots] == [1, 2, 3]
    assert (usage.ceiling, usage.configured_ceiling, usage.limit.stream_capacity) == (3, 5, 2)
    assert usage.learned.reason == "error 101 for contract 4 with 3 lines in use"
    assert usage.learned.learned_at == clock.now


def test_after_an_error_101_no_line_is_requested_for_a_moment_and_then_one_at_a_time(
    ledger: StepLedger, clock: ManualClock
) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    ledger.acquire([4], holder="run", purpose=BATCH, ttl_seconds=60)
    ledger.report_exhausted("run", 4)
    ledger.release("streamer", [2, 3])
    assert ledger.acquire([5, 6], holder="other", purpose=BATCH, ttl_seconds=60).wait is Wait.PAUSE

    clock.advance(RETRY_AFTER.total_seconds())

    answer = ledger.acquire([5, 6], holder="other", purpose=BATCH, ttl_seconds=60)
    assert (answer.granted, answer.wait) == ((5,), Wait.CONFIRM)


def test_lines_are_tried_for_one_by_one_and_a_restored_limit_is_found(ledger: StepLedger, clock: ManualClock) -> None:
    _take(ledger, [1, 2], "streamer", STREAM)
    ledger.acquire([3], holder="streamer", purpose=STREAM, ttl_seconds=600)
    ledger.report_exhausted("streamer", 3)
    ledger.renew("streamer", ttl_seconds=600)
    assert (ledger.usage().ceiling, ledger.usage().limit.stream_target) == (2, 1)
    clock.advance(PROBE_AFTER[0].total_seconds())
    assert ledger.usage().limit.stream_target == 3

    assert _take(ledger, [7, 8, 9], "run", BATCH).granted == (7, 8, 9)

    assert ledger.usage().learned.learned is None
    assert ledger.usage().ceiling == 5


def test_streams_that_find_too_few_lines_make_batches_yield_down_to_their_floor(
    ledger: StepLedger, clock: ManualClock
) -> None:
    for conid in range(1, 6):
        _take(ledger, [conid], "run 1" if conid % 2 else "run 2", BATCH)
        clock.advance(1)

    answer = ledger.acquire([7, 8, 9, 10], holder="streamer", purpose=STREAM, ttl_seconds=60)

    assert (answer.granted, answer.wait) == ((), Wait.LINES)
    assert ledger.usage().stream_demand == 3
    # Three of five, the oldest first.
    assert [*map(sorted, (ledger.to_yield("run 1"), ledger.to_yield("run 2")))] == [[1, 3], [2]]
    ledger.close("run 1", [1, 3])
    assert [*map(sorted, (ledger.to_yield("run 1"), ledger.to_yield("run 2")))] == [[], [2]]
    ledger.release("run 1", [1, 3])
    assert _take(ledger, [7, 8, 9, 10], "streamer", STREAM).granted == (7, 8)


def test_while_streams_wait_batches_take_nothing_beyond_their_floor(ledger: StepLedger) -> None:
    _take(ledger, [1, 2, 3, 4, 5], "run", BATCH)
    ledger.acquire([7, 8, 9], holder="streamer", purpose=STREAM, ttl_seconds=60)
    ledger.release("run", [1, 2, 3, 4])

    assert _take(ledger, [11, 12, 13], "another run", BATCH).granted == (11,)
    assert _take(ledger, [7, 8, 9], "streamer", STREAM).granted == (7, 8, 9)
    assert ledger.usage().stream_demand == 0


def test_a_demand_that_is_not_repeated_is_forgotten(ledger: StepLedger, clock: ManualClock) -> None:
    _take(ledger, [1, 2, 3, 4, 5], "run", BATCH)
    ledger.acquire([7], holder="streamer", purpose=STREAM, ttl_seconds=60)
    clock.advance(5)

    assert ledger.to_yield("run") == set()


def test_streams_never_yield_to_batches(ledger: StepLedger) -> None:
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    _take(ledger, [7, 8], "run 1", BATCH)

    assert ledger.acquire([9], holder="run 2", purpose=BATCH, ttl_seconds=60).wait is Wait.LINES
    assert ledger.to_yield("streamer") == set()
    assert ledger.to_yield("run 1") == set()


def test_batches_keep_their_floor_although_the_ceiling_falls_below_what_streams_use(
    ledger: StepLedger, clock: ManualClock
) -> None:
    """It is for the streams to be shed."""
    _take(ledger, [1, 2, 3], "streamer", STREAM)
    _take(ledger, [7], "run", BATCH)
    for conid in (8, 9):
        ledger.acquire([conid], holder="run", purpose=BATCH, ttl_seconds=60)
        ledger.report_exhausted("run", conid)
        clock.advance(RETRY_AFTER.total_seconds())

    usage = ledger.usage()
    assert (usage.ceiling, usage.batch_floor, len(usage.slots)) == (2, 1, 4)
    assert ledger.to_yield("run") == frozenset()


def test_a_sample_of_the_usage_is_kept_once_a_minute(
    ledger: StepLedger, database: StateDatabase, clock: ManualClock
) -> None:
    _take(ledger, [1, 2], "streamer", STREAM)
    _take(ledger, [3], "run", BATCH)
    begun = clock.now

    def kept() -> list[SlotSample]:
        ledger.sample()
        with database.read() as connection:
            return list(slot_samples.between(connection, begun - timedelta(days=1), clock.now))

    first = SlotSample(at=begun, streams=2, batches=1, ceiling=5)
    assert kept() == [first]
    clock.advance(59)
    assert kept() == [first]
    clock.advance(1)
    assert [sample.at for sample in kept()] == [begun, clock.now]
    clock.advance(-90)  # set back
    assert [sample.at for sample in kept()] == [clock.now]
