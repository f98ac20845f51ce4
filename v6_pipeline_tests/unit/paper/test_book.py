"""Positions and account values."""

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.book import Book
from v6_pipeline.paper.contracts import Universe
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.universe import build_universe

from .conftest import ACCOUNTS, AS_OF, by_symbol

ACCOUNT = ACCOUNTS[0]
IBM = 8314  # in the universe, in no account


@pytest.fixture
def market(universe: Universe) -> Market:
    return Market(universe, Statistics(lambda: 0.0), lines=100)


@pytest.fixture
def book(market: Market) -> Book:
    return Book(market)


def values(book: Book, account: str, currency: str) -> dict[str, str]:
    return {row.tag: row.value for row in book.account_values(account) if row.currency == currency}


def test_a_position_opens_at_the_mark_unless_a_cost_is_given(book: Book, market: Market) -> None:
    assert book.open(ACCOUNT, IBM, 10).average_cost == market.quote(IBM).mark
    assert book.open(ACCOUNTS[1], IBM, 10, 5.0).average_cost == 5.0


def test_buying_more_averages_the_cost(book: Book, market: Market) -> None:
    book.open(ACCOUNT, IBM, 10, 100.0)
    holding = book.resize(ACCOUNT, IBM, 30)
    assert holding.average_cost == pytest.approx((10 * 100 + 20 * market.quote(IBM).mark) / 30)
    assert holding.realized_pnl == 0


def test_selling_some_realizes_their_profit_and_keeps_the_cost(book: Book, market: Market) -> None:
    book.open(ACCOUNT, IBM, 10, 100.0)
    holding = book.resize(ACCOUNT, IBM, 4)
    assert holding.average_cost == 100.0
    assert holding.realized_pnl == pytest.approx(6 * (market.quote(IBM).mark - 100))


def test_crossing_zero_realizes_everything_and_opens_a_new_position(book: Book, market: Market) -> None:
    book.open(ACCOUNT, IBM, 10, 100.0)
    holding = book.resize(ACCOUNT, IBM, -5)
    assert holding.realized_pnl == pytest.approx(10 * (market.quote(IBM).mark - 100))
    assert holding.average_cost == pytest.approx(market.quote(IBM).mark)


def test_a_closed_position_stays_with_its_realized_profit(book: Book) -> None:
    book.open(ACCOUNT, IBM, 10, 100.0)
    holding = book.resize(ACCOUNT, IBM, 0)
    assert holding not in book.held(ACCOUNT)
    assert holding in book.held(ACCOUNT, closed=True)
    assert holding.realized_pnl > 0


@pytest.mark.parametrize(
    ("account", "conid", "quantity", "message"),
    [
        ("SIM9", IBM, 1, "no account"),
        (ACCOUNT, 1, 1, "no contract"),
        (ACCOUNT, IBM, 0, "cannot open 0"),
        (ACCOUNT, 416904, 1, "index"),
        (ACCOUNT, 265598, 1, "already holds"),
    ],
)
def test_an_impossible_opening_is_refused(book: Book, account: str, conid: int, quantity: int, message: str) -> None:
    with pytest.raises(GatewayError, match=message):
        book.open(account, conid, quantity)


def test_what_is_not_held_cannot_be_resized(book: Book) -> None:
    with pytest.raises(GatewayError, match="holds nothing"):
        book.resize(ACCOUNT, IBM, 1)


@pytest.mark.parametrize("conid", [IBM, 265598])
def test_trading_at_the_mark_does_not_change_what_an_account_is_worth(book: Book, conid: int) -> None:
    before = float(values(book, ACCOUNT, "USD")["NetLiquidation"])
    if (ACCOUNT, conid) in book.holdings:
        book.resize(ACCOUNT, conid, 7)
    else:
        book.open(ACCOUNT, conid, 7)
    assert float(values(book, ACCOUNT, "USD")["NetLiquidation"]) == pytest.approx(before, abs=0.02)


def test_closing_a_future_turns_its_profit_into_cash(book: Book, universe: Universe) -> None:
    future = by_symbol(universe, "ES", "FUT")
    cash = float(values(book, ACCOUNT, "USD")["TotalCashValue"])
    net = float(values(book, ACCOUNT, "USD")["NetLiquidation"])
    holding = book.resize(ACCOUNT, future.conid, 0)
    assert float(values(book, ACCOUNT, "USD")["TotalCashValue"]) == pytest.approx(cash + holding.realized_pnl, abs=0.02)
    assert float(values(book, ACCOUNT, "USD")["NetLiquidation"]) == pytest.approx(net, abs=0.02)


def test_the_base_ledger_is_the_sum_of_the_currencies_at_their_rates(book: Book) -> None:
    account = ACCOUNTS[1]  # holds a stock in euros
    dollars, euros, base = (values(book, account, currency) for currency in ("USD", "EUR", "BASE"))
    rate = float(euros["ExchangeRate"])
    assert 1.0 < rate < 1.2
    assert float(euros["StockMarketValue"]) > 0
    for tag in ("CashBalance", "StockMarketValue", "UnrealizedPnL", "NetLiquidationByCurrency"):
        assert float(base[tag]) == pytest.approx(float(dollars[tag]) + rate * float(euros[tag]), abs=0.05)
    assert float(dollars["NetLiquidation"]) == pytest.approx(float(base["NetLiquidationByCurrency"]), abs=0.01)


def test_the_values_that_ib_sends_are_there(book: Book) -> None:
    tags = {"NetLiquidation", "TotalCashValue", "BuyingPower", "InitMarginReq", "MaintMarginReq", "GrossPositionValue"}
    assert tags <= values(book, ACCOUNT, "USD").keys()
    ledger = {"Currency", "CashBalance", "ExchangeRate", "UnrealizedPnL", "RealizedPnL"}
    for currency in ("USD", "EUR", "BASE"):
        assert ledger <= values(book, ACCOUNT, currency).keys()


def test_market_value_counts_multiplier_and_magnifier(book: Book, market: Market, universe: Universe) -> None:
    corn = by_symbol(universe, "ZC", "FUT")
    row = book.valuation(book.holdings[ACCOUNT, corn.conid])
    assert row.market_value == pytest.approx(row.holding.quantity * market.quote(corn.conid).mark * 50)
    assert row.unrealized_pnl == pytest.approx(row.market_value - row.holding.quantity * row.holding.average_cost)


def test_prices_of_a_quiet_market_are_frozen(market: Market) -> None:
    market.quiet([IBM])
    market.advance([IBM, 265598])
    assert (market.sequence(IBM), market.sequence(265598)) == (0, 1)
    market.resume(None)
    market.advance([IBM])
    assert market.sequence(IBM) == 1


@pytest.mark.parametrize("positions", [0, 60, 3000])
def test_an_account_of_any_size_is_solvent(positions: int) -> None:
    large = build_universe(seed=1, as_of=AS_OF, accounts=ACCOUNTS, positions=positions)
    book = Book(Market(large, Statistics(lambda: 0.0), lines=100))
    for account in ACCOUNTS:
        rows = values(book, account, "USD")
        assert float(rows["NetLiquidation"]) > 500_000
        assert float(rows["BuyingPower"]) > 0
        assert float(rows["TotalCashValue"]) > 0


@pytest.mark.parametrize(
    ("right", "lots", "shares"), [("C", 2.0, 200.0), ("C", -2.0, -200.0), ("P", 2.0, -200.0), ("P", -2.0, 200.0)]
)
def test_an_assigned_option_is_gone_and_its_stock_was_traded_at_the_strike(
    book: Book, universe: Universe, right: str, lots: float, shares: float
) -> None:
    option = next(
        c for c in universe.contracts.values() if (c.symbol, c.right) == ("KO", right) and c.conid not in held(book)
    )
    book.holdings.pop((ACCOUNT, option.underlying_conid), None)
    book.open(ACCOUNT, option.conid, lots, 150.0)
    cash = float(values(book, ACCOUNT, "USD")["CashBalance"])
    gone, stock = book.assign(ACCOUNT, option.conid)
    assert (gone.quantity, gone.realized_pnl) == (0.0, -lots * 150.0)
    assert (stock.conid, stock.quantity, stock.average_cost) == (option.underlying_conid, shares, option.strike)
    assert float(values(book, ACCOUNT, "USD")["CashBalance"]) == pytest.approx(cash - shares * option.strike, abs=0.02)


def test_an_assigned_index_option_only_ends(book: Book, universe: Universe) -> None:
    option = next(c for c in universe.contracts.values() if (c.symbol, c.sec_type) == ("RUT", "OPT"))
    if (ACCOUNT, option.conid) not in book.holdings:
        book.open(ACCOUNT, option.conid, 1)
    assert [holding.quantity for holding in book.assign(ACCOUNT, option.conid)] == [0.0]


def test_only_an_option_that_is_held_can_be_assigned(book: Book) -> None:
    with pytest.raises(GatewayError, match="holds nothing"):
        book.assign(ACCOUNT, IBM)
    book.open(ACCOUNT, IBM, 5)
    with pytest.raises(GatewayError, match="is not an option"):
        book.assign(ACCOUNT, IBM)


def held(book: Book) -> set[int]:
    return {conid for _, conid in book.holdings}
