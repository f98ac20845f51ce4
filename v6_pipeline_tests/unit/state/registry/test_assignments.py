"""The strategies of a holding at a past instant are those that the registry would have returned then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import pytest

from v6_pipeline.model import SecType
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.registry.assignments import Assignment, RegistryAt, RegistryEntry
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline_tests.unit.state.databases import START, ManualClock
from v6_pipeline_tests.unit.state.samples import holding, option, stock

DAY = START.date()
INSTANT = timedelta(microseconds=1)


def entry(strategy: str = "wheel", **values: object) -> RegistryEntry:
    base = RegistryEntry(strategy=strategy, priority=100, valid_from=START, valid_to=None)
    return replace(base, **values)  # type: ignore[arg-type]


def test_the_past_is_answered_as_the_registry_answered_it(sqlite_database: StateDatabase, clock: ManualClock) -> None:
    registry = StrategyRegistry(sqlite_database, clock, today=lambda: DAY)
    registry.initialize()
    changes: list[Callable[[], object]] = [
        lambda: registry.add_active("wheel", [1], quantity=7),
        lambda: registry.add_active("wheel", [1], account="SIM1", quantity=2, priority=9),
        lambda: registry.add_selector("basket", "symbol=AAPL", 4),
        lambda: registry.add_active("wheel", [1], quantity=-3, priority=1),
        lambda: registry.remove_selector("basket", "symbol=AAPL"),
        lambda: registry.remove_active("wheel"),
    ]
    held = [holding(stock(1), account=account) for account in ("SIM1", "SIM2")]
    answers = []
    for change in changes:
        change()
        answers.append((clock.now, [registry.assignments(found) for found in held]))
        clock.advance(60)

    for at, answered in answers:
        as_of = RegistryAt(registry.active_on(at), at, day=DAY)
        assert [as_of.assignments(found) for found in held] == answered
    assert RegistryAt(registry.active_on(START - INSTANT), START - INSTANT, day=DAY).assignments(held[0]) == ()


def test_entries_of_other_times_do_not_count() -> None:
    """An entry counts from its first instant until just before its last."""
    ended = entry(conid=1, valid_to=START + timedelta(hours=1))
    for offset, expected in (
        (-INSTANT, 0),
        (INSTANT * 0, 1),
        (timedelta(hours=1) - INSTANT, 1),
        (timedelta(hours=1), 0),
    ):
        registry = RegistryAt([ended], START + offset, day=DAY)
        assert len(registry.assignments(holding(stock(1)))) == expected


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_said_of_the_account_itself_wins_in_any_order(order: int) -> None:
    entries = [
        entry(conid=1, quantity=5),
        entry(conid=1, account="SIM1", quantity=2),
        entry(selector=Selector(symbol="AAPL")),
    ]
    registry = RegistryAt(entries[::order], START, day=DAY)
    assert registry.assignments(holding(stock(1), account="SIM1")) == (Assignment("wheel", 100, 2),)
    assert registry.assignments(holding(stock(1), account="SIM2")) == (Assignment("wheel", 100, 5),)


def test_a_contract_expires_by_the_day_asked_for() -> None:
    contract = replace(option(1), expiry=DAY)
    for day, expected in ((DAY, 1), (DAY + timedelta(days=1), 0)):
        assert len(RegistryAt([entry(conid=1)], START, day=day).assignments(holding(contract))) == expected


@pytest.mark.parametrize(
    ("trading_class", "sec_type", "expiry", "settles_on"),
    [
        pytest.param("SPX", SecType.OPTION, date(2026, 11, 19), date(2026, 11, 20), id="Thursday, settled on Friday"),
        pytest.param("SPXW", SecType.OPTION, date(2026, 11, 20), date(2026, 11, 20), id="settled at the close"),
        pytest.param("VIX", SecType.OPTION, date(2026, 11, 17), date(2026, 11, 18), id="Tuesday, settled on Wednesday"),
        pytest.param("NDX", SecType.OPTION, date(2026, 4, 1), date(2026, 4, 2), id="before Good Friday"),
        pytest.param("RUT", SecType.OPTION, date(2026, 11, 20), date(2026, 11, 23), id="if IB gave the Friday"),
        pytest.param("AAPL", SecType.OPTION, date(2026, 11, 20), date(2026, 11, 20), id="a stock's"),
        pytest.param("VIX", SecType.FUTURE, date(2026, 11, 18), date(2026, 11, 18), id="a future of that class"),
    ],
)
def test_a_contract_serves_its_strategy_until_it_settles(
    trading_class: str, sec_type: SecType, expiry: date, settles_on: date
) -> None:
    contract = replace(option(1), trading_class=trading_class, sec_type=sec_type, expiry=expiry)
    assert contract.settles_on == settles_on
    for day, expected in ((settles_on, 1), (settles_on + timedelta(days=1), 0)):
        registry = RegistryAt([entry(conid=1)], START, day=day)
        assert len(registry.assignments(holding(contract))) == expected
