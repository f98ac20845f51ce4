"""The registry: who is active, since when, and who hears of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from v6_pipeline.errors import UsageError
from v6_pipeline.model import Holding
from v6_pipeline.state.account import contracts, holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.registry.assignments import Assignment
from v6_pipeline.state.registry.changes import DEFAULT_PRIORITY
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline_tests.unit.state.databases import START, ManualClock
from v6_pipeline_tests.unit.state.samples import holding, option, stock

TODAY = START.date()


@pytest.fixture
def registry(database: StateDatabase, clock: ManualClock) -> StrategyRegistry:
    registry = StrategyRegistry(database, clock, today=lambda: clock().date())
    registry.initialize()
    return registry


def _hold(database: StateDatabase, *held: Holding) -> None:
    with database.write() as connection:
        holdings.upsert_holdings(connection, held)


def _conids(registry: StrategyRegistry, when: date | datetime) -> set[int | None]:
    return {entry.conid for entry in registry.active_on(when)}


# Several changes at once


def test_of_several_changes_all_are_made_or_none(
    database: StateDatabase, registry: StrategyRegistry, clock: ManualClock
) -> None:
    registry.add_active("wheel", [1, 2])
    other = StrategyRegistry(database, clock)
    other.initialize()
    before = registry.entries()

    def change() -> None:
        with registry.changes() as changes:
            changes.add_active("new", [5])
            changes.add_selector("wheel", "symbol=SPX")
            changes.remove_active("wheel", [1])
            changes.remove_active("wheel", [9])

    with pytest.raises(UsageError, match="does not use 9"):
        change()

    assert registry.entries() == before
    assert not other.reload_if_changed()

    with registry.changes() as changes:
        changes.add_active("new", [5])
        changes.remove_active("wheel", [1])
    assert registry.get_all_active() == {2, 5}
    assert other.reload_if_changed()


def test_changes_that_change_nothing_are_no_news(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1])
    registry.reload_if_changed()

    with registry.changes() as changes:
        changes.add_active("wheel", [1])
        changes.end_others("wheel", members={(1, None)}, selectors=())
        assert not changes.made

    assert not registry.reload_if_changed()


def test_ending_all_others_keeps_what_is_named_with_its_account(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1, 2])
    registry.add_active("wheel", [1], account="SIM1")
    registry.add_selector("wheel", "symbol=SPX")
    registry.add_selector("wheel", "symbol=AAPL")

    with registry.changes() as changes:
        changes.end_others("wheel", members={(1, "SIM1")}, selectors={"symbol=SPX"})

    kept = {(entry.conid, entry.account, entry.selector and entry.selector.text) for entry in registry.entries()}
    assert kept == {(1, "SIM1", None), (None, None, "symbol=SPX")}

    with registry.changes() as changes:
        changes.end_others("wheel", members=(), selectors=())
        changes.end_others("unknown", members=(), selectors=())
    assert registry.entries() == ()


# What is active


def test_nothing_is_active_before_it_is_added(registry: StrategyRegistry) -> None:
    assert not registry.is_active(1)
    assert registry.get_all_active() == frozenset()
    assert registry.assignments(holding(stock(1))) == ()


def test_an_added_contract_is_active_at_once_and_no_other(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1, 2])

    assert registry.is_active(1)
    assert not registry.is_active(3)
    assert registry.get_all_active() == {1, 2}


def test_a_membership_of_one_account_counts_there_only(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1], account="SIM1")

    assert registry.is_active(1)
    assert registry.is_active(1, "SIM1")
    assert not registry.is_active(1, "SIM2")
    assert registry.assignments(holding(stock(1), account="SIM2")) == ()


def test_a_contract_serves_several_strategies_the_most_important_first(registry: StrategyRegistry) -> None:
    registry.add_active("hedge", [1], priority=5)
    registry.add_active("wheel", [1], priority=1, quantity=-3)
    registry.add_active("basket", [1], priority=5)

    assert registry.assignments(holding(stock(1))) == (
        Assignment("wheel", 1, -3),
        Assignment("basket", 5),
        Assignment("hedge", 5),
    )


def test_within_a_strategy_the_best_priority_and_the_closest_quantity_count(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1], quantity=7, priority=1)
    registry.add_active("wheel", [1], account="SIM1", quantity=2, priority=9)
    registry.add_selector("wheel", "symbol=AAPL", 4)

    assert registry.assignments(holding(stock(1), account="SIM1")) == (Assignment("wheel", 1, 2),)
    assert registry.assignments(holding(stock(1), account="SIM2")) == (Assignment("wheel", 1, 7),)
    assert registry.assignments(holding(stock(2), account="SIM2")) == (Assignment("wheel", 4, None),)


def test_a_selector_by_underlying_finds_a_holding_of_the_position_feed(
    database: StateDatabase, registry: StrategyRegistry
) -> None:
    known = option(7)
    from_feed = holding(replace(known, underlying_conid=None))  # IB's position messages have none
    registry.add_selector("condors", f"underlying_conid={known.underlying_conid}")
    _hold(database, from_feed)
    registry.reload_if_changed()
    assert registry.assignments(from_feed) == ()

    with database.write() as connection:
        contracts.save(connection, [known], qualified_at=START)
    registry.reload_if_changed()

    assert registry.assignments(from_feed) == (Assignment("condors", DEFAULT_PRIORITY),)
    assert registry.is_active(7)


def test_contracts_expire_by_the_exchange_s_date_wherever_the_day_begins(
    database: StateDatabase, clock: ManualClock
) -> None:
    registry = StrategyRegistry(database, clock, timezone="Asia/Hong_Kong")
    registry.initialize()
    registry.add_active("condors", [7])
    clock.now = datetime(2026, 3, 2, 18, tzinfo=UTC)  # 13:00 in New York, the next day in Hong Kong
    assert registry.assignments(holding(option(7, expiry=date(2026, 3, 2))))
    assert not registry.assignments(holding(option(7, expiry=date(2026, 3, 1))))


def test_an_expired_contract_is_never_active(
    database: StateDatabase, registry: StrategyRegistry, clock: ManualClock
) -> None:
    today = option(7, expiry=TODAY)
    _hold(database, holding(today))
    registry.add_active("wheel", [7])
    registry.add_selector("index", "symbol=SPX")

    assert registry.is_active(7)
    assert len(registry.assignments(holding(today))) == 2

    clock.advance(24 * 3600)

    assert not registry.is_active(7)
    assert registry.assignments(holding(today)) == ()
    assert registry.get_all_active() == frozenset()


def test_an_option_that_settles_the_next_morning_keeps_its_strategy_and_takes_no_line(
    database: StateDatabase, registry: StrategyRegistry, clock: ManualClock
) -> None:
    last_traded = replace(option(7, expiry=TODAY), trading_class="SPX")
    _hold(database, holding(last_traded))
    registry.add_active("condors", [7])
    clock.advance(24 * 3600)

    assert len(registry.assignments(holding(last_traded))) == 1
    assert registry.has_expired(last_traded)
    assert not registry.is_active(7)

    clock.advance(24 * 3600)
    assert registry.assignments(holding(last_traded)) == ()


def test_the_day_of_expiry_ends_where_the_exchange_is(database: StateDatabase, clock: ManualClock) -> None:
    """At 03:00 UTC it is still the evening before in New York."""
    registry = StrategyRegistry(database, clock)
    registry.initialize()
    registry.add_active("wheel", [7])
    expiring = holding(option(7, expiry=TODAY))
    clock.now = datetime.combine(TODAY + timedelta(days=1), START.timetz()).replace(hour=3)

    assert registry.assignments(expiring) != ()

    clock.advance(4 * 3600)

    assert registry.assignments(expiring) == ()


def test_a_selector_applies_to_holdings_to_come(database: StateDatabase, registry: StrategyRegistry) -> None:
    registry.add_selector("index", Selector(symbol="SPX"), 3)
    assert registry.assignments(holding(option(7))) == (Assignment("index", 3),)
    assert not registry.is_active(7)
    registry.reload_if_changed()

    _hold(database, holding(option(7)), holding(stock(1)))

    assert registry.reload_if_changed() is False  # no change of strategies
    assert registry.is_active(7)
    assert registry.get_all_active() == {7}


def test_a_selected_contract_that_is_closed_is_not_active(database: StateDatabase, registry: StrategyRegistry) -> None:
    _hold(database, holding(option(7)))
    registry.add_selector("index", "symbol=SPX")
    with database.write() as connection:
        holdings.mark_closed(connection, [("SIM1", 7)], closed_at=START + timedelta(seconds=1))

    registry.reload_if_changed()

    assert not registry.is_active(7)


def test_a_selector_of_one_account_counts_there_only(database: StateDatabase, registry: StrategyRegistry) -> None:
    _hold(database, holding(option(7), account="SIM1"), holding(option(7), account="SIM2"))
    registry.add_selector("index", "symbol=SPX,account=SIM2")

    assert registry.is_active(7)
    assert registry.is_active(7, "SIM2")
    assert not registry.is_active(7, "SIM1")


# Changes and who hears of them


def test_a_change_by_another_process_is_reported_once(
    database: StateDatabase, registry: StrategyRegistry, clock: ManualClock
) -> None:
    other = StrategyRegistry(database, clock)
    other.add_active("wheel", [1])
    assert not registry.is_active(1)

    assert registry.reload_if_changed() is True
    assert registry.is_active(1)
    assert registry.reload_if_changed() is False


def test_an_own_change_is_reported_as_well(registry: StrategyRegistry) -> None:
    """The streamer routes again after this, for a change by any process."""
    registry.add_active("wheel", [1])

    assert registry.reload_if_changed() is True
    assert registry.reload_if_changed() is False


def test_adding_the_same_again_changes_nothing(registry: StrategyRegistry, clock: ManualClock) -> None:
    registry.add_active("wheel", [1], quantity=2, priority=3)
    registry.add_selector("wheel", "symbol=SPX", 4)
    before = registry.entries()
    registry.reload_if_changed()
    clock.advance(60)

    registry.add_active("wheel", [1, 1], quantity=2, priority=3)
    registry.add_selector("wheel", "symbol=spx", 4)

    assert registry.entries() == before
    assert registry.reload_if_changed() is False


@pytest.mark.parametrize(("quantity", "priority"), [(5.0, 3), (2.0, 1), (None, 3)])
def test_adding_with_other_terms_replaces_them_and_keeps_the_history(
    registry: StrategyRegistry, clock: ManualClock, quantity: float | None, priority: int
) -> None:
    registry.add_active("wheel", [1], quantity=2, priority=3)
    changed_at = clock.advance(60)

    registry.add_active("wheel", [1], quantity=quantity, priority=priority)

    (entry,) = registry.entries()
    assert (entry.quantity, entry.priority, entry.valid_from) == (quantity, priority, changed_at)
    (old,) = registry.active_on(START)
    assert (old.quantity, old.priority, old.valid_to) == (2, 3, changed_at)


def test_a_selector_gets_another_priority(registry: StrategyRegistry, clock: ManualClock) -> None:
    registry.add_selector("index", "symbol=SPX", 4)
    clock.advance(60)

    registry.add_selector("index", "symbol=SPX", 2)

    assert [entry.priority for entry in registry.entries()] == [2]
    assert [entry.priority for entry in registry.active_on(START)] == [4]


def test_removing_contracts_leaves_the_others(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1, 2])
    registry.add_active("hedge", [1])

    assert registry.remove_active("wheel", [1]) == 1

    assert {(entry.strategy, entry.conid) for entry in registry.entries()} == {("hedge", 1), ("wheel", 2)}


def test_removing_a_strategy_removes_its_selectors_too(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1, 2])
    registry.add_selector("wheel", "symbol=SPX")

    assert registry.remove_active("wheel") == 3

    assert registry.entries() == ()
    assert registry.get_all_active() == frozenset()


def test_removing_a_selector_leaves_the_members(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1])
    registry.add_selector("wheel", "symbol=SPX")

    registry.remove_selector("wheel", "symbol=spx")

    assert [entry.conid for entry in registry.entries()] == [1]


def test_a_strategy_that_was_removed_can_be_added_again(registry: StrategyRegistry, clock: ManualClock) -> None:
    registry.add_active("wheel", [1])
    clock.advance(60)
    registry.remove_active("wheel", [1])
    clock.advance(60)
    registry.add_active("wheel", [1])

    assert registry.is_active(1)
    assert [entry.valid_from for entry in registry.entries()] == [START + timedelta(seconds=120)]


def test_removing_from_an_unknown_strategy_names_the_known_ones(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1])

    with pytest.raises(UsageError, match="no strategy whel: there are wheel"):
        registry.remove_active("whel", [1])
    with pytest.raises(UsageError, match="no strategy whel"):
        registry.remove_selector("whel", "symbol=SPX")


def test_removing_what_is_not_there_changes_nothing(registry: StrategyRegistry) -> None:
    registry.add_active("wheel", [1])

    with pytest.raises(UsageError, match="does not use 8, 9"):
        registry.remove_active("wheel", [1, 9, 8])
    with pytest.raises(UsageError, match="has no selector symbol=SPX"):
        registry.remove_selector("wheel", "symbol=SPX")

    assert registry.is_active(1)


@pytest.mark.parametrize(
    ("strategy", "conids", "terms", "says"),
    [
        ("", [1], {}, "not a strategy name"),
        ("a,b", [1], {}, "not a strategy name"),
        ("a\nb", [1], {}, "not a strategy name"),
        ("wheel ", [1], {}, "not a strategy name"),
        ("w" * 65, [1], {}, "not a strategy name"),
        ("wheel", [], {}, "no contracts"),
        ("wheel", [0], {}, "not a conid"),
        ("wheel", [1, -5], {}, "-5 is not a conid"),
        ("wheel", [1], {"account": " "}, "account is empty"),
        ("wheel", [1], {"quantity": 0.0}, "quantity 0.0"),
        ("wheel", [1], {"quantity": float("nan")}, "quantity nan"),
        ("wheel", [1], {"priority": -1}, "priority -1"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    registry: StrategyRegistry, strategy: str, conids: list[int], terms: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        registry.add_active(strategy, conids, **terms)  # type: ignore[arg-type]

    assert "\n" not in str(caught.value)
    assert registry.entries() == ()
    with pytest.raises(UsageError):
        registry.remove_active("wheel")


# History


def test_who_was_active_at_an_instant_is_answered_to_the_microsecond(
    registry: StrategyRegistry, clock: ManualClock
) -> None:
    registry.add_active("wheel", [1])
    registry.add_selector("wheel", "symbol=SPX")
    ended_at = clock.advance(60)
    registry.remove_active("wheel")
    tick = timedelta(microseconds=1)

    assert len(registry.active_on(START)) == 2
    assert len(registry.active_on(ended_at - tick)) == 2
    assert registry.active_on(START - tick) == ()
    assert registry.active_on(ended_at) == ()


def test_who_was_active_on_a_day_includes_those_active_for_a_part_of_it(
    registry: StrategyRegistry, clock: ManualClock
) -> None:
    registry.add_active("wheel", [1, 2])
    clock.advance(60)
    registry.remove_active("wheel", [1])

    assert _conids(registry, TODAY) == {1, 2}
    assert _conids(registry, TODAY + timedelta(days=1)) == {2}
    assert _conids(registry, TODAY - timedelta(days=1)) == set()


def test_a_day_is_that_of_new_york(registry: StrategyRegistry, clock: ManualClock) -> None:
    clock.now = START.replace(hour=3)  # the evening before, there
    registry.add_active("wheel", [1])
    clock.advance(3600)
    registry.remove_active("wheel")

    assert _conids(registry, TODAY - timedelta(days=1)) == {1}
    assert _conids(registry, TODAY) == set()


def test_a_clock_that_goes_back_leaves_no_entry_that_ends_before_it_began(
    registry: StrategyRegistry, clock: ManualClock
) -> None:
    registry.add_active("wheel", [1])
    clock.advance(-60)
    registry.remove_active("wheel")

    assert registry.active_on(START) == ()
    assert registry.active_on(TODAY) == ()
