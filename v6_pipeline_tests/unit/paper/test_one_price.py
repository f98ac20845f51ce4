"""One price history: the gateway's closes, the bars and the marks of statements are the same figures."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.history_bars import What, bars_between
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.prices import daily_close, expiry_of, quote_at
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.trading_hours import auction_at, session_before

from .conftest import AS_OF, by_symbol

BEFORE = session_before(AS_OF)


def alive(universe: Universe) -> list[Contract]:
    return [item for item in universe.contracts.values() if (expiry_of(item) or AS_OF) >= AS_OF]


def last_bar_close(universe: Universe, contract: Contract, day: date) -> float:
    """The close of the last bar until the contract's own close of the day; a currency trades on after it."""
    what = {"OPT": What.MIDPOINT, "CASH": What.MIDPOINT, "CRYPTO": What.AGGTRADES}.get(contract.sec_type, What.TRADES)
    end = auction_at(contract, day)
    assert end is not None
    found = bars_between(universe, contract, what, 1800, end - timedelta(hours=3), end, regular=True)
    return found[-1].close


def test_the_close_of_every_quote_is_the_close_of_the_session_before(universe: Universe) -> None:
    for contract in alive(universe):
        closes = {quote_at(universe, contract.conid, sequence).close for sequence in (0, 7, 20_000)}
        assert closes == {daily_close(universe, contract.conid, BEFORE)}


def test_the_last_bar_of_the_session_before_ends_at_the_same_close(universe: Universe) -> None:
    for contract in alive(universe):
        assert last_bar_close(universe, contract, BEFORE) == quote_at(universe, contract.conid, 0).close


def test_the_live_day_opens_from_the_close_before_it(universe: Universe) -> None:
    for contract in alive(universe):
        if contract.sec_type != "OPT":
            quote = quote_at(universe, contract.conid, 0)
            step = 0.002 * (1 + contract.volatility) * abs(quote.close) + contract.min_tick
            assert quote.mark == pytest.approx(quote.close, abs=step)


def test_the_live_day_approaches_its_own_close(universe: Universe) -> None:
    apple = by_symbol(universe, "AAPL", "STK")
    end = daily_close(universe, apple.conid, AS_OF)
    assert end is not None
    far = [abs(quote_at(universe, apple.conid, sequence).mark / end - 1) for sequence in (0, 10**6, 10**8)]
    assert far[0] > far[1]
    assert far[2] < 0.001


def test_after_the_live_day_price_and_mark_are_the_close_of_its_bar_and_statement(universe: Universe) -> None:
    market = Market(universe, Statistics(lambda: 0.0), lines=100)
    market.advance(universe.contracts)
    market.close()
    for contract in alive(universe):
        quote = market.quote(contract.conid)
        assert quote.last == quote.mark == daily_close(universe, contract.conid, AS_OF)
        assert last_bar_close(universe, contract, AS_OF) == quote.mark


def test_a_market_that_keeps_hours_closes_each_contract_at_its_own_time(universe: Universe) -> None:
    sap, apple = by_symbol(universe, "SAP", "STK"), by_symbol(universe, "AAPL", "STK")
    now = datetime(AS_OF.year, AS_OF.month, AS_OF.day, 18, 0, tzinfo=UTC)  # after Xetra's close, before New York's
    market = Market(universe, Statistics(lambda: 0.0), lines=100, clock=lambda: now)
    assert market.quote(sap.conid).mark == daily_close(universe, sap.conid, AS_OF)
    assert market.quote(apple.conid).mark == quote_at(universe, apple.conid, 0).mark
    now += timedelta(hours=3)
    assert market.quote(apple.conid).mark == daily_close(universe, apple.conid, AS_OF)


def test_the_next_live_day_has_the_close_of_this_one(universe: Universe) -> None:
    """A gateway of another day continues the same history."""
    following = Universe(
        seed=universe.seed,
        as_of=AS_OF + timedelta(days=3),
        accounts=universe.accounts,
        contracts=universe.contracts.values(),
        holdings=universe.holdings,
    )
    for contract in alive(universe):
        assert quote_at(following, contract.conid, 0).close == daily_close(universe, contract.conid, AS_OF)


def test_exchange_rates_are_closes_of_the_pair(universe: Universe) -> None:
    pair = by_symbol(universe, "EUR", "CASH")
    days = [AS_OF - timedelta(days=number) for number in range(30)]
    rates = [daily_close(universe, pair.conid, day) for day in days]
    assert all(before and after and abs(before / after - 1) < 0.02 for before, after in pairwise(rates))
