"""Downloads that end early, feeds that are taken away, and options that are assigned."""

import asyncio

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.paper.client import AAPL, FIRST, SECOND, Client, Connect, eventually, settled


async def download(client: Client) -> None:
    """A download that ends."""
    await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(FIRST), 20)


async def download_without_end(client: Client) -> None:
    with pytest.raises((TimeoutError, ConnectionError)):
        await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(FIRST), 0.2)


async def test_a_silent_cut_sends_rows_and_never_an_end(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.perform("cut_account_download", rows=4)
    await download_without_end(client)
    assert len(client.ib.portfolio(FIRST)) == 4
    assert client.ib.isConnected()
    await download(client)
    assert client.codes() == []


async def test_a_cut_can_end_the_connection(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    rows: list[object] = []
    client.ib.updatePortfolioEvent += rows.append
    gateway.perform("cut_account_download", how="drop", rows=5)
    await download_without_end(client)
    await eventually(lambda: not client.ib.isConnected())
    assert len(rows) == 5


async def test_a_cut_can_be_an_eviction(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.perform("cut_account_download", how="evict", rows=2)
    await download_without_end(client)
    rows: list[object] = []
    client.ib.updatePortfolioEvent += rows.append
    gateway.portfolio_tick()
    await settled(client)
    assert client.codes() == [2100]
    assert rows == []


@pytest.mark.parametrize("how", ["silent", "drop"])
async def test_a_position_download_can_be_cut(gateway: PaperGateway, connect: Connect, how: str) -> None:
    client = await connect()
    rows: list[object] = []
    client.ib.positionEvent += rows.append
    gateway.perform("cut_position_download", how=how, rows=6)
    with pytest.raises((TimeoutError, ConnectionError)):
        await asyncio.wait_for(client.ib.reqPositionsAsync(), 0.1)
    await eventually(lambda: client.ib.isConnected() == (how == "silent"))
    assert len(rows) == 6


async def test_a_feed_is_taken_away_by_account(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    await client.ib.reqAccountUpdatesAsync(FIRST)
    gateway.perform("evict_account_feed", account=SECOND)
    await settled(client)
    assert client.codes() == []
    gateway.perform("evict_account_feed")
    await settled(client)
    assert client.codes() == [2100]
    assert gateway._sessions[1].subscriptions.account is None


async def test_a_feed_is_refused_with_2101(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.perform("refuse_account_feed", count=2)
    await download_without_end(client)
    await download_without_end(client)
    await download(client)
    assert client.codes() == [2101, 2101]


async def test_assignment_moves_the_option_and_the_stock_and_reports_both(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    contracts = gateway.universe.contracts
    put = next(
        h
        for h in gateway.book.held()
        if h.quantity < 0 and (c := contracts[h.conid]).right == "P" and c.symbol == "AAPL"
    )
    before = gateway.book.holdings.get((put.account, AAPL))
    stock, short = (before.quantity if before else 0.0), put.quantity
    await client.ib.reqPositionsAsync()
    received: list[tuple[int, float]] = []
    client.ib.positionEvent += lambda row: received.append((row.contract.conId, row.position))
    gateway.perform("assign", account=put.account, conid=put.conid)
    await settled(client)
    assert received == [(put.conid, 0.0), (AAPL, stock - 100 * short)]
    with pytest.raises(GatewayError, match="holds nothing"):
        gateway.perform("assign", account=put.account, conid=put.conid)


async def test_healing_forgets_what_is_still_to_come(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.perform("cut_account_download", count=5)
    gateway.perform("cut_position_download", count=5)
    gateway.perform("refuse_account_feed", count=5)
    gateway.perform("heal")
    await download(client)
    assert len(await asyncio.wait_for(client.ib.reqPositionsAsync(), 20)) == 60
