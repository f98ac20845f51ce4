"""The network of the simulation behaves like one: order, ends, resets, refusals."""

from __future__ import annotations

import asyncio

import pytest

from v6_pipeline_tests.simulation.loop import SimulatedProcess
from v6_pipeline_tests.simulation.test_loop import on_loop
from v6_pipeline_tests.simulation.wire import SimulatedLoop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


def test_bytes_come_back_in_order_and_then_the_end() -> None:
    async def body(_loop: SimulatedLoop) -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for number in range(500):
            writer.write(b"%d," % number)
            if number % 50 == 0:
                await asyncio.sleep(0.01)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    assert on_loop(body) == b"".join(b"%d," % number for number in range(500))


def test_nobody_listens() -> None:
    async def body(_loop: SimulatedLoop) -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", 7)

    on_loop(body)


def test_an_abort_is_a_reset_for_the_peer() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def body(_loop: SimulatedLoop) -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    on_loop(body)


def test_the_kernel_closes_what_a_killed_process_had_open() -> None:
    async def body(loop: SimulatedLoop) -> list[bytes]:
        received: list[bytes] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(listen, "127.0.0.1", 0)

        async def talk(_process: SimulatedProcess) -> None:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"my last words")
            await asyncio.sleep(3600)

        process = loop.start_process("talker", talk)
        await asyncio.sleep(1)
        assert received == []
        loop.kill_process(process)
        await asyncio.sleep(1)
        await loop.bury()
        return received

    assert on_loop(body) == [b"my last words"]
