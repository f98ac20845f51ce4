"""Quotes out of ib_async's tickers: every way to say 'unknown' becomes None."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan

import pytest
from ib_async import Contract, OptionComputation, Ticker

from v6_pipeline.ib.market_data import PriceTimes, is_filled, quote_from_ib
from v6_pipeline.model import ContractSpec, Quote, SecType

STOCK = ContractSpec(conid=1, symbol="X", sec_type=SecType.STOCK, currency="USD")
FUTURE = replace(STOCK, sec_type=SecType.FUTURE)
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
    assert quote_from_ib(Ticker(contract=Contract()), STOCK) == Quote()


@pytest.mark.parametrize("unknown", [nan, -1.0, inf, 1.7976931348623157e308])
def test_unknown_prices_are_none(unknown: float) -> None:
    ticker = a_ticker(bid=unknown, ask=unknown, last=unknown, close=unknown, markPrice=unknown)

    quote = quote_from_ib(ticker, STOCK)

    assert (quote.bid, quote.ask, quote.last, quote.close, quote.mark) == (None,) * 5


@pytest.mark.parametrize("price", [0.0, -37.63, -1.0, 1e-4])
def test_zero_and_negative_prices_with_a_size_are_prices_of_a_future(price: float) -> None:
    quote = quote_from_ib(a_ticker(bid=price, bidSize=1.0, last=price, lastSize=2.0), FUTURE)
    assert (quote.bid, quote.last) == (price, price)


@pytest.mark.parametrize("sec_type", [SecType.STOCK, SecType.OPTION, SecType.FUTURE_OPTION, SecType.FUND])
def test_nothing_but_a_future_has_a_negative_price(sec_type: SecType) -> None:
    quote = quote_from_ib(a_ticker(bid=-37.63, bidSize=1.0, markPrice=-2.0), replace(STOCK, sec_type=sec_type))
    assert (quote.bid, quote.mark) == (None, None)


@pytest.mark.parametrize("sec_type", [SecType.STOCK, SecType.OPTION, SecType.FUTURE, SecType.INDEX])
@pytest.mark.parametrize("price", [0.0, -1.0])
def test_a_price_of_nothing_with_size_0_is_unknown(sec_type: SecType, price: float) -> None:
    ticker = a_ticker(bid=price, bidSize=0.0, ask=price, askSize=0.0, last=price, lastSize=0.0, close=0.0, markPrice=0)
    quote = quote_from_ib(ticker, replace(STOCK, sec_type=sec_type))
    assert (quote.bid, quote.ask, quote.last, quote.close, quote.mark) == (None,) * 5


def test_no_quote_times_the_magnifier_is_unknown_and_all_prices_are_in_pounds() -> None:
    pence = replace(STOCK, price_magnifier=100)
    none = quote_from_ib(a_ticker(bid=-100.0, bidSize=0.0, last=-100.0, lastSize=0.0, close=-100.0), pence)
    assert (none.bid, none.last, none.close) == (None, None, None)
    quote = quote_from_ib(a_ticker(bid=4293.0, bidSize=1.0, last=4294.0, lastSize=288.0, markPrice=4294.0), pence)
    assert (quote.bid, quote.last, quote.mark) == (42.93, 42.94, 42.94)
    corn = replace(FUTURE, price_magnifier=100)
    assert quote_from_ib(a_ticker(close=-100.0, markPrice=-100.0), corn) == Quote(market_data_type=1, tick_time=AT)


def test_the_last_price_of_what_has_no_sizes_is_known() -> None:
    ticker = a_ticker(last=5900.0, lastSize=0.0)
    assert quote_from_ib(ticker, replace(STOCK, sec_type=SecType.INDEX)).last == 5900.0
    assert quote_from_ib(ticker, STOCK).last is None


def test_greeks_and_the_underlyings_price_follow_the_magnifier() -> None:
    """Of an option on corn: underlying at 450 cents, vega and theta in cents, gamma per cent."""
    corn = replace(STOCK, sec_type=SecType.FUTURE_OPTION, price_magnifier=100)
    quote = quote_from_ib(a_ticker(modelGreeks=greeks(undPrice=450.0)), corn)
    assert (quote.underlying_price, quote.delta) == (4.5, -0.4)
    assert (quote.gamma, quote.vega, quote.theta) == (1.0, 0.015, -0.003)


def test_an_underlying_price_of_0_is_unknown_and_that_of_a_future_may_be_negative() -> None:
    assert quote_from_ib(a_ticker(modelGreeks=greeks(undPrice=0.0)), STOCK).underlying_price is None
    option = replace(STOCK, sec_type=SecType.FUTURE_OPTION)
    assert quote_from_ib(a_ticker(modelGreeks=greeks(undPrice=-37.63)), option).underlying_price == -37.63
    assert quote_from_ib(a_ticker(modelGreeks=greeks(undPrice=-37.63)), STOCK).underlying_price is None


def test_ticks_of_prices_alone_date_a_price() -> None:
    times = PriceTimes()
    times.ticked([0, 3, 8, 9, 13, 22, 49, 86], AT)  # sizes, volume, close, greeks, open interest, halt
    assert quote_from_ib(a_ticker(), STOCK, times).price_time is None
    times.ticked([1], AT)
    times.ticked([4, 37], AT + timedelta(seconds=5))
    times.ticked([0, 8, 9], AT + timedelta(seconds=9))
    quote = quote_from_ib(a_ticker(), STOCK, times)
    assert (quote.quote_time, quote.last_time) == (AT, AT + timedelta(seconds=5))
    assert quote.price_time == quote.mark_time == AT + timedelta(seconds=5)


@pytest.mark.parametrize("name", ["lastTimestamp", "delayedLastTimestamp"])
def test_a_last_trade_is_dated_by_the_trade_and_not_by_its_arrival(name: str) -> None:
    times = PriceTimes()
    times.ticked([4], AT)
    quote = quote_from_ib(a_ticker(**{name: AT - timedelta(days=3)}), STOCK, times)
    assert quote.last_time == quote.price_time == AT - timedelta(days=3)


def test_the_models_greeks_are_taken() -> None:
    quote = quote_from_ib(a_ticker(modelGreeks=greeks(), bidGreeks=greeks(delta=-0.9)), STOCK)

    assert (quote.implied_vol, quote.delta, quote.gamma) == (0.2, -0.4, 0.01)
    assert (quote.vega, quote.theta, quote.underlying_price) == (1.5, -0.3, 5000.0)


def test_greeks_that_were_not_computed_are_none() -> None:
    """IB says -2; ib_async maps it for delta and gamma, and lets it pass for vega and theta."""
    quote = quote_from_ib(
        a_ticker(modelGreeks=greeks(impliedVol=None, delta=None, gamma=nan, vega=-2.0, theta=-2.0, undPrice=-1.0)),
        STOCK,
    )

    assert (quote.implied_vol, quote.delta, quote.gamma) == (None, None, None)
    assert (quote.vega, quote.theta, quote.underlying_price) == (None, None, None)


def test_the_time_of_a_tick_is_in_utc() -> None:
    zurich = timezone(timedelta(hours=1))

    quote = quote_from_ib(a_ticker(time=AT.astimezone(zurich), marketDataType=3), STOCK)

    assert quote.tick_time == AT
    assert quote.tick_time is not None
    assert quote.tick_time.utcoffset() == timedelta()
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
