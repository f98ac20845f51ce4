"""The ledger of the simulated accounts: what is booked is what the accounts' value changes by."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from v6_pipeline.paper.accounting import DayAccount, day_account
from v6_pipeline.paper.book import Book
from v6_pipeline.paper.contracts import Holding
from v6_pipeline.paper.flex_statements import AS_IB, statements
from v6_pipeline.paper.ledger import CASH_DEEDS, MARGINED, OWNED, Deed
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.past import Past, PastDay
from v6_pipeline.paper.prices import daily_close, daily_exchange_rate
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.trading_hours import is_european, is_trading_day, session_before
from v6_pipeline.paper.universe import build_universe
from v6_pipeline.paper.world import build_world

from .conftest import ACCOUNTS, AS_OF

DAYS = 60
GENERATED = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)


def past_of(seed: int, *, accounts: tuple[str, ...] = ACCOUNTS, unusual: bool = True) -> Past:
    universe = build_universe(seed=seed, as_of=AS_OF, accounts=accounts, positions=60, unusual=unusual)
    first = AS_OF - timedelta(days=130)
    sessions = [first + timedelta(days=number) for number in range(131)]
    return Past(universe, [day for day in sessions if is_trading_day(day)])


def days_of(past: Past) -> list[PastDay]:
    return past.between(past.sessions[0], AS_OF)[-DAYS:]


def worth(past: Past, account: str, day: PastDay) -> float:
    """Net asset value from positions, closes and cash alone, without the ledger's own sums."""

    def rate(currency: str) -> float:
        return daily_exchange_rate(past.universe, currency, day.day if is_trading_day(day.day) else before)

    before = session_before(day.day)
    total = sum(amount * rate(currency) for (owner, currency), amount in day.cash.items() if owner == account)
    for row in day.positions:
        contract = past.universe.contracts[row.conid]
        if row.account != account:
            continue
        marked = day.day if is_trading_day(day.day) or is_european(contract) else before
        price = daily_close(past.universe, row.conid, marked)
        assert price is not None
        amount = row.quantity * price * contract.value_per_point
        paid = 0.0 if contract.sec_type in OWNED else row.quantity * row.average_cost
        total += (amount - paid) * rate(contract.currency)
    return total


@pytest.mark.parametrize("seed", range(1, 21))
def test_ledger_flows_and_profits_are_the_change_of_value_of_each_account_and_day(seed: int) -> None:
    past = past_of(seed)
    values = dict.fromkeys(ACCOUNTS, 0.0)
    for number, day in enumerate(days_of(past)):
        for account in ACCOUNTS:
            value = worth(past, account, day)
            found = day_account(past, account, day)
            assert found.total == pytest.approx(value, abs=1e-6)
            if number:
                assert sum(found.parts.values()) == pytest.approx(value - values[account], abs=1e-6), (day.day, account)
            values[account] = value


def test_ledger_realized_and_unrealized_profit_is_that_of_prices() -> None:
    """Per account and day: what costs say and what prices say is the same, commissions and settlements included."""
    past = past_of(3)
    days = days_of(past)
    for account in ACCOUNTS:
        unrealized: dict[str, float] = {}
        for number, day in enumerate(days):
            now: dict[str, float] = defaultdict(float)
            for row in day.positions:
                contract = past.universe.contracts[row.conid]
                if row.account == account:
                    amount = row.quantity * (past.mark(row.conid, day.day) * contract.value_per_point)
                    now[contract.currency] += amount - row.quantity * row.average_cost
            realized: dict[str, float] = defaultdict(float)
            moved: dict[str, float] = defaultdict(float)
            for item in day.changes:
                if item.account == account and item.deed not in CASH_DEEDS:
                    realized[item.currency] += item.realized_pnl
                    if item.deed is Deed.TRANSFER:
                        moved[item.currency] = float("nan")
            found = day_account(past, account, day)
            for currency in now if number else ():
                lines = [line for line in found.lines if past.universe.contracts[line.conid].currency == currency]
                by_price = sum(line.mtm + line.commission for line in lines)
                by_cost = now[currency] - unrealized.get(currency, 0.0) + realized[currency]
                if moved[currency] == 0.0:  # a transfer takes its unrealized profit with it
                    assert by_cost == pytest.approx(by_price, abs=1e-6), (day.day, account, currency)
            unrealized = dict(now)


def test_ledger_has_every_unkind_thing_within_the_last_thirty_sessions_or_the_last_year() -> None:
    past = Past(build_universe(seed=1, as_of=AS_OF, accounts=ACCOUNTS, positions=60))
    deeds = Counter(item.deed for day in past.between(past.sessions[-280], AS_OF) for item in day.changes)
    assert deeds.keys() == set(Deed)
    lately = [item for day in past.between(past.sessions[-30], AS_OF) for item in day.changes]
    assert {item.deed for item in lately} >= {Deed.SPLIT, Deed.RENAME, Deed.TRANSFER, Deed.CONVERSION, Deed.EXPIRATION}
    assert any(item.when.at.date() < item.when.trade_date for item in lately), "futures in the evening"
    assert any(item.note == "AFx" for item in lately)
    by_day = Counter((item.account, item.conid, item.when.report_date) for item in lately if item.deed is Deed.TRADE)
    assert max(by_day.values()) >= 2, "a day trade"


def test_ledger_books_what_ends_on_a_friday_on_the_next_session() -> None:
    past = past_of(1)
    ends = [
        item
        for day in days_of(past)
        for item in day.changes
        if item.deed in {Deed.EXPIRATION, Deed.ASSIGNMENT, Deed.EXERCISE}
    ]
    assert ends
    for item in ends:
        expiry = date.fromisoformat(past.universe.contracts[item.conid].expiry)
        [on_friday] = past.between(expiry, expiry)
        assert item.when.trade_date == expiry
        assert item.when.report_date > expiry
        assert any(row.conid == item.conid for row in on_friday.positions)
        [booked] = past.between(item.when.report_date, item.when.report_date)
        assert not any(row.conid == item.conid for row in booked.positions)


def test_ledger_has_an_account_without_positions_for_three_days() -> None:
    flat = [day for day in days_of(past_of(1)) if not any(row.account == ACCOUNTS[-1] for row in day.positions)]
    assert len(flat) == 4
    assert all(any(row.account == ACCOUNTS[0] for row in day.positions) for day in flat)


def test_ledger_has_trades_of_another_exchange_on_a_holiday() -> None:
    past = Past(build_universe(seed=1, as_of=AS_OF, accounts=ACCOUNTS, positions=60))
    holidays = [day for day in past.between(past.sessions[-250], AS_OF) if not is_trading_day(day.day)]
    assert len(holidays) >= 5
    for day in holidays:
        assert {past.universe.contracts[item.conid].symbol for item in day.changes} == {"SAP"}


def test_ledger_settles_an_index_option_of_the_morning_in_cash_alone() -> None:
    past = Past(build_universe(seed=1, as_of=AS_OF, accounts=ACCOUNTS, positions=60))
    days = past.between(past.sessions[-250], AS_OF)
    cash = [item for day in days for item in day.changes if item.deed is Deed.SETTLEMENT]
    morning = [item for item in cash if past.universe.contracts[item.conid].trading_class == "SPX"]
    assert morning
    assert all(item.quantity == 0 and item.flows[0][1] == item.realized_pnl for item in cash)


@pytest.mark.parametrize("accounts", [("SIM1",), ("SIM1", "SIM2", "SIM3")])
def test_ledger_works_for_any_number_of_accounts(accounts: tuple[str, ...]) -> None:
    past = past_of(2, accounts=accounts)
    for day in days_of(past)[1:]:
        found: list[DayAccount] = [day_account(past, account, day) for account in accounts]
        assert all(sum(item.parts.values()) == pytest.approx(item.total - item.before, abs=1e-6) for item in found)


def test_margined_and_owned_are_apart() -> None:
    assert not OWNED & MARGINED


def test_ledger_of_the_live_day_begins_where_the_past_ends() -> None:
    universe, past = build_world(seed=5, as_of=AS_OF, accounts=ACCOUNTS, positions=60)
    assert past is not None
    book = Book(Market(universe, Statistics(lambda: 0.0), lines=100), past)
    [last] = past.between(session_before(AS_OF), session_before(AS_OF))
    held = {(row.account, row.conid): (row.quantity, row.average_cost) for row in last.positions}
    live = {(row.account, row.conid): (row.quantity, row.average_cost) for row in book.held()}
    virtual = {key for key in live if universe.contracts[key[1]].sec_type == "CASH"}
    assert {key: item for key, item in live.items() if key not in virtual} == held
    assert last.cash == pytest.approx(book.ledger.cash, abs=1e-6)
    assert all(row.average_cost for row in universe.holdings)


def test_ledger_has_the_brokers_profit_of_the_day() -> None:
    """The broker's daily profit is the change in value since the last close, deeds of the day included."""
    universe, past = build_world(seed=5, as_of=AS_OF, accounts=ACCOUNTS, positions=60)
    assert past is not None
    market = Market(universe, Statistics(lambda: 0.0), lines=100)
    book = Book(market, past)
    account = ACCOUNTS[0]
    stock, future = (
        next(row for row in book.held(account) if contract_type(book, row) == kind) for kind in ("STK", "FUT")
    )
    market.advance(universe.contracts)
    book.resize(account, stock.conid, stock.quantity - 10)
    book.resize(account, future.conid, -future.quantity)
    book.open(account, 8314, 5)
    market.close()
    [today] = past.with_live(book.ledger).between(AS_OF, AS_OF)
    found = day_account(past.with_live(book.ledger), account, today)
    virtual = sum(book.valuation(row).daily_pnl for row in book.held(account) if contract_type(book, row) == "CASH")
    daily = book.pnl(book.held(account, closed=True))[0] - virtual
    assert daily == pytest.approx(found.parts["mtm"] + found.parts["commissions"], abs=1e-3)
    # Without new cash, the account's value changes by this profit and the translation of currencies.
    assert found.total - found.before == pytest.approx(daily + found.parts["fxTranslation"], abs=1e-3)


def contract_type(book: Book, row: Holding) -> str:
    return book.market.contract(row.conid).sec_type


def test_ledger_statement_of_the_live_day_has_its_marks_and_deeds() -> None:
    universe, past = build_world(seed=5, as_of=AS_OF, accounts=ACCOUNTS, positions=60)
    assert past is not None
    market = Market(universe, Statistics(lambda: 0.0), lines=100)
    book = Book(market, past)
    book.open(ACCOUNTS[0], 8314, 5)
    market.close()
    text = "".join(statements(past.with_live(book.ledger), AS_OF, AS_OF, AS_IB, generated=GENERATED))
    root = ET.fromstring(text)
    marks = {
        int(row.attrib["conid"]): float(row.attrib["markPrice"])
        for row in root.iter("OpenPosition")
        if row.get("levelOfDetail") == "SUMMARY"
    }
    assert 8314 in marks
    for conid, mark in marks.items():
        magnifier = universe.contracts[conid].price_magnifier
        assert mark == pytest.approx(market.quote(conid).mark / magnifier, abs=1e-6)
    assert [row.get("conid") for row in root.iter("Trade") if row.get("assetCategory")] == ["8314"]
