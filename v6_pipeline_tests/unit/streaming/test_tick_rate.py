"""How long a silence may last follows from how often there was none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.streaming.tick_rate import MOST_QUICK, QUICK_WITHIN, SILENT_AFTER, SUSPICIOUS_AFTER, Rhythm

BEGIN = datetime(2026, 3, 2, 15, tzinfo=UTC)


def heard(*, every: float, seconds: float, rhythm: Rhythm | None = None, begin: datetime = BEGIN) -> Rhythm:
    """A feed that ticked every so many seconds for so long."""
    rhythm = rhythm or Rhythm()
    for number in range(int(seconds / every) + 1):
        rhythm.heard(begin + timedelta(seconds=number * every))
    return rhythm


@pytest.mark.parametrize(
    ("every", "least", "most"),
    [(0.025, 20, 20), (0.5, 20, 20), (1, 20, 20), (2, 20, 25), (4, 40, 50), (10, 90, 90), (60, 90, 90)],
)
def test_the_more_often_it_ticks_the_sooner_it_is_missed(every: float, least: float, most: float) -> None:
    rhythm = heard(every=every, seconds=600)
    assert least <= rhythm.patience(BEGIN).total_seconds() <= most


def test_of_what_was_never_heard_nothing_is_known() -> None:
    assert Rhythm().patience(BEGIN) == SILENT_AFTER


def test_a_few_ticks_are_no_rhythm() -> None:
    assert heard(every=0.6, seconds=1.8).patience(BEGIN) == SILENT_AFTER
    assert heard(every=60, seconds=60).patience(BEGIN) == SILENT_AFTER


def test_what_ticks_together_is_one_tick() -> None:
    """Eighty options, all of one underlying that moved twice in a minute."""
    rhythm = Rhythm()
    for second in (0, 1, 30, 60):
        for _ in range(80):
            rhythm.heard(BEGIN + timedelta(seconds=second))
    assert rhythm.patience(BEGIN) == SILENT_AFTER


def test_three_seconds_of_one_lively_contract_suffice_to_miss_it_within_half_a_minute() -> None:
    assert heard(every=0.5, seconds=3).patience(BEGIN) < timedelta(seconds=30)


def test_a_gateway_that_stood_still_for_a_while_hardly_changes_it() -> None:
    rhythm = heard(every=1, seconds=300)
    heard(every=1, seconds=1, rhythm=rhythm, begin=BEGIN + timedelta(seconds=315))
    assert rhythm.patience(BEGIN) < timedelta(seconds=27)


def test_what_slows_down_is_given_more_time() -> None:
    rhythm = heard(every=1, seconds=300)
    heard(every=15, seconds=120, rhythm=rhythm, begin=BEGIN + timedelta(seconds=315))
    assert rhythm.patience(BEGIN) == SILENT_AFTER


def test_the_time_of_an_outage_does_not_count() -> None:
    rhythm = heard(every=1, seconds=300)
    rhythm.pause()
    rhythm.heard(BEGIN + timedelta(hours=1))
    assert rhythm.patience(BEGIN) == SUSPICIOUS_AFTER


def test_after_it_was_taken_for_dead_its_rhythm_is_learned_anew() -> None:
    rhythm = heard(every=1, seconds=300)
    rhythm.acted(BEGIN, after=SUSPICIOUS_AFTER)
    assert rhythm.patience(BEGIN) == SILENT_AFTER
    heard(every=1, seconds=10, rhythm=rhythm)
    assert rhythm.patience(BEGIN) < timedelta(seconds=25)


def test_a_feed_that_is_taken_for_dead_too_often_is_given_the_longest_time() -> None:
    rhythm = Rhythm()
    for _ in range(MOST_QUICK):
        heard(every=1, seconds=60, rhythm=rhythm)
        assert rhythm.patience(BEGIN) == SUSPICIOUS_AFTER
        rhythm.acted(BEGIN, after=SUSPICIOUS_AFTER)
    heard(every=1, seconds=60, rhythm=rhythm)
    assert rhythm.patience(BEGIN) == SILENT_AFTER
    assert rhythm.patience(BEGIN + QUICK_WITHIN) == SUSPICIOUS_AFTER
