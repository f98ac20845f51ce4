"""The ceiling that is learned from error 101: data in, data out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from v6_pipeline.state.slots.ceiling import CAREFUL_FOR, LearnedLimit, LineLimit, after_confirmed, after_exhausted
from v6_pipeline_tests.unit.state.databases import START

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def limit(known: LearnedLimit, *, after: timedelta = timedelta()) -> LineLimit:
    return LineLimit(90, 10, known, START + after)


def exhausted(known: LearnedLimit, standing: int, *, after: timedelta = timedelta()) -> LearnedLimit:
    """A line that was granted a moment before."""
    found = limit(known, after=after)
    return after_exhausted(found, conid=7, granted_at=found.at - SECOND / 10, standing=standing)


def confirmed(known: LearnedLimit, *, used: int, streams: int, after: timedelta) -> LearnedLimit:
    found = limit(known, after=after)
    return after_confirmed(found, granted_at=found.at, standing=used, used=used, streams=streams)


def test_the_first_lowers_the_ceiling_to_what_stands() -> None:
    known = exhausted(LearnedLimit(), 85)

    assert (known.learned, known.learned_at, known.exhaustions) == (85, START, 1)
    assert limit(known).stream_capacity == 75


def test_a_second_one_with_nothing_granted_in_between_halves_it() -> None:
    known = exhausted(exhausted(LearnedLimit(), 85), 75, after=3 * SECOND)

    assert known.learned == 37
    assert known.reason == "error 101 for contract 7 with 75 lines in use, 2 in a row"


def test_half_is_a_guess_so_that_more_is_tried_soon_but_only_once() -> None:
    """A gateway of 23 lines that had kept 25 was used with 12 for two minutes."""
    halved = exhausted(exhausted(LearnedLimit(), 25), 25, after=3 * SECOND)
    assert not limit(halved, after=22 * SECOND).is_probing
    assert limit(halved, after=23 * SECOND).is_probing

    halved_again = exhausted(halved, 12, after=24 * SECOND)
    assert not limit(halved_again, after=2 * MINUTE).is_probing
    assert limit(halved_again, after=5 * MINUTE).is_probing


def test_a_line_that_was_granted_in_between_makes_the_next_one_a_first_one_again() -> None:
    known = exhausted(LearnedLimit(), 85)
    known = confirmed(known, used=60, streams=55, after=3 * SECOND)

    assert exhausted(known, 60, after=4 * SECOND).learned == 60


def test_a_line_requested_before_the_last_101_was_known_proves_nothing() -> None:
    """Two were under way when the limit fell."""
    first = exhausted(LearnedLimit(), 85)

    second = after_exhausted(limit(first), conid=8, granted_at=START - SECOND, standing=85)
    third = after_confirmed(limit(first), granted_at=START - SECOND, standing=86, used=86, streams=80)

    assert second == replace(first, exhaustions=2)
    assert third == first


def test_attempts_after_consecutive_ones_are_spaced_ever_wider() -> None:
    known, waits, at = LearnedLimit(), [], timedelta()
    for _ in range(8):
        known = exhausted(known, 80, after=at)
        assert known.retry_at is not None
        waits.append((known.retry_at - START - at).total_seconds())
        assert limit(known, after=at).is_paused
        at = known.retry_at - START
        assert not limit(known, after=at).is_paused
    assert waits == [2, 4, 8, 16, 32, 64, 120, 120]


def test_more_is_tried_after_2_then_4_then_every_8_minutes() -> None:
    known, intervals, at = exhausted(LearnedLimit(), 40), [], timedelta()
    for _ in range(4):
        assert known.probe_at is not None
        intervals.append((known.probe_at - START - at) / MINUTE)
        at = known.probe_at - START
        assert limit(known, after=at).is_probing
        known = confirmed(known, used=40, streams=30, after=at)
        known = exhausted(known, 40, after=at + SECOND)
        at += SECOND
        assert not limit(known, after=at).is_probing
    assert intervals == [2, 4, 8, 8]
    assert known.learned == 40


def test_a_fall_between_two_attempts_begins_with_the_shortest_interval_again() -> None:
    known = replace(exhausted(LearnedLimit(), 40), probes=2)

    known = exhausted(confirmed(known, used=35, streams=30, after=MINUTE), 30, after=MINUTE + SECOND)

    assert known.probe_at == START + MINUTE + SECOND + 2 * MINUTE


def test_each_line_that_is_granted_beyond_it_raises_the_ceiling_by_one() -> None:
    known = confirmed(exhausted(LearnedLimit(), 40), used=41, streams=30, after=2 * MINUTE)
    assert known.learned == 41

    # Batches are idle: a stream beyond its part of the ceiling counts as well.
    known = confirmed(known, used=32, streams=32, after=2 * MINUTE)
    assert known.learned == 42


def test_lines_that_are_being_cancelled_when_an_attempt_ends_are_not_forgotten() -> None:
    """They were all there together a moment ago."""
    known = confirmed(exhausted(LearnedLimit(), 39), used=40, streams=30, after=2 * MINUTE)

    assert exhausted(known, 34, after=2 * MINUTE + SECOND).learned == 40


def test_before_the_attempt_nothing_raises_it() -> None:
    known = exhausted(LearnedLimit(), 40)

    assert confirmed(known, used=45, streams=44, after=MINUTE).learned == 40


def test_at_the_configured_ceiling_all_is_forgotten_but_care() -> None:
    known = confirmed(exhausted(LearnedLimit(), 89), used=85, streams=80, after=2 * MINUTE)

    assert (known.learned, known.exhaustions) == (None, 0)
    assert limit(known, after=2 * MINUTE).is_careful
    assert not limit(known, after=CAREFUL_FOR).is_careful


@pytest.mark.parametrize(
    ("learned", "streams"), [(0, 0), (1, 1), (2, 1), (3, 2), (19, 10), (20, 10), (21, 11), (40, 30)]
)
def test_of_a_small_ceiling_half_is_left_to_batches(learned: int, streams: int) -> None:
    """Ten of ten would end every stream."""
    assert limit(LearnedLimit(learned=learned)).stream_capacity == streams


@pytest.mark.parametrize("streams", range(1, 81))
def test_every_number_of_streams_has_its_least_ceiling(streams: int) -> None:
    least = limit(LearnedLimit()).ceiling_for_streams(streams)

    assert limit(LearnedLimit(learned=least)).stream_capacity == streams
    assert limit(LearnedLimit(learned=least - 1)).stream_capacity == streams - 1


def test_a_ceiling_above_the_configured_one_is_none() -> None:
    """The settings were lowered since."""
    assert limit(LearnedLimit(learned=95)).ceiling == 90
    assert not limit(LearnedLimit(learned=95)).is_learned
