"""Positions of a login that IB refuses all accounts at once; an error without a request is the answer, or another's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from v6_pipeline.errors import GatewayError, PositionsRefusedError, RequestRefusedError, RequestTimeoutError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.positions import download_positions, subscribe_positions
from v6_pipeline.model import Holding
from v6_pipeline.paper import GatewayConfig, PaperGateway, simulated_accounts
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import Line, ScriptedGateway
from v6_pipeline_tests.integration.test_ib_positions import AAPL, ACCOUNT, POSITIONS, position
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")

BY_ACCOUNT, CANCEL_BY_ACCOUNT, END = 74, 75, (62, 1)
REQ_ID = ScriptedGateway.REQ_ID
MULTI_END = (72, 1, REQ_ID)


def error(code: int, text: str = "no", request: object = -1) -> Line:
    return 4, 2, request, code, text, ""


def part(conid: int, quantity: float, cost: float = 100.0, *, model: str = "") -> Line:
    stock = (conid, "X", "STK", "", 0.0, "", "", "NASDAQ", "USD", "X", "NMS")
    return (71, 1, REQ_ID, ACCOUNT, *stock, quantity, cost, model)


class TestALoginOfManyAccounts:
    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig) -> GatewayConfig:
        return replace(gateway_config, accounts=simulated_accounts(60), positions=200)

    @pytest.fixture
    async def connection(self, open_connection: OpenConnection) -> IBConnectionManager:
        return await open_connection(refusal_timeout=0.05)

    async def test_every_position_of_every_account_is_downloaded(
        self, gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
    ) -> None:
        holdings = await download_positions(connection, clock)

        sent = {(item.account, item.conid): item for item in gateway.book.held()}
        assert {holding.key: holding.position for holding in holdings} == {
            key: item.quantity for key, item in sent.items()
        }
        for holding in holdings:
            assert holding.average_cost == pytest.approx(sent[holding.key].average_cost)

    async def test_changes_keep_coming_and_a_second_download_is_complete(
        self, gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
    ) -> None:
        changes: list[Holding] = []
        subscribe_positions(connection, changes.append, clock)
        first = await download_positions(connection, clock)
        changes.clear()
        gateway.account_faults.close_position(ACCOUNT, AAPL)
        gateway.account_faults.open_position(ACCOUNT, AAPL, -3)
        await connection.round_trip()
        assert [(item.key, item.position) for item in changes] == [((ACCOUNT, AAPL), 0.0), ((ACCOUNT, AAPL), -3.0)]

        again = await download_positions(connection, clock)

        assert len(again) == len(first)
        assert len(gateway._sessions[1].subscriptions.positions_multi) == 60, "the subscriptions before are cancelled"

    async def test_only_the_accounts_of_the_settings_are_requested(
        self, gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
    ) -> None:
        wanted = ("SIM0000007", "SIM0000008", "SIM9")
        holdings = await download_positions(connection, clock, accounts=wanted)

        assert {item.account for item in holdings} == {"SIM0000007", "SIM0000008"}
        assert len(gateway._sessions[1].subscriptions.positions_multi) == 2


@pytest.mark.parametrize("code", [321, 10275, 399999])
async def test_whatever_its_code_an_error_without_a_request_and_silence_are_a_refusal(
    code: int, open_connection: OpenConnection, clock: ManualClock
) -> None:
    answers = {POSITIONS: [error(code, "too many")], BY_ACCOUNT: [part(1, 5), part(2, 0), MULTI_END]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port, refusal_timeout=0.02)

        holdings = await download_positions(connection, clock)

    assert [(item.account, item.contract.conid, item.position) for item in holdings] == [(ACCOUNT, 1, 5.0)]


@pytest.mark.parametrize("after", [[END], [position(1, 5), END]])
async def test_an_error_of_another_request_is_no_refusal(
    after: list[Line], open_connection: OpenConnection, clock: ManualClock
) -> None:
    """IB answers a request for open orders with 321 and no request id while its API is read-only."""
    async with ScriptedGateway({POSITIONS: [error(321, "Read-Only"), *after]}) as scripted:
        connection = await open_connection(port=scripted.port)

        assert len(await download_positions(connection, clock)) == len(after) - 1
        assert scripted.count(BY_ACCOUNT) == 0


@pytest.mark.parametrize("code", [2104, 2158, 1102, 2110, 10167])
async def test_a_notice_is_no_refusal(code: int, open_connection: OpenConnection, clock: ManualClock) -> None:
    async with ScriptedGateway({POSITIONS: [error(code)]}) as scripted:
        connection = await open_connection(port=scripted.port, silence_timeout=0.1, refusal_timeout=0.01)

        with pytest.raises(RequestTimeoutError, match=r"fell silent for 0\.1 s"):
            await download_positions(connection, clock)


@pytest.mark.parametrize("request_id", [-1, REQ_ID])
async def test_refused_by_account_too_the_line_has_ibs_words_and_what_to_set(
    request_id: object, open_connection: OpenConnection, clock: ManualClock
) -> None:
    answers = {POSITIONS: [error(321, "not for you")], BY_ACCOUNT: [error(321, "nor so", request_id)]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port, refusal_timeout=0.02)

        with pytest.raises(PositionsRefusedError) as raised:
            await download_positions(connection, clock)

    assert "321 not for you" in str(raised.value)
    assert "321 nor so; set V6_IB_ACCOUNTS to the accounts to follow" in str(raised.value)


async def test_one_account_without_its_end_fails_the_download(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    """Half a download looks like positions that were closed."""
    answers = {POSITIONS: [error(321)], BY_ACCOUNT: [part(1, 5)]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port, refusal_timeout=0.02, silence_timeout=0.1)

        with pytest.raises(GatewayError, match="before the end of the positions by account"):
            await download_positions(connection, clock)


async def test_the_parts_of_models_are_one_position(open_connection: OpenConnection, clock: ManualClock) -> None:
    rows = [part(1, 5, 10.0, model="growth"), part(1, 15, 30.0, model="value"), part(2, 7), part(2, 3, model="growth")]
    async with ScriptedGateway({POSITIONS: [error(321)], BY_ACCOUNT: [*rows, MULTI_END]}) as scripted:
        connection = await open_connection(port=scripted.port, refusal_timeout=0.02)
        changes: list[Holding] = []
        first, second = await download_positions(connection, clock)
        assert (first.position, first.average_cost) == (20.0, 25.0)
        assert second.position == 7.0, "a row without a model is the whole position"

        subscribe_positions(connection, changes.append, clock)
        request = next(fields[2] for fields in scripted.received if fields[0] == str(BY_ACCOUNT))
        scripted.say(*(request if field is REQ_ID else field for field in part(1, 0, model="value")))
        await eventually(lambda: changes)

    assert [(item.contract.conid, item.position) for item in changes] == [(1, 5.0)]


async def test_a_request_that_is_refused_by_its_id_is_a_refusal_too(
    connection: IBConnectionManager, clock: ManualClock
) -> None:
    with pytest.raises(RequestRefusedError, match=r"321 .*Invalid account code"):
        await connection.request(connection.ib.request_account_positions("SIM9"), "positions")
