"""Which streams never tick, and what becomes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.streaming.streamed_contracts import REST, SILENT_AFTER, Silence

NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)


@pytest.fixture
def silence() -> Silence:
    """Contract 1 has been mute for a minute, while 2 ticks."""
    silence = Silence()
    silence.subscribed(1, NOW - SILENT_AFTER)
    silence.subscribed(2, NOW - SILENT_AFTER)
    silence.ticked(2, NOW)
    return silence


def test_a_stream_without_any_tick_is_silent_after_a_while(silence: Silence) -> None:
    assert silence.silent(NOW - timedelta(seconds=1)) == frozenset()
    assert silence.silent(NOW) == frozenset({1})


def test_while_nothing_ticks_nothing_is_silent(silence: Silence) -> None:
    """The exchange is closed."""
    assert silence.silent(NOW + SILENT_AFTER) == frozenset()


def test_a_stream_that_ticked_once_is_not_silent(silence: Silence) -> None:
    silence.ticked(1, NOW)

    assert silence.silent(NOW) == frozenset()


def test_one_that_lost_its_line_rests_and_is_tried_again_later(silence: Silence) -> None:
    silence.cancelled([1, 2], NOW)

    assert silence.silent(NOW + REST - timedelta(seconds=1)) == frozenset({1})
    assert silence.silent(NOW + REST) == frozenset()


def test_one_that_was_refused_a_line_is_not_silent(silence: Silence) -> None:
    silence.lost([1])

    assert silence.silent(NOW) == frozenset()


def test_the_silence_of_one_that_was_refused_begins_with_its_next_line(silence: Silence) -> None:
    silence.lost([1])
    silence.subscribed(1, NOW)
    silence.ticked(2, NOW + SILENT_AFTER - timedelta(seconds=1))

    assert silence.silent(NOW + SILENT_AFTER - timedelta(seconds=1)) == frozenset()
    silence.ticked(2, NOW + SILENT_AFTER)
    assert silence.silent(NOW + SILENT_AFTER) == frozenset({1})


def test_one_that_ticks_after_all_rests_no_more(silence: Silence) -> None:
    """Nobody else wanted the line, so that it got one while it rested."""
    silence.cancelled([1], NOW)
    silence.subscribed(1, NOW)
    silence.ticked(1, NOW)

    assert silence.silent(NOW) == frozenset()


def test_a_new_session_knows_nothing_of_it(silence: Silence) -> None:
    silence.begin_session()

    assert silence.silent(NOW) == frozenset()
