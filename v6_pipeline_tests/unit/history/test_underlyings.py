"""Each position's underlying: what hedges each other is one, different products are never one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from v6_pipeline.history.underlyings import Underlying, underlyings
from v6_pipeline.model import ContractSpec, SecType

ES_INDEX = 11004968


def contract(conid: int, symbol: str, sec_type: SecType = SecType.STOCK, **values: object) -> ContractSpec:
    base = ContractSpec(conid=conid, symbol=symbol, sec_type=sec_type, currency="USD")
    return replace(base, **values)  # type: ignore[arg-type]


def option(conid: int, symbol: str, underlying: int | None, **values: object) -> ContractSpec:
    return contract(conid, symbol, SecType.OPTION, underlying_conid=underlying, multiplier=100.0, **values)


def future(conid: int, symbol: str, **values: object) -> ContractSpec:
    return contract(conid, symbol, SecType.FUTURE, **{"multiplier": 50.0} | values)


def future_option(conid: int, symbol: str, on: int, **values: object) -> ContractSpec:
    return contract(conid, symbol, SecType.FUTURE_OPTION, underlying_conid=on, **{"multiplier": 50.0} | values)


MARCH, JUNE = future(21, "ES", underlying_conid=ES_INDEX), future(22, "ES", underlying_conid=ES_INDEX)


def test_futures_of_all_expiries_and_their_options_are_one_and_not_the_stock_of_that_symbol() -> None:
    found = underlyings([contract(1, "ES"), option(2, "ES", 1), MARCH, JUNE, future_option(23, "ES", 21)])
    assert found[1] == found[2] == Underlying("ES", 1)
    assert found[21] == found[22] == found[23] == Underlying("ES FUT", ES_INDEX)


def test_options_on_futures_that_are_not_held_take_the_product_from_the_definitions() -> None:
    alone = [future_option(23, "ES", 21), future_option(24, "ES", 22)]
    assert set(underlyings(alone, {21: MARCH, 22: JUNE}).values()) == {Underlying("ES FUT", ES_INDEX)}
    assert set(underlyings(alone).values()) == {Underlying("ES FUT", None)}


def test_options_on_crude_oil_net_with_its_future_though_it_is_on_no_index() -> None:
    oil = {"multiplier": 1000.0}
    found = underlyings([future(31, "CL", **oil), future_option(32, "CL", 31, **oil)])
    assert found[31] == found[32] == Underlying("CL FUT", None)


def test_two_stocks_of_one_symbol_and_currency_stay_two() -> None:
    banks = [
        contract(1, "SAN", currency="EUR"),
        contract(2, "SAN", currency="EUR"),
        option(3, "SAN", 2, currency="EUR"),
    ]
    found = underlyings(banks)
    assert found[1] == Underlying("SAN 1", 1)
    assert found[2] == found[3] == Underlying("SAN 2", 2)


def test_two_futures_of_one_symbol_stay_two_by_their_multiplier_and_currency() -> None:
    found = underlyings([future(1, "SI", multiplier=5000.0), future(2, "SI", multiplier=1000.0), MARCH])
    assert {found[1].name, found[2].name} == {"SI FUT USD x5000", "SI FUT USD x1000"}
    assert found[21].name == "ES FUT"


@pytest.mark.parametrize("sec_type", [SecType.CFD, SecType.WARRANT])
def test_a_cfd_and_a_warrant_are_counted_to_their_stock(sec_type: SecType) -> None:
    found = underlyings([contract(1, "IBM"), contract(2, "IBMUSD", sec_type, underlying_conid=1)])
    assert found[1] == found[2] == Underlying("IBM", 1)


def test_an_option_whose_underlying_is_unknown_is_counted_to_the_only_product_of_its_symbol() -> None:
    """A statement of a query without the field says none."""
    assert underlyings([contract(1, "AAPL"), option(2, "AAPL", None)])[2] == Underlying("AAPL", 1)
    assert underlyings([option(2, "AAPL", None)])[2] == Underlying("AAPL", None)
    assert underlyings([option(2, "AAPL", None)], {2: option(2, "AAPL", 1)})[2] == Underlying("AAPL", 1)
    two = [contract(1, "SAN"), contract(3, "SAN"), option(2, "SAN", None)]
    assert underlyings(two)[2] == Underlying("SAN USD x1", None)
    assert underlyings([contract(1, "ES", currency="EUR"), option(2, "ES", None)])[2].conid is None


def test_a_type_that_may_be_on_anything_is_counted_to_no_product_by_its_symbol() -> None:
    found = underlyings([contract(1, "ES"), contract(2, "ES", SecType.OTHER)])
    assert found[1] == Underlying("ES 1", 1)
    assert found[2].conid is None


def test_a_contract_that_was_renamed_is_still_one_with_the_others() -> None:
    found = underlyings([contract(1, "META"), option(2, "FB", 1)])
    assert found[1] == found[2] == Underlying("META", 1)
