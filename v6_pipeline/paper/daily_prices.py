"""What a contract closed at on a past day: pure functions of seed, contract and date.

Belongs here: daily closes, in closed form as in `prices`, so that Flex statements, historical bars and tests agree on
them. They walk the underlyings' path far from the sequence numbers of live quotes and never look at the universe's
`as_of`: a past day's close is the same from whichever day it is asked. A live quote's `close` is a point of the live
path, not one of these.
"""

import math
from datetime import date, datetime

from v6_pipeline.paper.contracts import FUTURE, OPTION, Contract, Universe
from v6_pipeline.paper.instruments import CURRENCY_PAIR_CONID
from v6_pipeline.paper.market import BASE_CURRENCY
from v6_pipeline.paper.prices import RATE, black_scholes, smile, spot, years_to_expiry

_STEPS_A_DAY = 7
"""Points of the path between two closes: enough to move by a percent or so, little enough to look like a market."""


def daily_close(universe: Universe, conid: int, day: date) -> float | None:
    """The close of a contract on `day`, in quoted units; `None` after it expired.

    An option closes at its intrinsic value on the day it expires, and never below its minimum tick before.

    Raises:
        KeyError: the universe has no such contract.
    """
    contract = universe.contracts[conid]
    expiry = expiry_of(contract)
    if expiry is not None and day > expiry:
        return None
    if contract.sec_type != OPTION:
        return _to_tick(_linear_close(universe, contract, day), contract.min_tick)
    underlying = universe.contracts[contract.underlying_conid]
    underlying_close = _to_tick(_linear_close(universe, underlying, day), underlying.min_tick)
    if day == expiry:
        gain = underlying_close - contract.strike
        return round(max(gain if contract.right == "C" else -gain, 0.0), 9)
    years = years_to_expiry(contract, day)
    value = black_scholes(
        right=contract.right,
        spot_price=underlying_close,
        strike=contract.strike,
        years=years,
        volatility=smile(universe.seed, underlying, spot_price=underlying_close, strike=contract.strike, years=years),
    )
    return max(_to_tick(value.price, contract.min_tick), contract.min_tick)


def daily_exchange_rate(universe: Universe, currency: str, day: date) -> float:
    """What one unit of a currency was worth in the base currency at the close of `day`."""
    pair = universe.contracts[CURRENCY_PAIR_CONID]
    return 1.0 if currency == BASE_CURRENCY else _to_tick(_linear_close(universe, pair, day), pair.min_tick)


def expiry_of(contract: Contract) -> date | None:
    """The day a contract expires, `None` if it does not."""
    return datetime.strptime(contract.expiry, "%Y%m%d").date() if contract.expiry else None  # noqa: DTZ007 - a date


def _linear_close(universe: Universe, contract: Contract, day: date) -> float:
    anchor = universe.contracts[contract.underlying_conid] if contract.base_price == 0 else contract
    price = spot(universe.seed, anchor, day.toordinal() * _STEPS_A_DAY)
    if contract.sec_type == FUTURE and anchor is not contract:
        price *= math.exp(RATE * years_to_expiry(contract, day))
    return price


def _to_tick(price: float, tick: float) -> float:
    return round(math.floor(price / tick + 0.5) * tick, 9)
