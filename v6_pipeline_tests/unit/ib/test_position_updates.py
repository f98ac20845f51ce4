"""Observations: what a row says of a streamed, a queued and a closed position."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.ib.position_updates import closing_update, queued_update, streamed_update
from v6_pipeline.model import BaseCurrency, ContractSpec, Holding, PriceSource, Quote, SecType

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
TICK = NOW - timedelta(seconds=5)
BASE = BaseCurrency("CHF", {"USD": 0.8})
OPTION = ContractSpec(
    conid=7,
    symbol="SPX",
    sec_type=SecType.OPTION,
    currency="USD",
    local_symbol="SPXW  261218P05000000",
    trading_class="SPXW",
    right="P",
    strike=5000.0,
    expiry=date(2026, 12, 18),
    multiplier=100.0,
    exchange="SMART",
    underlying_conid=416904,
)
HOLDING = Holding(account="SIM1", contract=OPTION, position=-2.0, average_cost=1250.0, observed_at=NOW)
QUOTE = Quote(
    bid=10.0, ask=11.0, last=10.2, close=9.0, implied_vol=0.2, delta=-0.4, market_data_type=3, price_time=TICK
)
VALUED = PortfolioValue(
    contract=OPTION,
    position=-2.0,
    market_price=10.4,
    market_value=-2080.0,
    average_cost=1250.0,
    unrealized_pnl=420.0,
    realized_pnl=15.0,
    received_at=TICK,
)


def test_a_streamed_value_is_the_mark_times_multiplier_less_the_cost() -> None:
    row = streamed_update(HOLDING, OPTION, QUOTE, base=BASE, strategy_ids=("condor",), now=NOW)

    assert (row.market_price, row.price_source, row.price_time) == (10.5, PriceSource.MID, TICK)
    assert (row.market_value, row.unrealized_pnl, row.realized_pnl) == (-2100.0, 400.0, None)
    assert (row.bid, row.ask, row.last, row.close) == (10.0, 11.0, 10.2, 9.0)
    assert (row.implied_vol, row.delta, row.gamma, row.market_data_type) == (0.2, -0.4, None, 3)
    assert (row.base_currency, row.fx_rate_to_base) == ("CHF", 0.8)
    assert (row.strategy_ids, row.timestamp) == (("condor",), NOW)


def test_a_row_names_its_contract_in_full() -> None:
    row = streamed_update(HOLDING, OPTION, None, base=None, strategy_ids=(), now=NOW)

    assert (row.account, row.conid, row.symbol, row.sec_type, row.currency) == ("SIM1", 7, "SPX", "OPT", "USD")
    assert (row.local_symbol, row.trading_class, row.right) == ("SPXW  261218P05000000", "SPXW", "P")
    assert (row.strike, row.expiry, row.multiplier, row.underlying_conid) == (5000.0, date(2026, 12, 18), 100.0, 416904)


def test_before_the_first_tick_the_position_is_known_and_its_value_is_not() -> None:
    row = streamed_update(HOLDING, OPTION, None, base=None, strategy_ids=(), now=NOW)

    assert (row.position, row.average_cost) == (-2.0, 1250.0)
    assert (row.market_price, row.market_value, row.unrealized_pnl) == (None, None, None)
    assert (row.price_source, row.price_time, row.market_data_type) == (None, None, None)
    assert (row.base_currency, row.fx_rate_to_base) == (None, None)


def test_a_quote_without_a_price_dates_no_price() -> None:
    row = streamed_update(HOLDING, OPTION, Quote(delta=-0.4, price_time=TICK), base=None, strategy_ids=(), now=NOW)

    assert (row.delta, row.market_price, row.price_time) == (-0.4, None, None)


@pytest.mark.parametrize("quote", [None, QUOTE])
def test_a_closed_position_is_worth_nothing_whatever_the_quote(quote: Quote | None) -> None:
    closed = replace(HOLDING, position=0.0, average_cost=0.0)

    row = streamed_update(closed, OPTION, quote, base=None, strategy_ids=(), now=NOW)

    assert (row.position, row.market_value, row.unrealized_pnl) == (0.0, 0.0, 0.0)


def test_an_unknown_cost_leaves_the_profit_unknown() -> None:
    row = streamed_update(replace(HOLDING, average_cost=None), OPTION, QUOTE, base=None, strategy_ids=(), now=NOW)

    assert (row.market_value, row.unrealized_pnl) == (-2100.0, None)


def test_a_queued_value_is_the_brokers_own_and_a_quote_adds_to_it() -> None:
    row = queued_update("SIM1", OPTION, VALUED, QUOTE, base=BASE, strategy_ids=(), now=NOW)

    assert (row.market_price, row.market_value) == (10.4, -2080.0)
    assert (row.unrealized_pnl, row.realized_pnl) == (420.0, 15.0)
    assert (row.price_source, row.price_time) == (PriceSource.PORTFOLIO, TICK)
    assert (row.bid, row.ask, row.delta) == (10.0, 11.0, -0.4)


def test_a_queued_position_without_a_quote_or_a_price() -> None:
    row = queued_update(
        "SIM1",
        OPTION,
        replace(VALUED, market_price=None, market_value=None),
        None,
        base=None,
        strategy_ids=(),
        now=NOW,
    )

    assert (row.market_price, row.market_value, row.price_source, row.price_time) == (None,) * 4
    assert (row.bid, row.delta, row.market_data_type) == (None, None, None)


def test_the_last_row_of_a_position_that_is_gone() -> None:
    row = closing_update(HOLDING, OPTION, base=BASE, now=NOW)

    assert (row.position, row.market_value, row.unrealized_pnl) == (0.0, 0.0, 0.0)
    assert (row.market_price, row.average_cost, row.realized_pnl) == (None, None, None)
    assert (row.strategy_ids, row.fx_rate_to_base) == ((), 0.8)


@pytest.mark.parametrize(("currency", "rate"), [("CHF", 1.0), ("USD", 0.8), ("JPY", None)])
def test_rates_into_the_base_currency(currency: str, rate: float | None) -> None:
    assert BASE.rate(currency) == rate
