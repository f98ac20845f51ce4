"""The contract cache."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from v6_pipeline.model import ContractSpec, Holding, SecType
from v6_pipeline.state import revisions
from v6_pipeline.state.account import contracts, holdings
from v6_pipeline.state.account.contracts import CachedContract, ContractFailure
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.revisions import Revision
from v6_pipeline_tests.unit.state.databases import START
from v6_pipeline_tests.unit.state.samples import option, stock

LATER = START + timedelta(seconds=60)

EVERY_FACT = ContractSpec(
    conid=2**40,
    symbol="VOD",
    sec_type=SecType.STOCK,
    currency="GBP",
    local_symbol="VOD.",
    trading_class="VOD",
    right=None,
    strike=None,
    expiry=None,
    multiplier=1.0,
    exchange="LSE",
    price_magnifier=100,
    underlying_conid=12,
)


@pytest.mark.parametrize("spec", [EVERY_FACT, option(5)], ids=["stock", "option"])
def test_details_come_back_as_they_were_saved(database: StateDatabase, spec: ContractSpec) -> None:
    with database.write() as connection:
        contracts.save(connection, [spec], qualified_at=START)
        found = contracts.get(connection, [spec.conid, 99])

    assert found == {spec.conid: CachedContract(spec=spec, qualified_at=START)}


def test_facts_from_positions_are_not_qualified(database: StateDatabase) -> None:
    with database.write() as connection:
        contracts.remember(connection, [stock(1)])
        assert contracts.get(connection, [1])[1].qualified_at is None


def test_positions_do_not_overwrite_details(database: StateDatabase) -> None:
    """A position of an option names no exchange: the next subscription would be refused."""
    with database.write() as connection:
        contracts.save(connection, [stock(1, exchange="SMART")], qualified_at=START)
        contracts.remember(connection, [stock(1)])

        assert contracts.get(connection, [1])[1].spec.exchange == "SMART"


def test_newer_details_overwrite_older_ones_and_facts_from_positions(database: StateDatabase) -> None:
    with database.write() as connection:
        contracts.remember(connection, [stock(1, "FB")])
        contracts.save(connection, [stock(1, "FB", exchange="SMART")], qualified_at=START)
        contracts.save(connection, [stock(1, "META", exchange="SMART")], qualified_at=LATER)

        assert contracts.get(connection, [1])[1] == CachedContract(
            spec=stock(1, "META", exchange="SMART"), qualified_at=LATER
        )


def test_an_unknown_contract_is_remembered_until_its_details_come(database: StateDatabase) -> None:
    with database.write() as connection:
        contracts.mark_unknown(connection, 1, failed_at=START)
        contracts.mark_unknown(connection, 2, failed_at=START)
        contracts.mark_unknown(connection, 2, failed_at=LATER)
        contracts.save(connection, [stock(1)], qualified_at=LATER)

        assert contracts.failures(connection) == {2: ContractFailure(conid=2, code=200, failed_at=LATER)}


def test_a_contract_without_market_data_is_not_unknown_and_is_forgotten_with_all_others(
    database: StateDatabase,
) -> None:
    with database.write() as connection:
        contracts.mark_unknown(connection, 1, failed_at=START)
        contracts.mark_refused(connection, {2: 354, 3: 354}, failed_at=START)
        contracts.mark_refused(connection, {3: 10186}, failed_at=LATER)

        assert contracts.failures(connection).keys() == {1}
        assert contracts.refused(connection, since=START - timedelta(seconds=1)) == {1, 2, 3}
        assert contracts.refused(connection, since=START) == {3}

        contracts.forget_refused(connection)
        assert contracts.refused(connection, since=START - timedelta(days=1)) == {1}
        assert contracts.failures(connection).keys() == {1}


def test_the_revision_counts_changed_facts_only(database: StateDatabase) -> None:
    counted = []
    with database.write() as connection:
        for spec in (stock(1), stock(1), replace(stock(1), symbol="META")):
            contracts.remember(connection, [spec])
            counted.append(revisions.read(connection)[Revision.HOLDINGS])

    assert counted == [1, 1, 2]


def hold(database: StateDatabase, spec: ContractSpec, at: datetime) -> None:
    holdings.upsert_holdings(
        database, [Holding(account="A", contract=spec, position=1.0, average_cost=1.0, observed_at=at)]
    )


def test_the_newest_position_names_what_is_held_and_has_its_details_fetched_again(database: StateDatabase) -> None:
    hold(database, stock(1, "FB"), START)
    contracts.save(database, [replace(stock(1, "FB", exchange="SMART"), price_magnifier=100)], qualified_at=START)
    hold(database, stock(1, "META"), LATER)

    renamed = contracts.get(database, [1])[1]
    assert (renamed.spec.symbol, renamed.spec.exchange, renamed.spec.price_magnifier) == ("META", "SMART", 100)
    assert renamed.qualified_at is not None
    assert renamed.qualified_at < START - timedelta(days=365)

    # Details that lag behind do not name it back, so that the two do not take turns.
    contracts.save(database, [stock(1, "FB", exchange="SMART")], qualified_at=LATER)
    again = contracts.get(database, [1])[1]
    assert (again.spec.symbol, again.qualified_at) == ("META", LATER)
    hold(database, stock(1, "META"), LATER)
    assert contracts.get(database, [1])[1] == again


@pytest.mark.parametrize(
    ("change", "is_fetched_again"), [({"multiplier": 150.0}, True), ({"trading_class": "2SPX"}, False)]
)
def test_an_adjusted_multiplier_is_a_change_of_the_contract_and_a_trading_class_only_a_name(
    database: StateDatabase, change: dict[str, Any], *, is_fetched_again: bool
) -> None:
    hold(database, option(7), START)
    contracts.save(database, [replace(option(7), exchange="SMART")], qualified_at=START)
    hold(database, replace(option(7), **change), LATER)

    found = contracts.get(database, [7])[7]
    assert {name: getattr(found.spec, name) for name in change} == change
    assert (found.qualified_at != START) == is_fetched_again


def test_a_learned_unit_outlives_details_and_positions_until_the_multiplier_gives_it(database: StateDatabase) -> None:
    bond = replace(stock(1), sec_type=SecType.BOND)
    hold(database, bond, START)
    contracts.learn_units(database, {1: 10.0, 2: 5.0})  # the second one is not in the cache
    contracts.save(database, [replace(bond, exchange="SMART")], qualified_at=START)
    hold(database, bond, LATER)

    assert contracts.get(database, [1])[1].spec.unit_value == 10.0
    assert contracts.get(database, [2]) == {}
    with database.read() as connection:
        (held,) = holdings.list_open(connection)
        before = revisions.read(connection)
    assert held.contract.unit_value == 10.0

    contracts.learn_units(database, {1: 10.0})
    with database.read() as connection:
        assert revisions.read(connection) == before
    contracts.learn_units(database, {1: None})
    assert contracts.get(database, [1])[1].spec.unit_value is None
