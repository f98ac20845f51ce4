"""Contract look-up over the socket: found, not found, and never waiting for ever."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest

from v6_pipeline.errors import GatewayError, RequestTimeoutError, UnknownContractError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify, qualify_all
from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import ScriptedGateway

pytestmark = pytest.mark.usefixtures("quiet_loop")

CONTRACT_DETAILS = 9
AAPL, SPX = 265598, 416904


def a_contract(gateway: PaperGateway, symbol: str, sec_type: str) -> int:
    return next(
        item.conid for item in gateway.universe.contracts.values() if (item.symbol, item.sec_type) == (symbol, sec_type)
    )


async def test_a_stock_is_requested_at_smart(connection: IBConnectionManager) -> None:
    spec = await qualify(connection, AAPL)

    assert (spec.conid, spec.symbol, spec.sec_type, spec.currency) == (AAPL, "AAPL", SecType.STOCK, "USD")
    assert (spec.exchange, spec.multiplier, spec.price_magnifier) == ("SMART", 1.0, 1)
    assert (spec.expiry, spec.strike, spec.right, spec.underlying_conid) == (None, None, None, None)


async def test_an_option_has_its_terms_and_its_underlying(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    conid = a_contract(gateway, "SPX", "OPT")
    listed = gateway.universe.contracts[conid]

    spec = await qualify(connection, conid)

    assert (spec.exchange, spec.multiplier, spec.underlying_conid) == ("SMART", 100.0, SPX)
    assert (spec.right, spec.strike) == (listed.right, listed.strike)
    assert spec.expiry == date.fromisoformat(listed.expiry)
    assert spec.trading_class == listed.trading_class


async def test_a_future_is_requested_at_its_own_exchange(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    spec = await qualify(connection, a_contract(gateway, "ES", "FUT"))

    assert (spec.exchange, spec.multiplier, spec.price_magnifier) == ("CME", 50.0, 1)
    assert spec.expiry is not None


async def test_a_future_quoted_in_cents_has_its_magnifier(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    spec = await qualify(connection, a_contract(gateway, "ZC", "FUT"))

    assert (spec.price_magnifier, spec.multiplier) == (100, 5000.0)


async def test_a_currency_pair(gateway: PaperGateway, connection: IBConnectionManager) -> None:
    spec = await qualify(connection, a_contract(gateway, "EUR", "CASH"))

    assert (spec.sec_type, spec.exchange, spec.currency) == (SecType.CURRENCY, "IDEALPRO", "USD")


async def test_an_unknown_conid_is_an_error_of_its_own(connection: IBConnectionManager) -> None:
    with pytest.raises(UnknownContractError, match=r"knows no contract with conid 1: .*IB forgets expired options"):
        await qualify(connection, 1)


async def test_an_answer_without_a_definition_is_an_unknown_contract(open_connection: OpenConnection) -> None:
    async with ScriptedGateway({CONTRACT_DETAILS: [(52, 1, ScriptedGateway.REQ_ID)]}) as scripted:
        connection = await open_connection(port=scripted.port)

        with pytest.raises(UnknownContractError, match="conid 5"):
            await qualify(connection, 5)


async def test_a_request_refused_with_321_ends_at_once(open_connection: OpenConnection) -> None:
    """ib_async treats 321 as a warning, and the request would wait until its deadline."""
    refusal = (4, 2, ScriptedGateway.REQ_ID, 321, "Error validating request: cause - Please enter exchange", "")
    async with ScriptedGateway({CONTRACT_DETAILS: [refusal]}) as scripted, asyncio.timeout(10):
        connection = await open_connection(port=scripted.port, request_timeout=60)

        with pytest.raises(GatewayError, match="definition of contract 5: 321 Error validating"):
            await qualify(connection, 5)


async def test_a_refusal_of_another_request_is_not_ours(open_connection: OpenConnection) -> None:
    async with ScriptedGateway({CONTRACT_DETAILS: [(4, 2, 999, 321, "someone else's", "")]}) as scripted:
        connection = await open_connection(port=scripted.port, request_timeout=0.1)

        with pytest.raises(RequestTimeoutError):
            await qualify(connection, 5)


async def test_many_are_looked_up_though_some_are_bad(gateway: PaperGateway, connection: IBConnectionManager) -> None:
    conids = [AAPL, 1, a_contract(gateway, "SPX", "OPT"), 2]

    answers = await qualify_all(connection, conids)

    assert list(answers) == conids
    assert [type(answer) for answer in answers.values()] == [
        ContractSpec,
        UnknownContractError,
        ContractSpec,
        UnknownContractError,
    ]


async def test_no_more_than_so_many_requests_are_open(open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted:
        connection = await open_connection(port=scripted.port, request_timeout=60)
        looking_up = asyncio.create_task(qualify_all(connection, list(range(1, 10)), at_once=3))
        await eventually(lambda: scripted.count(CONTRACT_DETAILS) == 3)

        scripted.error(int(scripted.received[-1][2]), 200, "No security definition has been found")
        await eventually(lambda: scripted.count(CONTRACT_DETAILS) == 4)
        await connection.close()
        answers = await asyncio.wait_for(looking_up, 10)

    assert scripted.count(CONTRACT_DETAILS) == 4
    assert len(answers) == 9
    assert all(isinstance(answer, GatewayError) for answer in answers.values())
