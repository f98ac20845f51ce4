"""The arithmetic of prices."""

from __future__ import annotations

import math

import pytest

from v6_pipeline.ib.valuation import known_price, mark_of, market_value, unrealized_pnl
from v6_pipeline.model import ContractSpec, PriceSource, Quote, SecType, known

IB_UNSET_DOUBLE = 1.7976931348623157e308


def contract(sec_type: SecType, multiplier: float = 1, magnifier: int = 1) -> ContractSpec:
    return ContractSpec(
        conid=1, symbol="X", sec_type=sec_type, currency="USD", multiplier=multiplier, price_magnifier=magnifier
    )


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, IB_UNSET_DOUBLE, -IB_UNSET_DOUBLE])
def test_every_way_to_say_unknown_becomes_none(value: float | None) -> None:
    assert known(value) is None


def test_zero_is_known_and_minus_one_is_a_value_but_no_price() -> None:
    assert known(0.0) == 0.0
    assert known(-1.0) == -1.0
    assert known_price(0.0) == 0.0
    assert known_price(-1.0) is None


@pytest.mark.parametrize(
    ("quote", "mark"),
    [
        (Quote(mark=5.0, bid=1.0, ask=2.0, last=3.0, close=4.0), (5.0, PriceSource.MARK)),
        (Quote(bid=1.0, ask=2.0, last=3.0, close=4.0), (1.5, PriceSource.MID)),
        (Quote(bid=0.0, ask=0.1, last=3.0), (0.05, PriceSource.MID)),
        (Quote(bid=1.0, last=3.0, close=4.0), (3.0, PriceSource.LAST)),
        (Quote(bid=2.0, ask=1.0, close=4.0), (4.0, PriceSource.CLOSE)),
        (Quote(bid=1.0), None),
    ],
)
def test_the_mark_is_the_best_that_the_quote_has(quote: Quote, mark: tuple[float, PriceSource] | None) -> None:
    assert mark_of(quote) == mark


def test_value_takes_the_multiplier_the_magnifier_and_par_into_account() -> None:
    assert market_value(contract(SecType.OPTION, 100), -2, 1.5) == -300
    assert market_value(contract(SecType.FUTURE, 5000, 100), 1, 450) == 22500  # corn, quoted in cents
    assert market_value(contract(SecType.BOND, 1), 10000, 98.5) == 9850
    assert market_value(contract(SecType.STOCK), 10, None) is None


def test_unrealized_pnl_uses_a_cost_that_includes_the_multiplier() -> None:
    # 2 options sold at 2.00: IB's average cost is 200 a contract; bought back at 1.50 the profit is 100.
    assert unrealized_pnl(-2, -300, 200) == 100
    assert unrealized_pnl(-2, None, 200) is None
    assert unrealized_pnl(-2, -300, None) is None
