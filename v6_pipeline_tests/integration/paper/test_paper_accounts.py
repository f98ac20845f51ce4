"""Positions and account updates of the paper gateway."""

import asyncio
from typing import Any

import pytest

from v6_pipeline.paper import AccountConflict, PaperGateway, quote_at
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    FIRST,
    IBM,
    SECOND,
    Clock,
    Connect,
    contract_of,
    eventually,
    settled,
)


async def test_positions_carry_an_empty_exchange_but_for_stocks(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    positions = await client.ib.reqPositionsAsync()
    exchanges: dict[str, set[str]] = {}
    for position in positions:
        exchanges.setdefault(position.contract.secType, set()).add(position.contract.exchange)
    assert exchanges.pop("STK") == {"NASDAQ", "NYSE", "ARCA", "IBIS"}
    assert exchanges == {"OPT": {""}, "FUT": {""}, "CASH": {""}}
    sent = {(p.account, p.contract.conId): (p.position, p.avgCost) for p in positions}
    assert sent == {(h.account, h.conid): (h.quantity, h.average_cost) for h in gateway.universe.holdings}


async def test_every_subscriber_hears_of_a_position_opened_resized_and_closed(
    gateway: PaperGateway, connect: Connect
) -> None:
    clients = [await connect(1), await connect(2)]
    silent = await connect(3)
    silent.ib.client.cancelPositions()
    received: list[list[tuple[str, int, float]]] = [[], [], []]
    for client, log in zip([*clients, silent], received, strict=True):
        client.ib.positionEvent += lambda p, log=log: log.append((p.account, p.contract.conId, p.position))
        await settled(client)
    gateway.account_faults.open_position(SECOND, IBM, 5, 1110.0)
    gateway.account_faults.resize_position(SECOND, IBM, 8)
    gateway.account_faults.close_position(SECOND, IBM)
    await eventually(lambda: len(received[0]) == 3 and len(received[1]) == 3)
    await settled(silent)
    assert received == [[(SECOND, IBM, 5.0), (SECOND, IBM, 8.0), (SECOND, IBM, 0.0)]] * 2 + [[]]


async def test_an_account_download_is_complete_and_matches_the_prices(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    times: list[str] = []
    client.ib.wrapper.updateAccountTime = times.append
    await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(SECOND), 20)
    assert times == ["15:30"]
    rows = {item.contract.conId: item for item in client.ib.portfolio(SECOND)}
    assert rows.keys() == {holding.conid for holding in gateway.book.held(SECOND)}
    for conid, row in rows.items():
        contract = gateway.universe.contracts[conid]
        mark = quote_at(gateway.universe, conid, 0).mark
        assert row.marketPrice == mark
        assert row.marketValue == pytest.approx(row.position * mark * contract.value_per_point)
        assert row.unrealizedPNL == pytest.approx(row.marketValue - row.position * row.averageCost, abs=1e-4)
    values = {(value.tag, value.currency): value.value for value in client.ib.accountValues(SECOND)}
    assert values["AccountReady", ""] == "true"
    assert float(values["NetLiquidation", "USD"]) > 0
    assert {currency for tag, currency in values if tag == "CashBalance"} == {"USD", "EUR", "BASE"}
    assert values["ExchangeRate", "BASE"] == "1.00"


async def test_another_account_evicts_the_first_client_with_2100_and_its_feed_ends(
    gateway: PaperGateway, connect: Connect
) -> None:
    first, second = await connect(1), await connect(2)
    updates: list[str] = []
    first.ib.updatePortfolioEvent += lambda item: updates.append(item.account)
    await first.ib.reqAccountUpdatesAsync(FIRST)
    await asyncio.wait_for(second.ib.reqAccountUpdatesAsync(SECOND), 20)
    await settled(first)
    assert first.codes() == [2100]
    assert second.codes() == []
    updates.clear()
    gateway.portfolio_tick()
    gateway.account_faults.resize_position(FIRST, AAPL, 1)
    await settled(first)
    assert updates == []


async def test_the_same_client_changing_accounts_receives_2100_too(gateway: PaperGateway, connect: Connect) -> None:
    """The documented text of 2101 speaks of a different client only, so refusing does not apply here."""
    client = await connect()
    gateway.account_faults.set_account_conflict(AccountConflict.REFUSE)
    await client.ib.reqAccountUpdatesAsync(FIRST)
    await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(SECOND), 20)
    assert client.codes() == [2100]


async def test_an_account_given_back_evicts_no_client(connect: Connect) -> None:
    first, second = await connect(1), await connect(2)
    await first.ib.reqAccountUpdatesAsync(FIRST)
    first.ib.client.reqAccountUpdates(False, FIRST)
    await settled(first)
    await asyncio.wait_for(second.ib.reqAccountUpdatesAsync(SECOND), 20)
    await settled(first)
    assert first.codes() == []


async def test_one_account_serves_several_clients(gateway: PaperGateway, connect: Connect) -> None:
    clients = [await connect(1), await connect(2)]
    for client in clients:
        await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(FIRST), 20)
    gateway.account_faults.resize_position(FIRST, AAPL, 123)
    for client in clients:
        await settled(client)
        assert {i.position for i in client.ib.portfolio(FIRST) if i.contract.conId == AAPL} == {123}
        assert client.codes() == []


async def test_where_conflicts_are_refused_the_newcomer_gets_2101_and_the_first_client_keeps_its_feed(
    gateway: PaperGateway, connect: Connect
) -> None:
    gateway.account_faults.set_account_conflict(AccountConflict.REFUSE)
    first, second = await connect(1), await connect(2)
    await first.ib.reqAccountUpdatesAsync(FIRST)
    second.ib.client.reqAccountUpdates(True, SECOND)
    await settled(second)
    assert second.codes() == [2101]
    assert second.ib.portfolio(SECOND) == []
    gateway.account_faults.resize_position(FIRST, AAPL, 123)
    await settled(first)
    assert first.codes() == []
    assert 123 in {item.position for item in first.ib.portfolio(FIRST)}


async def test_an_account_that_is_not_managed_is_refused(connect: Connect) -> None:
    client = await connect()
    client.ib.client.reqAccountUpdates(True, "U1234567")
    await settled(client)
    assert client.codes() == [321]


async def test_marks_of_unstreamed_holdings_move_every_portfolio_seconds_by_the_clock(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client = await connect()
    await client.ib.reqAccountUpdatesAsync(FIRST)
    updates: list[float] = []
    client.ib.updatePortfolioEvent += lambda i: updates.append(i.marketPrice) if i.contract.conId == AAPL else None
    clock.now += 179.0
    gateway.tick_once()
    await settled(client)
    assert updates == []
    clock.now += 1.0
    gateway.tick_once()
    await settled(client)
    assert updates == [quote_at(gateway.universe, AAPL, 1).mark]
    assert gateway.statistics.last_portfolio[FIRST, AAPL]["market_price"] == updates[0]


async def test_a_closed_position_stays_in_the_download_with_its_realized_profit(
    gateway: PaperGateway, connect: Connect
) -> None:
    gateway.account_faults.close_position(FIRST, AAPL)
    client = await connect()
    rows: dict[int, Any] = {}
    client.ib.updatePortfolioEvent += lambda item: rows.update({item.contract.conId: item})
    await client.ib.reqAccountUpdatesAsync(FIRST)
    assert rows[AAPL].position == 0
    assert rows[AAPL].realizedPNL != 0
    values = {
        (value.tag, value.currency): float(value.value)
        for value in client.ib.accountValues(FIRST)
        if value.tag == "RealizedPnL"
    }
    assert values["RealizedPnL", "USD"] == pytest.approx(rows[AAPL].realizedPNL, abs=0.01)


async def test_multi_account_values_follow_every_account_until_cancelled(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    changes: list[tuple[str, str]] = []
    for account in (FIRST, SECOND):
        await asyncio.wait_for(client.ib.reqAccountUpdatesMultiAsync(account), 20)
    client.ib.accountValueEvent += lambda value: changes.append((value.account, value.tag))
    gateway.portfolio_tick()
    await settled(client)
    assert {(FIRST, "NetLiquidation"), (SECOND, "NetLiquidation")} <= set(changes)
    assert (FIRST, "AccountType") not in changes
    for request_id in range(client.ib.client.getReqId()):
        client.ib.client.cancelAccountUpdatesMulti(request_id)
    await settled(client)
    changes.clear()
    gateway.portfolio_tick()
    await settled(client)
    assert changes == []
    assert client.codes() == []


async def test_the_portfolio_update_does_not_move_what_is_streamed(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.portfolio_tick()
    assert gateway.market.sequence(AAPL) == 0
    assert max(gateway.market.sequence(holding.conid) for holding in gateway.book.held()) == 1
