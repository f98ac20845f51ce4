"""The back-off rule: one halving per burst, a pause, a floor, and recovery by doubling."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v6_pipeline.state.pacing.throttle import RECOVERY, BackOffRule, RateState, slow_down
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.state.databases import START

RULE = BackOffRule(slowest=2, burst=timedelta(seconds=10), pause=timedelta(seconds=3))
FULL_SPEED = RateState(gateway="127.0.0.1:4002", configured_rate=40, next_at=START)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def violate(state: RateState, *seconds: float, rule: BackOffRule = RULE) -> RateState:
    for second in seconds:
        state = slow_down(state, "100", rule, now=after(second))
    return state


def test_a_violation_halves_the_rate_and_records_why() -> None:
    state = violate(FULL_SPEED, 0)

    assert (state.slowed_to, state.slowed_at, state.slowed_by) == (20, START, "100")
    assert state.rate(START) == 20


def test_violations_of_one_burst_halve_the_rate_once() -> None:
    assert violate(FULL_SPEED, 0, 1, 9.9) == violate(FULL_SPEED, 0)
    assert violate(FULL_SPEED, 0, 10).slowed_to == 10


def test_a_violation_before_the_last_one_counts() -> None:
    """A clock was set back: the row's instant lies in the future, and must not hide violations until then."""
    assert violate(FULL_SPEED, 3600, 0).slowed_to == 10


@pytest.mark.parametrize(("seconds", "rate"), [(59, 20), (60, 40), (3600, 40)])
def test_the_rate_doubles_after_each_quiet_minute_up_to_the_configured_one(seconds: float, rate: float) -> None:
    assert violate(FULL_SPEED, 0).rate(after(seconds)) == rate


def test_a_low_rate_recovers_step_by_step() -> None:
    state = replace(FULL_SPEED, slowed_to=2, slowed_at=START)

    assert [state.rate(START + minutes * RECOVERY) for minutes in range(6)] == [2, 4, 8, 16, 32, 40]
    assert state.rate(START + timedelta(days=3650)) == 40


def test_a_rate_configured_below_the_slowest_is_not_raised() -> None:
    assert violate(replace(FULL_SPEED, configured_rate=1), 0, 20).rate(after(20)) == 1


def test_a_pause_at_the_violation_never_brings_instants_forward() -> None:
    assert violate(FULL_SPEED, 5).next_at == after(8)
    assert violate(replace(FULL_SPEED, next_at=after(60)), 5).next_at == after(60)


def test_a_pause_after_what_is_granted_begins_there() -> None:
    rule = replace(RULE, pause_after_granted=True)

    assert violate(FULL_SPEED, 5, rule=rule).next_at == after(8)
    assert violate(replace(FULL_SPEED, next_at=after(60)), 5, rule=rule).next_at == after(63)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.floats(0, 300), max_size=30), st.floats(0.5, 100), st.booleans())
def test_the_rate_stays_between_the_slowest_and_the_configured_one(
    pauses: list[float], configured: float, after_granted: bool
) -> None:
    state, now = replace(FULL_SPEED, configured_rate=configured), 0.0
    for pause in pauses:
        now += pause
        before = state.next_at
        state = violate(state, now, rule=replace(RULE, pause_after_granted=after_granted))
        assert min(RULE.slowest, configured) <= state.rate(after(now)) <= configured
        assert state.next_at >= before
