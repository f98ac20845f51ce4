"""Tick messages of quotes: the ticks of each kind of contract, and the difference between two quotes. Pure."""

from dataclasses import dataclass
from enum import IntEnum

from v6_pipeline.paper import messages
from v6_pipeline.paper.contracts import INDEX, OPTION, Contract
from v6_pipeline.paper.messages import NO_PRICE
from v6_pipeline.paper.prices import Quote
from v6_pipeline.paper.wire import Message

MARK_PRICE_GENERIC = "221"
"""The generic tick that requests the mark price."""

MARK_PRICE_TICK = 37


class MarketDataType(IntEnum):
    """Types of market data, as IB numbers them."""

    LIVE = 1
    FROZEN = 2
    DELAYED = 3
    DELAYED_FROZEN = 4


@dataclass(frozen=True, slots=True)
class TickTypes:
    """IB's tick type numbers for one market data type (live or delayed)."""

    bid: int
    ask: int
    last: int
    bid_size: int
    ask_size: int
    last_size: int
    volume: int
    close: int
    last_timestamp: int
    halted: int
    bid_greeks: int
    ask_greeks: int
    last_greeks: int
    model_greeks: int


LIVE_TICKS = TickTypes(
    bid=1,
    ask=2,
    last=4,
    bid_size=0,
    ask_size=3,
    last_size=5,
    volume=8,
    close=9,
    last_timestamp=45,
    halted=49,
    bid_greeks=10,
    ask_greeks=11,
    last_greeks=12,
    model_greeks=13,
)
DELAYED_TICKS = TickTypes(
    bid=66,
    ask=67,
    last=68,
    bid_size=69,
    ask_size=70,
    last_size=71,
    volume=74,
    close=75,
    last_timestamp=88,
    halted=90,
    bid_greeks=80,
    ask_greeks=81,
    last_greeks=82,
    model_greeks=83,
)


@dataclass(frozen=True, slots=True)
class Burst:
    """Tick messages for one subscription, and their numbers by name."""

    messages: tuple[Message, ...]
    values: dict[str, float]


def burst(
    ticker_id: int,
    contract: Contract,
    quote: Quote,
    *,
    previous: Quote | None,
    wants_mark: bool,
    types: TickTypes,
    timestamp: int,
    has_greeks: bool = True,
) -> Burst:
    """Return the ticks that bring a subscriber from `previous` (`None` at first) to `quote`.

    As with IB, only changes are sent: a price with its size, or the size alone. `timestamp` is the time of the last
    trade in seconds since 1970; without `has_greeks` an option has no computations.
    """
    sent: list[Message] = []
    values: dict[str, float] = {}
    if contract.sec_type != INDEX:
        _side("bid", ticker_id, quote, previous, types, sent, values)
        _side("ask", ticker_id, quote, previous, types, sent, values)
        if "volume" not in quote.absent and (previous is None or previous.volume != quote.volume):
            sent.append(messages.tick_size(ticker_id, types.volume, quote.volume))
            values["volume"] = quote.volume
    if _side("last", ticker_id, quote, previous, types, sent, values):
        sent.append(messages.tick_string(ticker_id, types.last_timestamp, str(timestamp)))
    if "close" not in quote.absent and (previous is None or previous.close != quote.close):
        sent.append(messages.tick_price(ticker_id, types.close, quote.close, 0.0))
        values["close"] = quote.close
    if wants_mark and "mark" not in quote.absent and (previous is None or previous.mark != quote.mark):
        sent.append(messages.tick_price(ticker_id, MARK_PRICE_TICK, quote.mark, 0.0))
        values["mark"] = quote.mark
    if has_greeks and contract.sec_type == OPTION and "greeks" not in quote.absent:
        _greeks(ticker_id, quote, previous, types, sent, values)
    return Burst(tuple(sent), values)


def _side(
    name: str,
    ticker_id: int,
    quote: Quote,
    previous: Quote | None,
    types: TickTypes,
    sent: list[Message],
    values: dict[str, float],
) -> bool:
    """Send a price with its size if the price changed, else the size if that did; return True if either did."""
    if name in quote.absent:
        return False
    price, size = getattr(quote, name), getattr(quote, f"{name}_size")
    if previous is None or getattr(previous, name) != price:
        values[name] = NO_PRICE if price is None else price
        can_auto_execute = int(name != "last" and price is not None)
        sent.append(messages.tick_price(ticker_id, getattr(types, name), values[name], size, can_auto_execute))
    elif getattr(previous, f"{name}_size") != size:
        sent.append(messages.tick_size(ticker_id, getattr(types, f"{name}_size"), size))
    else:
        return False
    values[f"{name}_size"] = size
    return True


def _greeks(
    ticker_id: int,
    quote: Quote,
    previous: Quote | None,
    types: TickTypes,
    sent: list[Message],
    values: dict[str, float],
) -> None:
    """Send the model's greeks if they changed, and those of bid, ask and last if that price changed."""
    for name, tick_type in (("bid", types.bid_greeks), ("ask", types.ask_greeks), ("last", types.last_greeks)):
        price: float | None = getattr(quote, name)
        if previous is None or getattr(previous, name) != price:
            sent.append(_computation(ticker_id, tick_type, quote, price, _implied_at(quote, price)))
    names = ("implied_vol", "delta", "gamma", "vega", "theta", "option_price", "underlying_price")
    if previous is None or any(getattr(previous, name) != getattr(quote, name) for name in names):
        sent.append(_computation(ticker_id, types.model_greeks, quote, quote.option_price, quote.implied_vol))
        values.update({name: value for name in names if (value := getattr(quote, name)) is not None})


def _computation(
    ticker_id: int, tick_type: int, quote: Quote, price: float | None, implied_vol: float | None
) -> Message:
    known = implied_vol is not None
    return messages.tick_option_computation(
        ticker_id,
        tick_type,
        implied_vol=implied_vol,
        delta=quote.delta if known else None,
        option_price=price,
        gamma=quote.gamma if known else None,
        vega=quote.vega if known else None,
        theta=quote.theta if known else None,
        underlying_price=quote.underlying_price,
    )


def _implied_at(quote: Quote, price: float | None) -> float | None:
    """Volatility implied by another price of the same option, to first order in vega; `None` if that fails."""
    if price is None or quote.implied_vol is None or quote.option_price is None or not quote.vega:
        return None
    implied = quote.implied_vol + (price - quote.option_price) / (quote.vega * 100)
    return implied if 0 < implied < 10 else None
