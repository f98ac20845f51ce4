"""Contracts and holdings to test with."""

from __future__ import annotations

from datetime import date, datetime

from v6_pipeline.model import ContractSpec, Holding, SecType
from v6_pipeline_tests.unit.state.databases import START


def stock(conid: int, symbol: str = "AAPL", *, exchange: str = "") -> ContractSpec:
    return ContractSpec(conid=conid, symbol=symbol, sec_type=SecType.STOCK, currency="USD", exchange=exchange)


def option(conid: int, *, right: str = "P", strike: float = 5000.0, expiry: date = date(2026, 12, 18)) -> ContractSpec:
    return ContractSpec(
        conid=conid,
        symbol="SPX",
        sec_type=SecType.OPTION,
        currency="USD",
        local_symbol="SPXW  261218P05000000",
        trading_class="SPXW",
        right=right,
        strike=strike,
        expiry=expiry,
        multiplier=100.0,
        underlying_conid=416904,
    )


def holding(
    contract: ContractSpec, *, account: str = "SIM1", position: float = 10.0, observed_at: datetime = START
) -> Holding:
    return Holding(account=account, contract=contract, position=position, average_cost=101.5, observed_at=observed_at)
