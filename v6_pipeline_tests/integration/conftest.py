"""Fixtures of the integration tests: a paper gateway that moves only when told, and a home that uses it.

A test module that needs another gateway overrides ``gateway_config``; one that needs other settings sets ``V6_``
variables before it asks for ``settings``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.lake.lake import Lake
from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.unit.state.databases import ManualClock, sqlite_template

__all__ = ["OpenConnection", "eventually", "sqlite_template"]

if TYPE_CHECKING:
    from v6_pipeline_tests.integration.streamer_rig import Rig

OpenConnection = Callable[..., Awaitable[IBConnectionManager]]


async def eventually(condition: Callable[[], object], what: str = "the condition", seconds: float = 20.0) -> None:
    """Wait until a condition holds; the deadline is generous because it is only ever reached in failure."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(0.005)


@pytest.fixture
def clock() -> ManualClock:
    """UTC now for product and gateway alike; stands still until it is told to go on."""
    return ManualClock()


@pytest.fixture
def gateway_config(clock: ManualClock) -> GatewayConfig:
    """Nothing moves by itself, and no message rate slows a test down."""
    return GatewayConfig(
        control_port=None, as_of=clock.now.date(), tick_seconds=None, message_rate=100_000, utcnow=clock
    )


@pytest.fixture
async def gateway(gateway_config: GatewayConfig) -> AsyncIterator[PaperGateway]:
    """A gateway in the test's own loop, which ``tick_once`` and ``portfolio_tick`` move."""
    async with PaperGateway(gateway_config) as running:
        yield running


@pytest.fixture
def settings(gateway: PaperGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a home of the test's own, with the gateway's port; variables that the test has set stay."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("V6_HOME", str(home))
    monkeypatch.setenv("V6_IB_PORT", str(gateway.port))
    if "V6_MESSAGES_PER_SECOND" not in os.environ:
        monkeypatch.setenv("V6_MESSAGES_PER_SECOND", "1000")
    return load_settings()


@pytest.fixture
def database(settings: Settings, sqlite_template: Path) -> Iterator[StateDatabase]:
    """The home's state database, empty."""
    shutil.copy(sqlite_template, settings.home / "state.db")
    opened = StateDatabase.open(settings.state_database_url, name_for_messages=settings.safe_state_url)
    yield opened
    opened.close()


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """The home's lake, empty."""
    return Lake.from_settings(settings)


@pytest.fixture
async def quiet_loop() -> AsyncIterator[None]:
    """Fail a test that leaves unhandled errors of tasks, futures or callbacks."""
    noise: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(str(context)))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert noise == []


@pytest.fixture
async def open_connection(gateway: PaperGateway) -> AsyncIterator[OpenConnection]:
    """Connects to the paper gateway, or to the port given; closed at the end."""
    opened: list[IBConnectionManager] = []

    async def connect(client_id: int = 1, *, port: int | None = None, **policy: Any) -> IBConnectionManager:
        patience = ConnectionPolicy(**{"messages_per_second": 1000, **policy})
        connection = IBConnectionManager(
            host="127.0.0.1", port=port or gateway.port, client_id=client_id, policy=patience
        )
        opened.append(connection)
        await connection.connect()
        return connection

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture
async def connection(open_connection: OpenConnection) -> IBConnectionManager:
    """Connected to the paper gateway as client 1."""
    return await open_connection()


@pytest.fixture
def quick_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are in the lake at once."""
    monkeypatch.setenv("V6_FLUSH_SECONDS", "0.05")


@pytest.fixture
def rig(gateway: PaperGateway, settings: Settings, database: StateDatabase, lake: Lake, clock: ManualClock) -> Rig:
    """Streamers in the test's own loop."""
    from v6_pipeline_tests.integration import streamer_rig  # which itself waits with ``eventually``

    return streamer_rig.Rig(gateway, settings, database, lake, clock)
