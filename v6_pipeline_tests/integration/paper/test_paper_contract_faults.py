"""Contracts with which something is wrong, requests that are turned away, and lines that TWS holds."""

import math
import sys

import pytest

from v6_pipeline.paper import PaperGateway, quote_at
from v6_pipeline_tests.integration.paper.client import AAPL, FIRST, IBM, Connect, an_option, contract_of, settled


async def test_a_halt_is_reported_and_the_price_is_frozen(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("halt", conids=[AAPL])
    for _ in range(3):
        gateway.tick_once()
    late = (await connect(2)).ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert (ticker.halted, ticker.bid) == (1.0, quote_at(gateway.universe, AAPL, 0).bid)
    gateway.perform("end_halt", conids=[AAPL])
    gateway.tick_once()
    await settled(client)
    assert (ticker.halted, ticker.bid) == (0.0, quote_at(gateway.universe, AAPL, 1).bid)
    assert late.halted in {0.0, 1.0}, "a new subscriber of a halted contract receives the halt at once"


async def test_without_greeks_an_option_still_has_prices(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    option = an_option(gateway)
    gateway.perform("withhold_greeks", conids=[option])
    ticker = client.ib.reqMktData(contract_of(option))
    await settled(client)
    assert ticker.ask > 0
    assert (ticker.modelGreeks, ticker.bidGreeks) == (None, None)
    gateway.perform("restore_contracts", conids=[option])
    gateway.tick_once()
    await settled(client)
    assert ticker.modelGreeks is not None


@pytest.mark.parametrize(
    ("prices", "shown"), [("minus_one", -1.0), ("max_double", sys.float_info.max), ("max_int", 2147483647.0)]
)
async def test_distorted_prices_are_sent_as_they_are_until_restored(
    gateway: PaperGateway, connect: Connect, prices: str, shown: float
) -> None:
    client = await connect()
    option = an_option(gateway)
    ticker = client.ib.reqMktData(contract_of(option), "221")
    await settled(client)
    gateway.perform("distort_prices", conids=[option], prices=prices)
    gateway.tick_once()
    await settled(client)
    assert {ticker.bid, ticker.ask, ticker.last, ticker.close, ticker.markPrice} == {shown}
    assert ticker.modelGreeks is not None
    assert ticker.modelGreeks.delta is None
    assert gateway.statistics.last_values[option]["ask"] == shown
    gateway.perform("restore_contracts")
    gateway.tick_once()
    await settled(client)
    quote = quote_at(gateway.universe, option, 2)
    assert (ticker.ask, ticker.close, ticker.markPrice) == (quote.ask, quote.close, quote.mark)
    assert ticker.modelGreeks.delta is not None


async def test_an_expired_contract_is_unknown_silent_and_still_held(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("expire", conids=[AAPL])
    gateway.tick_once()
    assert await client.ib.reqContractDetailsAsync(contract_of(AAPL)) == []
    client.ib.client.reqMktData(90, contract_of(AAPL), "", False, False, [])
    await client.ib.reqAccountUpdatesAsync(FIRST)
    assert client.codes() == [200, 200]
    assert ticker.bid == quote_at(gateway.universe, AAPL, 0).bid
    assert AAPL in {item.contract.conId for item in client.ib.portfolio(FIRST)}
    assert AAPL in {position.contract.conId for position in await client.ib.reqPositionsAsync()}


async def test_an_unqualifiable_contract_is_unknown_but_what_streams_goes_on(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("unqualify", conids=[AAPL])
    gateway.tick_once()
    assert await client.ib.reqContractDetailsAsync(contract_of(AAPL)) == []
    client.ib.client.reqMktData(90, contract_of(AAPL), "", False, False, [])
    await settled(client)
    assert client.codes() == [200, 200]
    assert ticker.bid == quote_at(gateway.universe, AAPL, 1).bid


@pytest.mark.parametrize("code", [10089, 10090, 10091, 10167])
async def test_an_advisory_comes_with_data_on_open_and_new_requests(
    gateway: PaperGateway, connect: Connect, code: int
) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.perform("advise", code=code, conids=[AAPL, IBM])
    late = client.ib.reqMktData(contract_of(IBM))
    gateway.tick_once()
    await settled(client)
    gateway.tick_once()
    await settled(client)
    assert client.codes() == [code, code]
    assert ticker.bid == quote_at(gateway.universe, AAPL, 2).bid
    assert late.bid > 0
    gateway.perform("heal")
    client.ib.client.reqMktData(90, contract_of(IBM), "", False, False, [])
    await settled(client)
    assert client.codes() == [code, code]


async def test_any_code_can_accompany_requests_with_any_words_and_ends_none(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    gateway.perform("remark", code=10999, text="Of no list", conids=[AAPL])
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.tick_once()
    await settled(client)
    assert [error[1:] for error in client.errors if error[1] == 10999] == [(10999, "Of no list")]
    assert ticker.bid > 0


@pytest.mark.parametrize("code", [101, 200, 354, 420, 10168])
async def test_the_next_requests_can_be_turned_away_with_a_code(
    gateway: PaperGateway, connect: Connect, code: int
) -> None:
    client = await connect()
    gateway.perform("reject_market_data", code=code, count=2, conids=[AAPL])
    for number, conid in enumerate((IBM, AAPL, AAPL, AAPL)):
        client.ib.client.reqMktData(90 + number, contract_of(conid), "", False, False, [])
    await settled(client)
    assert [error[:2] for error in client.errors if error[1] == code] == [(91, code), (92, code)]
    assert gateway.statistics.subscriptions == {IBM: 1, AAPL: 1}


async def test_windows_of_tws_take_lines_of_the_same_allowance(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.perform("lines", lines=10)
    gateway.perform("tws_lines", lines=9)
    client.ib.reqMktData(contract_of(AAPL))
    client.ib.reqMktData(contract_of(IBM))
    await settled(client)
    assert client.codes() == [101]
    assert (gateway.statistics.lines, gateway.statistics.tws_lines) == (1, 9)
    gateway.perform("heal")
    client.ib.client.reqMktData(90, contract_of(IBM), "", False, False, [])
    await settled(client)
    assert (gateway.statistics.lines, gateway.market.lines) == (2, 10)


async def test_quiet_sends_not_even_a_first_tick(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.perform("quiet", conids=[AAPL])
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert math.isnan(ticker.bid)
    assert gateway.statistics.ticks_by_contract == {}
