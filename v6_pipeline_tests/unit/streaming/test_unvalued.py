"""Contracts that hold a line without a value: when the queue is to value them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.streaming.unvalued import Unvalued

START = datetime(2026, 3, 2, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def unvalued() -> Unvalued:
    return Unvalued(5 * MINUTE)


def test_one_without_a_value_for_long_is_due_and_again_after_the_same_time(unvalued: Unvalued) -> None:
    unvalued.look([1], [2], START)
    assert unvalued.due(START + 4 * MINUTE) == []
    assert unvalued.due(START + 5 * MINUTE) == [2]
    assert unvalued.due(START + 6 * MINUTE) == [2], "until it is queued"
    unvalued.queued([2], START + 6 * MINUTE)
    assert unvalued.due(START + 10 * MINUTE) == []
    assert unvalued.due(START + 11 * MINUTE) == [2]


def test_a_value_begins_the_time_anew(unvalued: Unvalued) -> None:
    unvalued.look([], [2], START)
    unvalued.look([2], [], START + 3 * MINUTE)
    unvalued.look([], [2], START + 4 * MINUTE)
    assert unvalued.due(START + 8 * MINUTE) == []
    assert unvalued.due(START + 9 * MINUTE) == [2]


def test_one_that_is_subscribed_anew_stays_without_a_value_meanwhile(unvalued: Unvalued) -> None:
    unvalued.look([], [2], START)
    unvalued.look([], [], START + 3 * MINUTE)
    assert unvalued.due(START + 5 * MINUTE) == [2]


def test_one_that_lost_its_line_is_forgotten(unvalued: Unvalued) -> None:
    unvalued.look([], [2, 3], START)
    unvalued.keep({3})
    assert unvalued.due(START + 5 * MINUTE) == [3]
