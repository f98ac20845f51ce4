"""Refusals of the paper gateway: lines, tickers, rights, the message rate, orders; and its counts."""

from contextlib import AsyncExitStack
from dataclasses import replace

from v6_pipeline.paper import GatewayConfig, PaperGateway, quote_at
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    FIRST,
    IBM,
    Clock,
    Connect,
    an_option,
    contract_of,
    eventually,
    settled,
)


async def test_the_line_limit_counts_all_clients_and_lines_given_back_are_free(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    narrow = await stack.enter_async_context(PaperGateway(replace(config, lines=3)))
    first, second = await connect(1, to=narrow), await connect(2, to=narrow)
    conids = [contract.conid for contract in narrow.universe.contracts.values() if contract.sec_type == "STK"]
    for conid in conids[:2]:
        first.ib.reqMktData(contract_of(conid))
    await settled(first)
    for conid in conids[2:4]:
        second.ib.reqMktData(contract_of(conid))
    await settled(second)
    assert (first.codes(), second.codes()) == ([], [101])
    assert second.text(101) == "Max number of tickers has been reached"
    assert (narrow.statistics.lines, narrow.statistics.peak_lines) == (3, 3)
    first.ib.cancelMktData(contract_of(conids[0]))
    await settled(first)
    second.ib.reqMktData(contract_of(conids[4]))
    await settled(second)
    assert second.codes() == [101]
    first.ib.disconnect()
    await eventually(lambda: narrow.statistics.lines == 2)
    assert sum(narrow.statistics.subscriptions_total.values()) == 4


async def test_two_requests_for_one_contract_take_two_lines(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL))
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert gateway.statistics.subscriptions == {AAPL: 2}
    client.ib.cancelMktData(contract_of(AAPL))
    await settled(client)
    assert gateway.statistics.subscriptions == {AAPL: 1}


async def test_a_lowered_limit_keeps_what_streams_and_refuses_what_is_new(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.contract_faults.set_lines(0)
    client.ib.reqMktData(contract_of(IBM))
    await settled(client)
    assert client.codes() == [101]
    assert gateway.statistics.subscriptions == {AAPL: 1}


async def test_cancelling_an_unknown_ticker_is_300(connect: Connect) -> None:
    client = await connect()
    client.ib.client.cancelMktData(4711)
    await settled(client)
    assert client.errors[-1] == (4711, 300, "Can't find EId with tickerId:4711")


async def test_a_ticker_id_in_use_is_322(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    for conid in (AAPL, IBM):
        client.ib.client.reqMktData(4711, contract_of(conid), "", False, False, [])
    await settled(client)
    assert client.codes() == [322]
    assert gateway.statistics.subscriptions == {AAPL: 1}


async def test_a_denied_contract_is_354_and_takes_no_line_until_it_is_allowed(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    gateway.contract_faults.deny([AAPL])
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert client.codes() == [354]
    assert client.text(354).startswith("Requested market data is not subscribed")
    assert gateway.statistics.lines == 0
    gateway.contract_faults.allow([AAPL])
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert ticker.bid > 0


async def test_a_denied_contract_is_served_delayed_if_delayed_data_were_requested(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    option = an_option(gateway)
    gateway.contract_faults.deny([option])
    client.ib.reqMarketDataType(3)
    delayed, live = (client.ib.reqMktData(contract_of(conid)) for conid in (option, AAPL))
    await settled(client)
    assert client.codes() == [10167]
    assert (delayed.marketDataType, live.marketDataType) == (3, 1)
    assert delayed.bid == quote_at(gateway.universe, option, 0).bid
    assert delayed.modelGreeks is not None


async def test_an_impossible_market_data_type_is_refused(connect: Connect) -> None:
    client = await connect()
    client.ib.reqMarketDataType(9)
    await settled(client)
    assert client.codes() == [321]


async def test_a_hundred_messages_in_each_second_are_within_the_rate(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client = await connect()
    for _ in range(3):
        clock.now += 1.0
        for _ in range(99):
            client.ib.client.reqIds(1)
        await settled(client)
    assert client.codes() == []
    assert gateway.statistics.peak_rate_by_client == {1: 100}


async def test_one_message_too_many_is_error_100_and_refused(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client, other = await connect(1), await connect(2)
    clock.now += 1.0
    for _ in range(100):
        client.ib.client.reqIds(1)
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert client.codes() == [100]
    assert client.text(100) == "Max rate of messages per second has been exceeded:max=100 rec=101 (1)"
    assert gateway.statistics.subscriptions == {}
    await settled(other)
    assert other.codes() == []


async def test_the_third_breach_of_the_rate_ends_the_connection(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client = await connect()
    clock.now += 1.0
    for _ in range(400):
        client.ib.client.reqIds(1)
    await eventually(lambda: not client.ib.isConnected())
    assert client.codes() == [100, 100, 100]
    assert client.errors[-1][2].endswith("(3)")
    await eventually(lambda: not gateway.statistics.clients)


async def test_every_order_message_is_refused_and_counted(gateway: PaperGateway, connect: Connect) -> None:
    from ib_async import LimitOrder, Order

    client = await connect()
    trade = client.ib.placeOrder(contract_of(AAPL), LimitOrder("BUY", 1, 1.0))
    client.ib.cancelOrder(Order(orderId=5))
    client.ib.reqGlobalCancel()
    client.ib.exerciseOptions(contract_of(an_option(gateway)), 1, 1, FIRST, 0)
    await settled(client)
    assert gateway.statistics.order_messages == 4
    assert client.codes() == [321] * 4
    assert client.text(321).endswith("The API interface is currently in Read-Only mode.")
    assert trade.order.orderId in {request_id for request_id, _, _ in client.errors}
    assert len(gateway.book.held()) == 60


async def test_statistics_see_what_a_client_did(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(5)
    before = gateway.statistics.messages[5]
    client.ib.reqMktData(contract_of(AAPL))
    client.ib.cancelMktData(contract_of(AAPL))
    await settled(client)
    report = gateway.statistics.snapshot()
    assert report["messages"] == {"5": before + 3}
    assert report["subscriptions"] == {}
    assert report["subscriptions_total"] == {str(AAPL): 1}
    assert report["clients"] == [5]
    assert report["errors"] == {"2104": 4, "2106": 1, "2158": 1}
    assert gateway.statistics.ticks_sent > 0
