"""Faults between the gateway and IB: what is said, and what comes of ticks."""

import asyncio
from typing import Any

import pytest

from v6_pipeline.paper import PaperGateway, quote_at
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    FIRST,
    IBM,
    Client,
    Connect,
    an_option,
    contract_of,
    eventually,
    settled,
)

FARMS = "usfarm; usopt; usfuture; cashfarm; ushmds; secdefil"


async def is_ticking(gateway: PaperGateway, client: Client, ticker: Any) -> bool:
    """Return True if the next move of the price reaches a ticker."""
    before = ticker.volume
    gateway.tick_once()
    await settled(client)
    return bool(ticker.volume > before)


async def test_1100_stops_ticks_portfolios_and_definitions_until_1102(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await client.ib.reqAccountUpdatesAsync(FIRST)
    client.ib.client.reqPositions()
    await settled(client)
    updates: list[object] = []
    client.ib.updatePortfolioEvent += updates.append
    client.ib.positionEvent += updates.append
    gateway.perform("link_lost")
    gateway.perform("link_lost")
    assert not await is_ticking(gateway, client, ticker)
    gateway.portfolio_tick()
    gateway.account_faults.resize_position(FIRST, AAPL, 7)
    late = client.ib.reqMktData(contract_of(IBM))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.ib.reqContractDetailsAsync(contract_of(AAPL)), 0.1)
    await settled(client)
    assert updates == [], "changes during the outage are not sent"
    assert (client.codes(), gateway.statistics.lines) == ([1100, 1100], 2)
    gateway.perform("link_restored")
    assert await is_ticking(gateway, client, ticker)
    quote = quote_at(gateway.universe, IBM, gateway.market.sequence(IBM))
    assert (late.bid, late.marketDataType) == (quote.bid, 1)
    assert client.codes() == [1100, 1100, 1102]
    assert client.text(1102).endswith(f"restored - data maintained. All data farms are connected: {FARMS}.")


async def test_1101_means_that_the_subscriptions_are_gone(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("link_restored", data="lost")
    assert gateway.statistics.lines == 0
    assert not await is_ticking(gateway, client, ticker)
    client.ib.cancelMktData(contract_of(AAPL))
    again = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert await is_ticking(gateway, client, again)
    assert client.codes() == [1101, 300]


@pytest.mark.parametrize(
    "fault",
    [
        (("link_restored", {"data": "dead"}),),
        (("kill_streams", {}),),
        (("kill_streams", {"conids": [AAPL], "client_id": 1}),),
        (("farm_broken", {"farm": "usfarm"}), ("farm_ok", {"farm": "usfarm", "dead": True})),
        (("competing_session", {}), ("competing_session_ended", {"dead": True})),
    ],
)
async def test_a_dead_stream_holds_its_line_and_ticks_only_when_requested_again(
    gateway: PaperGateway, connect: Connect, fault: tuple[tuple[str, dict[str, Any]], ...]
) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    for name, fields in fault:
        gateway.perform(name, **fields)
    assert not await is_ticking(gateway, client, ticker)
    assert gateway.statistics.subscriptions == {AAPL: 1}
    client.ib.cancelMktData(contract_of(AAPL))
    again = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert await is_ticking(gateway, client, again)
    assert gateway.statistics.subscriptions == {AAPL: 1}
    assert 300 not in client.codes()


async def test_killed_streams_are_only_those_that_are_named(gateway: PaperGateway, connect: Connect) -> None:
    client, other = await connect(1), await connect(2)
    tickers = [each.ib.reqMktData(contract_of(conid)) for each, conid in ((client, AAPL), (client, IBM), (other, AAPL))]
    await settled(client)
    await settled(other)
    gateway.perform("kill_streams", conids=[AAPL], client_id=1)
    assert not await is_ticking(gateway, client, tickers[0])
    assert await is_ticking(gateway, client, tickers[1])
    assert await is_ticking(gateway, other, tickers[2])


@pytest.mark.parametrize(("silent", "codes"), [(False, [2110, 2110, 1102]), (True, [2110, 2110])])
async def test_2110_restores_itself(gateway: PaperGateway, connect: Connect, silent: bool, codes: list[int]) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("server_broken", seconds=3600.0)
    assert not await is_ticking(gateway, client, ticker)
    gateway.perform("server_broken", seconds=0.01, silent=silent)
    await eventually(lambda: gateway.market.link.is_up)
    assert await is_ticking(gateway, client, ticker)
    assert client.codes() == codes


async def test_a_broken_farm_stops_its_own_contracts_only(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    future = next(c for c in gateway.universe.contracts.values() if c.sec_type == "FUT")
    pair = next(c for c in gateway.universe.contracts.values() if c.sec_type == "CASH")
    tickers = {
        "usfarm": client.ib.reqMktData(contract_of(AAPL)),
        "usopt": client.ib.reqMktData(contract_of(an_option(gateway))),
        "usfuture": client.ib.reqMktData(contract_of(future.conid, future.exchanges[0])),
        "cashfarm": client.ib.reqMktData(contract_of(pair.conid, "IDEALPRO")),
    }
    await settled(client)
    for farm, broken in tickers.items():
        gateway.perform("farm_broken", farm=farm)
        alive = {name for name, ticker in tickers.items() if await is_ticking(gateway, client, ticker)}
        assert alive == tickers.keys() - {farm}
        gateway.perform("farm_ok", farm=farm)
        assert await is_ticking(gateway, client, broken)
    assert [text for _, code, text in client.errors if code == 2103] == [
        f"Market data farm connection is broken:{farm}" for farm in tickers
    ]
    assert (-1, 2104, "Market data farm connection is OK:usopt") in client.errors


async def test_a_farm_comes_back_by_itself_and_1102_names_those_that_are_not(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    gateway.perform("farm_broken", farm="usopt")
    gateway.perform("link_restored")
    gateway.perform("farm_broken", farm="usopt", seconds=0.02)
    await eventually(lambda: not gateway.market.link.broken)
    await settled(client)
    assert "The following farms are not connected: usopt." in client.text(1102)
    assert [code for _, code, text in client.errors if text.endswith("usopt")] == [2104, 2103, 2103, 2104]


async def test_the_farms_of_history_and_definitions_have_codes_of_their_own(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    gateway.perform("farm_broken", farm="ushmds")
    gateway.perform("farm_broken", farm="secdefil")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.ib.reqContractDetailsAsync(contract_of(AAPL)), 0.1)
    assert client.codes() == [2105, 2157]
    late = await connect(2)
    assert late.codes() == [2105, 2157], "a login says how things stand"
    gateway.perform("heal")
    assert len(await client.ib.reqContractDetailsAsync(contract_of(AAPL))) == 1
    assert [code for _, code, _ in client.errors][-2:] == [2158, 2106]


async def test_a_login_while_the_link_is_down_hears_1100(gateway: PaperGateway, connect: Connect) -> None:
    gateway.perform("link_lost")
    client = await connect()
    await settled(client)
    assert [code for _, code, _ in client.errors] == [1100]


async def test_a_competing_session_stops_all_requests_open_and_new(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("competing_session")
    late = client.ib.reqMktData(contract_of(IBM))
    await settled(client)
    assert not await is_ticking(gateway, client, ticker)
    assert client.codes() == [10197, 10197]
    assert {request_id for request_id, code, _ in client.errors if code == 10197} == set(
        gateway._sessions[1].subscriptions.market_data
    )
    assert gateway.statistics.subscriptions == {AAPL: 1, IBM: 1}, "the request stays open at IB"
    gateway.perform("competing_session", seconds=0.02)
    await eventually(lambda: not gateway.market.link.is_competing)
    assert await is_ticking(gateway, client, ticker)
    assert late.bid == quote_at(gateway.universe, IBM, gateway.market.sequence(IBM)).bid
