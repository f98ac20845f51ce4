"""Quotes out of ib_async's tickers: every way to say 'unknown' becomes None."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan

import pytest
from ib_async import Contract, OptionComputation, Ticker

from v6_pipeline.ib.market_data import is_filled, quote_from_ib
from v6_pipeline.model import Quote

AT = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def a_ticker(**fields: object) -> Ticker:
    """Its constructor puts the prices back to NaN."""
    ticker = Ticker()
    ticker.time = AT
    for name, value in fields.items():
        setattr(ticker, name, value)
    return ticker


def greeks(**changes: float | None) -> OptionComputation:
    known: dict[str, float | None] = {
        "impliedVol": 0.2,
        "delta": -0.4,
        "optPrice": 10.0,
        "pvDividend": 0.0,
        "gamma": 0.01,
        "vega": 1.5,
        "theta": -0.3,
        "undPrice": 5000.0,
    }
    return OptionComputation(tickAttrib=0, **(known | changes))


def test_a_ticker_before_its_first_tick_is_an_empty_quote() -> None:
    """Its market data type too: ib_async begins with 1, live."""
    assert quote_from_ib(Ticker(contract=Contract())) == Quote()


@pytest.mark.parametrize("unknown", [nan, -1.0, inf, 1.7976931348623157e308])
def test_unknown_prices_are_none(unknown: float) -> None:
    ticker = a_ticker(bid=unknown, ask=unknown, last=unknown, close=unknown, markPrice=unknown)

    quote = quote_from_ib(ticker)

    assert (quote.bid, quote.ask, quote.last, quote.close, quote.mark) == (None,) * 5


@pytest.mark.parametrize("price", [0.0, -37.63, 1e-4])
def test_zero_and_negative_prices_are_prices(price: float) -> None:
    assert quote_from_ib(a_ticker(bid=price)).bid == price


def test_the_models_greeks_are_taken() -> None:
    quote = quote_from_ib(a_ticker(modelGreeks=greeks(), bidGreeks=greeks(delta=-0.9)))

    assert (quote.implied_vol, quote.delta, quote.gamma) == (0.2, -0.4, 0.01)
    assert (quote.vega, quote.theta, quote.underlying_price) == (1.5, -0.3, 5000.0)


def test_greeks_that_were_not_computed_are_none() -> None:
    """IB says -2; ib_async maps it for delta and gamma, and lets it pass for vega and theta."""
    quote = quote_from_ib(
        a_ticker(modelGreeks=greeks(impliedVol=None, delta=None, gamma=nan, vega=-2.0, theta=-2.0, undPrice=-1.0))
    )

    assert (quote.implied_vol, quote.delta, quote.gamma) == (None, None, None)
    assert (quote.vega, quote.theta, quote.underlying_price) == (None, None, None)


def test_the_price_time_is_in_utc() -> None:
    zurich = timezone(timedelta(hours=1))

    quote = quote_from_ib(a_ticker(time=AT.astimezone(zurich), marketDataType=3))

    assert quote.price_time == AT
    assert quote.price_time is not None
    assert quote.price_time.utcoffset() == timedelta()
    assert quote.market_data_type == 3


@pytest.mark.parametrize(
    ("fields", "option", "filled"),
    [
        ({"bid": 1.0, "ask": 1.1, "close": 1.0}, False, True),
        ({"bid": 1.0, "ask": 1.1, "close": 1.0}, True, False),
        ({"bid": 1.0, "ask": 1.1, "close": 1.0, "modelGreeks": greeks()}, True, True),
        ({"bid": 1.0, "ask": 1.1, "close": 1.0, "modelGreeks": greeks(delta=None)}, True, False),
        ({"bid": 1.0, "close": 1.0}, False, False),
        ({"bid": 1.0, "ask": 1.1}, False, False),
        # A far option without a bid: the gateway has said so, and will not say more.
        ({"bid": -1.0, "ask": 0.05, "close": 0.05, "modelGreeks": greeks()}, True, True),
    ],
)
def test_a_quote_is_filled_once_all_has_arrived(*, fields: dict[str, object], option: bool, filled: bool) -> None:
    assert is_filled(a_ticker(**fields), option=option) is filled
