"""Account summaries, profit and loss of the paper gateway."""

import asyncio
import sys

from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    FIRST,
    SECOND,
    Connect,
    an_option,
    contract_of,
    settled,
)


async def test_an_account_summary_has_the_requested_tags_and_later_only_changes(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    summary = await asyncio.wait_for(client.ib.accountSummaryAsync(), 20)
    keys = {(value.account, value.tag, value.currency) for value in summary}
    assert {(FIRST, "NetLiquidation", "USD"), (SECOND, "BuyingPower", "USD")} <= keys
    assert {(SECOND, "CashBalance", currency) for currency in ("USD", "EUR", "BASE")} <= keys
    changes: list[str] = []
    client.ib.accountSummaryEvent += lambda value: changes.append(value.tag)
    gateway.portfolio_tick()
    await settled(client)
    assert "NetLiquidation" in changes
    assert not {"AccountType", "Currency", "RealizedPnL"} & set(changes)


async def test_a_third_account_summary_is_refused(connect: Connect) -> None:
    client = await connect()
    for request_id in (11, 12, 13):
        client.ib.client.reqAccountSummary(request_id, "All", "NetLiquidation")
    client.ib.client.cancelAccountSummary(11)
    client.ib.client.reqAccountSummary(14, FIRST, "NetLiquidation")
    await settled(client)
    assert [error[:2] for error in client.errors if error[1] == 322] == [(13, 322)]


async def test_profit_and_loss_of_an_account_and_of_one_contract(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    option = an_option(gateway)
    total = client.ib.reqPnL(FIRST)
    single = client.ib.reqPnLSingle(FIRST, "", AAPL)
    nothing = client.ib.reqPnLSingle(FIRST, "", option)
    await settled(client)
    row = gateway.book.valuation(gateway.book.holdings[FIRST, AAPL])
    assert (single.position, single.value) == (row.holding.quantity, row.market_value)
    assert single.unrealizedPnL == row.unrealized_pnl
    assert single.dailyPnL == row.daily_pnl
    assert single.realizedPnL == sys.float_info.max, "unset: nothing was realized"
    assert (total.dailyPnL, total.unrealizedPnL) == gateway.book.pnl(gateway.book.held(FIRST))[:2]
    assert nothing.value != nothing.value, "for a contract that is not held IB does not answer at all"
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.tick_once()
    await settled(client)
    assert single.value == gateway.book.valuation(gateway.book.holdings[FIRST, AAPL]).market_value != row.market_value
    received: list[object] = []
    client.ib.pnlSingleEvent += received.append
    gateway.contract_faults.quiet()
    gateway.tick_once()
    await settled(client)
    assert received == [], "values that did not change are not sent again"
    gateway.account_faults.resize_position(FIRST, AAPL, 100)
    gateway.tick_once()
    await settled(client)
    assert single.realizedPnL == gateway.book.holdings[FIRST, AAPL].realized_pnl != 0
    client.ib.cancelPnLSingle(FIRST, "", AAPL)
    client.ib.cancelPnL(FIRST)
    await settled(client)
    assert client.codes() == []
