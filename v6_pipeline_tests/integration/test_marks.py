"""Prices, units and names as real accounts have them, from the wire to streamed, queued and snapshot rows.

Each test serves a file of holdings (``fixtures/gateway``) by the paper gateway, over the real protocol.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.ib.connection import ConnectionPolicy
from v6_pipeline.lake.tables import QUEUED_POSITIONS
from v6_pipeline.paper import GatewayConfig, load_holdings
from v6_pipeline.refresh.worker import QueueWorker, RefreshScope
from v6_pipeline.state.account import contracts as contract_cache
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.streaming.policy import ROUTE_AT_LEAST_EVERY
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.integration.streamer_rig import Rig
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quick_flush")
FILES = Path(__file__).parents[1] / "fixtures" / "gateway"
ACCOUNT = "SIM900001"
BILL, BOND, BOND_BY_FACE = 501, 502, 503
VALUES = {BILL: 20736.66, BOND: 10150.0, BOND_BY_FACE: 10150.0}


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> str:
    """Name of the file of holdings; a test chooses it by ``indirect`` parameters."""
    return str(request.param)


@pytest.fixture
def gateway_config(clock: ManualClock, sample: str) -> GatewayConfig:
    file = load_holdings(FILES / f"{sample}.json")
    return GatewayConfig(
        accounts=file.accounts,
        positions=0,
        holdings=file,
        control_port=None,
        as_of=clock.now.date(),
        tick_seconds=None,
        message_rate=100_000,
        utcnow=clock,
    )


def served(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sample", [name], indirect=True)


async def refresh(rig: Rig, run_id: str = "run-1") -> dict[int, dict[str, Any]]:
    """Refresh everything; return the newest queued rows by conid."""
    worker = QueueWorker(
        rig.settings,
        rig.database,
        rig.lake,
        run_id=run_id,
        trading_day=TradingCalendar().trading_day,
        clock=rig.clock,
        policy=ConnectionPolicy(messages_per_second=1_000, connect_timeout=5, request_timeout=5),
    )
    await worker.run(RefreshScope(everything=True))
    handle = rig.lake.table(QUEUED_POSITIONS).load()
    assert handle is not None
    rows = pl.scan_delta(handle).sort("timestamp").collect().to_dicts()
    return {row["conid"]: row for row in rows}


def held(rig: Rig) -> list[int]:
    return sorted({holding.conid for holding in rig.gateway.book.held()})


async def streamed(rig: Rig, conids: list[int]) -> dict[int, dict[str, Any]]:
    """Stream contracts until each has a row with a tick; return the newest rows by conid."""
    rig.registry.add_active("s", conids)
    async with rig.streaming():
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1), "subscribed")
        await eventually(
            lambda: all(rig.rows(conid) and rig.rows(conid)[-1]["market_data_type"] for conid in conids), "rows"
        )
    return {conid: rig.rows(conid)[-1] for conid in conids}


@served("bonds_and_bills")
async def test_bonds_and_bills_have_the_brokers_value_whatever_its_unit(rig: Rig) -> None:
    queued = await refresh(rig)
    assert {conid: queued[conid]["market_value"] for conid in VALUES} == VALUES
    # In percent of par, although IB sent the second one as a fraction.
    assert [queued[conid]["market_price"] for conid in VALUES] == [98.746, 101.5, 101.5]
    assert [queued[conid]["unit_value"] for conid in VALUES] == [10.0, 10.0, 0.01]
    rows = await streamed(rig, list(VALUES))
    assert {conid: rows[conid]["market_value"] for conid in VALUES} == VALUES
    assert [rows[conid]["unrealized_pnl"] for conid in VALUES] == [0.0, 25.0, 25.0]
    assert {row["sec_type"] for row in rows.values()} == {"BILL", "BOND"}


@served("bonds_and_bills")
async def test_until_its_unit_is_known_a_bond_has_a_price_and_no_value_and_is_queued(rig: Rig) -> None:
    rig.registry.add_active("s", list(VALUES))
    async with rig.streaming():
        await eventually(lambda: rig.rows(BILL) and rig.rows(BILL)[-1]["market_price"], "a price")
        row = rig.rows(BILL)[-1]
        assert (row["market_price"], row["market_value"], row["unit_value"]) == (98.746, None, None)
        rig.clock.advance(rig.settings.refresh_seconds + 1)
        await eventually(lambda: (ACCOUNT, BILL) in rig.queued(), "queued for the value that its line cannot give")

        await refresh(rig)
        rig.clock.advance(ROUTE_AT_LEAST_EVERY.total_seconds())

        await eventually(lambda: rig.rows(BILL)[-1]["market_value"] == VALUES[BILL], "valued without a restart")


@served("bonds_and_bills")
async def test_a_restarted_streamer_knows_the_units(rig: Rig) -> None:
    await refresh(rig)
    rig.registry.add_active("s", [BILL])
    for epoch in (1, 2):
        rig.clock.advance(60)
        async with rig.streaming(epoch=epoch):
            await eventually(lambda: rig.rows(BILL) and rig.rows(BILL)[-1]["market_value"] == VALUES[BILL], "valued")


@served("pence_and_cents")
async def test_prices_in_pence_and_cents_are_in_the_currency_in_every_row(rig: Rig) -> None:
    queued = await refresh(rig)
    rows = await streamed(rig, [601, 602, 603, 604])
    for found in (queued, rows):
        assert [found[conid]["price_magnifier"] for conid in (601, 602, 603, 604)] == [100] * 4
    assert [queued[conid]["market_price"] for conid in (601, 602, 603, 604)] == [42.94, 13.9, 13.9, 4.5125]
    assert [queued[conid]["market_value"] for conid in (601, 602, 603, 604)] == [429.4, 1390.0, 1390.0, 45125.0]
    assert [rows[conid]["market_price"] for conid in (601, 602, 603, 604)] == [42.94, 13.9, None, 4.5125]
    assert [rows[conid]["market_value"] for conid in (601, 602, 603, 604)] == [429.4, 1390.0, None, 45125.0]
    assert [rows[conid]["unrealized_pnl"] for conid in (601, 602, 604)] == [28.4, 443.0, 100.0]
    names = ("bid", "ask", "last", "close")
    assert [rows[601][name] for name in names] == [None, None, 42.94, 42.8]
    assert [rows[602][name] for name in names] == [13.89, 13.91, None, 13.8]
    assert [rows[603][name] for name in names] == [None] * 4
    assert [rows[604][name] for name in names] == [4.51, 4.515, 4.5125, 4.5]
    assert [queued[604][name] for name in names] == [4.51, 4.515, 4.5125, 4.5]


@served("no_data_as_zero")
async def test_a_last_price_of_0_with_size_0_is_no_price(rig: Rig) -> None:
    await refresh(rig)
    rows = await streamed(rig, [901, 902, 903])
    quiet, option = rows[902], rows[903]
    assert (quiet["last"], quiet["bid"], quiet["ask"]) == (None, None, None)
    assert (quiet["market_price"], quiet["price_source"], quiet["price_time"]) == (25.0, "close", None)
    assert (quiet["market_value"], quiet["unrealized_pnl"]) == (2500.0, 500.0)
    assert (option["last"], option["bid"], option["ask"]) == (None, None, 0.9)
    assert (option["market_price"], option["price_source"], option["market_value"]) == (0.8, "close", -800.0)
    assert rows[901]["market_value"] == -2805.0


@served("unusual_security_types")
async def test_unusual_security_types_stream_by_conid_and_exchange_and_keep_ibs_text(rig: Rig) -> None:
    rows = {row["conId"]: row for row in json.loads((FILES / "unusual_security_types.json").read_text())["holdings"]}
    queued = await refresh(rig)
    found = await streamed(rig, list(rows))
    for conid, row in rows.items():
        assert (found[conid]["sec_type"], queued[conid]["sec_type"]) == (row["secType"], row["secType"])
    assert (found[709]["market_price"], found[709]["market_value"]) == (-37.6, -75200.0)  # the middle
    assert (found[709]["last"], queued[709]["market_price"]) == (-37.63, -37.63)
    assert (found[711]["market_price"], found[711]["last"], queued[711]["market_price"]) == (-1.0, -1.0, -1.0)
    assert (found[711]["market_value"], queued[711]["market_value"]) == (-1000.0, -1000.0)
    assert (found[701]["market_value"], queued[701]["market_value"]) == (6500.0, 6500.0)
    assert found[702]["market_value"] == pytest.approx(0.01234567 * 98000.25)
    # Escrow shares: IB says that they are worth nothing; no tick does.
    assert (queued[712]["market_value"], queued[712]["unrealized_pnl"]) == (0.0, -500.0)
    assert (found[712]["market_price"], found[712]["market_value"]) == (None, None)
    # 1.797e308, NaN and empty fields.
    for conid in (713, 714):
        names = ("market_price", "market_value", "unrealized_pnl", "realized_pnl", "price_time")
        assert [queued[conid][name] for name in names] == [None] * 5
        assert queued[conid]["position"] == 100.0
    codes = rig.gateway.statistics.errors
    assert not {200, 321, 478} & codes.keys()


@served("renamed_symbol")
async def test_the_newest_position_message_names_the_contract(rig: Rig) -> None:
    rig.registry.add_selector("meta", "symbol=META")
    rig.registry.add_selector("fb", "symbol=FB")
    async with rig.streaming():
        await eventually(lambda: rig.rows(601) and rig.rows(601)[-1]["market_price"], "a row")
        assert (rig.rows(601)[-1]["symbol"], rig.rows(601)[-1]["strategy_ids"]) == ("FB", ["fb"])
        rig.clock.advance(1)

        rig.gateway.perform("rename", conid=601, symbol="META")

        await eventually(lambda: rig.rows(601)[-1]["strategy_ids"] == ["meta"], "the selector follows")
        row = rig.rows(601)[-1]
        assert (row["symbol"], row["local_symbol"]) == ("META", "META")
        assert rig.subscribed() == {601: 1}
        # Fetched again: a corporate action changes more than the name.
        await eventually(
            lambda: contract_cache.get(rig.database, [601])[601].qualified_at == rig.clock.now, "a new definition"
        )
    with rig.database.read() as connection:
        (stored,) = [item for item in holdings_store.list_open(connection) if item.contract.conid == 601]
    cached = contract_cache.get(rig.database, [601])[601]
    assert (stored.contract.symbol, cached.spec.symbol, cached.spec.exchange) == ("META", "META", "SMART")
    assert (await refresh(rig))[601]["symbol"] == "META"
    assert 478 not in rig.gateway.statistics.errors


@served("renamed_symbol")
async def test_a_contract_renamed_while_nothing_ran_has_its_new_name_from_the_first_row(rig: Rig) -> None:
    await refresh(rig)
    rig.gateway.perform("rename", conid=601, symbol="META")
    rig.clock.advance(3600)
    rig.registry.add_selector("meta", "symbol=META")
    async with rig.streaming():
        await eventually(lambda: rig.rows(601), "a row")
        assert {row["symbol"] for row in rig.rows(601)} == {"META"}
    assert (await refresh(rig, "run-2"))[601]["symbol"] == "META"


@served("renamed_symbol")
async def test_sizes_and_volumes_do_not_date_a_price(rig: Rig) -> None:
    """Without prescribed ticks its prices stand still, and its sizes and volume move."""
    rig.registry.add_active("s", [602])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.rows(602) and rig.rows(602)[-1]["price_time"], "a row")
        priced_at = rig.rows(602)[-1]["price_time"]
        for _ in range(3):
            rig.clock.advance(20)
            rig.gateway.tick_once()
            await eventually(lambda: streamer.status().last_tick_at == rig.clock.now, "ticked")
        await eventually(lambda: rig.rows(602)[-1]["timestamp"] == rig.clock.now, "a row of the last tick")
        assert rig.rows(602)[-1]["price_time"] == priced_at == rig.clock.now - timedelta(seconds=60)


@served("renamed_symbol")
async def test_a_quote_wider_than_sense_is_named_and_a_trade_is_kept_within_one_side(rig: Rig) -> None:
    """A stock without IB's mark: a market maker's placeholder, then a bid that left the last trade behind."""
    rig.gateway.perform("quote", conid=602, bid=0.05, ask=20.0)
    rig.registry.add_active("s", [602])
    async with rig.streaming():
        await eventually(lambda: rig.rows(602) and rig.rows(602)[-1]["market_price"], "a row")
        assert (rig.rows(602)[-1]["market_price"], rig.rows(602)[-1]["price_source"]) == (10.025, "wide_mid")
        rig.clock.advance(1)
        rig.gateway.perform("quote", conid=602, bid=0.05, ask=0.0, ask_size=0.0, last=0.01)
        rig.gateway.tick_once()
        await eventually(lambda: rig.rows(602)[-1]["price_source"] == "last", "a row of the trade")
        assert (rig.rows(602)[-1]["market_price"], rig.rows(602)[-1]["last"]) == (0.05, 0.01)


@pytest.mark.parametrize("sample", ["renamed_symbol"], indirect=True)
async def test_a_middle_has_no_float_noise(rig: Rig) -> None:
    rig.gateway.perform("quote", conid=602, bid=23.68, ask=23.7)
    assert (await streamed(rig, [602]))[602]["market_price"] == 23.69
