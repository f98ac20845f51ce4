"""Puts an observation together: holding, contract, quote and valuation become one ``PositionUpdate``.

Pure functions. A streamed value is our arithmetic on the quote's mark; a queued one is IB's own from the account feed.
"""

from __future__ import annotations

from datetime import datetime

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.ib.valuation import mark_of, market_value, unrealized_pnl
from v6_pipeline.model import BaseCurrency, ContractSpec, Holding, PositionUpdate, PriceSource, Quote

NO_QUOTE = Quote()


def streamed_update(
    holding: Holding,
    contract: ContractSpec,
    quote: Quote | None,
    *,
    base: BaseCurrency | None,
    strategy_ids: tuple[str, ...],
    now: datetime,
) -> PositionUpdate:
    """A row of a streamed holding. ``realized_pnl`` is null: no quote tells it.

    Args:
        holding: what the account holds; position 0 says that it was closed, and its value is then 0.
        contract: qualified.
        quote: the newest; None before the first tick.
        base: the account's base currency, if known yet.
        strategy_ids: active strategies that the contract serves.
        now: UTC.
    """
    seen = quote or NO_QUOTE
    marked = mark_of(seen)
    price, source = marked or (None, None)
    value = 0.0 if holding.position == 0 else market_value(contract, holding.position, price)
    return _update(
        contract,
        seen,
        account=holding.account,
        position=holding.position,
        average_cost=holding.average_cost,
        market_price=price,
        market_value=value,
        unrealized_pnl=unrealized_pnl(holding.position, value, holding.average_cost),
        realized_pnl=None,
        price_source=source,
        price_time=seen.price_time if price is not None else None,
        base=base,
        strategy_ids=strategy_ids,
        now=now,
    )


def queued_update(
    account: str,
    contract: ContractSpec,
    valued: PortfolioValue,
    quote: Quote | None,
    *,
    base: BaseCurrency | None,
    strategy_ids: tuple[str, ...],
    now: datetime,
) -> PositionUpdate:
    """A row of a queued holding: price, value and P&L are IB's own; a quote, if any, adds bid, ask and greeks."""
    return _update(
        contract,
        quote or NO_QUOTE,
        account=account,
        position=valued.position,
        average_cost=valued.average_cost,
        market_price=valued.market_price,
        market_value=valued.market_value,
        unrealized_pnl=valued.unrealized_pnl,
        realized_pnl=valued.realized_pnl,
        price_source=None if valued.market_price is None else PriceSource.PORTFOLIO,
        price_time=None if valued.market_price is None else valued.received_at,
        base=base,
        strategy_ids=strategy_ids,
        now=now,
    )


def closing_update(
    holding: Holding, contract: ContractSpec, *, base: BaseCurrency | None, now: datetime
) -> PositionUpdate:
    """The last row of a position that is gone and that the account feed no longer lists at all."""
    return _update(
        contract,
        NO_QUOTE,
        account=holding.account,
        position=0.0,
        average_cost=None,
        market_price=None,
        market_value=0.0,
        unrealized_pnl=0.0,
        realized_pnl=None,
        price_source=None,
        price_time=None,
        base=base,
        strategy_ids=(),
        now=now,
    )


def _update(
    contract: ContractSpec,
    quote: Quote,
    *,
    account: str,
    position: float,
    average_cost: float | None,
    market_price: float | None,
    market_value: float | None,
    unrealized_pnl: float | None,
    realized_pnl: float | None,
    price_source: PriceSource | None,
    price_time: datetime | None,
    base: BaseCurrency | None,
    strategy_ids: tuple[str, ...],
    now: datetime,
) -> PositionUpdate:
    return PositionUpdate(
        account=account,
        conid=contract.conid,
        symbol=contract.symbol,
        local_symbol=contract.local_symbol or None,
        trading_class=contract.trading_class or None,
        sec_type=contract.sec_type.value,
        right=contract.right,
        strike=contract.strike,
        expiry=contract.expiry,
        multiplier=contract.multiplier,
        currency=contract.currency,
        underlying_conid=contract.underlying_conid,
        position=position,
        average_cost=average_cost,
        market_price=market_price,
        market_value=market_value,
        unrealized_pnl=unrealized_pnl,
        realized_pnl=realized_pnl,
        bid=quote.bid,
        ask=quote.ask,
        last=quote.last,
        close=quote.close,
        implied_vol=quote.implied_vol,
        delta=quote.delta,
        gamma=quote.gamma,
        vega=quote.vega,
        theta=quote.theta,
        underlying_price=quote.underlying_price,
        market_data_type=quote.market_data_type,
        price_source=price_source,
        price_time=price_time,
        base_currency=base.currency if base else None,
        fx_rate_to_base=base.rate(contract.currency) if base else None,
        strategy_ids=strategy_ids,
        timestamp=now,
    )
