"""``QueueWorker`` and accounts as real logins have them: wordings, resets, flat accounts, trades between two feeds."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from v6_pipeline.errors import AccountFeedError
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import ACCOUNT_VALUES
from v6_pipeline.paper import GatewayConfig, PaperGateway, simulated_accounts
from v6_pipeline.refresh.worker import RefreshScope
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.integration.test_worker import Rig
from v6_pipeline_tests.unit.state.databases import ManualClock

FIRST, SECOND = "SIM0000001", "SIM0000002"
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
            rig.gateway.account_faults.open_position(SECOND, 265598, 7)
        await rig.refresh(DUE)

    assert downloaded(rig).count(SECOND) == 5
    newest = rig.rows().filter(pl.col("account") == SECOND).group_by("conid").agg(pl.all().last())
    assert newest.filter(pl.col("position") != 0).select("conid", "position").rows() == [(265598, 7.0)]
    assert {key for key in rig.open_holdings() if key[0] == SECOND} == {(SECOND, 265598)}


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
