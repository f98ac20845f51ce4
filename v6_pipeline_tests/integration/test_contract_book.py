"""Qualified contracts: asked of the broker once, and again only where that may help."""

from __future__ import annotations

import pytest

from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.paper import PaperGateway
from v6_pipeline.state import contracts as cache
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.contract_book import ASK_AGAIN_AFTER, ContractBook
from v6_pipeline_tests.integration.conftest import OpenConnection
from v6_pipeline_tests.integration.scripted_gateway import ScriptedGateway
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.state.samples import stock

pytestmark = pytest.mark.usefixtures("quiet_loop")

AAPL, SPY, UNKNOWN = 265598, 756733, 1
CONTRACT_DETAILS = 9


async def test_each_contract_is_asked_for_once(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    book = ContractBook(database, connection, clock)
    before = gateway.statistics.messages_total
    first = await book.qualified([AAPL, SPY, AAPL])
    second = await ContractBook(database, connection, clock).qualified([SPY, AAPL])

    assert first == second
    assert {conid: spec.exchange for conid, spec in first.items()} == {AAPL: "SMART", SPY: "SMART"}
    assert gateway.statistics.messages_total == before + 2


async def test_what_a_position_told_is_no_qualification(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    with database.write() as transaction:
        cache.remember(transaction, [stock(AAPL)])

    found = await ContractBook(database, connection, clock).qualified([AAPL])

    assert found[AAPL].exchange == "SMART"


async def test_an_unknown_contract_is_left_out_and_asked_for_again_the_next_day(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    book = ContractBook(database, connection, clock)

    assert set(await book.qualified([AAPL, UNKNOWN])) == {AAPL}
    assert set(await book.qualified([AAPL, UNKNOWN])) == {AAPL}
    assert gateway.statistics.errors[200] == 1

    clock.advance(ASK_AGAIN_AFTER.total_seconds())
    await book.qualified([UNKNOWN])
    assert gateway.statistics.errors[200] == 2


async def test_a_request_that_failed_otherwise_is_tried_again_at_once(
    open_connection: OpenConnection, database: StateDatabase, clock: ManualClock
) -> None:
    refusal = (4, 2, ScriptedGateway.REQ_ID, 321, "Error validating request", "")
    async with ScriptedGateway({CONTRACT_DETAILS: [refusal]}) as scripted:
        book = ContractBook(database, await open_connection(port=scripted.port), clock)

        assert await book.qualified([AAPL]) == {}
        assert await book.qualified([AAPL]) == {}
        assert scripted.count(CONTRACT_DETAILS) == 2


async def test_without_a_connection_the_cache_still_serves(
    connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    book = ContractBook(database, connection, clock)
    await book.qualified([AAPL])
    await connection.close()

    assert set(await book.qualified([AAPL, SPY])) == {AAPL}


async def test_nothing_wanted_asks_nobody(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    before = gateway.statistics.messages_total

    assert await ContractBook(database, connection, clock).qualified([]) == {}
    assert gateway.statistics.messages_total == before
