"""Historical requests: the rate of all processes, and how many may be open at once."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.pacing import historical as pacing
from v6_pipeline.state.pacing.historical import BACK_OFF, MOST_OPEN, grant
from v6_pipeline.state.pacing.throttle import RECOVERY, RateState, slow_down
from v6_pipeline_tests.unit.state.databases import START, ManualClock

GATEWAY = "127.0.0.1:4002"


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


# The rate of all requests


def test_instants_of_all_processes_lie_a_request_apart(database: StateDatabase) -> None:
    instants = []
    for _ in range(3):
        with database.write() as connection:
            instants.append(pacing.take(connection, GATEWAY, configured_rate=10, now=START))

    assert [(instant - START).total_seconds() for instant in instants] == pytest.approx([0, 0.1, 0.2])


def test_idle_time_is_not_saved_up() -> None:
    state, _ = grant(RateState(gateway=GATEWAY, configured_rate=10, next_at=START), now=START)
    state, first = grant(state, now=after(60))
    _, second = grant(state, now=after(60))

    assert (first, second) == (after(60), after(60.1))


def test_a_refusal_halves_the_rate_for_all_pauses_and_recovers(database: StateDatabase, clock: ManualClock) -> None:
    with database.write() as connection:
        left = pacing.back_off(connection, GATEWAY, reason="162 pacing", configured_rate=8, now=clock())
        same = pacing.back_off(connection, GATEWAY, reason="162 pacing", configured_rate=8, now=clock.advance(1))
        first = pacing.take(connection, GATEWAY, configured_rate=8, now=clock())
        second = pacing.take(connection, GATEWAY, configured_rate=8, now=clock())

    assert (left, same) == (4, 4)
    assert first == START + BACK_OFF.pause
    assert second - first == timedelta(seconds=1 / 4)
    clock.advance(RECOVERY.total_seconds())
    with database.write() as connection:
        first = pacing.take(connection, GATEWAY, configured_rate=8, now=clock())
        second = pacing.take(connection, GATEWAY, configured_rate=8, now=clock())
    assert second - first == timedelta(seconds=1 / 8)


def test_refusals_never_lower_the_rate_below_the_slowest() -> None:
    state = RateState(gateway=GATEWAY, configured_rate=10, next_at=START)
    for number in range(20):
        state = slow_down(state, "162 pacing", BACK_OFF, now=after(11 * number))

    assert state.slowed_to == BACK_OFF.slowest


def test_a_row_of_a_wrong_clock_delays_no_request() -> None:
    state = RateState(gateway=GATEWAY, configured_rate=10, next_at=after(86_400))

    assert grant(state, now=START)[1] == START


# How many may be open


def lease(database: StateDatabase, holder: str, wanted: int, at: float = 0) -> int:
    with database.write() as connection:
        return pacing.lease_permits(connection, GATEWAY, holder, wanted, ttl_seconds=60, now=after(at))


def test_all_processes_together_hold_no_more_than_the_permits(database: StateDatabase) -> None:
    assert [lease(database, holder, 25) for holder in "abc"] == [25, MOST_OPEN - 25, 0]
    with database.write() as connection:
        pacing.release_permits(connection, GATEWAY, "a")
    assert lease(database, "c", 25) == 25


def test_permits_of_a_dead_process_expire(database: StateDatabase) -> None:
    lease(database, "a", MOST_OPEN)

    assert lease(database, "b", 5, at=59) == 0
    assert lease(database, "b", 5, at=60) == 5


def test_renewed_permits_stay(database: StateDatabase) -> None:
    lease(database, "a", MOST_OPEN)
    assert lease(database, "a", MOST_OPEN, at=50) == MOST_OPEN

    assert lease(database, "b", 5, at=100) == 0


def test_head_room_is_left_to_ibs_limit() -> None:
    assert MOST_OPEN < pacing.OPEN_AT_IB
