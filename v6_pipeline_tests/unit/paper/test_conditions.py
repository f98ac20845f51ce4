"""Active faults of the market, as plain state."""

from dataclasses import fields

import pytest

from v6_pipeline.paper.conditions import (
    ContractConditions,
    Farm,
    LinkConditions,
    Prices,
    distorted,
    farm_notice,
    farm_of,
)
from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.prices import quote_at

from .conftest import by_symbol


def test_every_kind_of_contract_has_its_farm(universe: Universe) -> None:
    found = {contract.sec_type: farm_of(contract) for contract in universe.contracts.values()}
    others = {
        "OPT": Farm.USOPT,
        **dict.fromkeys(("FUT", "ICU", "ICS"), Farm.USFUTURE),
        **dict.fromkeys(("CASH", "CRYPTO", "CMDTY"), Farm.CASHFARM),
    }
    assert found == dict.fromkeys(found, Farm.USFARM) | others
    assert found.keys() >= {"STK", "IND", "BOND", "CFD"}


@pytest.mark.parametrize(
    ("farm", "is_ok", "notice"),
    [
        (Farm.USOPT, False, (2103, "Market data farm connection is broken:usopt")),
        (Farm.USOPT, True, (2104, "Market data farm connection is OK:usopt")),
        (Farm.USHMDS, False, (2105, "HMDS data farm connection is broken:ushmds")),
        (Farm.USHMDS, True, (2106, "HMDS data farm connection is OK:ushmds")),
        (Farm.SECDEFIL, False, (2157, "Sec-def data farm connection is broken:secdefil")),
        (Farm.SECDEFIL, True, (2158, "Sec-def data farm connection is OK:secdefil")),
    ],
)
def test_a_farm_is_spoken_of_in_ibs_words(farm: Farm, is_ok: bool, notice: tuple[int, str]) -> None:
    assert farm_notice(farm, is_ok=is_ok) == notice


def test_a_contract_is_carried_by_link_farm_and_login_together(universe: Universe) -> None:
    stock = by_symbol(universe, "AAPL", "STK")
    assert LinkConditions().carries(stock)
    assert LinkConditions(broken={Farm.USOPT}).carries(stock)
    assert not LinkConditions(broken={Farm.USFARM}).carries(stock)
    assert not LinkConditions(is_up=False).carries(stock)
    assert not LinkConditions(is_competing=True).carries(stock)


def test_restoring_a_contract_ends_everything_and_only_there() -> None:
    conditions = ContractConditions()
    for each in fields(conditions):
        affected = getattr(conditions, each.name)
        if isinstance(affected, dict):
            affected.update({1: 10090, 2: 10090})
        else:
            affected.update({1, 2})
    conditions.restore(1)
    conditions.restore(3)
    assert {tuple(getattr(conditions, each.name)) for each in fields(conditions)} == {(2,)}


def test_minus_one_is_ibs_value_for_no_quote(universe: Universe, options: list[Contract]) -> None:
    quote = distorted(quote_at(universe, options[0].conid, 3), Prices.MINUS_ONE)
    assert (quote.bid, quote.ask, quote.bid_size, quote.last, quote.delta) == (None, None, 0.0, -1.0, None)
    assert quote.sequence == 3
