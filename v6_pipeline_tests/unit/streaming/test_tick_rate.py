"""The longest silence that is normal for a feed follows from its tick rate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.streaming.tick_rate import MOST_QUICK, QUICK_WITHIN, SILENT_AFTER, SUSPICIOUS_AFTER, TickRate

BEGIN = datetime(2026, 3, 2, 15, tzinfo=UTC)


def ticking(*, every: float, seconds: float, tick_rate: TickRate | None = None, begin: datetime = BEGIN) -> TickRate:
    """A feed that ticked every so many seconds for so long."""
    tick_rate = tick_rate or TickRate()
    for number in range(int(seconds / every) + 1):
        tick_rate.ticked(begin + timedelta(seconds=number * every))
    return tick_rate


@pytest.mark.parametrize(
    ("every", "least", "most"),
    [(0.025, 20, 20), (0.5, 20, 20), (1, 20, 20), (2, 20, 25), (4, 40, 50), (10, 90, 90), (60, 90, 90)],
)
def test_the_more_often_it_ticks_the_sooner_it_is_missed(every: float, least: float, most: float) -> None:
    tick_rate = ticking(every=every, seconds=600)
    assert least <= tick_rate.timeout(BEGIN).total_seconds() <= most


def test_without_a_tick_the_timeout_is_the_longest() -> None:
    assert TickRate().timeout(BEGIN) == SILENT_AFTER


def test_a_few_ticks_are_no_rate() -> None:
    assert ticking(every=0.6, seconds=1.8).timeout(BEGIN) == SILENT_AFTER
    assert ticking(every=60, seconds=60).timeout(BEGIN) == SILENT_AFTER


def test_what_ticks_together_is_one_tick() -> None:
    """Eighty options, all of one underlying that moved twice in a minute."""
    tick_rate = TickRate()
    for second in (0, 1, 30, 60):
        for _ in range(80):
            tick_rate.ticked(BEGIN + timedelta(seconds=second))
    assert tick_rate.timeout(BEGIN) == SILENT_AFTER


def test_three_seconds_of_one_lively_contract_suffice_to_miss_it_within_half_a_minute() -> None:
    assert ticking(every=0.5, seconds=3).timeout(BEGIN) < timedelta(seconds=30)


def test_a_gateway_that_stood_still_for_a_while_hardly_changes_it() -> None:
    tick_rate = ticking(every=1, seconds=300)
    ticking(every=1, seconds=1, tick_rate=tick_rate, begin=BEGIN + timedelta(seconds=315))
    assert tick_rate.timeout(BEGIN) < timedelta(seconds=27)


def test_what_slows_down_is_given_more_time() -> None:
    tick_rate = ticking(every=1, seconds=300)
    ticking(every=15, seconds=120, tick_rate=tick_rate, begin=BEGIN + timedelta(seconds=315))
    assert tick_rate.timeout(BEGIN) == SILENT_AFTER


def test_the_time_of_an_outage_does_not_count() -> None:
    tick_rate = ticking(every=1, seconds=300)
    tick_rate.pause()
    tick_rate.ticked(BEGIN + timedelta(hours=1))
    assert tick_rate.timeout(BEGIN) == SUSPICIOUS_AFTER


def test_the_rate_is_measured_again_after_the_feed_was_taken_for_dead() -> None:
    tick_rate = ticking(every=1, seconds=300)
    tick_rate.restart(BEGIN, after=SUSPICIOUS_AFTER)
    assert tick_rate.timeout(BEGIN) == SILENT_AFTER
    ticking(every=1, seconds=10, tick_rate=tick_rate)
    assert tick_rate.timeout(BEGIN) < timedelta(seconds=25)


def test_a_feed_that_is_taken_for_dead_too_often_is_given_the_longest_time() -> None:
    tick_rate = TickRate()
    for _ in range(MOST_QUICK):
        ticking(every=1, seconds=60, tick_rate=tick_rate)
        assert tick_rate.timeout(BEGIN) == SUSPICIOUS_AFTER
        tick_rate.restart(BEGIN, after=SUSPICIOUS_AFTER)
    ticking(every=1, seconds=60, tick_rate=tick_rate)
    assert tick_rate.timeout(BEGIN) == SILENT_AFTER
    assert tick_rate.timeout(BEGIN + QUICK_WITHIN) == SUSPICIOUS_AFTER
