"""Prices: pure, recomputable, and free of nonsense that would hide a real bug in the product."""

import math
from itertools import pairwise

import pytest

from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.prices import RATE, black_scholes, quote_at, spot, years_to_expiry
from v6_pipeline.paper.universe import build_universe

from .conftest import ACCOUNTS, AS_OF, by_symbol


def test_a_quote_depends_on_nothing_but_seed_contract_and_sequence(universe: Universe) -> None:
    again = build_universe(seed=7, as_of=AS_OF, accounts=ACCOUNTS, positions=60)
    for conid in universe.contracts:
        assert quote_at(universe, conid, 11) == quote_at(again, conid, 11)


def test_another_seed_gives_other_prices_for_the_same_contracts(universe: Universe) -> None:
    other = build_universe(seed=8, as_of=AS_OF, accounts=ACCOUNTS, positions=60)
    assert universe.contracts.keys() == other.contracts.keys()
    tradable = [conid for conid, contract in universe.contracts.items() if contract.is_tradable]
    differing = sum(quote_at(universe, conid, 3) != quote_at(other, conid, 3) for conid in tradable)
    assert differing == len(tradable)


def test_prices_move_from_one_sequence_number_to_the_next(universe: Universe) -> None:
    for conid in universe.contracts:
        quotes = [quote_at(universe, conid, sequence) for sequence in range(6)]
        assert len({(quote.bid, quote.ask, quote.last, quote.volume) for quote in quotes}) == 6


@pytest.mark.parametrize("sequence", [0, 1, 97, 5000])
def test_every_tradable_contract_has_bid_below_ask_on_its_tick(universe: Universe, sequence: int) -> None:
    without_bid = 0
    for contract in universe.contracts.values():
        if not contract.is_tradable:
            continue
        quote = quote_at(universe, contract.conid, sequence)
        assert quote.ask is not None
        prices = [quote.ask, quote.last, quote.close]
        if quote.bid is None:
            without_bid += 1
            assert quote.bid_size == 0
        else:
            assert quote.bid < quote.ask
            assert quote.bid <= quote.mark <= quote.ask
            prices.append(quote.bid)
        for price in prices:
            assert price > 0 or contract.base_price < 0  # a spread
            assert math.isclose(price / contract.min_tick, round(price / contract.min_tick), abs_tol=1e-6)
    assert without_bid < 0.1 * len(universe.contracts)


def test_an_index_has_a_last_price_but_no_bid_and_ask(universe: Universe) -> None:
    quote = quote_at(universe, by_symbol(universe, "SPX", "IND").conid, 4)
    assert quote.bid is None
    assert quote.ask is None
    assert quote.last == quote.mark == pytest.approx(spot(universe, by_symbol(universe, "SPX", "IND"), 4), abs=0.005)


def test_calls_and_puts_keep_parity_with_their_underlying(universe: Universe, options: list[Contract]) -> None:
    pairs: dict[tuple[int, str, float], dict[str, Contract]] = {}
    for option in options:
        pairs.setdefault((option.underlying_conid, option.expiry, option.strike), {})[option.right] = option
    for pair in pairs.values():
        call, put = (quote_at(universe, pair[right].conid, 42) for right in "CP")
        years = years_to_expiry(pair["C"], AS_OF)
        assert call.option_price is not None
        assert put.option_price is not None
        assert call.underlying_price is not None
        forward = call.underlying_price - pair["C"].strike * math.exp(-RATE * years)
        assert call.option_price - put.option_price == pytest.approx(forward, abs=1e-6)
        assert call.implied_vol == put.implied_vol


def test_a_higher_strike_makes_a_call_cheaper_and_a_put_dearer(universe: Universe, options: list[Contract]) -> None:
    ladders: dict[tuple[int, str, str], list[Contract]] = {}
    for option in options:
        ladders.setdefault((option.underlying_conid, option.expiry, option.right), []).append(option)
    for (_, _, right), ladder in ladders.items():
        ladder.sort(key=lambda option: option.strike)
        values = [quote_at(universe, option.conid, 8).option_price or 0.0 for option in ladder]
        for lower, higher in pairwise(values):
            assert lower >= higher if right == "C" else lower <= higher


def test_greeks_have_the_signs_and_sizes_of_their_contract(universe: Universe, options: list[Contract]) -> None:
    for option in options:
        quote = quote_at(universe, option.conid, 5)
        assert quote.delta is not None
        assert quote.gamma is not None
        assert quote.vega is not None
        assert 0 <= quote.delta <= 1 if option.right == "C" else -1 <= quote.delta <= 0
        assert quote.gamma >= 0
        assert quote.vega >= 0
        assert quote.implied_vol is not None
        assert 0.05 < quote.implied_vol < 3


@pytest.mark.parametrize("right", ["C", "P"])
def test_greeks_are_the_derivatives_of_the_price(right: str) -> None:
    """Vega per volatility point and theta per day, as IB quotes them: a factor of 100 or 365 would go unseen."""

    def price(*, spot: float = 100.0, vol: float = 0.25, years: float = 0.5) -> float:
        return black_scholes(right=right, spot_price=spot, strike=105.0, years=years, volatility=vol).price

    greeks = black_scholes(right=right, spot_price=100.0, strike=105.0, years=0.5, volatility=0.25)
    h = 1e-4
    assert greeks.delta == pytest.approx((price(spot=100 + h) - price(spot=100 - h)) / (2 * h), rel=1e-5)
    assert greeks.gamma == pytest.approx((price(spot=100.01) - 2 * price() + price(spot=99.99)) / 0.01**2, rel=1e-3)
    assert greeks.vega == pytest.approx((price(vol=0.25 + h) - price(vol=0.25 - h)) / (2 * h) / 100, rel=1e-5)
    assert greeks.theta == pytest.approx((price(years=0.5 - h) - price(years=0.5 + h)) / (2 * h) / 365, rel=1e-4)


def test_a_textbook_value() -> None:
    """Spot 100, strike 100, one year, 20 %, 4 %: 9.925 (Hull's formula, computed independently)."""
    value = black_scholes(right="C", spot_price=100.0, strike=100.0, years=1.0, volatility=0.2)
    assert value.price == pytest.approx(9.9251, abs=1e-4)


def test_a_future_on_an_index_trades_at_its_forward(universe: Universe) -> None:
    future = by_symbol(universe, "ES", "FUT")
    index = quote_at(universe, future.underlying_conid, 9)
    forward = index.last * math.exp(RATE * years_to_expiry(future, AS_OF))
    assert quote_at(universe, future.conid, 9).mark == pytest.approx(forward, rel=2e-4)
