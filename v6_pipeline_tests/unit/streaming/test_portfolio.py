"""The streamer's picture of the accounts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from v6_pipeline.model import BaseCurrency, Holding, Quote, SecType
from v6_pipeline.streaming.portfolio import Portfolio
from v6_pipeline_tests.unit.state.databases import START
from v6_pipeline_tests.unit.state.samples import holding, option, stock

AAPL = stock(1)
IN_A = holding(AAPL, account="A")
IN_B = holding(AAPL, account="B", position=-5.0)


def portfolio(*holdings: Holding, accounts: tuple[str, ...] = ()) -> Portfolio:
    made = Portfolio(accounts)
    made.replace(holdings)
    return made


def test_a_download_replaces_all_that_was_known() -> None:
    known = portfolio(IN_A, IN_B)
    known.replace([holding(option(2), account="A")])

    assert [item.key for item in known] == [("A", 2)]
    assert len(known) == 1


def test_only_the_accounts_asked_for_are_kept() -> None:
    known = portfolio(IN_A, IN_B, accounts=("B",))
    known.put(IN_A)

    assert [item.account for item in known] == ["B"]
    assert (known.keeps("A"), known.keeps("B"), Portfolio().keeps("A")) == (False, True, True)


@pytest.mark.parametrize(
    ("seen", "differs"),
    [
        (IN_A, False),
        (replace(IN_A, observed_at=START + timedelta(hours=1)), False),
        (replace(IN_A, position=11.0), True),
        (replace(IN_A, average_cost=99.0), True),
        (replace(IN_A, position=0.0), True),
        (holding(option(2), account="A"), True),
        (holding(option(2), account="A", position=0.0), False),
        (IN_B, True),
    ],
)
def test_what_counts_as_a_change(seen: Holding, differs: bool) -> None:
    assert portfolio(IN_A).differs(seen) is differs


def test_a_quote_makes_one_row_per_account_that_holds_the_contract() -> None:
    known = portfolio(IN_A, IN_B)
    known.strategies = {("A", 1): ("momentum",)}
    known.bases = {"B": BaseCurrency("CHF", {"USD": 0.8})}

    first, second = known.updates(1, Quote(mark=10.0, price_time=START), START)

    assert (first.account, first.market_value, first.strategy_ids, first.base_currency) == (
        "A",
        100.0,
        ("momentum",),
        None,
    )
    assert (second.account, second.market_value, second.strategy_ids, second.fx_rate_to_base) == ("B", -50.0, (), 0.8)


def test_a_contract_that_no_account_holds_makes_no_row() -> None:
    assert portfolio(IN_A).updates(2, Quote(mark=10.0), START) == []


def test_the_qualified_contract_goes_before_the_positions() -> None:
    known = portfolio(IN_A)
    known.contracts[1] = replace(AAPL, price_magnifier=100, unit_value=0.5)

    (row,) = known.updates(1, Quote(mark=10.0), START)
    assert (row.market_value, row.price_magnifier, row.unit_value) == (50.0, 100, 0.5)


def test_a_renamed_contract_is_a_change_and_names_the_next_row() -> None:
    known = portfolio(IN_A)
    known.contracts[1] = replace(AAPL, exchange="SMART")
    renamed = replace(IN_A, contract=replace(AAPL, symbol="APPL", local_symbol="APPL"))

    assert known.differs(renamed)
    known.put(renamed)

    (row,) = known.updates(1, Quote(mark=10.0), START)
    assert (row.symbol, row.local_symbol, known.contracts[1].exchange) == ("APPL", "APPL", "SMART")


def test_a_contract_whose_unit_is_unknown_cannot_be_valued() -> None:
    known = portfolio(IN_A)
    known.contracts[1] = bond = replace(AAPL, sec_type=SecType.BOND)
    assert not known.can_value(1, Quote(mark=10.0))
    known.contracts[1] = replace(bond, unit_value=10.0)
    assert known.can_value(1, Quote(mark=10.0))
    assert not known.can_value(1, Quote(bid=10.0))
    assert not known.can_value(1, None)


def test_a_closed_holding_is_forgotten() -> None:
    known = portfolio(IN_A, IN_B)
    closed = replace(IN_A, position=0.0)
    known.put(closed)
    known.discard(closed)
    assert [item.account for item in known] == ["B"]

    known.discard(IN_B)
    known.discard(IN_B)
    assert len(known) == 0


def test_a_holding_that_was_opened_again_stays() -> None:
    known = portfolio(IN_A)
    closed = replace(IN_A, position=0.0)
    known.put(closed)
    known.put(IN_A)
    known.discard(closed)

    assert list(known) == [IN_A]


def test_contracts_without_a_row_for_a_while_are_silent() -> None:
    known = portfolio(IN_A, IN_B, holding(option(2), account="A"))
    after = timedelta(seconds=300)
    assert known.silent([1, 2, 3], START, after) == [1, 2]

    known.updates(1, None, START)
    assert known.silent([1, 2], START + after - timedelta(seconds=1), after) == [2]
    assert known.silent([1, 2], START + after, after) == [1, 2]


def test_one_accounts_silence_is_enough() -> None:
    known = portfolio(IN_A)
    known.updates(1, None, START)
    known.put(IN_B)

    assert known.silent([1], START, timedelta(seconds=300)) == [1]


def test_a_holding_that_was_gone_for_a_while_begins_silent() -> None:
    known = portfolio(IN_A)
    known.updates(1, None, START)
    known.replace([])
    known.replace([IN_A])

    assert known.silent([1], START, timedelta(seconds=300)) == [1]
