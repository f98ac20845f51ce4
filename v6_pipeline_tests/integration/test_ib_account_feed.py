"""The account feed: a download is complete and of the requested account, or it is an error."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from v6_pipeline.errors import AccountFeedError
from v6_pipeline.ib.account_feed import AccountFeed
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.paper import AccountConflict, GatewayConfig, PaperGateway
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import Line, ScriptedGateway
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")

FIRST, SECOND = "SIM0000001", "SIM0000002"
AAPL = 265598
UNSET = 1.7976931348623157e308
ACCOUNT_UPDATES, PNL, CANCEL_PNL = 6, 92, 93


def net_liquidation(account: str, amount: str = "1000.0", currency: str = "EUR") -> Line:
    return 6, 2, "NetLiquidation", amount, currency, account


def ready(account: str, text: str) -> Line:
    return 6, 2, "AccountReady", text, "", account


def end_of(account: str) -> Line:
    return 54, 1, account


def error(code: int) -> Line:
    return 4, 2, -1, code, "account data", ""


def subscribed_accounts(gateway: PaperGateway) -> set[str]:
    return {session.subscriptions.account for session in gateway._sessions.values() if session.subscriptions.account}


@pytest.mark.parametrize("account", [FIRST, SECOND])
async def test_a_download_has_every_position_and_value_of_the_account(
    account: str, gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    download = await AccountFeed(connection, clock).download(account)

    held = {item.conid: item.quantity for item in gateway.book.held(account)}
    assert {conid: item.position for conid, item in download.portfolio.items()} == held
    for conid, item in download.portfolio.items():
        sent = gateway.statistics.last_portfolio[account, conid]
        assert (item.market_price, item.market_value) == (sent["market_price"], sent["market_value"])
        assert (item.average_cost, item.unrealized_pnl) == (sent["average_cost"], sent["unrealized_pnl"])
        assert item.received_at == clock.now
    assert (download.account, download.started_at, download.completed_at) == (account, clock.now, clock.now)


async def test_the_accounts_own_figures_are_in_its_base_currency(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    values = (await AccountFeed(connection, clock).download(FIRST)).values

    sent = {(row.tag, row.currency): row.value for row in gateway.book.account_values(FIRST)}
    assert (values.account, values.base_currency, values.timestamp) == (FIRST, "USD", clock.now)
    assert values.net_liquidation == float(sent["NetLiquidation", "USD"])
    assert values.excess_liquidity == float(sent["ExcessLiquidity", "USD"])
    assert values.unrealized_pnl == float(sent["UnrealizedPnL", "BASE"])
    assert values.exchange_rates == {"USD": 1.0, "EUR": float(sent["ExchangeRate", "EUR"])}
    assert values.daily_pnl is not None


async def test_a_position_closed_today_comes_with_0_and_its_realized_profit(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    gateway.account_faults.close_position(FIRST, AAPL)

    closed = (await AccountFeed(connection, clock).download(FIRST)).portfolio[AAPL]

    assert closed.position == 0
    assert closed.realized_pnl == gateway.book.holdings[FIRST, AAPL].realized_pnl


async def test_the_feed_is_unsubscribed_after_a_download(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    await AccountFeed(connection, clock).download(FIRST)
    await connection.round_trip()

    assert subscribed_accounts(gateway) == set()
    assert gateway._sessions[1].subscriptions.pnl == {}


async def test_one_account_after_another_without_an_eviction(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    feed = AccountFeed(connection, clock)
    downloads = [await feed.download(account) for account in (FIRST, SECOND, FIRST)]

    assert [item.account for item in downloads] == [FIRST, SECOND, FIRST]
    assert gateway.statistics.errors[2100] == 0


async def test_a_feed_that_another_client_has_is_refused_by_name(
    gateway: PaperGateway, connection: IBConnectionManager, open_connection: OpenConnection, clock: ManualClock
) -> None:
    gateway.account_faults.set_account_conflict(AccountConflict.REFUSE)
    other = await open_connection(2)
    client: Any = other.ib.client
    client.reqAccountUpdates(True, SECOND)
    await other.round_trip()

    with pytest.raises(AccountFeedError, match=f"account feed of {FIRST}: 2101 .*another client uses it"):
        await AccountFeed(connection, clock).download(FIRST)
    await connection.round_trip()

    assert subscribed_accounts(gateway) == {SECOND}


@pytest.mark.parametrize("code", [2100, 2101])
async def test_an_evicted_download_is_an_error(code: int, open_connection: OpenConnection, clock: ManualClock) -> None:
    answers = {ACCOUNT_UPDATES: [net_liquidation(FIRST), error(code), end_of(FIRST)]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port)

        with pytest.raises(AccountFeedError, match=f"{FIRST}: {code}"):
            await AccountFeed(connection, clock, pnl_timeout=0).download(FIRST)


async def test_an_account_that_the_login_does_not_manage_is_refused_at_once(
    connection: IBConnectionManager, clock: ManualClock
) -> None:
    """321 names no request, and no end comes after it."""
    with pytest.raises(AccountFeedError, match=r"account feed of SIM9999999 refused: 321 .*Invalid account code"):
        await asyncio.wait_for(AccountFeed(connection, clock).download("SIM9999999"), 10)


@pytest.mark.parametrize("by_us", [False, True])
async def test_a_connection_lost_during_the_download_is_an_error(
    by_us: bool, open_connection: OpenConnection, clock: ManualClock
) -> None:
    async with ScriptedGateway({ACCOUNT_UPDATES: [net_liquidation(FIRST)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        download = asyncio.create_task(AccountFeed(connection, clock).download(FIRST))
        await eventually(lambda: scripted.count(ACCOUNT_UPDATES))
        if by_us:
            await connection.close()
        else:
            scripted.hang_up()

        with pytest.raises(AccountFeedError, match="connection closed during the account download"):
            await asyncio.wait_for(download, 10)


async def test_a_download_without_an_end_times_out_and_is_unsubscribed(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    async with ScriptedGateway({ACCOUNT_UPDATES: [net_liquidation(FIRST)]}) as scripted:
        connection = await open_connection(port=scripted.port)

        with pytest.raises(AccountFeedError, match=r"within 0\.1 s; the partial download is discarded"):
            await AccountFeed(connection, clock, timeout=0.1).download(FIRST)

        await eventually(lambda: scripted.count(ACCOUNT_UPDATES) == 2)
        assert [fields[2] for fields in scripted.received if fields[0] == "6"] == ["1", "0"]


async def test_a_cancelled_download_is_unsubscribed(open_connection: OpenConnection, clock: ManualClock) -> None:
    async with ScriptedGateway() as scripted:
        connection = await open_connection(port=scripted.port)
        download = asyncio.create_task(AccountFeed(connection, clock).download(FIRST))
        await eventually(lambda: scripted.count(ACCOUNT_UPDATES))
        download.cancel()

        await eventually(lambda: scripted.count(ACCOUNT_UPDATES) == 2)
        assert len(connection.ib.accountDownloadEndEvent) == 0


async def test_neither_rows_nor_end_of_another_account_count(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    answers = {
        ACCOUNT_UPDATES: [
            net_liquidation(SECOND, "7.0", "USD"),
            end_of(SECOND),
            net_liquidation(FIRST, "1000.0", "EUR"),
            end_of(FIRST),
        ]
    }
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port)

        download = await AccountFeed(connection, clock, pnl_timeout=0.01).download(FIRST)

    assert (download.values.base_currency, download.values.net_liquidation) == ("EUR", 1000.0)


async def test_without_a_daily_profit_the_download_stands(open_connection: OpenConnection, clock: ManualClock) -> None:
    async with ScriptedGateway({ACCOUNT_UPDATES: [net_liquidation(FIRST), end_of(FIRST)]}) as scripted:
        connection = await open_connection(port=scripted.port)

        download = await AccountFeed(connection, clock, pnl_timeout=0.05).download(FIRST)

        assert download.values.daily_pnl is None
        await eventually(lambda: scripted.count(CANCEL_PNL) == 1)


async def test_a_download_without_a_base_currency_is_an_error(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    async with ScriptedGateway({ACCOUNT_UPDATES: [end_of(FIRST)]}) as scripted:
        connection = await open_connection(port=scripted.port)

        with pytest.raises(AccountFeedError, match="has no NetLiquidation"):
            await AccountFeed(connection, clock, pnl_timeout=0.01).download(FIRST)


async def test_the_start_is_recorded_before_the_first_row(open_connection: OpenConnection, clock: ManualClock) -> None:
    """An item enqueued while the download ran may have changed after its row was sent."""
    begun = clock.now
    async with ScriptedGateway({ACCOUNT_UPDATES: [net_liquidation(FIRST)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        download = asyncio.create_task(AccountFeed(connection, clock, pnl_timeout=0.01).download(FIRST))
        await eventually(lambda: scripted.count(ACCOUNT_UPDATES))
        clock.advance(5)
        scripted.say(*end_of(FIRST))
        done = await download

    assert (done.started_at, done.completed_at) == (begun, begun + timedelta(seconds=5))


async def test_a_download_in_a_reset_of_ibs_servers_is_none(
    gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    feed = AccountFeed(connection, clock)
    for feeds in ("empty", "zero", "stale"):
        gateway.perform("account_not_ready", feeds=feeds)
        with pytest.raises(AccountFeedError, match=f"{FIRST}: IB says AccountReady=false.*next run tries again"):
            await feed.download(FIRST)
    await connection.round_trip()
    assert subscribed_accounts(gateway) == set()

    gateway.perform("account_ready")
    assert (await feed.download(FIRST)).portfolio


async def test_an_account_that_gets_ready_during_the_download_is_none_either(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    """What came before IB said so may be missing or wrong."""
    answers = {
        ACCOUNT_UPDATES: [ready(FIRST, "false"), net_liquidation(FIRST), ready(FIRST, "true"), end_of(FIRST)],
    }
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port)

        with pytest.raises(AccountFeedError, match="AccountReady=false"):
            await AccountFeed(connection, clock, pnl_timeout=0.01).download(FIRST)


async def test_another_account_that_is_not_ready_does_not_count(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    answers = {ACCOUNT_UPDATES: [ready(SECOND, "false"), net_liquidation(FIRST), end_of(FIRST)]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port)

        download = await AccountFeed(connection, clock, pnl_timeout=0.01).download(FIRST)

    assert download.values.net_liquidation == 1000.0


class TestTheWordingOf1047:
    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig) -> GatewayConfig:
        return replace(gateway_config, tws_version="10.47")

    async def test_rates_and_profits_are_known_by_either_spelling(
        self, gateway: PaperGateway, connection: IBConnectionManager, clock: ManualClock
    ) -> None:
        values = (await AccountFeed(connection, clock).download(SECOND)).values

        sent = {(row.tag, row.currency): row.value for row in gateway.book.account_values(SECOND)}
        assert values.exchange_rates == {"USD": 1.0, "EUR": float(sent["ExchangeRate", "EUR"])}
        assert values.unrealized_pnl == float(sent["UnrealizedPnL", "BASE"])
        assert values.realized_pnl == float(sent["RealizedPnL", "BASE"])
        assert values.net_liquidation == float(sent["NetLiquidation", "USD"])


def item(unrealized: float, realized: float, position: float = 0.0) -> Line:
    cfd = (7, "X", "CFD", "", 0.0, "", "", "", "USD", "X", "X")
    return (7, 8, *cfd, position, 10.0, 5.0, 0.0, unrealized, realized, FIRST)


@pytest.mark.parametrize(
    ("unrealized", "realized", "expected"),
    [(-120.0, 0.0, -120.0), (-120.0, 30.0, -90.0), (-120.0, -120.0, -120.0), (0.0, 55.0, 55.0), (UNSET, 55.0, 55.0)],
)
async def test_what_a_closed_position_has_unrealized_is_realized_once(
    unrealized: float, realized: float, expected: float, open_connection: OpenConnection, clock: ManualClock
) -> None:
    answers = {ACCOUNT_UPDATES: [item(unrealized, realized), net_liquidation(FIRST), end_of(FIRST)]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port)

        download = await AccountFeed(connection, clock, pnl_timeout=0.01).download(FIRST)

    closed = download.portfolio[7]
    assert (closed.market_value, closed.unrealized_pnl, closed.realized_pnl) == (0.0, 0.0, expected)


async def test_an_open_position_keeps_both(open_connection: OpenConnection, clock: ManualClock) -> None:
    answers = {ACCOUNT_UPDATES: [item(-120.0, 30.0, -3.0), net_liquidation(FIRST), end_of(FIRST)]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port)

        download = await AccountFeed(connection, clock, pnl_timeout=0.01).download(FIRST)

    short = download.portfolio[7]
    assert (short.position, short.unrealized_pnl, short.realized_pnl) == (-3.0, -120.0, 30.0)


async def test_an_error_without_a_request_is_named_if_no_end_comes(
    open_connection: OpenConnection, clock: ManualClock
) -> None:
    answers = {ACCOUNT_UPDATES: [net_liquidation(FIRST), error(10275)]}
    async with ScriptedGateway(answers) as scripted:
        connection = await open_connection(port=scripted.port)

        with pytest.raises(AccountFeedError, match=r"within 0\.1 s; the gateway said 10275 account data; the partial"):
            await AccountFeed(connection, clock, timeout=0.1).download(FIRST)
