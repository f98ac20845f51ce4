"""Connecting: the message of each failure, its delay, and the next attempt."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from ib_async.client import Client

from v6_pipeline.errors import ClientIdInUseError, GatewayError, GatewayTooOldError, GatewayUnreachableError
from v6_pipeline.ib.connection import CircuitBreaker, ConnectionPolicy, ConnectionState, IBConnectionManager
from v6_pipeline.ib.probe import NEWEST_VERSION, OLDEST_VERSION
from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline_tests.integration.conftest import OpenConnection
from v6_pipeline_tests.integration.scripted_gateway import START_API, ScriptedGateway

pytestmark = pytest.mark.usefixtures("quiet_loop")

IN_TIME = 10
"""Seconds: far more than anything here takes, far less than the deadlines of a policy that must not be waited out."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def manager(port: int, **policy: Any) -> IBConnectionManager:
    return IBConnectionManager(host="127.0.0.1", port=port, client_id=1, policy=ConnectionPolicy(**policy))


@asynccontextmanager
async def server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield int(listening.sockets[0].getsockname()[1])
    listening.close()


async def error_of_connecting(port: int, **policy: Any) -> GatewayError:
    connection = manager(port, **policy)
    with pytest.raises(GatewayError) as caught:
        await connection.connect()
    assert "\n" not in str(caught.value)
    assert connection.state is ConnectionState.DISCONNECTED
    return caught.value


# What a failed attempt says


async def test_no_process_listens() -> None:
    port = free_port()

    error = await error_of_connecting(port)

    assert isinstance(error, GatewayUnreachableError)
    assert str(error).startswith(f"no gateway at 127.0.0.1:{port}: start IB Gateway")
    assert '"v6 gateway"' in str(error)


async def test_a_web_server_listens() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with server(answer) as port, asyncio.timeout(IN_TIME):
        error = await error_of_connecting(port, connect_timeout=60)

    assert isinstance(error, GatewayUnreachableError)
    assert "does not speak IB's protocol: set V6_IB_PORT" in str(error)


async def test_a_server_that_hangs_up_before_the_handshake_fails_at_once() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with server(hang_up) as port, asyncio.timeout(IN_TIME):
        error = await error_of_connecting(port, connect_timeout=60)

    assert "does not speak IB's protocol" in str(error)


async def test_a_silent_server_is_distinguished_from_a_web_server() -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.close()

    async with server(stay_silent) as port:
        error = await error_of_connecting(port, connect_timeout=0.2)

    assert isinstance(error, GatewayUnreachableError)
    assert "stays silent" in str(error)
    assert "check V6_IB_PORT" in str(error)


async def test_a_gateway_that_ends_the_session_at_the_login() -> None:
    async with ScriptedGateway(logs_in=False, hangs_up_on=START_API) as scripted, asyncio.timeout(IN_TIME):
        error = await error_of_connecting(scripted.port, connect_timeout=60)

    assert isinstance(error, GatewayUnreachableError)
    assert "started no session for client 1" in str(error)
    assert "Trusted IPs" in str(error)


async def test_a_gateway_that_is_too_old_is_named_at_once_with_its_version() -> None:
    """ib_async reports nothing, and waits for a login that never comes."""
    async with ScriptedGateway(version=OLDEST_VERSION - 1) as scripted, asyncio.timeout(IN_TIME):
        connection = manager(scripted.port, connect_timeout=60)
        with pytest.raises(GatewayTooOldError) as caught:
            await connection.connect()

        assert str(caught.value) == (
            f"the gateway at 127.0.0.1:{scripted.port} speaks version 156 of IB's protocol, at least 157 is needed: "
            "update IB Gateway or TWS"
        )
        assert connection.state is ConnectionState.BREAKER_OPEN


async def test_the_oldest_version_that_ib_async_supports_is_accepted() -> None:
    assert (Client.MinClientVersion, Client.MaxClientVersion) == (OLDEST_VERSION, NEWEST_VERSION)
    async with ScriptedGateway(version=OLDEST_VERSION) as scripted, asyncio.timeout(IN_TIME):
        connection = manager(scripted.port)
        await connection.connect()
        await connection.close()


async def test_a_gateway_that_reports_itself_too_old_at_the_login_is_rarely_tried() -> None:
    answers = {START_API: [(4, 2, -1, 503, "The TWS is out of date and must be upgraded.", "")]}
    async with ScriptedGateway(answers, logs_in=False) as scripted, asyncio.timeout(IN_TIME):
        connection = manager(scripted.port, connect_timeout=60)
        with pytest.raises(GatewayTooOldError, match=r"says 503 The TWS is out of date.*: update IB Gateway or TWS"):
            await connection.connect()

        assert connection.state is ConnectionState.BREAKER_OPEN


async def test_a_client_id_in_use_is_named_at_once(gateway: PaperGateway, open_connection: OpenConnection) -> None:
    await open_connection(7)

    with pytest.raises(ClientIdInUseError, match=r"client with id 7.*set V6_IB_CLIENT_ID"):
        async with asyncio.timeout(IN_TIME):
            await open_connection(7, connect_timeout=60)

    assert gateway.statistics.connections[7] == 1


async def test_a_gateway_that_hangs_up_right_after_the_login_is_known_to_be_lost() -> None:
    answers = {START_API: [(15, 1, "SIM0000001,"), (9, 1, 1)]}
    async with ScriptedGateway(answers, hangs_up_on=START_API) as scripted, asyncio.timeout(IN_TIME):
        connection = manager(scripted.port, connect_timeout=60)
        try:
            await connection.connect()
        except GatewayUnreachableError:
            return
        assert await connection.wait_lost() == "socket closed"
        assert connection.state is ConnectionState.DISCONNECTED


# Attempts


def test_the_breaker_opens_after_some_failures_in_a_row_and_closes_after_its_pause() -> None:
    now = 0.0
    breaker = CircuitBreaker(failures=3, pause_seconds=300, clock=lambda: now)
    breaker.record_failure()
    breaker.record_failure()
    breaker.record_success()
    breaker.record_failure()
    breaker.record_failure()
    assert breaker.seconds_open() == 0

    breaker.record_failure()
    assert breaker.seconds_open() == 300

    now = 299.0
    assert breaker.seconds_open() == 1
    now = 300.0
    assert breaker.seconds_open() == 0

    breaker.record_failure()  # the one attempt that decides
    assert breaker.seconds_open() == 300
    breaker.record_success()
    assert breaker.seconds_open() == 0


async def test_an_open_breaker_lets_no_attempt_through() -> None:
    now = 0.0
    connection = IBConnectionManager(
        host="127.0.0.1",
        port=free_port(),
        client_id=1,
        policy=ConnectionPolicy(breaker_failures=2, breaker_pause=300),
        clock=lambda: now,
    )
    for _ in range(2):
        with pytest.raises(GatewayUnreachableError):
            await connection.connect()

    assert connection.state is ConnectionState.BREAKER_OPEN
    now = 100.0
    with pytest.raises(GatewayError, match="failed too often: next attempt in 200 s"):
        await connection.connect()
    now = 300.0
    with pytest.raises(GatewayUnreachableError):
        await connection.connect()


async def test_connecting_continues_through_backoff_and_breaker_until_the_gateway_answers() -> None:
    now, sleeps, port = 0.0, list[float](), free_port()
    async with AsyncExitStack() as stack:

        async def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds
            sleeps.append(seconds)
            if len(sleeps) == 4:
                await stack.enter_async_context(PaperGateway(GatewayConfig(port=port, tick_seconds=None)))

        policy = ConnectionPolicy(backoff_initial=1, backoff_max=60, breaker_failures=3, breaker_pause=300)
        connection = IBConnectionManager(
            host="127.0.0.1", port=port, client_id=1, policy=policy, clock=lambda: now, sleep=sleep
        )
        await connection.connect_persistently()

        assert connection.state is ConnectionState.CONNECTED
        assert len(sleeps) == 4
        # Jittered between 0 and a limit that doubles, until the third failure in a row opens the breaker.
        assert sleeps[0] <= 1
        assert sleeps[1] <= 2
        assert sleeps[2:] == pytest.approx([300, 300])
        await connection.close()


async def test_link_messages_during_the_connect_reach_the_listeners() -> None:
    async with PaperGateway(GatewayConfig(port=0, control_port=None)) as gateway:
        gateway.perform("link_lost")
        connection = manager(gateway.port)
        codes: list[int] = []
        connection.add_error_listener(lambda _request, code, _text: codes.append(code))
        await connection.connect()
        assert connection.state is ConnectionState.LINK_LOST
        assert codes == [1100]
        await connection.close("over")
