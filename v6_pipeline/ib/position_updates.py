"""Assembles an observation: holding, contract, quote and valuation become one ``PositionUpdate``.

Pure functions. A streamed value is our arithmetic on the quote's mark; a queued one is IB's own from the account feed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.ib.valuation import mark_of, market_value, portfolio_mark, unrealized_pnl
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
    """Return a row of a streamed holding. ``realized_pnl`` is null: no quote carries it.

    A holding with position 0 was closed, and its value is 0. ``quote`` is None before the first tick, ``base`` until
    the account's base currency is known; ``contract`` is qualified. While the contract's unit is not known, the value
    is null, and so is ``unit_value``, which says why.
    """
    newest = quote or NO_QUOTE
    mark = mark_of(newest)
    price = None if mark is None else mark.price
    value = 0.0 if holding.position == 0 else market_value(contract, holding.position, price)
    return replace(
        _unvalued(contract, newest, holding.account, holding.position, base=base, now=now),
        average_cost=holding.average_cost,
        market_price=price,
        market_value=value,
        unrealized_pnl=unrealized_pnl(holding.position, value, holding.average_cost),
        price_source=None if mark is None else mark.source,
        price_time=None if mark is None else mark.at,
        strategy_ids=strategy_ids,
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
    """Return a row of a queued holding: price, value and P&L are IB's own; a quote adds bid, ask and greeks.

    The price is brought into the contract's currency (``valuation.portfolio_mark``), whatever unit IB sent it in.
    """
    mark = portfolio_mark(contract, valued.position, valued.market_price, valued.market_value)
    learned = contract if mark.unit_value is None else replace(contract, unit_value=mark.unit_value)
    has_price = mark.price is not None
    return replace(
        _unvalued(learned, quote or NO_QUOTE, account, valued.position, base=base, now=now),
        average_cost=valued.average_cost,
        market_price=mark.price,
        market_value=valued.market_value,
        unrealized_pnl=valued.unrealized_pnl,
        realized_pnl=valued.realized_pnl,
        price_source=PriceSource.PORTFOLIO if has_price else None,
        price_time=valued.received_at if has_price else None,
        strategy_ids=strategy_ids,
    )


def closing_update(
    holding: Holding, contract: ContractSpec, *, base: BaseCurrency | None, now: datetime
) -> PositionUpdate:
    """Return the last row of a closed position that the account feed no longer lists at all."""
    gone = _unvalued(contract, NO_QUOTE, holding.account, 0.0, base=base, now=now)
    return replace(gone, market_value=0.0, unrealized_pnl=0.0)


def _unvalued(
    contract: ContractSpec, quote: Quote, account: str, position: float, *, base: BaseCurrency | None, now: datetime
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
        price_magnifier=contract.price_magnifier,
        unit_value=contract.value_per_price,
        currency=contract.currency,
        underlying_conid=contract.underlying_conid,
        position=position,
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
        base_currency=base.currency if base else None,
        fx_rate_to_base=base.rate(contract.currency) if base else None,
        timestamp=now,
    )
