"""``QueueWorker`` and accounts as real logins have them: wordings, resets, flat accounts, trades between two feeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from v6_pipeline.checks.accounts import currencies_have_rates
from v6_pipeline.errors import AccountFeedError
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import ACCOUNT_VALUES
from v6_pipeline.model import Holding
from v6_pipeline.paper import GatewayConfig, PaperGateway, load_holdings, simulated_accounts
from v6_pipeline.refresh.quotes import BatchQuotes
from v6_pipeline.refresh.worker import QueueWorker, RefreshScope
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import downloads
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.items import QueueState
from v6_pipeline_tests.integration.test_worker import MovingClock, Rig
from v6_pipeline_tests.unit.state.databases import ManualClock

FIRST, SECOND = "SIM0000001", "SIM0000002"
AAPL = 265598
FIXTURES = Path(__file__).parents[1] / "fixtures"
DUE = RefreshScope()


@pytest.fixture
def gateway_config(gateway_config: GatewayConfig) -> GatewayConfig:
    return replace(gateway_config, positions=20)


@pytest.fixture
def rig(gateway: PaperGateway, settings: Settings, database: StateDatabase, lake: Lake, clock: ManualClock) -> Rig:
    return Rig(gateway, settings, database, lake, clock)


def downloaded(rig: Rig) -> list[str]:
    return rig.rows(ACCOUNT_VALUES).get_column("account").to_list()


class TestTheWordingOf1047:
    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig) -> GatewayConfig:
        return replace(gateway_config, tws_version="10.47", positions=60)

    async def test_every_row_has_its_rate(self, rig: Rig) -> None:
        await rig.refresh()

        rows = rig.rows()
        assert set(rows.get_column("currency")) == {"EUR", "USD"}
        assert rows.get_column("fx_rate_to_base").null_count() == 0
        assert rig.rows(ACCOUNT_VALUES).get_column("unrealized_pnl").null_count() == 0


@pytest.mark.parametrize("spelled", [True, False])
class TestTheSampleOfThePrefix:
    """10 SAP at 210 EUR and 10 AAPL at 210 USD, with a base of USD; the total was 2,100."""

    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig, spelled: bool) -> GatewayConfig:
        file = load_holdings(FIXTURES / "gateway" / "ledger_prefix.json")
        file = replace(file, given=replace(file.given, has_prefix=spelled))
        return replace(gateway_config, accounts=file.accounts, positions=0, holdings=file)

    async def test_rates_and_profit_are_known_and_the_total_has_both_currencies(self, rig: Rig) -> None:
        await rig.refresh()

        rows = {row["currency"]: row for row in rig.rows().to_dicts()}
        [values] = rig.rows(ACCOUNT_VALUES).to_dicts()
        rates = {rate["currency"]: rate["rate"] for rate in values["exchange_rates"]}
        assert rates.keys() >= {"EUR", "USD"}
        assert {name: row["fx_rate_to_base"] for name, row in rows.items()} == {"EUR": rates["EUR"], "USD": 1.0}
        total = sum(row["market_value"] * row["fx_rate_to_base"] for row in rows.values())
        assert total == pytest.approx(2_100 * (1 + rates["EUR"]))
        assert values["unrealized_pnl"] is not None
        assert values["realized_pnl"] == 0
        with rig.database.read() as state:
            verdict = currencies_have_rates(
                holdings_store.list_open(state),
                downloads.list_all(state),
                downloads.list_rates(state),
                accounts=rig.gateway.config.accounts,
            )
        assert (verdict.passed, verdict.numbers["currencies"]) == (True, 2)


@pytest.mark.parametrize("feeds", ["empty", "zero", "stale"])
async def test_in_a_reset_of_ibs_servers_nothing_is_written_and_nothing_closed(feeds: str, rig: Rig) -> None:
    await rig.refresh()
    held, rows = rig.open_holdings(), rig.rows().height
    rig.gateway.perform("account_not_ready", feeds=feeds)
    rig.clock.advance(600)

    with pytest.raises(AccountFeedError, match=r"items stay in the queue: .*AccountReady=false"):
        await rig.refresh()

    assert rig.open_holdings() == held
    assert (rig.rows().height, len(downloaded(rig))) == (rows, 2)
    rig.gateway.perform("account_ready")
    rig.clock.advance(60)
    report = await rig.refresh()
    assert (report.closed, report.refreshed) == (0, len(held))
    assert rig.rows(ACCOUNT_VALUES).filter(pl.col("net_liquidation") == 0).is_empty()


class TestAFlatAccount:
    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig) -> GatewayConfig:
        return replace(gateway_config, flat_accounts=(SECOND,))

    async def test_it_is_downloaded_from_the_start_and_as_often_as_any_other(self, rig: Rig) -> None:
        await rig.refresh(DUE)
        assert sorted(downloaded(rig)) == [FIRST, SECOND]

        await rig.refresh(DUE)
        assert len(downloaded(rig)) == 2, "nothing is due yet"

        rig.clock.advance(rig.settings.refresh_seconds)
        await rig.refresh(DUE)
        assert sorted(downloaded(rig)) == [FIRST, FIRST, SECOND, SECOND]

    async def test_one_that_cannot_be_downloaded_fails_the_run_and_no_other_account(self, rig: Rig) -> None:
        rig.gateway.perform("cut_account_download", how="evict", rows=0, count=1)
        with pytest.raises(AccountFeedError, match=f"account feed of {FIRST}: 2100"):
            await rig.refresh(DUE)
        assert downloaded(rig) == [SECOND]


async def test_an_account_that_goes_flat_and_holds_again_is_downloaded_throughout(rig: Rig) -> None:
    await rig.refresh(DUE)
    for step in ("closed", "flat", "flat", "holds"):
        rig.clock.advance(rig.settings.refresh_seconds)
        if step == "closed":
            rig.gateway.perform("flatten", account=SECOND)
        elif step == "flat":
            rig.gateway.perform("flatten", account=SECOND, overnight=True)
        else:
            rig.gateway.account_faults.open_position(SECOND, AAPL, 7)
        await rig.refresh(DUE)

    assert downloaded(rig).count(SECOND) == 5
    newest = rig.rows().filter(pl.col("account") == SECOND).group_by("conid").agg(pl.all().last())
    assert newest.filter(pl.col("position") != 0).select("conid", "position").rows() == [(AAPL, 7.0)]
    assert {key for key in rig.open_holdings() if key[0] == SECOND} == {(SECOND, AAPL)}


class TestALoginOfManyAccounts:
    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig) -> GatewayConfig:
        return replace(gateway_config, accounts=simulated_accounts(51), positions=120)

    async def test_every_position_is_refreshed_and_every_account_downloaded(self, rig: Rig) -> None:
        report = await rig.refresh()

        held = {(item.account, item.conid) for item in rig.gateway.book.held()}
        assert {(row["account"], row["conid"]) for row in rig.rows().to_dicts()} == held
        assert (report.held, report.closed) == (len(held), 0)
        assert set(downloaded(rig)) == set(rig.gateway.config.accounts)


async def test_both_accounts_flat_are_downloaded(rig: Rig) -> None:
    await rig.refresh(DUE)
    for account in (FIRST, SECOND):
        rig.gateway.perform("flatten", account=account, overnight=True)
    for _ in range(2):
        rig.clock.advance(rig.settings.refresh_seconds)
        await rig.refresh(DUE)

    assert rig.open_holdings() == set()
    assert sorted(downloaded(rig)) == [FIRST] * 3 + [SECOND] * 3


# A trade between the download and the commit


def rows_of(rig: Rig, account: str, conid: int) -> pl.DataFrame:
    return rig.rows().filter((pl.col("account") == account) & (pl.col("conid") == conid))


@pytest.mark.parametrize("quantity", [40.0, -300.0, 301.0, 0.0])
async def test_a_value_whose_position_changed_since_is_asked_again_and_never_written(rig: Rig, quantity: float) -> None:
    """A part sold, the side flipped, one bought, all sold: the row had the old quantity until the next refresh."""
    rig.clock = MovingClock()
    rig.gateway.perform("trade_after_download", account=FIRST, conid=AAPL, quantity=quantity)

    report = await rig.refresh()

    assert rows_of(rig, FIRST, AAPL).get_column("position").to_list() == [quantity]
    assert downloaded(rig).count(FIRST) == 2, "downloaded again at once"
    assert rig.queue.stats().pending == 0
    assert (report.retried, report.closed) == (0, int(quantity == 0))


async def test_a_row_is_stamped_when_its_account_was_downloaded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamped when written it outlived a stream's row that was newer."""
    begun, collect = rig.clock.now, BatchQuotes.collect

    async def slowly(self: BatchQuotes, contracts: Any) -> Any:
        rig.clock.advance(2.5)
        return await collect(self, contracts)

    monkeypatch.setattr(BatchQuotes, "collect", slowly)

    await rig.refresh()

    rows = rig.rows()
    assert set(rows.get_column("timestamp")) == set(rows.get_column("price_time")) == {begun}


async def test_the_last_row_of_a_position_that_is_listed_no_more_is_stamped_so_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.refresh()
    rig.gateway.perform("flatten", account=FIRST, overnight=True)
    closed_at, collect = rig.clock.advance(60), BatchQuotes.collect

    async def slowly(self: BatchQuotes, contracts: Any) -> Any:
        rig.clock.advance(2.5)
        return await collect(self, contracts)

    monkeypatch.setattr(BatchQuotes, "collect", slowly)

    await rig.refresh()

    last = rows_of(rig, FIRST, AAPL).to_dicts()[-1]
    assert (last["position"], last["timestamp"]) == (0.0, closed_at)


async def test_feeds_that_go_on_to_disagree_end_as_a_dead_letter_and_hold_up_no_other(rig: Rig) -> None:
    on_position = QueueWorker._on_position

    def doubled(self: QueueWorker, holding: Holding) -> None:
        is_it = holding.key == (FIRST, AAPL)
        on_position(self, replace(holding, position=2 * holding.position) if is_it else holding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QueueWorker, "_on_position", doubled)
        for _ in range(5):
            report = await rig.refresh()
            assert report.retried == 1
            rig.clock.advance(600)

    assert rows_of(rig, FIRST, AAPL).is_empty()
    assert [item.key for item in rig.queue.items(QueueState.DEAD)] == [(FIRST, AAPL)]
    assert rig.rows().height == 5 * (len(rig.gateway.book.held()) - 1)


# Closed CFDs


@pytest.mark.parametrize("quantity", [300.0, -300.0])
async def test_the_profit_of_a_closed_cfd_is_realized(rig: Rig, quantity: float) -> None:
    """IB keeps it as unrealized on a row of position 0, where no profit and loss found it."""
    contracts = rig.gateway.universe.contracts
    contracts[AAPL] = replace(contracts[AAPL], sec_type="CFD")
    rig.gateway.account_faults.close_position(FIRST, AAPL)
    rig.gateway.account_faults.open_position(FIRST, AAPL, quantity, average_cost=100.0)
    await rig.refresh()
    rig.gateway.account_faults.close_position(FIRST, AAPL)
    rig.clock.advance(60)

    await rig.refresh()

    last = rows_of(rig, FIRST, AAPL).to_dicts()[-1]
    realized = rig.gateway.book.holdings[FIRST, AAPL].realized_pnl
    assert realized
    assert (last["position"], last["market_value"], last["unrealized_pnl"]) == (0.0, 0.0, 0.0)
    assert last["realized_pnl"] == pytest.approx(realized)
