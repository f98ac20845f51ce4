"""Arithmetic of prices, pure: mark of a quote; unit, value and profit of a position; unknown in, unknown out.

All prices are in the contract's currency (``in_currency``), those of bonds and bills in percent of par.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from v6_pipeline.model import ContractSpec, PriceSource, Quote, SecType, known

WIDE_SHARE = 0.5
"""A bid and ask further apart than this share of their middle are too wide to mean a price there ..."""
WIDE_AMOUNT = 0.25
"""... if they are also further apart than this, in the contract's currency: a cheap option at .05/.20 is usual."""

_IN_PERCENT = frozenset({SecType.BOND, SecType.BILL})
_UNIT_WITHIN = 1e-4
"""IB rounds the price of a portfolio row, so that a unit computed from it is this far from the exact one."""
_VALUE_WITHIN = 0.01
"""IB rounds the value of a portfolio row to a cent."""
_LEAST_VALUE, _LEAST_VALUE_TO_DOUBT = 1.0, 100.0
"""A value below this, in the contract's currency, is rounded too coarsely to give a unit, or to doubt a certain one."""
_CERTAIN_WITHIN = 0.01
"""Of types whose unit is certain, only a value that is further off than this share shows another unit."""
_FRACTION_BELOW = 5.0
"""A bond's price below this is a fraction of par if its unit leaves that open: none quotes at 5 percent or 500."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A market price, its source, and when it was received (None for a close, which is of a session before)."""

    price: float
    source: PriceSource
    at: datetime | None


@dataclass(frozen=True, slots=True)
class PortfolioMark:
    """Price and unit of a portfolio row: the price in the contract's currency, or percent of par."""

    price: float | None
    unit_value: float | None


def tidy(value: float) -> float:
    """Return a number without the noise of binary arithmetic: 12 significant digits."""
    return float(f"{value:.12g}")


def known_price(
    value: float | None, contract: ContractSpec, *, size: float | None = None, signed: bool | None = None
) -> float | None:
    """Return a price that IB sent, in the contract's currency, or None for one of IB's ways to say that there is none.

    These are NaN, infinity and "unset"; a size of 0; a negative price of a type that has none; and a price without a
    size (a close, a mark) of 0, of -1, or of -1 times the price magnifier (IB documents the first two, users report the
    third). With a size, 0 is a price, and of a future -1 is one too.

    Args:
        value: as IB quotes it.
        contract: qualified.
        size: None where IB sends no size with the price.
        signed: overrides whether the price can be negative; by default the contract's type decides.
    """
    price = known(value)
    if price is None or size == 0:
        return None
    is_signed = contract.sec_type.is_signed if signed is None else signed
    if (size is None and price in {0, -1, -contract.price_magnifier}) or (price < 0 and not is_signed):
        return None
    return in_currency(price, contract)


def in_currency(price: float, contract: ContractSpec) -> float:
    """Return a quoted price in the contract's currency: pounds for one quoted in pence."""
    if contract.price_magnifier == 1:
        return price
    return tidy(price / contract.price_magnifier)


def mark_of(quote: Quote) -> Mark | None:
    """Return a quote's market price.

    The first of: IB's mark; the middle of bid and ask; the last trade, within what bid and ask allow; the close,
    likewise; the middle of bid and ask that are too far apart (``is_wide``). A quote with one side has no middle; nor
    has a crossed one (bid above ask), which is no market.
    """
    if quote.mark is not None:
        return Mark(quote.mark, PriceSource.MARK, quote.mark_time or quote.price_time)
    middle = _middle(quote)
    if middle is not None and not is_wide(quote):
        return Mark(middle, PriceSource.MID, quote.quote_time or quote.price_time)
    if quote.last is not None:
        price = _within(quote, quote.last)
        at = quote.last_time if price == quote.last else quote.quote_time
        return Mark(price, PriceSource.LAST, at or quote.price_time)
    if quote.close is not None and (middle is None or quote.close == _within(quote, quote.close)):
        return Mark(_within(quote, quote.close), PriceSource.CLOSE, None)
    return None if middle is None else Mark(middle, PriceSource.WIDE_MID, quote.quote_time or quote.price_time)


def is_wide(quote: Quote) -> bool:
    """Return whether bid and ask are too far apart for their middle to be a price.

    Wider than ``WIDE_SHARE`` of the middle and than ``WIDE_AMOUNT``. A negative bid gives no scale, as of a spread
    around 0: such a quote is not judged.
    """
    if quote.bid is None or quote.ask is None or quote.bid < 0:
        return False
    spread = quote.ask - quote.bid
    return spread > WIDE_AMOUNT and spread > WIDE_SHARE * (quote.bid + quote.ask) / 2


def _middle(quote: Quote) -> float | None:
    if quote.bid is None or quote.ask is None or quote.bid > quote.ask:
        return None
    return tidy((quote.bid + quote.ask) / 2)


def _within(quote: Quote, price: float) -> float:
    """Return the price within bid and ask; a crossed quote limits nothing."""
    if quote.bid is not None and quote.ask is not None and quote.bid > quote.ask:
        return price
    if quote.bid is not None:
        price = max(price, quote.bid)
    return price if quote.ask is None else min(price, quote.ask)


def market_value(contract: ContractSpec, position: float, price: float | None) -> float | None:
    """Return the value of ``position`` at ``price``, in the contract's currency: position x price x unit.

    None while the unit of such a contract is not known (``learned_unit``).
    """
    unit = contract.value_per_price
    return None if price is None or unit is None else tidy(position * price * unit)


def unrealized_pnl(position: float, value: float | None, average_cost: float | None) -> float | None:
    """Return ``value`` less the cost of the position, in the contract's currency.

    IB's average cost is per unit of position and already includes the multiplier.
    """
    if value is None or average_cost is None:
        return None
    return round(value - position * average_cost, 8)


def portfolio_mark(contract: ContractSpec, position: float, price: float | None, value: float | None) -> PortfolioMark:
    """Return price and unit of a portfolio row, in whatever unit IB sent its price.

    Users report portfolio prices of contracts quoted in pence both in pence and in pounds, and those of bonds both in
    percent and as a fraction of par. The value of the same row settles it: the unit is value / (position x price).
    Where the row cannot settle it, the price is unknown; a unit is learned only from a value of ``_LEAST_VALUE``.
    """
    is_settled = (
        price is not None and value is not None and bool(price) and bool(position) and value * position * price > 0
    )
    needs_value = contract.price_magnifier != 1 or contract.sec_type in _IN_PERCENT
    if price is None or value is None or not is_settled:
        return PortfolioMark(None if needs_value and price else price, None)
    unit = value / (position * price)
    scale = _scale(contract, price, unit)
    least = _LEAST_VALUE_TO_DOUBT if contract.sec_type.has_certain_unit else _LEAST_VALUE
    learned = _snapped(contract, unit * scale, value) if abs(value) >= least else None
    return PortfolioMark(tidy(price / scale) if scale != 1 else price, learned)


def _scale(contract: ContractSpec, price: float, unit: float) -> float:
    """Return what to divide a portfolio price by, given its row's value per unit of position and price."""
    if contract.sec_type in _IN_PERCENT:
        power = round(math.log10(unit))
        # Percent: 10 in units of 1,000 face, 0.01 in face. A fraction of par: 1,000 and 1.
        is_fraction = power == 3 or (power in {0, 2} and price < _FRACTION_BELOW)
        return 0.01 if is_fraction else 1.0
    magnifier = contract.price_magnifier
    multiplier = contract.multiplier
    if magnifier != 1 and abs(math.log(unit * magnifier / multiplier)) < abs(math.log(unit / multiplier)):
        return float(magnifier)
    return 1.0


def _snapped(contract: ContractSpec, unit: float, value: float) -> float:
    """Return the exact unit for one that was computed from rounded figures."""
    if contract.sec_type.has_certain_unit and abs(unit / contract.multiplier - 1) <= _CERTAIN_WITHIN:
        return contract.multiplier
    within = _UNIT_WITHIN + _VALUE_WITHIN / abs(value)
    powers = (10.0**power for power in range(-4, 5))
    exact = (candidate for candidate in (contract.multiplier, *powers) if abs(unit / candidate - 1) <= within)
    return next(exact, float(f"{unit:.6g}"))


def learned_units(rows: Iterable[tuple[ContractSpec, float, float | None, float | None]]) -> dict[int, float | None]:
    """Return the units that portfolio rows of qualified contracts show, by conid; None where the multiplier gives it.

    ``rows`` are contract, position, price and value. A row that shows none is left out: what was learned before stays.
    """
    units: dict[int, float | None] = {}
    for contract, position, price, value in rows:
        unit = portfolio_mark(contract, position, price, value).unit_value
        if unit is not None:
            units[contract.conid] = None if contract.sec_type.has_certain_unit and unit == contract.multiplier else unit
    return units
