"""The arithmetic of prices: the mark of a quote, the value of a position, its unrealized profit.

Pure functions; unknown in, unknown out.
"""

from __future__ import annotations

from v6_pipeline.model import ContractSpec, PriceSource, Quote, SecType, known

_PERCENT_OF_PAR = frozenset({SecType.BOND, SecType.BILL})


def known_price(value: float | None) -> float | None:
    """Return a quoted price, or None where it is unset or IB's -1 for 'no quote'."""
    price = known(value)
    return None if price == -1 else price


def mark_of(quote: Quote) -> tuple[float, PriceSource] | None:
    """The market price of a quote and what it is: IB's mark, else the middle of bid and ask, else last, else close.

    A quote with one side only has no middle; a crossed quote (bid above ask) is no market and has none either.
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
    """Value of ``position`` at ``price``, in the contract's currency.

    position x price x multiplier / price magnifier; the prices of bonds and bills are percent of par.
    """
    if price is None:
        return None
    value = position * price * contract.multiplier / contract.price_magnifier
    return value / 100 if contract.sec_type in _PERCENT_OF_PAR else value


def unrealized_pnl(position: float, value: float | None, average_cost: float | None) -> float | None:
    """``value`` less what the position cost, in the contract's currency.

    IB's average cost is per unit of position and includes the multiplier, so no multiplier enters here.
    """
    if value is None or average_cost is None:
        return None
    return value - position * average_cost
