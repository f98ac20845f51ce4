"""Qualified contracts: looked up once, and again only where that may help."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pytest

from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import MOST_OLD, OLD_AFTER, RETRY_AFTER, ContractCache
from v6_pipeline.model import ContractSpec
from v6_pipeline.paper import PaperGateway
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import contracts as cache
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import ScriptedGateway
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.state.samples import option, stock

pytestmark = pytest.mark.usefixtures("quiet_loop")

AAPL, SPY, UNKNOWN = 265598, 756733, 1
CONTRACT_DETAILS = 9
BEFORE = stock(AAPL, "FORMERLY", exchange="SMART")


def keep(database: StateDatabase, specs: Iterable[ContractSpec], clock: ManualClock, *, age: timedelta) -> None:
    """Store definitions, as fetched that long ago."""
    with database.write() as transaction:
        cache.save(transaction, specs, qualified_at=clock.now - age)


async def test_each_contract_is_looked_up_once(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    cache = ContractCache(database, connection, clock)
    before = gateway.statistics.messages_total
    first = await cache.qualified([AAPL, SPY, AAPL])
    second = await ContractCache(database, connection, clock).qualified([SPY, AAPL])

    assert first == second
    assert {conid: spec.exchange for conid, spec in first.items()} == {AAPL: "SMART", SPY: "SMART"}
    assert gateway.statistics.messages_total == before + 2


async def test_a_contract_of_a_position_message_is_not_qualified(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    with database.write() as transaction:
        cache.remember(transaction, [stock(AAPL)])

    found = await ContractCache(database, connection, clock).qualified([AAPL])

    assert found[AAPL].exchange == "SMART"


async def test_an_unknown_contract_is_left_out_and_looked_up_again_after_an_hour(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    cache = ContractCache(database, connection, clock)

    assert set(await cache.qualified([AAPL, UNKNOWN])) == {AAPL}
    assert set(await cache.qualified([AAPL, UNKNOWN])) == {AAPL}
    assert gateway.statistics.errors[200] == 1

    clock.advance(3600)
    await cache.qualified([UNKNOWN])
    assert gateway.statistics.errors[200] == 2


async def test_a_request_that_failed_otherwise_is_tried_again_at_once(
    open_connection: OpenConnection, database: StateDatabase, clock: ManualClock
) -> None:
    refusal = (4, 2, ScriptedGateway.REQ_ID, 321, "Error validating request", "")
    async with ScriptedGateway({CONTRACT_DETAILS: [refusal]}) as scripted:
        cache = ContractCache(database, await open_connection(port=scripted.port), clock)

        assert await cache.qualified([AAPL]) == {}
        assert await cache.qualified([AAPL]) == {}
        assert scripted.count(CONTRACT_DETAILS) == 2


async def test_without_a_connection_the_cache_still_serves(
    connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    cache = ContractCache(database, connection, clock)
    await cache.qualified([AAPL])
    await connection.close()

    assert set(await cache.qualified([AAPL, SPY])) == {AAPL}


async def test_no_conids_make_no_request(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    before = gateway.statistics.messages_total

    assert await ContractCache(database, connection, clock).qualified([]) == {}
    assert gateway.statistics.messages_total == before


# Old definitions


async def test_an_old_definition_is_refetched_once(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    """Without it, rows would carry the old symbol for ever after a change."""
    keep(database, [BEFORE], clock, age=OLD_AFTER)
    cache = ContractCache(database, connection, clock)
    before = gateway.statistics.messages_total

    first, second = await cache.qualified([AAPL]), await cache.qualified([AAPL])

    assert first[AAPL].symbol == second[AAPL].symbol == "AAPL"
    assert gateway.statistics.messages_total == before + 1


async def test_a_younger_definition_is_not_refetched(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    keep(database, [BEFORE], clock, age=OLD_AFTER - timedelta(seconds=1))
    before = gateway.statistics.messages_total

    assert await ContractCache(database, connection, clock).qualified([AAPL]) == {AAPL: BEFORE}
    assert gateway.statistics.messages_total == before


async def test_an_expired_contract_is_never_refetched(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    today = clock.now.date()
    keep(database, [option(7, expiry=today - timedelta(days=1)), option(8, expiry=today)], clock, age=OLD_AFTER)

    found = await ContractCache(database, connection, clock).qualified([7, 8])

    assert set(found) == {7, 8}
    assert gateway.statistics.errors[200] == 1  # the other one's


async def test_an_old_definition_serves_while_the_broker_has_none_and_is_refetched_once_an_hour(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    gateway.perform("unqualify", conids=[AAPL])
    keep(database, [BEFORE], clock, age=OLD_AFTER)

    for _ in range(3):  # runs, each with a cache of its own
        assert await ContractCache(database, connection, clock).qualified([AAPL]) == {AAPL: BEFORE}
    assert gateway.statistics.errors[200] == 1

    clock.advance(RETRY_AFTER.total_seconds())
    gateway.perform("restore_contracts")
    assert (await ContractCache(database, connection, clock).qualified([AAPL]))[AAPL].symbol == "AAPL"


async def test_a_gateway_that_answers_no_definition_request_delays_once(
    open_connection: OpenConnection, database: StateDatabase, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v6_pipeline.ib.contract_cache.REFETCH_TIMEOUT_SECONDS", 0.05)
    keep(database, [BEFORE, stock(SPY, "SPY", exchange="SMART")], clock, age=OLD_AFTER)
    async with ScriptedGateway() as scripted:
        cache = ContractCache(database, await open_connection(port=scripted.port), clock)

        for _ in range(3):
            assert set(await cache.qualified([AAPL, SPY])) == {AAPL, SPY}
        await eventually(lambda: scripted.count(CONTRACT_DETAILS) == 2)

        clock.advance(RETRY_AFTER.total_seconds())
        await cache.qualified([AAPL])
        await eventually(lambda: scripted.count(CONTRACT_DETAILS) == 3)


async def test_an_old_definition_serves_without_a_connection(
    connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    keep(database, [BEFORE], clock, age=OLD_AFTER)
    await connection.close()

    assert await ContractCache(database, connection, clock).qualified([AAPL]) == {AAPL: BEFORE}


async def test_an_old_definition_serves_while_the_database_cannot_store_a_new_one(
    settings: Settings, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    keep(database, [BEFORE], clock, age=OLD_AFTER)
    impatient = StateDatabase.open(settings.state_database_url, name_for_messages="state", busy_seconds=0.01)

    with database.write():
        found = await ContractCache(impatient, connection, clock).qualified([AAPL])

    impatient.close()
    assert found == {AAPL: BEFORE}


async def test_of_many_old_definitions_the_oldest_are_refetched_first(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    """Thousands of definitions of one age would delay a stream for minutes."""
    conids = range(1, MOST_OLD + 11)
    for conid in conids:
        keep(database, [stock(conid, exchange="SMART")], clock, age=OLD_AFTER + timedelta(seconds=conid))

    assert set(await ContractCache(database, connection, clock).qualified(conids)) == set(conids)

    with database.read() as transaction:
        assert set(cache.failures(transaction)) == set(conids[-MOST_OLD:])
