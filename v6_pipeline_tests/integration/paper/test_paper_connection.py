"""Connecting to the paper gateway, and how it ends connections."""

import asyncio
import socket
import struct
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import GatewayConfig, PaperGateway, session
from v6_pipeline.paper.wire import encode_payload, frame
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    FIRST,
    NOW,
    SECOND,
    Client,
    Connect,
    all_fetch_fields,
    contract_of,
    eventually,
    settled,
)


async def test_a_plain_default_connect_works_and_fetches_everything(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(raiseSyncErrors=True, fetchFields=all_fetch_fields())
    assert client.ib.client.serverVersion() == 178
    assert client.ib.managedAccounts() == [FIRST, SECOND]
    assert len(client.ib.positions()) == 60
    assert client.ib.openTrades() == []
    assert {value.account for value in client.ib.accountValues()} == {FIRST, SECOND}
    assert client.codes() == []
    assert gateway.statistics.unknown_messages == {}


async def test_a_default_connect_to_a_single_account_fetches_its_portfolio(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    single = await stack.enter_async_context(PaperGateway(replace(config, accounts=(FIRST,))))
    client = await connect(0, to=single, raiseSyncErrors=True, fetchFields=all_fetch_fields())
    assert len(client.ib.portfolio(FIRST)) == 60
    assert single.statistics.unknown_messages == {}


async def test_requests_without_state_are_answered(connect: Connect) -> None:
    client = await connect(0)
    assert await asyncio.wait_for(client.ib.reqAllOpenOrdersAsync(), 20) == []
    assert await asyncio.wait_for(client.ib.reqCompletedOrdersAsync(False), 20) == []
    assert await asyncio.wait_for(client.ib.reqExecutionsAsync(), 20) == []
    received: list[str] = []
    client.ib.wrapper.managedAccounts = received.append
    client.ib.client.reqManagedAccts()
    client.ib.client.setServerLogLevel(2)
    await settled(client)
    assert received == [f"{FIRST},{SECOND}"]
    assert client.codes() == []


async def test_while_read_only_even_questions_about_orders_are_refused(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    read_only = await stack.enter_async_context(PaperGateway(replace(config, read_only=True)))
    client = await connect(0, to=read_only)
    client.ib.client.reqOpenOrders()
    client.ib.client.reqAllOpenOrders()
    client.ib.client.reqCompletedOrders(False)
    await settled(client)
    assert client.codes() == [321] * 3
    assert "Read-Only mode" in client.text(321)
    assert read_only.statistics.order_messages == 0, "they are questions"


async def test_the_time_is_the_gateways(connect: Connect) -> None:
    client = await connect()
    assert await client.ib.reqCurrentTimeAsync() == NOW


async def test_a_client_id_in_use_is_refused_with_326_and_the_first_client_stays(
    gateway: PaperGateway, connect: Connect
) -> None:
    from ib_async import IB

    first = await connect(7)
    second = Client(IB())
    second.ib.errorEvent += lambda *error: second.errors.append(error[:3])
    with pytest.raises((TimeoutError, ConnectionError)):
        await second.ib.connectAsync("127.0.0.1", gateway.port, clientId=7, timeout=2)
    assert second.codes() == [326]
    assert "client id is already in use" in second.text(326)
    await eventually(lambda: len(gateway._open) == 1)
    await settled(first)
    assert gateway.statistics.connections == {7: 1}
    assert gateway.statistics.clients == {7}, "the refused client's end is not the first one's"


async def test_a_client_id_is_free_again_after_its_client_left(gateway: PaperGateway, connect: Connect) -> None:
    first = await connect(7)
    first.ib.disconnect()
    await eventually(lambda: not gateway.statistics.clients)
    await connect(7)
    assert gateway.statistics.connections == {7: 2}


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"API\0" + struct.pack(">I", 0xFFFFFFFF),
        b"API\0" + struct.pack(">I", 9) + b"v100..150",
        b"API\0" + struct.pack(">I", 9) + b"v157..178" + struct.pack(">I", 4) + b"\xff\xfe\0\0",
        b"API\0" + struct.pack(">I", 9) + b"v157..178" + struct.pack(">I", 7) + b"61\x001\x002\0",
        b"API\0" + struct.pack(">I", 9) + b"v157..178" + struct.pack(">I", 0),
    ],
)
async def test_garbage_ends_the_connection_it_came_from_and_no_other(
    gateway: PaperGateway, connect: Connect, garbage: bytes
) -> None:
    client = await connect()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(garbage)
    await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await settled(client)
    assert gateway.statistics.bad_clients == 1
    assert gateway.statistics.clients == {1}


async def test_an_unknown_message_is_counted_and_answered(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    client.ib.client.send(9999, 1)
    client.ib.client.reqHeadTimeStamp(55, contract_of(AAPL), "TRADES", 1, 1)
    await settled(client)
    assert [(request_id, code) for request_id, code, _ in client.errors if code == 320] == [(-1, 320), (55, 320)]
    assert gateway.statistics.unknown_messages == {9999: 1, 87: 1}


async def test_a_malformed_message_is_answered_and_the_connection_stays(connect: Connect) -> None:
    client = await connect()
    client.ib.client.send(1, 11, 77, "no conid")
    await settled(client)
    assert client.codes() == [320]
    assert client.errors[-1][0] == 77


async def test_it_listens_on_loopback_only(gateway: PaperGateway) -> None:
    assert len(gateway.addresses) == 2
    assert {address[0] for address in gateway.addresses} == {"127.0.0.1"}
    with pytest.raises(TypeError):
        GatewayConfig(host="0.0.0.0")  # type: ignore[call-arg]


async def test_a_taken_port_is_one_clear_line(gateway: PaperGateway, config: GatewayConfig) -> None:
    with pytest.raises(GatewayError) as problem:
        await PaperGateway(replace(config, port=gateway.port)).start()
    assert f"127.0.0.1:{gateway.port}" in str(problem.value)
    assert "\n" not in str(problem.value)


async def test_a_taken_control_port_leaves_nothing_listening(gateway: PaperGateway, config: GatewayConfig) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(GatewayError, match="--control-port"):
        await PaperGateway(replace(config, port=port, control_port=gateway.control_port)).start()
    async with PaperGateway(replace(config, port=port)) as again:
        assert again.port == port


async def test_stopping_disconnects_every_client(config: GatewayConfig, connect: Connect) -> None:
    gateway = PaperGateway(config)
    await gateway.start()
    client = await connect(to=gateway)
    await gateway.stop()
    await eventually(lambda: not client.ib.isConnected())


async def test_a_client_that_reads_nothing_is_cut_off(gateway: PaperGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_UNSENT_BYTES", 1 << 16)
    every_spx_option = (9, 8, 1, 0, "SPX", "OPT", "", 0.0, "", "", "", "", "", "", "", False, "", "", "")
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as connection:
        connection.sendall(b"API\0" + frame(b"v157..178") + frame(encode_payload((71, 2, 9, ""))))
        await eventually(lambda: gateway.statistics.clients == {9})
        connection.sendall(frame(encode_payload(every_spx_option)) * 90)
        await eventually(lambda: not gateway.statistics.clients)


async def test_a_failure_while_serving_a_client_surfaces_when_the_gateway_stops(
    config: GatewayConfig, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = PaperGateway(config)
    await gateway.start()
    client = await connect(to=gateway)
    monkeypatch.setattr(gateway.book, "held", lambda *_, **__: 1 / 0)
    client.ib.client.reqPositions()
    await eventually(lambda: not client.ib.isConnected())
    with pytest.raises(ZeroDivisionError):
        await gateway.stop()


async def test_a_failure_while_ticking_stops_the_gateway_and_surfaces(
    config: GatewayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = PaperGateway(replace(config, tick_seconds=0.05))
    monkeypatch.setattr(gateway, "tick_once", lambda: 1 / 0)
    await gateway.start()
    await asyncio.wait_for(gateway.wait_stopped(), 20)
    with pytest.raises(ZeroDivisionError):
        await gateway.stop()
