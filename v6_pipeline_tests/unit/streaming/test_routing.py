"""Routing: who gets a line, who waits in the queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.model import ContractSpec, Holding, QueuePriority, SecType
from v6_pipeline.streaming.routing import RISE_AFTER, QueueEntry, Route, StreamCapacity, plan_routes

NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def route(
    conid: int,
    priority: int | None = None,
    *,
    account: str = "A",
    position: float = 1,
    refused: bool = False,
    silent: bool = False,
    since: datetime | None = None,
) -> Route:
    contract = ContractSpec(conid=conid, symbol=f"S{conid}", sec_type=SecType.OPTION, currency="USD")
    return Route(
        Holding(
            account=account,
            contract=contract,
            position=position,
            average_cost=None,
            observed_at=datetime(2026, 11, 20, tzinfo=UTC),
        ),
        priority,
        refused,
        silent,
        since,
    )


def test_active_contracts_stream_and_the_others_queue_at_priority_2() -> None:
    plan = plan_routes([route(1, 5), route(2)], subscribed=frozenset(), capacity=10)

    assert plan.subscribe == (1,)
    assert plan.queue == (QueueEntry("A", 2, "S2", QueuePriority.NORMAL),)


def test_a_contract_held_in_two_accounts_takes_one_line() -> None:
    plan = plan_routes([route(1, 5), route(1, account="B")], subscribed=frozenset(), capacity=10)

    assert plan.subscribe == (1,)
    assert plan.queue == ()


def test_beyond_the_capacity_the_more_important_stream_and_the_rest_queue_at_priority_1() -> None:
    plan = plan_routes([route(1, 9), route(2, 1), route(3, 5)], subscribed=frozenset(), capacity=2)

    assert plan.subscribe == (2, 3)
    assert plan.overflow == (1,)
    assert plan.queue == (QueueEntry("A", 1, "S1", QueuePriority.OVERFLOW),)


def test_among_equals_the_one_that_streams_keeps_its_line() -> None:
    plan = plan_routes([route(1, 5), route(2, 5)], subscribed=frozenset({2}), capacity=1)

    assert (plan.subscribe, plan.cancel, plan.overflow) == ((), (), (1,))


def test_a_more_important_newcomer_takes_the_line_of_the_least_important() -> None:
    plan = plan_routes([route(1, 1), route(2, 5)], subscribed=frozenset({2}), capacity=1)

    assert (plan.subscribe, plan.cancel, plan.overflow) == ((1,), (2,), (2,))


def test_a_closed_or_deactivated_contract_gives_its_line_back() -> None:
    plan = plan_routes([route(1, 5, position=0), route(2)], subscribed=frozenset({1, 2, 3}), capacity=10)

    assert plan.cancel == (1, 2, 3)
    assert [entry.conid for entry in plan.queue] == [2]


def test_a_contract_without_market_data_is_queued_although_it_is_active() -> None:
    plan = plan_routes([route(1, 5, refused=True)], subscribed=frozenset(), capacity=10)

    assert plan.subscribe == ()
    assert plan.queue == (QueueEntry("A", 1, "S1", QueuePriority.OVERFLOW),)


def test_among_equals_that_wait_the_one_that_was_wanted_first_gets_the_line() -> None:
    plan = plan_routes([route(1, 5, since=NOW), route(2, 5, since=NOW - SECOND)], subscribed=frozenset(), capacity=1)

    assert plan.subscribe == (2,)


def test_a_newly_held_contract_does_not_throw_an_equal_out() -> None:
    plan = plan_routes([route(1, 5, since=NOW), route(2, 5, since=NOW)], subscribed=frozenset({2}), capacity=1)

    assert (plan.subscribe, plan.cancel) == ((), ())


def test_a_silent_stream_gives_its_line_to_one_that_waits_even_a_less_important_one() -> None:
    plan = plan_routes([route(1, 1, silent=True), route(2, 9)], subscribed=frozenset({1}), capacity=1)

    assert (plan.subscribe, plan.cancel, plan.overflow) == ((2,), (1,), (1,))


def test_a_silent_stream_keeps_its_line_if_no_other_waits() -> None:
    plan = plan_routes([route(1, 1, silent=True), route(2, 9)], subscribed=frozenset({1, 2}), capacity=2)

    assert plan.cancel == ()


def test_capacity_that_goes_is_gone_at_once_and_what_comes_back_is_used_once_it_has_stayed() -> None:
    capacity = StreamCapacity()

    assert capacity.usable(80, NOW) == 80
    assert capacity.usable(30, NOW) == 30
    assert capacity.usable(80, NOW + SECOND) == 30
    assert capacity.usable(50, NOW + 2 * SECOND) == 30
    assert capacity.usable(80, NOW + SECOND + RISE_AFTER) == 50
    assert capacity.usable(80, NOW + 2 * SECOND + RISE_AFTER) == 50
    assert capacity.usable(80, NOW + 2 * SECOND + 2 * RISE_AFTER) == 80


def test_capacity_that_flaps_is_not_used() -> None:
    capacity = StreamCapacity()
    capacity.usable(30, NOW)

    for second in range(20):
        assert capacity.usable(80 if second % 2 else 30, NOW + second * SECOND) == 30


def test_lines_that_are_tried_for_one_by_one_are_used_at_once() -> None:
    capacity = StreamCapacity()
    capacity.usable(30, NOW)

    assert capacity.usable(80, NOW, probing=True) == 80


ROUTES = st.lists(
    st.builds(
        route,
        st.integers(1, 12),
        st.one_of(st.none(), st.integers(0, 3)),
        account=st.sampled_from("AB"),
        position=st.sampled_from([0, 1, -2]),
        refused=st.booleans(),
        silent=st.booleans(),
        since=st.none() | st.integers(0, 3).map(lambda second: NOW + second * SECOND),
    ),
    unique_by=lambda item: item.holding.key,
)


@given(ROUTES, st.frozensets(st.integers(1, 12)), st.integers(0, 12))
def test_every_holding_is_streamed_or_queued_and_the_capacity_is_kept(
    routes: list[Route], subscribed: frozenset[int], capacity: int
) -> None:
    plan = plan_routes(routes, subscribed=subscribed, capacity=capacity)

    streaming = (subscribed - set(plan.cancel)) | set(plan.subscribe)
    held = {item.holding.key for item in routes if item.holding.position}
    queued = {(entry.account, entry.conid) for entry in plan.queue}
    assert len(streaming) <= capacity
    assert not streaming & {conid for _, conid in queued}
    assert {key for key in held if key[1] not in streaming} == queued
    # Carried out, the plan has nothing more to say.
    again = plan_routes(routes, subscribed=frozenset(streaming), capacity=capacity)
    assert (again.subscribe, again.cancel) == ((), ())
