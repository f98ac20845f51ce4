"""Accounts as real logins have them: another wording, a reset, a flat account, many sub-accounts, closed CFDs."""

import asyncio
from dataclasses import replace

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import GatewayConfig, PaperGateway, simulated_accounts
from v6_pipeline_tests.integration.paper.client import AAPL, FIRST, SECOND, Client, Connect, settled

PREFIX = "$LEDGER-"


async def download(client: Client, account: str = FIRST) -> dict[tuple[str, str], str]:
    """Values of an account download by tag and currency."""
    await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(account), 20)
    return {(row.tag, row.currency): row.value for row in client.ib.accountValues(account)}


@pytest.mark.parametrize("config", [GatewayConfig(tick_seconds=None, tws_version="10.47")])
async def test_tws_10_47_puts_a_prefix_before_the_tags_of_one_currency(connect: Connect) -> None:
    values = await download(await connect())

    assert (PREFIX + "ExchangeRate", "EUR") in values
    assert (PREFIX + "UnrealizedPnL", "BASE") in values
    assert ("NetLiquidation", "USD") in values
    assert {tag for tag, _ in values if not tag.startswith(PREFIX)}.isdisjoint({"ExchangeRate", "RealizedPnL"})


async def test_older_releases_send_no_prefix(connect: Connect) -> None:
    assert not [tag for tag, _ in await download(await connect()) if tag.startswith(PREFIX)]


@pytest.mark.parametrize(("feeds", "rows", "net"), [("empty", 0, 0.0), ("zero", 1, 0.0), ("stale", 1, 1.0)])
async def test_in_a_reset_accounts_are_not_ready(
    feeds: str, rows: int, net: float, gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    gateway.perform("account_not_ready", feeds=feeds)

    values = await download(client)
    positions = await asyncio.wait_for(client.ib.reqPositionsAsync(), 20)

    assert values["AccountReady", ""] == "false"
    assert min(rows, len(client.ib.portfolio(FIRST))) == min(rows, len(positions)) == rows
    assert bool(float(values["NetLiquidation", "USD"])) is bool(net)
    gateway.perform("account_ready")
    assert (await download(client))["AccountReady", ""] == "true"


async def test_an_account_goes_flat_and_its_closed_rows_are_gone_the_next_day(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    rows: list[float] = []
    client.ib.updatePortfolioEvent += lambda item: rows.append(item.position)
    gateway.perform("flatten", account=SECOND)
    await download(client, SECOND)
    assert rows
    assert set(rows) == {0.0}
    rows.clear()
    gateway.perform("flatten", account=SECOND, overnight=True)

    values = await download(client, SECOND)

    assert rows == []
    assert float(values["NetLiquidation", "USD"]) > 0
    assert gateway.book.held(FIRST)


@pytest.mark.parametrize("config", [GatewayConfig(tick_seconds=None, flat_accounts=(SECOND,))])
async def test_an_account_can_be_flat_from_the_start(gateway: PaperGateway) -> None:
    assert {row.account for row in gateway.book.held()} == {FIRST}
    assert len(gateway.book.held()) == gateway.config.positions


@pytest.mark.parametrize("config", [GatewayConfig(tick_seconds=None, read_only=False, accounts=simulated_accounts(51))])
async def test_a_login_of_more_than_50_accounts_is_refused_positions_without_a_request_id(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect(timeout=1)  # ib_async requests positions while it connects
    assert [error[:2] for error in client.errors if error[1] == 321] == [(-1, 321)]

    received: list[tuple[str, float]] = []
    ends: list[int] = []
    wrapper = client.ib.wrapper
    wrapper.positionMulti = lambda _id, account, _model, _contract, held, _cost: received.append((account, held))
    wrapper.positionMultiEnd = ends.append
    client.ib.client.reqPositionsMulti(7, FIRST, "")
    await settled(client)
    assert received == [(row.account, row.quantity) for row in gateway.book.held(FIRST)]
    assert ends == [7]
    gateway.account_faults.resize_position(FIRST, AAPL, 5)
    await settled(client)
    assert received[-1] == (FIRST, 5.0)
    client.ib.client.cancelPositionsMulti(7)
    await settled(client)
    gateway.account_faults.resize_position(FIRST, AAPL, 6)
    await settled(client)
    assert received[-1] == (FIRST, 5.0)


async def test_a_closed_cfd_keeps_its_profit_as_unrealized(gateway: PaperGateway, connect: Connect) -> None:
    contracts = gateway.universe.contracts
    contracts[AAPL] = replace(contracts[AAPL], sec_type="CFD")
    client = await connect()
    items: list[tuple[float, float, float]] = []
    client.ib.updatePortfolioEvent += lambda item: items.append((item.position, item.unrealizedPNL, item.realizedPNL))
    await download(client)
    items.clear()
    gateway.account_faults.close_position(FIRST, AAPL)
    await settled(client)

    profit = gateway.book.holdings[FIRST, AAPL].realized_pnl
    assert profit
    assert items == [(0.0, profit, 0.0)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tws_version": "ten"}, "TWS version must be like 10.47, not ten"),
        ({"flat_accounts": ("SIM9",)}, "flat accounts must be some of the accounts and not all, not SIM9"),
    ],
)
def test_an_impossible_world_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(GatewayError, match=says):
        GatewayConfig(**change)  # type: ignore[arg-type]
