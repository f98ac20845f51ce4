"""Arithmetic of prices, pure: mark of a quote, value and unrealized profit of a position; unknown in, unknown out."""

from __future__ import annotations

from v6_pipeline.model import ContractSpec, PriceSource, Quote, SecType, known

_PERCENT_OF_PAR = frozenset({SecType.BOND, SecType.BILL})


def known_price(value: float | None) -> float | None:
    """Return a quoted price, or None where it is unset or IB's -1 for 'no quote'."""
    price = known(value)
    return None if price == -1 else price


def mark_of(quote: Quote) -> tuple[float, PriceSource] | None:
    """Return a quote's market price and its source: IB's mark, else the middle of bid and ask, else last, else close.

    A quote with one side has no middle; nor has a crossed quote (bid above ask), which is no market.
    """
    if quote.mark is not None:
        return quote.mark, PriceSource.MARK
    if quote.bid is not None and quote.ask is not None and quote.bid <= quote.ask:
        return (quote.bid + quote.ask) / 2, PriceSource.MID
    if quote.last is not None:
        return quote.last, PriceSource.LAST
    if quote.close is not None:
        return quote.close, PriceSource.CLOSE
    return None


def market_value(contract: ContractSpec, position: float, price: float | None) -> float | None:
    """Return the value of ``position`` at ``price``, in the contract's currency.

    position x price x multiplier / price magnifier; the prices of bonds and bills are percent of par.
    """
    if price is None:
        return None
    value = position * price * contract.multiplier / contract.price_magnifier
    return value / 100 if contract.sec_type in _PERCENT_OF_PAR else value


def unrealized_pnl(position: float, value: float | None, average_cost: float | None) -> float | None:
    """Return ``value`` less the cost of the position, in the contract's currency.

    IB's average cost is per unit of position and already includes the multiplier.
    """
    if value is None or average_cost is None:
        return None
    return value - position * average_cost
