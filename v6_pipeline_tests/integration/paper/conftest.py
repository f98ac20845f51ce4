"""Fixtures of the paper gateway's own tests: a gateway with a clock that stands still, and real clients of it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import date
from typing import Any

import pytest

from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline_tests.integration.paper.client import NOW, Client, Clock, Connect


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(clock: Clock) -> GatewayConfig:
    """Nothing moves by itself, and questions about orders are answered."""
    return GatewayConfig(as_of=date(2026, 11, 20), tick_seconds=None, clock=clock, utcnow=lambda: NOW, read_only=False)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exits:
        yield exits


@pytest.fixture
async def gateway(config: GatewayConfig, stack: AsyncExitStack) -> PaperGateway:
    return await stack.enter_async_context(PaperGateway(config))


@pytest.fixture
async def connect(gateway: PaperGateway, stack: AsyncExitStack) -> Connect:
    async def connect_client(client_id: int = 1, *, to: PaperGateway | None = None, **options: Any) -> Client:
        from ib_async import IB
        from ib_async.ib import StartupFetch

        client = Client(IB())

        def record(request_id: int, code: int, text: str, _contract: object) -> None:
            client.errors.append((request_id, code, text))

        client.ib.errorEvent += record
        client.ib.client.MaxRequests = 0
        stack.callback(client.ib.disconnect)
        options = {"fetchFields": StartupFetch(0), "timeout": 20, **options}
        await client.ib.connectAsync("127.0.0.1", (to or gateway).port, client_id, **options)
        return client

    return connect_client
