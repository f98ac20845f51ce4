"""The position feed: complete at its end, and every change after it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from v6_pipeline.errors import GatewayError, RequestTimeoutError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.positions import download_positions, subscribe_positions
from v6_pipeline.model import Holding
from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import Line, ScriptedGateway
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")

ACCOUNT, AAPL = "SIM0000001", 265598
POSITIONS = 61


def position(conid: int, quantity: float, cost: float = 100.0) -> Line:
    stock = (conid, "X", "STK", "", 0.0, "", "", "NASDAQ", "USD", "X", "NMS")
    return (61, 3, ACCOUNT, *stock, quantity, cost)


def asked(scripted: ScriptedGateway, times: int) -> bool:
    return scripted.count(POSITIONS) == times


def count_is(items: list[Holding], count: int) -> bool:
    return len(items) == count


async def test_a_download_has_every_position_of_every_account(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    holdings = await download_positions(connection, clock)

    assert {holding.key: (holding.position, holding.average_cost) for holding in holdings} == {
        (item.account, item.conid): (item.quantity, item.average_cost) for item in gateway.book.held()
    }
    assert {holding.observed_at for holding in holdings} == {clock.now}
    assert {holding.account for holding in holdings} == set(connection.accounts)


async def test_changes_keep_coming_closings_included(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    await download_positions(connection, clock)
    changes: list[Holding] = []
    subscribe_positions(connection, changes.append, clock)
    gateway.account_faults.resize_position(ACCOUNT, AAPL, 7)
    gateway.account_faults.close_position(ACCOUNT, AAPL)
    gateway.account_faults.open_position(ACCOUNT, AAPL, 3)
    await connection.round_trip()

    assert [(item.key, item.position) for item in changes] == [
        ((ACCOUNT, AAPL), 7.0),
        ((ACCOUNT, AAPL), 0.0),
        ((ACCOUNT, AAPL), 3.0),
    ]


async def test_the_download_itself_is_reported_too(connection: IBConnectionManager, clock: ManualClock) -> None:
    reported: list[Holding] = []
    subscribe_positions(connection, reported.append, clock)

    holdings = await download_positions(connection, clock)

    assert reported == holdings


async def test_the_newest_message_counts_and_a_closed_position_is_left_out(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    rows = [position(1, 5), position(2, 5), position(3, 0), position(1, 8), position(2, 0), (62, 1)]
    async with ScriptedGateway({POSITIONS: rows}) as scripted:
        connection = await open_connection(port=scripted.port)

        holdings = await download_positions(connection, clock)

    assert [(item.contract.conid, item.position) for item in holdings] == [(1, 8.0)]


async def test_an_account_without_positions(open_connection: OpenConnection, clock: ManualClock) -> None:
    async with ScriptedGateway({POSITIONS: [(62, 1)]}) as scripted:
        connection = await open_connection(port=scripted.port)

        assert await download_positions(connection, clock) == []


async def test_an_unknown_cost_is_none(open_connection: OpenConnection, clock: ManualClock) -> None:
    rows = [position(1, 5, 1.7976931348623157e308), (62, 1)]
    async with ScriptedGateway({POSITIONS: rows}) as scripted:
        connection = await open_connection(port=scripted.port)

        (holding,) = await download_positions(connection, clock)

    assert holding.average_cost is None


async def test_a_download_without_its_end_is_an_error(open_connection: OpenConnection, clock: ManualClock) -> None:
    """Half a download looks like positions that were closed."""
    async with ScriptedGateway({POSITIONS: [position(1, 5)]}) as scripted:
        connection = await open_connection(port=scripted.port, silence_timeout=0.1)

        with pytest.raises(RequestTimeoutError, match=r"fell silent for 0\.1 s before the end of the positions"):
            await download_positions(connection, clock)


async def test_a_long_download_continues_while_rows_come_and_ends_soon_after_the_last(
    open_connection: OpenConnection, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, ahead, reported = asyncio.get_running_loop(), 0.0, list[Holding]()
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    async with ScriptedGateway() as scripted:
        connection = await open_connection(port=scripted.port, silence_timeout=1_000, download_timeout=3_500)
        subscribe_positions(connection, reported.append, clock)
        for ends in ("by its last message", "by silence", "by its own deadline"):
            reported.clear()
            download = asyncio.create_task(download_positions(connection, clock))
            await eventually(partial(asked, scripted, scripted.count(POSITIONS) + 1))
            for row in range(1, 4):
                scripted.say(*position(row, 5))
                await eventually(partial(count_is, reported, row))
                ahead += 900
                await asyncio.sleep(0)
            assert not download.done()
            match ends:
                case "by its last message":
                    scripted.say(62, 1)
                    assert await download == reported
                case "by silence":
                    ahead += 200
                    with pytest.raises(RequestTimeoutError, match="fell silent for 1000 s"):
                        await download
                case _:
                    scripted.say(*position(4, 5))
                    await eventually(partial(count_is, reported, 4))
                    ahead += 900
                    with pytest.raises(RequestTimeoutError, match=r"did not answer .* positions within 3500 s"):
                        await download


async def test_a_download_cut_off_is_an_error(open_connection: OpenConnection, clock: ManualClock) -> None:
    async with ScriptedGateway({POSITIONS: [position(1, 5)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        download = asyncio.create_task(download_positions(connection, clock))
        await eventually(lambda: scripted.count(POSITIONS))
        scripted.hang_up()

        with pytest.raises(GatewayError, match="closed during the request for positions"):
            await download


async def test_a_listener_of_the_old_connection_gets_nothing_from_the_new_one(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    changes: list[Holding] = []
    subscribe_positions(connection, changes.append, clock)
    await connection.close()
    await eventually(lambda: not gateway.statistics.clients)
    await connection.connect()

    await download_positions(connection, clock)

    assert changes == []
