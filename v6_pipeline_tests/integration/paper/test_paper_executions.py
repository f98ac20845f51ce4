"""Fills of the day, with commission reports, as a real client reads them."""

import sys

from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.paper.client import AAPL, FIRST, IBM, SECOND, Connect, settled


async def test_a_client_reads_the_fills_of_the_day_and_their_commission_reports(
    gateway: PaperGateway, connect: Connect
) -> None:
    gateway.account_faults.open_position(SECOND, IBM, 5)
    gateway.account_faults.resize_position(FIRST, AAPL, 100)
    client = await connect()
    await client.ib.reqExecutionsAsync()
    await settled(client)
    held = gateway.book.holdings[FIRST, AAPL]
    found = {(fill.execution.acctNumber, fill.contract.conId): fill for fill in client.ib.fills()}
    assert found.keys() == {(SECOND, IBM), (FIRST, AAPL)}
    sold = found[FIRST, AAPL]
    assert (sold.execution.side, sold.execution.shares) == ("SLD", 200)
    assert sold.execution.price == gateway.market.quote(AAPL).mark
    assert sold.commissionReport.realizedPNL == held.realized_pnl != 0
    assert found[SECOND, IBM].execution.side == "BOT"
    assert found[SECOND, IBM].commissionReport.realizedPNL in {0.0, sys.float_info.max}, "opening realizes nothing"
    assert {fill.commissionReport.currency for fill in found.values()} == {"USD"}
    assert client.codes() == []


async def test_what_was_assigned_is_no_fill(gateway: PaperGateway, connect: Connect) -> None:
    option = next(row for row in gateway.book.held(FIRST) if gateway.universe.contracts[row.conid].sec_type == "OPT")
    gateway.account_faults.assign(FIRST, option.conid)
    client = await connect()
    assert await client.ib.reqExecutionsAsync() == []
