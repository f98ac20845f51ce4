"""Daily closes: the same from whichever day they are asked, and plausible enough to be summed and compared."""

import math
from datetime import date, timedelta
from itertools import pairwise

import pytest

from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.prices import daily_close, daily_exchange_rate, expiry_of
from v6_pipeline.paper.universe import build_universe

from .conftest import ACCOUNTS, AS_OF, by_symbol

DAY = date(2026, 3, 18)


def close(universe: Universe, contract: Contract, day: date) -> float:
    price = daily_close(universe, contract.conid, day)
    assert price is not None
    return price


def test_a_close_does_not_depend_on_the_day_from_which_it_is_asked(universe: Universe) -> None:
    later = build_universe(seed=7, as_of=AS_OF + timedelta(days=1), accounts=ACCOUNTS, positions=90)
    shared = universe.contracts.keys() & later.contracts.keys()
    assert len(shared) > 100
    for conid in shared:
        assert daily_close(universe, conid, DAY) == daily_close(later, conid, DAY)


def test_another_seed_gives_other_closes(universe: Universe) -> None:
    other = build_universe(seed=8, as_of=AS_OF, accounts=ACCOUNTS, positions=60)
    apple = by_symbol(universe, "AAPL", "STK")
    assert close(universe, apple, DAY) != close(other, apple, DAY)


def test_every_close_is_positive_and_on_the_tick(universe: Universe) -> None:
    for contract in universe.contracts.values():
        price = close(universe, contract, DAY)
        assert price > 0 or contract.base_price < 0  # a spread
        assert math.isclose(price / contract.min_tick, round(price / contract.min_tick), abs_tol=1e-6)


def test_closes_move_from_day_to_day_but_not_wildly(universe: Universe) -> None:
    apple = by_symbol(universe, "AAPL", "STK")
    closes = [close(universe, apple, DAY + timedelta(days=offset)) for offset in range(250)]
    moves = [abs(math.log(after / before)) for before, after in pairwise(closes)]
    assert max(moves) < 0.05
    assert sum(move > 0.0005 for move in moves) > 200


def test_an_option_ends_at_its_intrinsic_value_and_has_no_close_after(
    universe: Universe, options: list[Contract]
) -> None:
    for contract in options[:80]:
        expiry = expiry_of(contract)
        assert expiry is not None
        underlying = close(universe, universe.contracts[contract.underlying_conid], expiry)
        gain = underlying - contract.strike if contract.right == "C" else contract.strike - underlying
        assert close(universe, contract, expiry) == pytest.approx(max(gain, 0))
        assert daily_close(universe, contract.conid, expiry + timedelta(days=1)) is None


def test_euros_have_a_rate_of_each_day_and_dollars_are_the_base(universe: Universe) -> None:
    pair = by_symbol(universe, "EUR", "CASH")
    assert daily_exchange_rate(universe, "EUR", DAY) == close(universe, pair, DAY)
    assert daily_exchange_rate(universe, "USD", DAY) == 1
