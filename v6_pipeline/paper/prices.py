"""One price history: quotes and daily closes, pure functions of seed, contract, and sequence number or day.

No state, no clock, no randomness other than hashes of the arguments, so that a test can recompute every price on the
wire. Underlyings move on smooth waves with a little hashed noise; options follow by Black-Scholes (no dividends) from
the underlying's price at the same moment and a seeded smile that calls and puts share, so put-call parity holds.

A close belongs to its day and ignores the universe's `as_of`, so the close of a past day never changes. The live day is
`as_of`. It opens from the close of the session before, which is also the `close` of each of its quotes, and approaches
its own close. A sequence number counts the ticks of one contract and not time: some contracts tick each second, others
with the portfolio only. So no sequence number is the end of the day; the closing auction is (`closing_quote`). It
trades at `daily_close` of the day, which is also the last bar of the day and the mark in its statement.
"""

import functools
import math
from dataclasses import dataclass, replace
from datetime import date

from v6_pipeline.paper.contracts import CASH, FUTURE, INDEX, OPTION, Contract, Universe
from v6_pipeline.paper.given import GivenPrices
from v6_pipeline.paper.instruments import BASE_CURRENCY, CURRENCY_PAIRS
from v6_pipeline.paper.trading_hours import session_before

RATE = 0.04
"""Annual risk-free rate, continuously compounded."""

_STEPS_A_DAY = 7
"""Points of the path between two daily closes, which move by a percent or so."""
_HALF_WAY = 11_700
"""Sequence number half way to the day's close: half of a regular session of one tick a second."""
_WAVES = ((0.5, 97.0), (0.3, 31.0), (0.2, 11.0))
"""Weights and periods of the waves of a path."""
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Quote:
    """All market data of one contract at one sequence number.

    Prices are in the contract's quoted units (before multiplier and magnifier); `None` is no value: no bid below the
    minimum tick, no bid and ask of an index, greeks of options only. `vega` is per volatility point, `theta` per day,
    as IB quotes them. `absent` names prices that are not sent at all.
    """

    conid: int
    sequence: int
    bid: float | None
    ask: float | None
    bid_size: float
    ask_size: float
    last: float
    last_size: float
    volume: float
    close: float
    mark: float
    implied_vol: float | None = None
    delta: float | None = None
    gamma: float | None = None
    vega: float | None = None
    theta: float | None = None
    option_price: float | None = None
    underlying_price: float | None = None
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Greeks:
    """A Black-Scholes value and its sensitivities; units as in `Quote`."""

    price: float
    delta: float
    gamma: float
    vega: float
    theta: float


def quote_at(universe: Universe, conid: int, sequence: int) -> Quote:
    """Return the quote of a contract at a sequence number of the live day; equal arguments give equal quotes.

    Raises:
        KeyError: the universe has no such contract.
    """
    contract = universe.contracts[conid]
    given = universe.given.prices.get(conid)
    if given is not None:
        return _given_quote(universe.seed, contract, given, sequence)
    close = universe.previous_closes.get(conid)
    if close is None:
        close = daily_close(universe, conid, session_before(universe.as_of))
        # A contract that expired before the live day has no close; its quotes are of no use to anyone.
        close = universe.previous_closes[conid] = contract.min_tick if close is None else close
    if contract.sec_type == OPTION:
        return _option_quote(universe, contract, sequence, close)
    return _linear_quote(universe, contract, sequence, close)


def closing_quote(universe: Universe, conid: int, sequence: int) -> Quote:
    """Return the quote after the closing auction of the live day: last and mark are `daily_close` of that day.

    Raises:
        KeyError: the universe has no such contract.
    """
    quote = quote_at(universe, conid, sequence)
    close = daily_close(universe, conid, universe.as_of)
    if close is None:
        return quote
    contract = universe.contracts[conid]
    tick = contract.min_tick
    is_worthless = contract.sec_type == OPTION and close < 2 * tick
    bid = None if quote.bid is None or is_worthless else round(close - tick, 9)
    ask = None if quote.ask is None else round(close + tick, 9)
    return replace(quote, bid=bid, bid_size=0.0 if bid is None else quote.bid_size, ask=ask, last=close, mark=close)


def daily_close(universe: Universe, conid: int, day: date) -> float | None:
    """Return the close of a contract on `day`, in quoted units; `None` after its expiry.

    An option closes at its intrinsic value on the day of its expiry, and never below its minimum tick before.

    Raises:
        KeyError: the universe has no such contract.
    """
    contract = universe.contracts[conid]
    expiry = expiry_of(contract)
    if expiry is not None and day > expiry:
        return None
    given = universe.given.prices.get(conid)
    if given is not None:
        return given.price
    if contract.sec_type != OPTION:
        return _linear_close(universe, contract, day)
    underlying = universe.contracts[contract.underlying_conid]
    underlying_close = _linear_close(universe, underlying, day)
    if day == expiry:
        if is_settled_in_the_morning(contract):
            underlying_close = morning_price(universe, underlying, day)
        gain = underlying_close - contract.strike
        return round(max(gain if contract.right == "C" else -gain, 0.0), 9)
    value = _option_value(universe.seed, contract, underlying, day, underlying_close)
    return max(to_tick(value.price, contract.min_tick), contract.min_tick)


def is_settled_in_the_morning(contract: Contract) -> bool:
    """Return whether an index option settles at the opening prices of its last day, and trades until the day before."""
    return contract.sec_type == OPTION and contract.trading_class == "SPX"


def morning_price(universe: Universe, underlying: Contract, day: date) -> float:
    """Return the settlement price that is made of the opening prices of a day."""
    before = _linear_close(universe, underlying, session_before(day))
    off = 0.006 * (unit(universe.seed, underlying.conid, 12, day.toordinal()) - 0.5)
    return to_tick(before * (1 + off), underlying.min_tick)


def daily_exchange_rate(universe: Universe, currency: str, day: date) -> float:
    """Return the value of one unit of a currency in the base currency at the close of `day`."""
    return (
        1.0 if currency == BASE_CURRENCY else _linear_close(universe, universe.contracts[CURRENCY_PAIRS[currency]], day)
    )


def expiry_of(contract: Contract) -> date | None:
    """Return the day on which a contract expires, `None` if it does not."""
    return date.fromisoformat(contract.expiry) if contract.expiry else None


def unit(seed: int, conid: int, salt: int, sequence: int = 0) -> float:
    """Return a number in [0, 1) that depends only on the arguments (splitmix64)."""
    x = (seed * 0x9E3779B97F4A7C15 + conid * 0xD1B54A32D192ED03 + salt * 0x8CB92BA72F3D8DD7 + sequence) & _MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor + 0x9E3779B97F4A7C15) & _MASK
    return ((x ^ (x >> 31)) & _MASK) / 2**64


def spot(universe: Universe, contract: Contract, sequence: int) -> float:
    """Return the unrounded price of an underlying at a sequence number of the live day."""
    day = universe.as_of
    spans = session_before(day).toordinal(), day.toordinal()
    return contract.base_price * _live_path(universe.seed, contract.conid, contract.volatility, *spans, sequence)


# A ladder of options needs the same few points of its underlying's path thousands of times.
@functools.lru_cache(maxsize=8192)
def _live_path(seed: int, conid: int, volatility: float, before: int, day: int, sequence: int) -> float:
    """Return the point at a sequence number between the closes of two days, given as ordinals."""
    begin = _path(seed, conid, volatility, before * _STEPS_A_DAY)
    end = _path(seed, conid, volatility, day * _STEPS_A_DAY)
    settled = sequence / (sequence + _HALF_WAY)
    waves = sum(
        weight * (math.sin(sequence / period + phase) - math.sin(phase))
        for salt, (weight, period) in enumerate(_WAVES, start=1)
        for phase in (2 * math.pi * unit(seed, conid, salt, day),)
    )
    noise = unit(seed, conid, 5, sequence) - 0.5
    drift = settled * math.log(end / begin)
    return begin * math.exp(drift + volatility * (0.05 * (1 - settled) * waves + 0.004 * noise))


@functools.lru_cache(maxsize=8192)
def _path(seed: int, conid: int, volatility: float, point: int) -> float:
    waves = sum(
        weight * math.sin(point / period + 2 * math.pi * unit(seed, conid, salt))
        for salt, (weight, period) in enumerate(_WAVES, start=1)
    )
    level = 1 + 0.02 * (unit(seed, conid, 4) - 0.5)
    noise = unit(seed, conid, 5, point) - 0.5
    return level * math.exp(volatility * (0.1 * waves + 0.004 * noise))


def black_scholes(*, right: str, spot_price: float, strike: float, years: float, volatility: float) -> Greeks:
    """Return value and greeks of a European option without dividends; `years` and `volatility` are above 0."""
    deviation = volatility * math.sqrt(years)
    d1 = (math.log(spot_price / strike) + (RATE + volatility**2 / 2) * years) / deviation
    d2 = d1 - deviation
    discounted = strike * math.exp(-RATE * years)
    density = math.exp(-(d1**2) / 2) / math.sqrt(2 * math.pi)
    sign = 1 if right == "C" else -1
    price = sign * (spot_price * _normal(sign * d1) - discounted * _normal(sign * d2))
    decay = -spot_price * density * volatility / (2 * math.sqrt(years))
    return Greeks(
        price=max(price, 0.0),
        delta=sign * _normal(sign * d1),
        gamma=density / (spot_price * deviation),
        vega=spot_price * density * math.sqrt(years) / 100,
        theta=(decay - sign * RATE * discounted * _normal(sign * d2)) / 365,
    )


def smile(seed: int, underlying: Contract, *, spot_price: float, strike: float, years: float) -> float:
    """Implied volatility at a strike: the underlying's, skewed towards low strikes and curved, the same for C and P."""
    moneyness = max(-1.5, min(1.5, math.log(strike / spot_price) / math.sqrt(years)))
    skew = -0.10 - 0.10 * unit(seed, underlying.conid, 6)
    return underlying.volatility * (1 + skew * moneyness + 0.15 * moneyness**2)


def years_to_expiry(contract: Contract, as_of: date) -> float:
    """Time left in years of 365 days, never less than one day."""
    return max((date.fromisoformat(contract.expiry) - as_of).days, 1) / 365


def _normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def to_tick(price: float, tick: float, rounding: float = 0.5) -> float:
    """Round a price to a multiple of `tick`: down with `rounding` 0, to the nearest with 0.5."""
    # 9 decimals: enough for half a pip, and it removes the rounding noise of the product.
    return round(math.floor(price / tick + rounding) * tick, 9)


def _sizes(seed: int, conid: int, sequence: int, scale: int) -> tuple[float, float, float, float]:
    """Return bid, ask and last size and the day's volume, which rises with every sequence number."""
    bid, ask, last = (1 + math.floor(unit(seed, conid, salt, sequence) * scale) for salt in (7, 8, 9))
    return float(bid), float(ask), float(last), float(4500 + 7 * sequence)


def _traded_at(sequence: int) -> int:
    """Return the sequence number of the last trade: one in three numbers has a trade."""
    return sequence - sequence % 3


def _anchor(universe: Universe, contract: Contract) -> Contract:
    """Return the contract whose path a price follows: the underlying if the contract has no price level."""
    return universe.contracts[contract.underlying_conid] if contract.base_price == 0 else contract


def _linear_close(universe: Universe, contract: Contract, day: date) -> float:
    anchor = _anchor(universe, contract)
    price = anchor.base_price * _path(universe.seed, anchor.conid, anchor.volatility, day.toordinal() * _STEPS_A_DAY)
    split_on, ratio = universe.splits.get(contract.conid, (date.min, 1.0))
    before_split = ratio if day < split_on else 1.0
    return to_tick(price * _carry(contract, anchor, day) * before_split, contract.min_tick)


def _carry(contract: Contract, anchor: Contract, day: date) -> float:
    """Return the factor from the price of the underlying to that of its future; 1 for anything else."""
    if contract.sec_type == FUTURE and anchor is not contract:
        return math.exp(RATE * years_to_expiry(contract, day))
    return 1.0


def _linear_quote(universe: Universe, contract: Contract, sequence: int, close: float) -> Quote:
    anchor = _anchor(universe, contract)
    carry = _carry(contract, anchor, universe.as_of)

    def price_at(number: int) -> float:
        return spot(universe, anchor, number) * carry

    tick = contract.min_tick
    bid_size, ask_size, last_size, volume = _sizes(universe.seed, contract.conid, sequence, 900)
    bid: float | None = None
    ask: float | None = None
    mark = last = to_tick(price_at(_traded_at(sequence)), tick)
    if contract.sec_type == INDEX:
        mark = last = to_tick(price_at(sequence), tick)
        bid_size = ask_size = last_size = 0.0
    else:
        half_spread = abs(price_at(sequence)) * 0.00005
        bid = to_tick(price_at(sequence) - half_spread, tick, 0.0)
        ask = max(to_tick(price_at(sequence) + half_spread, tick, 0.999999), round(bid + tick, 9))
        mark = round((bid + ask) / 2, 9)
    if contract.sec_type == CASH:
        bid_size, ask_size, last_size = bid_size * 1000, ask_size * 1000, last_size * 1000
    return Quote(
        conid=contract.conid,
        sequence=sequence,
        bid=bid,
        ask=ask,
        bid_size=bid_size,
        ask_size=ask_size,
        last=last,
        last_size=last_size,
        volume=volume,
        close=close,
        mark=mark,
    )


def _given_quote(seed: int, contract: Contract, given: GivenPrices, sequence: int) -> Quote:
    """Return prescribed prices; without prescribed ticks, sizes and volume change with the sequence number."""
    tick = contract.min_tick
    bid_size, ask_size, last_size, volume = _sizes(seed, contract.conid, sequence, 900)
    moving = {
        "bid": round(given.price - tick, 9),
        "ask": round(given.price + tick, 9),
        **dict.fromkeys(("last", "close", "mark"), given.price),
        "bid_size": bid_size,
        "ask_size": ask_size,
        "last_size": last_size,
        "volume": volume,
    }
    still = dict.fromkeys(moving, given.price) | dict.fromkeys(("bid_size", "ask_size", "last_size"), 100.0)
    sent = moving if given.ticks is None else given.ticks
    absent = frozenset(moving) - frozenset(sent) | {"greeks"}
    values = {**still, "volume": 0.0, **sent}
    return Quote(conid=contract.conid, sequence=sequence, absent=absent, **values)


def _option_value(seed: int, contract: Contract, underlying: Contract, as_of: date, spot_price: float) -> Greeks:
    years = years_to_expiry(contract, as_of)
    volatility = smile(seed, underlying, spot_price=spot_price, strike=contract.strike, years=years)
    return black_scholes(
        right=contract.right, spot_price=spot_price, strike=contract.strike, years=years, volatility=volatility
    )


def _option_quote(universe: Universe, contract: Contract, sequence: int, close: float) -> Quote:
    tick, seed, as_of = contract.min_tick, universe.seed, universe.as_of
    underlying = universe.contracts[contract.underlying_conid]

    def value_at(number: int) -> Greeks:
        return _option_value(seed, contract, underlying, as_of, round(spot(universe, underlying, number), 9))

    model, traded = value_at(sequence), value_at(_traded_at(sequence))
    spot_price = round(spot(universe, underlying, sequence), 9)
    years = years_to_expiry(contract, as_of)
    half_spread = max(tick, 0.01 * model.price)
    bid = to_tick(model.price - half_spread, tick, 0.000001)
    ask = max(to_tick(model.price + half_spread, tick, 0.999999), round(bid + tick, 9), tick)
    has_bid = bid >= tick
    bid_size, ask_size, last_size, volume = _sizes(seed, contract.conid, sequence, 60)
    return Quote(
        conid=contract.conid,
        sequence=sequence,
        bid=bid if has_bid else None,
        ask=ask,
        bid_size=bid_size if has_bid else 0.0,
        ask_size=ask_size,
        last=max(to_tick(traded.price, tick), tick),
        last_size=last_size,
        volume=volume,
        close=close,
        mark=round((bid + ask) / 2, 9) if has_bid else round(max(model.price, tick / 10), 9),
        implied_vol=smile(seed, underlying, spot_price=spot_price, strike=contract.strike, years=years),
        delta=model.delta,
        gamma=model.gamma,
        vega=model.vega,
        theta=model.theta,
        option_price=model.price,
        underlying_price=spot_price,
    )
