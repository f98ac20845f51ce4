"""The connection: the message of each failure, and an end for each request that waits."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

import pytest

from v6_pipeline.errors import ClientIdInUseError, GatewayError, RequestTimeoutError
from v6_pipeline.ib.account_feed import AccountFeed
from v6_pipeline.ib.connection import ConnectionState, IBConnectionManager
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.ib.market_data import MarketData
from v6_pipeline.ib.positions import download_positions
from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import ScriptedGateway
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")

POSITIONS, CURRENT_TIME, ACCOUNT_SUMMARY = 61, 49, 62
IN_TIME = 10
"""Seconds: far more than anything here takes, far less than the deadlines of a policy that must not be waited out."""


def unconnected() -> IBConnectionManager:
    return IBConnectionManager(host="127.0.0.1", port=1, client_id=1)


# Ending


async def test_a_cancellation_that_comes_together_with_the_answer_is_not_swallowed() -> None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()
    went_on = False

    async def ask() -> None:
        nonlocal went_on
        await unconnected().request(answer, "positions")
        went_on = True

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    answer.set_result("positions")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not went_on


# Read-only


async def test_a_whole_session_sends_no_order(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    holdings = await download_positions(connection, clock)
    market = MarketData(connection, on_quote=lambda *_: None, on_refused=lambda _: None)
    market.attach()
    market.subscribe(await qualify(connection, holdings[0].contract.conid))
    await AccountFeed(connection, clock).download(connection.accounts[0])
    market.cancel(holdings[0].contract.conid)
    await connection.round_trip()

    assert gateway.statistics.order_messages == 0
    assert gateway.statistics.unknown_messages == {}


async def test_every_order_side_call_is_refused_before_the_wire(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    from ib_async import Contract, Order

    ib: Any = connection.ib
    contract, order = Contract(conId=265598, exchange="SMART"), Order(action="BUY", totalQuantity=1)
    before = gateway.statistics.messages_total
    attempts: list[Callable[[], object]] = [
        lambda: ib.placeOrder(contract, order),
        lambda: ib.cancelOrder(order),
        lambda: ib.whatIfOrderAsync(contract, order),
        ib.reqGlobalCancel,
        lambda: ib.exerciseOptions(contract, 1, 1, "SIM0000001", 0),
        lambda: ib.replaceFA(1, "<xml/>"),
        ib.reqAutoOpenOrders,
        lambda: ib.client.placeOrder(7, contract, order),
        lambda: ib.client.cancelOrder(7),
        lambda: ib.client.send(3, "whatever"),
    ]
    for attempt in attempts:
        with pytest.raises(GatewayError, match="read-only"):
            attempt()
    await connection.round_trip()

    assert gateway.statistics.messages_total == before + 1
    assert gateway.statistics.order_messages == 0


# Requests


async def test_a_request_without_an_answer_ends_at_its_deadline(open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted:
        connection = await open_connection(port=scripted.port, request_timeout=0.1)

        with pytest.raises(RequestTimeoutError, match=r"did not answer the request for positions within 0\.1 s"):
            await connection.request(connection.ib.reqPositionsAsync(), "positions")


async def test_a_refused_request_reports_code_and_text(connection: IBConnectionManager) -> None:
    from ib_async import Contract

    with pytest.raises(GatewayError, match="refused the request for a contract: 200 No security definition"):
        await connection.request(connection.ib.reqContractDetailsAsync(Contract(conId=1)), "a contract")


@pytest.mark.parametrize("how", ["by the peer", "by us", "by a code"])
async def test_a_request_under_way_ends_with_the_connection(how: str, open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted, asyncio.timeout(IN_TIME):
        connection = await open_connection(port=scripted.port, request_timeout=60)
        waiting = asyncio.create_task(connection.request(connection.ib.reqPositionsAsync(), "positions"))
        await eventually(lambda: scripted.count(POSITIONS))

        if how == "by the peer":
            scripted.hang_up()
        elif how == "by us":
            await connection.close()
        else:
            scripted.error(-1, 1300, "TWS socket port has been reset")

        with pytest.raises(GatewayError, match="closed during the request for positions"):
            await waiting


async def test_without_a_connection_there_is_no_client() -> None:
    connection = unconnected()

    assert not connection.is_connected
    with pytest.raises(GatewayError, match="not connected to the gateway at 127"):
        _ = connection.ib


# Watching


async def test_a_silent_gateway_is_disconnected(open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted, asyncio.timeout(IN_TIME):
        connection = await open_connection(port=scripted.port, heartbeat_interval=0, heartbeat_timeout=0.1)
        lost = asyncio.create_task(connection.wait_lost())

        await connection.run_heartbeat()

        assert "heartbeat" in await lost
        assert not connection.is_connected
        assert connection.state is ConnectionState.DISCONNECTED


async def test_the_heartbeat_goes_on_while_the_gateway_answers(
    gateway: PaperGateway, open_connection: OpenConnection
) -> None:
    connection = await open_connection(heartbeat_interval=0, heartbeat_timeout=60)
    before = gateway.statistics.messages_total
    heartbeat = asyncio.create_task(connection.run_heartbeat())

    await eventually(lambda: gateway.statistics.messages_total >= before + 3)

    assert connection.is_connected
    await connection.close()
    await asyncio.wait_for(heartbeat, IN_TIME)


async def test_round_trips_under_way_together_are_all_answered(connection: IBConnectionManager) -> None:
    """ib_async keeps one future for the time: without matching by order, all but the last would wait for ever."""
    async with asyncio.timeout(IN_TIME):
        await asyncio.gather(*(connection.round_trip() for _ in range(5)))


async def test_a_round_trip_follows_all_that_was_held_back_for_the_rate(open_connection: OpenConnection) -> None:
    async with ScriptedGateway({CURRENT_TIME: [(49, 1, 1772461800)]}) as scripted:
        connection = await open_connection(port=scripted.port, messages_per_second=5)
        client: Any = connection.ib.client
        for request_id in range(1, 9):
            client.cancelMktData(request_id)

        await connection.round_trip()

        assert scripted.count(2) == 8


async def test_a_connection_closed_by_the_gateway_is_lost(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    gateway._sessions[1].abort()

    assert await asyncio.wait_for(connection.wait_lost(), IN_TIME) == "socket closed"
    assert connection.state is ConnectionState.DISCONNECTED
    assert not connection.is_connected


async def test_a_new_connection_has_a_new_client_and_the_old_listeners(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    codes: list[int] = []
    connection.add_error_listener(lambda _req_id, code, _text: codes.append(code))
    first = connection.ib
    gateway._sessions[1].abort()
    await asyncio.wait_for(connection.wait_lost(), IN_TIME)
    await eventually(lambda: not gateway.statistics.clients)

    await connection.connect()
    lost = asyncio.create_task(connection.wait_lost())
    await connection.round_trip()
    codes.clear()
    gateway._sessions[1].error(-1, 2103, "Market data farm connection is broken:usfarm")
    await connection.round_trip()

    assert connection.ib is not first
    assert connection.connects == 2
    assert codes == [2103]
    assert connection.error_counts[2103] == 1
    assert not lost.done()
    lost.cancel()


async def test_connecting_again_leaves_the_first_session(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    first = connection.ib
    for _ in range(50):  # the gateway sees the first end only after the second began
        try:
            await connection.connect()
        except ClientIdInUseError:
            continue
        break

    assert not first.isConnected()
    assert gateway.statistics.clients == {1}


async def test_closing_twice_or_unconnected_does_nothing(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    await connection.close()
    await connection.close()
    await unconnected().close()

    assert await connection.wait_lost() == "closed"
    await eventually(lambda: not gateway.statistics.clients)


async def test_closing_a_connection_that_the_peer_has_just_reset_is_no_error(
    gateway: PaperGateway, connection: IBConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its OSError would prevent the release of lines and leases, which comes after."""

    def not_connected() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(connection.ib.client.conn.transport, "write_eof", not_connected)

    await connection.close()

    assert not connection.is_connected
    await eventually(lambda: not gateway.statistics.clients)


async def test_connecting_and_closing_leave_no_task(open_connection: OpenConnection) -> None:
    before = asyncio.all_tasks()
    async with ScriptedGateway() as scripted:
        connection = await open_connection(port=scripted.port)
        await connection.close()
        await eventually(lambda: not (asyncio.all_tasks() - before), "no task left")


# Codes


async def test_the_state_follows_the_link_to_ibs_servers(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    async def hear(code: int) -> ConnectionState:
        gateway._sessions[1].error(-1, code, "connectivity")
        await connection.round_trip()
        return connection.state

    assert await hear(1100) is ConnectionState.LINK_LOST
    assert await hear(1102) is ConnectionState.CONNECTED
    assert await hear(2110) is ConnectionState.LINK_LOST
    assert await hear(1101) is ConnectionState.CONNECTED


async def test_a_restored_link_subscribes_to_nothing_by_itself(open_connection: OpenConnection) -> None:
    """ib_async answers 1102 with an account summary subscription, of which IB grants two per client."""
    async with ScriptedGateway({CURRENT_TIME: [(49, 1, 1772461800)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        scripted.error(-1, 1102, "Connectivity between IB and TWS has been restored - data maintained.")
        await connection.round_trip()
        await connection.round_trip()

        assert scripted.count(ACCOUNT_SUMMARY) == 0


async def test_a_reset_socket_port_ends_the_connection(gateway: PaperGateway, connection: IBConnectionManager) -> None:
    gateway._sessions[1].error(-1, 1300, "TWS socket port has been reset")

    assert await asyncio.wait_for(connection.wait_lost(), IN_TIME) == "1300 TWS socket port has been reset"
    assert not connection.is_connected
