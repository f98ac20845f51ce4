"""The contract cache."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.state import revisions
from v6_pipeline.state.account import contracts
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
