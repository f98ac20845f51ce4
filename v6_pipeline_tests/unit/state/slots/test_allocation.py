"""Sharing: who gets how much of what streams leave."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.state.slots.allocation import UNCONFIRMED_LINES, UNCONFIRMED_MOST, SlotUsage, fair_shares
from v6_pipeline.state.slots.ceiling import LearnedLimit, LineLimit
from v6_pipeline_tests.unit.state.databases import START


def test_a_share_that_one_does_not_want_goes_to_the_others() -> None:
    assert fair_shares([2, 20, 20], 10) == (2, 4, 4)


def test_what_does_not_divide_goes_to_the_first() -> None:
    assert fair_shares([9, 9, 9, 9], 10) == (3, 3, 2, 2)
    assert fair_shares([5, 5, 5], 2) == (1, 1, 0)


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(-1, 40))
def test_all_that_is_wanted_is_given_and_none_gets_more_than_one_that_wants_more(wants: list[int], total: int) -> None:
    shares = fair_shares(wants, total)

    assert sum(shares) == min(max(total, 0), sum(wants))
    for share, want in zip(shares, wants, strict=True):
        assert 0 <= share <= want
        # Whoever did not get all it wants has at most one less than anyone else.
        assert share == want or share >= max(shares) - 1


# Unconfirmed lines


def new_lines(round_trip: float, known: LearnedLimit | None = None) -> int:
    limit = LineLimit(90, 10, known or LearnedLimit(), START)
    return SlotUsage(slots=(), limit=limit, round_trip_seconds=round_trip).new_lines


@pytest.mark.parametrize(("round_trip", "lines"), [(0.0, 0), (0.02, 0), (0.1, 3), (0.4, 12), (0.6, UNCONFIRMED_MOST)])
def test_as_many_lines_may_be_unconfirmed_as_a_round_trip_takes_to_confirm(round_trip: float, lines: int) -> None:
    assert new_lines(round_trip) == UNCONFIRMED_LINES + lines


def test_after_a_101_half_of_them_and_while_a_line_is_tried_one() -> None:
    learned = LearnedLimit(learned=40, exhausted_at=START - timedelta(minutes=1), probe_at=START + timedelta(minutes=1))
    assert new_lines(0.0, learned) == 1
    assert new_lines(0.4, learned) == 1 + 6

    just_now = LearnedLimit(learned=40, exhausted_at=START - timedelta(seconds=20))
    assert new_lines(0.4, just_now) == 1

    probing = LearnedLimit(learned=40, exhausted_at=START - timedelta(minutes=3), probe_at=START)
    assert new_lines(0.4, probing) == 1

    paused = LearnedLimit(learned=40, exhausted_at=START, retry_at=START + timedelta(seconds=2))
    assert new_lines(0.4, paused) == 0
