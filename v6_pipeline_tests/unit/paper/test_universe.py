"""Contracts, expiries and opening positions."""

from collections import Counter
from datetime import date

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.requests import ContractQuery
from v6_pipeline.paper.trading_hours import hours, is_trading_day, weekly_expiries
from v6_pipeline.paper.universe import MAX_POSITIONS, build_universe, derived_conid

from .conftest import ACCOUNTS, AS_OF, by_symbol


def query(**values: object) -> ContractQuery:
    empty: dict[str, object] = dict.fromkeys(ContractQuery.__slots__, "")
    return ContractQuery(**{**empty, "conid": 0, "strike": 0.0, **values})  # type: ignore[arg-type]


def test_the_default_book_holds_every_kind_in_both_accounts(universe: Universe) -> None:
    kinds = Counter(universe.contracts[holding.conid].sec_type for holding in universe.holdings)
    assert len(universe.holdings) == 60
    assert kinds["OPT"] > 40
    assert kinds["STK"] > 4
    assert kinds["FUT"] > 2
    assert kinds["CASH"] == 1
    assert {holding.account for holding in universe.holdings} == set(ACCOUNTS)


def test_some_contracts_are_held_in_both_accounts(universe: Universe) -> None:
    owners = Counter(holding.conid for holding in universe.holdings)
    assert sum(count == 2 for count in owners.values()) >= 2


def test_iron_condors_have_two_short_legs_inside_two_long_ones(universe: Universe) -> None:
    legs = [
        (universe.contracts[holding.conid], holding.quantity)
        for holding in universe.holdings
        if holding.account == ACCOUNTS[0]
    ]
    first = sorted(
        ((contract.strike, contract.right, quantity) for contract, quantity in legs if contract.symbol == "SPX")
    )[:4]
    assert [right for _, right, _ in first] == ["P", "P", "C", "C"]
    assert [quantity > 0 for *_, quantity in first] == [True, False, False, True]


@pytest.mark.parametrize("positions", [0, 1, 4, 61, 3000, MAX_POSITIONS])
def test_the_requested_number_of_positions_and_none_twice(positions: int) -> None:
    market = build_universe(seed=1, as_of=AS_OF, accounts=ACCOUNTS, positions=positions)
    keys = {(holding.account, holding.conid) for holding in market.holdings}
    assert len(market.holdings) == len(keys) == positions
    assert all(holding.quantity for holding in market.holdings)


@pytest.mark.parametrize("positions", [-1, MAX_POSITIONS + 1])
def test_an_impossible_number_of_positions_is_refused(positions: int) -> None:
    with pytest.raises(GatewayError, match="positions"):
        build_universe(seed=1, as_of=AS_OF, accounts=ACCOUNTS, positions=positions)


def test_one_account_can_hold_it_all() -> None:
    market = build_universe(seed=1, as_of=AS_OF, accounts=("SIM1",), positions=60)
    assert {holding.account for holding in market.holdings} == {"SIM1"}
    assert len({holding.conid for holding in market.holdings}) == 60


def test_there_are_contracts_that_no_account_holds(universe: Universe) -> None:
    assert len(universe.contracts) > 10 * len({holding.conid for holding in universe.holdings if holding.quantity})


def test_conids_do_not_depend_on_the_size_of_the_book(universe: Universe) -> None:
    larger = build_universe(seed=7, as_of=AS_OF, accounts=ACCOUNTS, positions=3000)
    names = {conid: contract.local_symbol for conid, contract in larger.contracts.items()}
    assert all(names[conid] == contract.local_symbol for conid, contract in universe.contracts.items())


def test_two_contracts_never_share_a_conid() -> None:
    taken: set[int] = set()
    first = derived_conid("A", taken)
    assert derived_conid("A", taken) == first + 1


def test_all_expiries_lie_ahead_on_trading_days(universe: Universe) -> None:
    for contract in universe.contracts.values():
        if contract.expiry:
            expiry = date(int(contract.expiry[:4]), int(contract.expiry[4:6]), int(contract.expiry[6:]))
            assert expiry > AS_OF
            assert is_trading_day(expiry)


def test_an_expiry_on_a_holiday_moves_to_the_thursday_before() -> None:
    expiries = weekly_expiries(date(2026, 12, 1), 4)
    assert date(2026, 12, 24) in expiries  # Christmas 2026 is a Friday
    assert date(2026, 12, 31) in expiries  # and so is New Year's Day


@pytest.mark.parametrize(
    ("day", "opens"),
    [
        (date(2026, 4, 3), False),  # Good Friday
        (date(2026, 7, 3), False),  # Independence Day on a Saturday
        (date(2026, 11, 26), False),  # Thanksgiving
        (date(2027, 1, 18), False),  # Martin Luther King Day
        (date(2026, 5, 25), False),  # Memorial Day
        (date(2022, 6, 20), False),  # Juneteenth on a Sunday
        (date(2026, 11, 21), False),  # a Saturday
        (date(2021, 12, 31), True),  # New Year's Day on a Saturday is not moved
        (date(2026, 11, 27), True),
    ],
)
def test_us_holidays(day: date, opens: bool) -> None:
    assert is_trading_day(day) is opens


def test_trading_hours_have_ibs_format(universe: Universe) -> None:
    trading, liquid = hours(by_symbol(universe, "AAPL", "STK"), date(2026, 11, 20), days=2)
    assert trading == "20261120:0400-20261120:2000;20261121:CLOSED"
    assert liquid == "20261120:0930-20261120:1600;20261121:CLOSED"
    future, _ = hours(by_symbol(universe, "ES", "FUT"), date(2026, 11, 20), days=1)
    assert future == "20261119:1700-20261120:1600"


def test_average_cost_includes_the_multiplier_and_the_price_magnifier(universe: Universe) -> None:
    costs = {universe.contracts[holding.conid].symbol: holding.average_cost for holding in universe.holdings}
    futures = {
        universe.contracts[holding.conid].symbol: holding.average_cost
        for holding in universe.holdings
        if universe.contracts[holding.conid].sec_type == "FUT"
    }
    assert 5900 * 50 * 0.85 < futures["ES"] < 5900 * 50 * 1.15
    # Corn is quoted in cents: 435 x 5000 bushels / 100 is about 21,750 dollars a contract.
    assert 435 * 50 * 0.85 < futures["ZC"] < 435 * 50 * 1.15
    assert costs["KO"] < 100


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"conid": 265598}, 1),
        ({"conid": 265598, "exchange": "SMART"}, 1),
        ({"conid": 265598, "exchange": "CME"}, 0),
        ({"conid": 1}, 0),
        ({"symbol": "AAPL", "sec_type": "STK", "exchange": "SMART", "currency": "USD"}, 1),
        ({"symbol": "AAPL", "sec_type": "STK", "currency": "EUR"}, 0),
        ({"symbol": "ES", "sec_type": "FUT", "exchange": "CME"}, 3),
        ({"symbol": "ES", "sec_type": "FUT", "expiry": "202612"}, 1),
        ({"symbol": "SPX", "sec_type": "OPT", "strike": 5900.0, "right": "CALL", "expiry": "20261204"}, 1),
        ({"local_symbol": "EUR.USD", "sec_type": "CASH"}, 1),
        ({"sec_type": "STK"}, 0),
    ],
)
def test_contracts_are_found_by_conid_or_by_what_describes_them(
    universe: Universe, values: dict[str, object], found: int
) -> None:
    assert len(universe.find(query(**values))) == found


def test_a_local_symbol_has_the_form_of_its_exchange(universe: Universe, options: list[Contract]) -> None:
    option = next(option for option in options if option.symbol == "AAPL" and option.strike == 227.5)
    assert option.local_symbol == f"AAPL  {option.expiry[2:]}{option.right}00227500"
    assert by_symbol(universe, "ES", "FUT").local_symbol == "ESZ6"
