"""Faults of the socket, as a real client meets them. A lasting fault ends by `heal` unless its own end is tested."""

import asyncio
import functools
import socket
import struct
from typing import Any

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import PaperGateway, quote_at
from v6_pipeline.paper.wire import encode_payload, frame
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    IBM,
    Client,
    Clock,
    Connect,
    contract_of,
    eventually,
    settled,
)

LONG = 3600.0


async def raw_login(gateway: PaperGateway, client_id: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that only reads bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(_login(client_id))
    await eventually(lambda: client_id in gateway.statistics.clients)
    return reader, writer


def _login(client_id: int) -> bytes:
    return b"API\0" + frame(b"v157..178") + frame(encode_payload((71, 2, client_id, "")))


def has_come(gateway: PaperGateway, messages: int) -> bool:
    return gateway.statistics.messages[1] >= messages


async def is_silent(client: Client) -> bool:
    """Return True if a request is not answered although the gateway had ample time."""
    try:
        await asyncio.wait_for(client.ib.reqCurrentTimeAsync(), 0.1)
    except TimeoutError:
        return True
    return False


async def test_a_client_that_was_killed_a_moment_ago_can_be_dropped(gateway: PaperGateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as killed:
        killed.sendall(_login(7))
        await eventually(lambda: gateway.statistics.clients == {7})
        killed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Its reset has arrived, and the gateway has not read it yet.
    gateway.perform("drop")
    assert gateway.statistics.clients == set()


async def test_a_dropped_client_is_free_to_come_back_at_once_and_holds_nothing(
    gateway: PaperGateway, connect: Connect
) -> None:
    client, other = await connect(1), await connect(2)
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("drop", client_id=1)
    assert gateway.statistics.lines == 0
    assert gateway.statistics.clients == {2}
    await eventually(lambda: not client.ib.isConnected())
    again = await connect(1)
    await settled(again)
    await settled(other)
    gateway.perform("drop")
    await eventually(lambda: not again.ib.isConnected() and not other.ib.isConnected())


async def test_a_drop_can_be_a_reset(gateway: PaperGateway) -> None:
    reader, writer = await raw_login(gateway, 1)
    gateway.perform("drop", reset=True)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_refused_connections_are_refused_and_open_ones_stay(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(1)
    port = gateway.port
    gateway.perform("refuse_connections", seconds=LONG)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await settled(client)
    gateway.perform("refuse_connections", seconds=0.01)
    await eventually(lambda: gateway.addresses[0][1] == port)
    assert gateway.port == port
    await connect(2)


async def test_a_gateway_that_stalls_counts_messages_when_it_reads_them(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    await settled(client)
    before = gateway.statistics.messages[1]
    gateway.perform("stall", seconds=LONG)
    for _ in range(5):
        client.ib.client.reqMarketDataType(1)
    await asyncio.sleep(0.05)
    assert gateway.statistics.messages[1] == before

    gateway.perform("heal")

    await eventually(lambda: gateway.statistics.messages[1] == before + 5)


async def test_refusing_again_replaces_the_end(gateway: PaperGateway, connect: Connect) -> None:
    gateway.perform("refuse_connections", seconds=0.01)
    gateway.perform("refuse_connections", seconds=LONG)
    await asyncio.sleep(0.05)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", gateway.port)
    gateway.perform("heal")
    await eventually(lambda: len(gateway.addresses) == 2)
    await connect(1)


async def test_a_blackhole_answers_nothing_then_everything_in_order(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(1)
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("blackhole", seconds=LONG)
    assert await is_silent(client)
    gateway.tick_once()
    gateway.perform("notice", code=2107, text="held")
    client.ib.reqMktData(contract_of(IBM))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"API\0" + frame(b"v157..178"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    assert ticker.bid == quote_at(gateway.universe, AAPL, 0).bid
    assert gateway.statistics.subscriptions == {AAPL: 1}, "nothing is read either"
    gateway.perform("heal")
    await settled(client)
    assert client.codes() == [2107]
    assert gateway.statistics.subscriptions == {AAPL: 1, IBM: 1}
    assert await asyncio.wait_for(reader.read(1), 20), "the handshake is answered late"
    writer.close()
    gateway.tick_once()
    await settled(client)
    assert ticker.bid == quote_at(gateway.universe, AAPL, 2).bid


async def test_a_blackhole_of_one_client_holds_its_logins_and_ends_by_itself(
    gateway: PaperGateway, connect: Connect
) -> None:
    spared = await connect(2)
    gateway.perform("blackhole", seconds=LONG, client_id=1)
    with pytest.raises((TimeoutError, ConnectionError)):
        await connect(1, timeout=0.2)
    await settled(spared)
    gateway.perform("blackhole", seconds=0.05, client_id=1)
    await eventually(lambda: gateway.statistics.clients == {2})
    await settled(await connect(1))


async def test_in_a_blackhole_the_end_of_a_connection_is_not_noticed(gateway: PaperGateway, connect: Connect) -> None:
    hit, spared = await connect(1), await connect(2)
    hit.ib.reqMktData(contract_of(AAPL))
    await settled(hit)
    gateway.perform("blackhole", seconds=LONG, client_id=1)
    hit.ib.disconnect()
    await settled(spared)
    with pytest.raises((TimeoutError, ConnectionError)):
        await connect(1)
    assert gateway.statistics.clients == {1, 2}
    assert gateway.statistics.subscriptions == {AAPL: 1}
    assert gateway.statistics.errors[326] == 1

    gateway.perform("heal")

    assert gateway.statistics.clients == {2}
    assert gateway.statistics.lines == 0
    await settled(await connect(1))


async def test_messages_that_pile_up_in_a_blackhole_do_not_breach_the_rate(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client = await connect(1)
    gateway.perform("blackhole", seconds=LONG)
    for batch in range(1, 5):
        clock.now += 1.0
        for _ in range(90):
            client.ib.client.reqIds(1)
        await eventually(functools.partial(has_come, gateway, 90 * batch))
    gateway.perform("heal")
    clock.now += 1.0
    await settled(client)
    assert client.codes() == []
    assert gateway.statistics.peak_rate == 90


async def test_a_delay_holds_messages_and_keeps_their_order(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(1)
    loop = asyncio.get_running_loop()
    gateway.perform("delay", hold_seconds=0.2)
    begin = loop.time()
    gateway.perform("notice", code=2107, text="first")
    gateway.perform("delay", hold_seconds=0.01, seconds=LONG)
    gateway.perform("notice", code=2108, text="second")
    await eventually(lambda: len(client.codes()) == 2)
    assert loop.time() - begin > 0.19
    assert client.codes() == [2107, 2108]
    gateway.perform("delay", hold_seconds=LONG, seconds=0.01)
    await asyncio.sleep(0.05)
    await settled(client)


async def test_a_truncated_frame_ends_the_connection(gateway: PaperGateway) -> None:
    reader, writer = await raw_login(gateway, 1)
    gateway.perform("truncated_frame")
    data = await asyncio.wait_for(reader.read(), 20)
    while len(data) >= 4 and len(data) >= (end := 4 + int.from_bytes(data[:4], "big")):
        data = data[end:]
    assert data, "the last frame is cut off"
    assert gateway.statistics.clients == set()
    writer.close()


async def test_a_truncated_frame_can_leave_the_stream_out_of_step(gateway: PaperGateway, connect: Connect) -> None:
    client, other = await connect(1), await connect(2)
    gateway.perform("truncated_frame", client_id=1, then_drop=False)
    assert await is_silent(client)
    assert client.ib.isConnected()
    await settled(other)


async def test_garbage_is_survived_by_the_client(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(1)
    sent = gateway.statistics.messages_sent
    gateway.perform("garbage_frame")
    assert gateway.statistics.messages_sent == sent + 6
    await settled(client)


async def test_a_huge_frame_swallows_all_that_follows(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(1)
    gateway.perform("huge_frame")
    assert await is_silent(client)
    assert client.ib.isConnected(), "only a heartbeat notices"


async def test_error_100_on_command_and_the_third_ends_the_connection(gateway: PaperGateway, connect: Connect) -> None:
    client, other = await connect(1), await connect(2)
    gateway.perform("exceed_rate", client_id=1)
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    await settled(other)
    assert (client.codes(), other.codes()) == ([100], [])
    assert gateway.statistics.subscriptions_total == {}
    gateway.perform("exceed_rate", count=2)
    for _ in range(2):
        client.ib.client.reqIds(1)
    await eventually(lambda: not client.ib.isConnected())
    assert client.codes() == [100, 100, 100]


async def test_an_occupied_client_id_is_326_until_it_is_free(gateway: PaperGateway, connect: Connect) -> None:
    gateway.perform("occupy_client_id", client_id=7, seconds=LONG)
    with pytest.raises((TimeoutError, ConnectionError)):
        await connect(7, timeout=2)
    await eventually(lambda: gateway.statistics.errors[326] == 1)
    await connect(8)
    gateway.perform("occupy_client_id", client_id=7, seconds=0.01)
    await eventually(lambda: not gateway.connection_faults.is_occupied(7))
    await connect(7)


async def test_1300_names_a_port_that_is_open_in_addition_to_the_old_one(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect(1)
    port: Any = gateway.perform("move_port")["port"]
    await eventually(lambda: not client.ib.isConnected())
    assert client.codes() == [1300]
    assert client.text(1300).endswith(f"Please reconnect on the new port - {port}")
    assert port != gateway.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"API\0" + frame(b"v157..178"))
    assert await asyncio.wait_for(reader.read(1), 20)
    writer.close()
    await connect(1)
    with pytest.raises(GatewayError, match=f"127.0.0.1:{gateway.port}"):
        gateway.perform("move_port", port=gateway.port)


async def test_a_stopped_gateway_leaves_no_fault_behind(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(1)
    gateway.perform("blackhole", seconds=LONG)
    gateway.perform("delay", hold_seconds=LONG)
    gateway.perform("refuse_connections", seconds=LONG)
    await asyncio.wait_for(gateway.stop(), 5)
    await eventually(lambda: not client.ib.isConnected())
