"""The arithmetic of prices."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.ib.valuation import (
    known_price,
    learned_units,
    mark_of,
    market_value,
    portfolio_mark,
    unrealized_pnl,
)
from v6_pipeline.model import ContractSpec, PriceSource, Quote, SecType, known

SECOND = timedelta(seconds=1)
IB_UNSET_DOUBLE = 1.7976931348623157e308


def contract(sec_type: SecType, multiplier: float = 1, magnifier: int = 1) -> ContractSpec:
    return ContractSpec(
        conid=1, symbol="X", sec_type=sec_type, currency="USD", multiplier=multiplier, price_magnifier=magnifier
    )


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, IB_UNSET_DOUBLE, -IB_UNSET_DOUBLE])
def test_every_way_to_say_unknown_becomes_none(value: float | None) -> None:
    assert known(value) is None


def test_zero_and_minus_one_are_values_and_without_a_size_no_prices() -> None:
    stock, future = contract(SecType.STOCK), contract(SecType.FUTURE)
    assert (known(0.0), known(-1.0)) == (0.0, -1.0)
    assert [known_price(price, stock) for price in (0.0, -1.0)] == [None, None]
    assert [known_price(price, future) for price in (0.0, -1.0, -37.63)] == [None, None, -37.63]
    assert [known_price(price, future, size=1) for price in (0.0, -1.0)] == [0.0, -1.0]


@pytest.mark.parametrize(
    ("quote", "mark"),
    [
        (Quote(mark=5.0, bid=1.0, ask=2.0, last=3.0, close=4.0), (5.0, PriceSource.MARK)),
        (Quote(bid=1.0, ask=1.5, last=3.0, close=4.0), (1.25, PriceSource.MID)),
        (Quote(bid=0.0, ask=0.1, last=3.0), (0.05, PriceSource.MID)),
        (Quote(bid=1.0, last=3.0, close=4.0), (3.0, PriceSource.LAST)),
        (Quote(bid=2.0, ask=1.0, close=4.0), (4.0, PriceSource.CLOSE)),
        (Quote(bid=1.0), None),
        # A trade or a close that bid or ask has left behind.
        (Quote(ask=0.05, last=3.2), (0.05, PriceSource.LAST)),
        (Quote(bid=4.0, last=3.2), (4.0, PriceSource.LAST)),
        (Quote(ask=0.05, close=2.0), (0.05, PriceSource.CLOSE)),
        # Bid and ask too far apart: its middle comes last, and what lies outside of them is no price.
        (Quote(bid=0.05, ask=20.0), (10.025, PriceSource.WIDE_MID)),
        (Quote(bid=0.05, ask=20.0, mark=0.3), (0.3, PriceSource.MARK)),
        (Quote(bid=0.05, ask=20.0, last=25.0), (20.0, PriceSource.LAST)),
        (Quote(bid=0.05, ask=20.0, close=4.0), (4.0, PriceSource.CLOSE)),
        (Quote(bid=6.0, ask=20.0, close=4.0), (13.0, PriceSource.WIDE_MID)),
        (Quote(bid=0.0, ask=20.0), (10.0, PriceSource.WIDE_MID)),
        (Quote(bid=0.05, ask=0.2), (0.125, PriceSource.MID)),
        (Quote(bid=99.0, ask=101.0), (100.0, PriceSource.MID)),
        (Quote(bid=-1.01, ask=-0.99), (-1.0, PriceSource.MID)),
        (Quote(bid=-0.4, ask=0.6), (0.1, PriceSource.MID)),
    ],
)
def test_the_mark_is_the_best_that_the_quote_has(quote: Quote, mark: tuple[float, PriceSource] | None) -> None:
    found = mark_of(quote)
    assert (None if found is None else (found.price, found.source)) == mark


def test_a_price_is_dated_by_its_own_source_and_a_close_by_none() -> None:
    at = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    late = at + 2 * SECOND
    dated = Quote(mark_time=at, quote_time=at + SECOND, last_time=late, price_time=late)
    assert [
        None if found is None else found.at
        for found in (
            mark_of(replace(dated, mark=5.0)),
            mark_of(replace(dated, bid=1.0, ask=1.1)),
            mark_of(replace(dated, last=1.0)),
            mark_of(replace(dated, ask=0.5, last=1.0)),
            mark_of(replace(dated, close=1.0)),
        )
    ] == [at, at + SECOND, at + 2 * SECOND, at + SECOND, None]


def test_no_number_has_the_noise_of_binary_arithmetic() -> None:
    middle = mark_of(Quote(bid=23.68, ask=23.7))
    assert middle is not None
    assert middle.price == 23.69  # not 23.689999999999998
    assert market_value(contract(SecType.STOCK), 3, 0.1) == 0.3
    assert unrealized_pnl(3, 0.3, 0.1) == 0.0


def test_value_takes_the_multiplier_the_magnifier_and_par_into_account() -> None:
    assert market_value(contract(SecType.OPTION, 100), -2, 1.5) == -300
    assert market_value(contract(SecType.FUTURE, 5000, 100), 1, 4.5) == 22500  # corn, quoted at 450 cents
    assert market_value(contract(SecType.STOCK), 10, None) is None


@pytest.mark.parametrize("sec_type", ["BOND", "BILL", "CFD", "WAR", "IOPT", "CMDTY", "EC", "SLB", "ICS", "NEW"])
def test_a_value_whose_unit_is_not_certain_is_unknown_until_ib_has_shown_it(sec_type: str) -> None:
    unknown = contract(SecType.parse(sec_type), 100)
    assert market_value(unknown, 10, 98.5) is None
    assert market_value(replace(unknown, unit_value=10.0), 10, 98.5) == 9850


@pytest.mark.parametrize(
    ("sec_type", "multiplier", "magnifier", "row", "mark"),
    [
        ("BILL", 1, 1, (21, 98.746, 20736.66), (98.746, 10.0)),
        ("BOND", 1, 1, (10, 1.015, 10150.0), (101.5, 10.0)),
        ("BOND", 1, 1, (10000, 101.5, 10150.0), (101.5, 0.01)),
        ("BOND", 1, 1, (10000, 1.015, 10150.0), (101.5, 0.01)),
        ("BOND", 1, 1, (-10, 101.5, -10150.0), (101.5, 10.0)),
        ("BOND", 1, 1, (10, 101.5, 12530.67), (101.5, 12.3455)),  # indexed to inflation
        ("BOND", 1, 1, (10, 3.0, 300.0), (3.0, 10.0)),  # in default
        ("CFD", 1, 1, (-3, 6001.0, -18003.0), (6001.0, 1.0)),
        ("CFD", 1, 1, (2, 100.0, 2000.0), (100.0, 10.0)),
        ("IOPT", 0.01, 1, (500, 13.0, 6500.0), (13.0, 1.0)),
        ("IOPT", 0.01, 1, (500, 13.0, 65.0), (13.0, 0.01)),
        ("OPT", 100, 1, (-2, 10.4, -2080.0), (10.4, 100.0)),
        ("OPT", 100, 1, (2, 10.4, 3120.0), (10.4, 150.0)),  # adjusted by a corporate action
        ("STK", 1, 100, (10, 42.94, 429.4), (42.94, 1.0)),
        ("STK", 1, 100, (100, 1390.0, 1390.0), (13.9, 1.0)),
        ("FUT", 5000, 100, (2, 4.5125, 45125.0), (4.5125, 5000.0)),
        ("FUT", 5000, 100, (2, 451.25, 45125.0), (4.5125, 5000.0)),
        ("FUT", 1000, 1, (2, -37.63, -75260.0), (-37.63, 1000.0)),
        # What the row cannot settle is unknown.
        ("STK", 1, 100, (10, 42.94, None), (None, None)),
        ("BOND", 1, 1, (10, 1.015, None), (None, None)),
        ("CFD", 1, 1, (10, 5.0, None), (5.0, None)),
        ("CFD", 1, 1, (10, 5.0, -50.0), (5.0, None)),
        ("CFD", 1, 1, (1, 0.001, 0.01), (0.001, None)),
        ("STK", 1, 1, (0, 5.0, 0.0), (5.0, None)),
        ("STK", 1, 1, (10, None, None), (None, None)),
        ("STK", 1, 1, (10, 0.0, 0.0), (0.0, None)),
    ],
)
def test_price_and_unit_of_a_portfolio_row_come_from_its_own_value(
    sec_type: str,
    multiplier: float,
    magnifier: int,
    row: tuple[float, float | None, float | None],
    mark: tuple[float | None, float | None],
) -> None:
    found = portfolio_mark(contract(SecType.parse(sec_type), multiplier, magnifier), *row)
    assert (found.price, found.unit_value) == mark


def test_only_units_that_the_multiplier_does_not_give_are_learned() -> None:
    option, bond, flat = contract(SecType.OPTION, 100), contract(SecType.BOND), contract(SecType.CFD)
    bond, flat = replace(bond, conid=2), replace(flat, conid=3)
    rows = [(option, -2.0, 10.4, -2080.0), (bond, 10.0, 101.5, 10150.0), (flat, 0.0, 5.0, 0.0)]
    assert learned_units(rows) == {1: None, 2: 10.0}


def test_unrealized_pnl_uses_a_cost_that_includes_the_multiplier() -> None:
    # 2 options sold at 2.00: IB's average cost is 200 a contract; bought back at 1.50 the profit is 100.
    assert unrealized_pnl(-2, -300, 200) == 100
    assert unrealized_pnl(-2, None, 200) is None
    assert unrealized_pnl(-2, -300, None) is None
