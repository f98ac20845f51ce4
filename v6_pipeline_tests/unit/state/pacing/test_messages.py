"""The message allowance: one row hands out send instants to all processes, slows them down and lets them recover."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.pacing import messages as pacing
from v6_pipeline.state.pacing.messages import BACK_OFF, IB_LIMIT, JITTER, TOLERANCE, PacingState, grant
from v6_pipeline.state.pacing.throttle import slow_down
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.state.databases import START, ManualClock

GATEWAY = "127.0.0.1:4002"
RATE = 45
SPACING = timedelta(microseconds=26_000)


def take(
    database: StateDatabase,
    count: int,
    now: datetime,
    *,
    rate: float = RATE,
    announce: bool = False,
    share: bool = False,
) -> list[float]:
    """Instants as seconds from now."""
    with database.write() as connection:
        instants = pacing.take(
            connection, GATEWAY, count, configured_rate=rate, clock=lambda: now, announce=announce, from_shares=share
        )
    return [(instant - now).total_seconds() for instant in instants]


def back_off(database: StateDatabase, now: datetime) -> pacing.PacingReport:
    with database.write() as connection:
        return pacing.back_off(connection, GATEWAY, reason="100 too fast", configured_rate=RATE, clock=lambda: now)


def report(database: StateDatabase, now: datetime) -> pacing.PacingReport:
    with database.read() as connection:
        return pacing.describe(connection, now=now)[0]


# Instants


def test_instants_of_all_processes_lie_a_message_apart(database: StateDatabase) -> None:
    first, second = take(database, 3, START), take(database, 2, START)

    assert first + second == pytest.approx([index * SPACING.total_seconds() for index in range(5)])


def test_a_lone_message_leaves_at_once(database: StateDatabase, clock: ManualClock) -> None:
    take(database, 1, clock())
    clock.advance(10)

    assert take(database, 1, clock()) == [0]


def test_idle_time_is_not_saved_up(database: StateDatabase, clock: ManualClock) -> None:
    take(database, 1, clock())
    clock.advance(3_600)

    assert take(database, 2, clock())[1] == pytest.approx(SPACING.total_seconds())


def test_a_grant_is_small_so_that_a_dead_process_wastes_little(database: StateDatabase) -> None:
    assert len(take(database, 500, START)) == 11
    assert len(take(database, 500, START, rate=1)) == 11  # the rate in force is the row's, not the asker's


def test_gateways_do_not_share(database: StateDatabase) -> None:
    take(database, 11, START)
    with database.write() as connection:
        other = pacing.take(connection, "other:4002", 1, configured_rate=RATE, clock=lambda: START)

    assert other == (START,)


def test_a_slow_asker_gets_instants_that_it_can_still_use(database: StateDatabase) -> None:
    with database.write() as connection:
        instants = pacing.take(connection, GATEWAY, 2, configured_rate=RATE, clock=lambda: START, commit_seconds=0.3)

    assert instants[0] == START + timedelta(seconds=0.3)


def test_the_process_that_started_last_sets_the_rate_for_all(database: StateDatabase) -> None:
    take(database, 1, START, announce=True)
    take(database, 1, START, rate=10, announce=True)

    assert report(database, START).configured_rate == 10
    old = take(database, 2, START)  # by a process that still has the old setting
    assert old[1] - old[0] == pytest.approx(0.105)


def test_a_pointer_that_no_grant_can_have_reached_is_set_back(database: StateDatabase) -> None:
    """It was written under a clock that was an hour ahead: no process waits an hour for it."""
    take(database, 1, START + timedelta(hours=1))

    assert take(database, 1, START) == [1.0]


def test_what_all_processes_hold_is_waited_for(database: StateDatabase) -> None:
    held = [take(database, 500, START) for _ in range(pacing.SHARES)]

    assert held[-1][-1] == pytest.approx((pacing.SHARES * 11 - 1) * SPACING.total_seconds())


# The bound


ASKS = st.lists(
    st.tuples(
        st.floats(0, 0.5) | st.sampled_from([0.0, 5.0, 61.0]),
        st.integers(1, 40),
        st.floats(0, 0.3),
        st.integers(0, 30).map(lambda number: number == 0),
    ),
    min_size=5,
    max_size=40,
)
"""(seconds since the ask before, messages, seconds until the grant can be used, whether an error comes first)."""


@settings(max_examples=examples(60), deadline=None)
@given(asks=ASKS, random=st.randoms(use_true_random=False))
def test_no_rolling_second_holds_more_than_the_bound(
    asks: list[tuple[float, int, float, bool]], random: Random
) -> None:
    """Any number of processes with any delays: each ask may be another's; late instants are not used."""
    state = PacingState(gateway="", configured_rate=RATE, next_at=START)
    now, sent = START, list[float]()
    for gap, count, late, error in asks:
        now += timedelta(seconds=gap)
        if error:
            state = slow_down(state, "100", BACK_OFF, now=now)
        state, instants = grant(state, count, now=now, earliest=now)
        for instant in instants:
            delay = TOLERANCE * random.choice([0.0, 1.0, random.random()])
            moment = max(instant + delay, now + timedelta(seconds=late))
            if moment <= instant + TOLERANCE:
                sent.append((moment - START).total_seconds())

    assert _peak(sent) <= 45


@settings(max_examples=examples(60), deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=15, max_size=40),
    stalls=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=6),
    rate=st.sampled_from([RATE, 50, 30]),
    random=st.randoms(use_true_random=False),
)
def test_no_rolling_second_of_the_gateways_count_holds_more_than_ibs_limit(
    counts: list[int], stalls: list[float], rate: float, random: Random
) -> None:
    """A gateway that reads nothing for up to ``JITTER``, again and again, while processes send all they may."""
    state, now, read = PacingState(gateway="", configured_rate=rate, next_at=START), START, list[float]()
    for count in counts:
        state, instants = grant(state, count, now=now, earliest=now)
        for instant in instants:
            sent = instant + TOLERANCE * random.choice([0.0, 1.0, random.random()])
            read.append(_read_at((sent - START).total_seconds(), stalls))
        now = max(now, instants[0])

    assert _peak(read) <= IB_LIMIT


def test_a_stall_of_the_whole_jitter_fills_ibs_limit_and_no_more() -> None:
    """The tightest case: messages leave late before the stall, and in time after it."""
    state = PacingState(gateway="", configured_rate=RATE, next_at=START)
    instants = list[float]()
    while len(instants) < 200:
        state, granted = grant(state, 40, now=START, earliest=START)
        instants += [(instant - START).total_seconds() for instant in granted]
    begin, tolerance = 1.0, TOLERANCE.total_seconds()
    end = begin + JITTER.total_seconds()

    read = [max(instant + tolerance, end) if begin - tolerance <= instant < end else instant for instant in instants]

    assert IB_LIMIT - 1 <= _peak(read) <= IB_LIMIT


def test_a_rate_above_ibs_default_limit_is_the_bound_itself() -> None:
    """More than 100 lines: the settings say what IB grants, and leave the margin."""
    assert pacing.spacing(90) == timedelta(microseconds=14_445)
    assert pacing.spacing(10) == timedelta(microseconds=105_000), "far below the limit the margin costs nothing"


def _read_at(sent: float, stalls: list[float]) -> float:
    """Return when the gateway reads a message: after the stall in which it arrived, if any."""
    begin = 0.0
    for gap in stalls:
        begin += gap
        end = begin + JITTER.total_seconds()
        if begin <= sent < end:
            return end
        begin = end
    return sent


def _peak(seconds: list[float]) -> int:
    """Count as the gateway does: an event exactly one second old is out of the window."""
    return max((sum(end - 1 < other <= end for other in seconds) for end in seconds), default=0)


# Errors


def test_an_error_halves_the_rate_of_all_processes_and_pauses_them(database: StateDatabase) -> None:
    take(database, 1, START)

    assert back_off(database, START).current_rate == 22.5
    other = take(database, 2, START)
    assert other[0] >= 1
    assert other[1] - other[0] == pytest.approx(1.05 / 22.5, abs=1e-5)


def test_several_reports_of_one_burst_count_once(database: StateDatabase, clock: ManualClock) -> None:
    back_off(database, clock())
    assert back_off(database, clock.advance(4.9)).current_rate == 22.5
    assert back_off(database, clock.advance(0.1)).current_rate == 11.25


def test_the_rate_never_falls_below_what_heartbeats_need(database: StateDatabase, clock: ManualClock) -> None:
    for _ in range(10):
        slowest = back_off(database, clock.advance(10))

    assert slowest.current_rate == 5


def test_the_rate_doubles_after_each_quiet_minute_up_to_the_configured_one(
    database: StateDatabase, clock: ManualClock
) -> None:
    for _ in range(3):
        back_off(database, clock.advance(10))

    rates = [report(database, clock()).current_rate] + [
        report(database, clock.advance(60)).current_rate for _ in range(4)
    ]

    assert rates == [5.625, 11.25, 22.5, 45, 45]


def test_the_report_says_since_when_and_why(database: StateDatabase, clock: ManualClock) -> None:
    take(database, 1, clock())
    assert (report(database, clock()).since, report(database, clock()).reason) == (None, None)

    back_off(database, clock())

    slowed = report(database, clock())
    assert (slowed.since, slowed.reason, slowed.current_rate) == (START, "100 too fast", 22.5)
    recovered = report(database, clock.advance(60))
    assert (recovered.since, recovered.reason, recovered.current_rate) == (None, None, 45)


def test_an_error_years_ago_is_no_trouble(database: StateDatabase) -> None:
    back_off(database, START - timedelta(days=4_000))

    assert report(database, START).current_rate == 45


# After the database was away


def test_while_others_may_live_on_their_shares_little_is_handed_out(
    database: StateDatabase, clock: ManualClock
) -> None:
    take(database, 1, clock())

    first = take(database, 10, clock.advance(60), share=True)
    assert len(first) == 1
    assert take(database, 10, clock()) == [pytest.approx(1.05 * pacing.SHARES / RATE, abs=1e-5)]

    clock.advance(pacing.SHARES_LINGER.total_seconds())
    assert len(take(database, 10, clock())) == 10
