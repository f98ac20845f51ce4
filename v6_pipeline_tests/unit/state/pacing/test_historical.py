"""Historical requests: IB's windows for small bars, the rate of the others, and how many may be open at once."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.pacing import historical as pacing
from v6_pipeline.state.pacing.historical import (
    MARGIN,
    MOST_OPEN,
    PAUSE,
    RECOVERY,
    HistoricalRate,
    SmallBarRequest,
    grant,
    seconds_until_allowed,
    slow_down,
)
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.state.databases import START, ManualClock

GATEWAY = "127.0.0.1:4002"


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def request(
    number: int = 0, *, contract: str = "", cost: int = 1, at: float = 0, left: float | None = None
) -> SmallBarRequest:
    return SmallBarRequest(
        contract=contract or f"contract {number}",
        identity=f"request {number}",
        cost=cost,
        granted_at=after(at),
        left_at=None if left is None else after(left),
    )


def wait(asked: SmallBarRequest, made: list[SmallBarRequest], now: float) -> float:
    return seconds_until_allowed(asked, made, now=after(now))


# Bars of 30 seconds or less


def test_the_sixty_first_request_waits_until_the_first_is_ten_minutes_old() -> None:
    made = [request(number, left=10 * number) for number in range(60)]

    assert wait(request(99), made[:59], 590) == 0
    assert wait(request(99), made, 595) == pytest.approx(6)
    assert wait(request(99), made, 601) == 0


def test_bid_ask_counts_twice() -> None:
    made = [request(number, cost=2, left=10 * number) for number in range(30)]

    assert wait(request(99), made[:29], 295) == 0
    assert wait(request(99), made, 295) == pytest.approx(601 - 295)
    assert wait(request(99, cost=2), [*made[:29], request(98, left=294)], 295) == pytest.approx(601 - 295)


def test_an_identical_request_waits_fifteen_seconds_and_another_does_not() -> None:
    made = [request(1, left=0)]

    assert wait(request(1), made, 4) == pytest.approx(12)
    assert wait(request(2), made, 4) == 0


def test_an_identical_bid_ask_request_is_not_kept_waiting_for_ever() -> None:
    assert wait(request(1, cost=2), [], 0) == 0


def test_the_sixth_of_one_contract_waits_two_seconds() -> None:
    made = [request(number, contract="SPX", left=0.1 * number) for number in range(5)]

    assert wait(request(99, contract="SPX"), made, 1) == pytest.approx(2)
    assert wait(request(99, contract="NDX"), made, 1) == 0


def test_a_request_that_waits_for_the_message_rate_counts_as_made_now() -> None:
    assert wait(request(1), [request(1, at=0, left=1)], 30) == 0
    assert wait(request(1), [request(1, at=0)], 30) == pytest.approx(16)


def test_what_never_left_is_forgotten(database: StateDatabase) -> None:
    with database.write() as connection:
        assert pacing.take_small(connection, GATEWAY, "one", request(1), now=START) == 0
        assert pacing.take_small(connection, GATEWAY, "two", request(1, at=599), now=after(599)) > 0
        assert pacing.take_small(connection, GATEWAY, "two", request(1, at=600), now=after(600)) == 0


def test_windows_are_those_of_all_processes_of_one_gateway(database: StateDatabase) -> None:
    with database.write() as connection:
        pacing.take_small(connection, GATEWAY, "one", request(1), now=START)
        pacing.note_left(connection, ["one"], now=START)
    with database.write() as connection:
        assert pacing.take_small(connection, GATEWAY, "two", request(1, at=4), now=after(4)) == pytest.approx(12)
        assert pacing.take_small(connection, "other:4002", "three", request(1, at=4), now=after(4)) == 0


_ASKED = st.tuples(
    st.floats(0, 20), st.integers(0, 5), st.integers(0, 2), st.sampled_from([1, 2]), st.floats(0, 30), st.floats(0, 0.9)
)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(_ASKED, min_size=1, max_size=120))
def test_no_sequence_of_requests_breaks_a_rule_at_the_gateway(
    asked: list[tuple[float, int, int, int, float, float]],
) -> None:
    """Whatever is asked when, however long it waits before it leaves, and up to the margin longer on the way."""
    now = 0.0
    made: list[SmallBarRequest] = []
    arrived: list[tuple[float, SmallBarRequest]] = []
    for pause, identity, contract, cost, in_queue, on_the_way in asked:
        now += pause
        wanted = request(identity, contract=f"contract {contract}", cost=cost)
        while seconds := seconds_until_allowed(wanted, _as_known(made, now), now=after(now)):
            now += seconds
        left = now + in_queue
        made.append(request(identity, contract=f"contract {contract}", cost=cost, at=now, left=left))
        arrived.append((left + on_the_way, made[-1]))

    arrived.sort(key=lambda item: item[0])
    for at, last in arrived:
        before = [(when, item) for when, item in arrived if at - 600 < when <= at]
        assert sum(item.cost for _, item in before) <= 60
        assert sum(item.identity == last.identity for when, item in before if at - 15 < when) == 1
        assert sum(item.cost for when, item in before if item.contract == last.contract and at - 2 < when) <= 5


def _as_known(made: list[SmallBarRequest], now: float) -> list[SmallBarRequest]:
    """What had not left by then is not known to have."""
    return [item if item.left_at and item.left_at <= after(now) else request_without_leaving(item) for item in made]


def request_without_leaving(item: SmallBarRequest) -> SmallBarRequest:
    return SmallBarRequest(
        contract=item.contract, identity=item.identity, cost=item.cost, granted_at=item.granted_at, left_at=None
    )


# The rate of all requests


def test_instants_of_all_processes_lie_a_request_apart(database: StateDatabase) -> None:
    instants = []
    for _ in range(3):
        with database.write() as connection:
            instants.append(pacing.take(connection, GATEWAY, configured_rate=10, now=START))

    assert [(instant - START).total_seconds() for instant in instants] == pytest.approx([0, 0.1, 0.2])


def test_idle_time_is_not_saved_up() -> None:
    state, _ = grant(HistoricalRate(gateway=GATEWAY, configured_rate=10, next_at=START), now=START)
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
    assert first == START + PAUSE
    assert second - first == timedelta(seconds=1 / 4)
    clock.advance(RECOVERY.total_seconds())
    with database.write() as connection:
        first = pacing.take(connection, GATEWAY, configured_rate=8, now=clock())
        second = pacing.take(connection, GATEWAY, configured_rate=8, now=clock())
    assert second - first == timedelta(seconds=1 / 8)


def test_refusals_never_stop_us_altogether() -> None:
    state = HistoricalRate(gateway=GATEWAY, configured_rate=10, next_at=START)
    for number in range(20):
        state = slow_down(state, "162 pacing", now=after(11 * number))

    assert state.slowed_to == pacing.SLOWEST


def test_a_row_of_a_wrong_clock_keeps_nobody_waiting() -> None:
    state = HistoricalRate(gateway=GATEWAY, configured_rate=10, next_at=after(86_400))

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


def test_permits_of_a_process_that_died_come_back(database: StateDatabase) -> None:
    lease(database, "a", MOST_OPEN)

    assert lease(database, "b", 5, at=59) == 0
    assert lease(database, "b", 5, at=60) == 5


def test_permits_that_are_prolonged_stay(database: StateDatabase) -> None:
    lease(database, "a", MOST_OPEN)
    assert lease(database, "a", MOST_OPEN, at=50) == MOST_OPEN

    assert lease(database, "b", 5, at=100) == 0


def test_head_room_is_left_to_ibs_limit() -> None:
    assert MOST_OPEN < pacing.OPEN_AT_IB
    assert timedelta(0) < MARGIN
