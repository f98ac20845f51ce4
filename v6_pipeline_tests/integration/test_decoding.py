"""Messages that ib_async misreads, read as the gateway sent them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.ib.account_feed import AccountFeed
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.ib.positions import download_positions
from v6_pipeline.paper import GatewayConfig, PaperGateway, load_holdings
from v6_pipeline_tests.unit.state.databases import ManualClock

FILES = Path(__file__).parents[1] / "fixtures" / "gateway"
BOND_WITH_A_COUPON = 698_000_002


@pytest.fixture
def gateway_config(clock: ManualClock) -> GatewayConfig:
    file = load_holdings(FILES / "unusual_security_types.json")
    common: dict[str, Any] = {"control_port": None, "tick_seconds": None, "message_rate": 100_000}
    return GatewayConfig(
        accounts=file.accounts, positions=0, holdings=file, as_of=clock.now.date(), utcnow=clock, **common
    )


async def test_a_portfolio_row_with_empty_numbers_is_a_position_without_a_value(
    connection: IBConnectionManager, clock: ManualClock
) -> None:
    """ib_async drops the row, and its position would count as closed."""
    download = await AccountFeed(connection, clock, pnl_timeout=0.05).download("SIM900001")
    row = download.portfolio[714]
    assert (row.position, row.average_cost) == (100.0, 5.0)
    assert (row.market_price, row.market_value, row.unrealized_pnl, row.realized_pnl) == (None,) * 4
    assert len(download.portfolio) == 14


async def test_an_iopt_is_no_warrant_in_positions_and_portfolio(
    connection: IBConnectionManager, clock: ManualClock
) -> None:
    held = {item.contract.conid: item.contract.sec_type.value for item in await download_positions(connection, clock)}
    download = await AccountFeed(connection, clock, pnl_timeout=0.05).download("SIM900001")
    assert held[701] == download.portfolio[701].contract.sec_type.value == "IOPT"
    assert {held[703], held[704], held[707]} == {"EC", "SLB", "CMDTY"}


async def test_the_definition_of_a_bond_with_a_coupon_of_a_quarter_is_read(
    gateway: PaperGateway, connection: IBConnectionManager
) -> None:
    """ib_async reads the coupon as an integer and drops the definition, so that the bond would count as unknown."""
    bond = await qualify(connection, BOND_WITH_A_COUPON)
    assert (bond.sec_type.value, bond.exchange, bond.price_magnifier) == ("BOND", "SMART", 1)
    assert bond.symbol == gateway.universe.contracts[BOND_WITH_A_COUPON].symbol
