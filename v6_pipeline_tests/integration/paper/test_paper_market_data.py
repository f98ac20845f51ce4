"""Streams and snapshots of the paper gateway."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from v6_pipeline.paper import GatewayConfig, PaperGateway, quote_at
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    IBM,
    NOW,
    SPX,
    Connect,
    an_option,
    contract_of,
    eventually,
    seen,
    settled,
)


async def test_a_stream_delivers_exactly_what_the_statistics_and_the_price_function_say(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    option = an_option(gateway)
    tickers = {conid: client.ib.reqMktData(contract_of(conid), "221") for conid in (option, AAPL)}
    closes: list[float] = []
    tickers[AAPL].updateEvent += lambda ticker: closes.extend(t.price for t in ticker.ticks if t.tickType == 9)
    for sequence in range(12):
        await settled(client)
        for conid, ticker in tickers.items():
            quote = quote_at(gateway.universe, conid, sequence)
            values = seen(ticker, greeks=conid == option)
            assert values | {"sequence": sequence} == gateway.statistics.last_values[conid]
            assert (ticker.bid, ticker.ask, ticker.last) == (quote.bid, quote.ask, quote.last)
            assert ticker.markPrice == quote.mark
            assert ticker.marketDataType == 1
        if sequence < 11:
            gateway.tick_once()
    assert len(closes) == 1, "only what changed is sent again"
    model = tickers[option].modelGreeks
    assert model is not None
    assert model.undPrice == quote_at(gateway.universe, option, 11).underlying_price
    for computation, price in ((tickers[option].bidGreeks, "bid"), (tickers[option].askGreeks, "ask")):
        assert computation is not None
        assert computation.optPrice == gateway.statistics.last_values[option][price]
    assert tickers[AAPL].minTick == 0.01
    assert tickers[AAPL].lastTimestamp == NOW


async def test_without_generic_tick_221_there_is_no_mark_price(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert ticker.bid > 0
    assert ticker.markPrice != ticker.markPrice
    assert "mark" not in gateway.statistics.last_values[AAPL]


async def test_prices_move_by_themselves_every_tick_seconds(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    moving = await stack.enter_async_context(PaperGateway(replace(config, tick_seconds=0.05)))
    client = await connect(to=moving)
    client.ib.reqMktData(contract_of(AAPL))
    await eventually(lambda: moving.market.sequence(AAPL) >= 3)
    assert moving.market.sequence(IBM) == 0, "only streamed contracts move"


async def test_a_late_subscriber_begins_with_a_full_burst_of_the_current_price(
    gateway: PaperGateway, connect: Connect
) -> None:
    first, second = await connect(1), await connect(2)
    first.ib.reqMktData(contract_of(AAPL))
    await settled(first)
    gateway.tick_once()
    ticker = second.ib.reqMktData(contract_of(AAPL))
    await settled(second)
    assert (ticker.bid, ticker.close) == (
        quote_at(gateway.universe, AAPL, 1).bid,
        quote_at(gateway.universe, AAPL, 1).close,
    )


async def test_a_quiet_contract_sends_nothing_until_it_resumes(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.contract_faults.quiet([AAPL])
    quiet, loud = (client.ib.reqMktData(contract_of(conid)) for conid in (AAPL, IBM))
    await settled(client)
    gateway.tick_once()
    await settled(client)
    assert quiet.bid != quiet.bid
    assert loud.bid == quote_at(gateway.universe, IBM, 1).bid
    gateway.contract_faults.resume([AAPL])
    gateway.tick_once()
    await settled(client)
    assert quiet.bid == quote_at(gateway.universe, AAPL, 1).bid


async def test_an_index_sends_its_last_price_only(connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(SPX, "CBOE"))
    await settled(client)
    assert ticker.last > 0
    assert ticker.bid != ticker.bid


async def test_a_snapshot_is_one_burst_and_an_end_and_gives_its_line_back(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    (ticker,) = await asyncio.wait_for(client.ib.reqTickersAsync(contract_of(AAPL)), 20)
    assert ticker.bid == quote_at(gateway.universe, AAPL, 0).bid
    assert (gateway.statistics.lines, gateway.statistics.peak_lines) == (0, 1)
    gateway.tick_once()
    await settled(client)
    assert ticker.bid == quote_at(gateway.universe, AAPL, 0).bid


async def test_an_open_snapshot_holds_a_line_until_it_ends_or_its_client_leaves(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    slow = await stack.enter_async_context(PaperGateway(replace(config, snapshot_seconds=3600.0)))
    client = await connect(to=slow)
    ticker = client.ib.reqMktData(contract_of(AAPL), snapshot=True)
    await settled(client)
    assert slow.statistics.lines == 1
    slow.tick_once()
    await settled(client)
    assert ticker.bid == quote_at(slow.universe, AAPL, 0).bid, "a snapshot does not stream"
    assert slow.market.sequence(AAPL) == 0
    client.ib.disconnect()
    await eventually(lambda: slow.statistics.lines == 0)


async def test_a_cancelled_snapshot_does_not_end_later(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    slow = await stack.enter_async_context(PaperGateway(replace(config, snapshot_seconds=0.05)))
    client = await connect(to=slow)
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    client.ib.client.reqMktData(70, contract_of(AAPL), "", True, False, [])
    client.ib.client.cancelMktData(70)
    await asyncio.wait_for(client.ib.reqTickersAsync(contract_of(IBM)), 20)
    assert slow.statistics.lines == 0
    assert problems == []
    assert client.codes() == []


async def test_a_snapshot_ends_after_snapshot_seconds(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    slow = await stack.enter_async_context(PaperGateway(replace(config, snapshot_seconds=0.05)))
    client = await connect(to=slow)
    await asyncio.wait_for(client.ib.reqTickersAsync(contract_of(AAPL)), 20)
    assert slow.statistics.lines == 0


@pytest.mark.parametrize(
    ("exchange", "generic", "snapshot", "regulatory", "cause"),
    [
        ("", "", False, False, "Please enter exchange"),
        ("SMART", "221", True, False, "Snapshot market data subscription is not applicable to generic ticks"),
        ("SMART", "", False, True, "Regulatory snapshots are not simulated"),
    ],
)
async def test_an_invalid_request_is_321_with_its_cause(
    gateway: PaperGateway,
    connect: Connect,
    exchange: str,
    generic: str,
    snapshot: bool,
    regulatory: bool,
    cause: str,
) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL, exchange), generic, snapshot, regulatory)
    await settled(client)
    assert client.codes() == [321]
    assert client.text(321) == f"Error validating request.-'bN' : cause - {cause}"
    assert gateway.statistics.subscriptions_total == {}
