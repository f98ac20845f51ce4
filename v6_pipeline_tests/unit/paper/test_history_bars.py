"""Bars of the past: they end at the day's close, keep the sessions, and are what IB has of a kind of contract."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.history import SmallBarPacing
from v6_pipeline.paper.history_bars import Bar, What, bars_between, has_data
from v6_pipeline.paper.prices import daily_close, expiry_of
from v6_pipeline.paper.trading_hours import NEW_YORK, closes_early, is_trading_day, us_close
from v6_pipeline.paper.universe import build_universe

DAY = date(2026, 11, 19)
EARLY = date(2026, 11, 27)
HALF_HOUR, HOUR, A_DAY = 1_800, 3_600, 86_400


@pytest.fixture(scope="module")
def universe() -> Universe:
    return build_universe(seed=1, as_of=date(2026, 11, 20), accounts=("SIM0000001",), positions=20)


def of(universe: Universe, symbol: str, sec_type: str = "STK") -> Contract:
    return next(item for item in universe.contracts.values() if (item.symbol, item.sec_type) == (symbol, sec_type))


def bars(
    universe: Universe, contract: Contract, what: What, seconds: int, day: date = DAY, *, regular: bool = True
) -> list[Bar]:
    begin = datetime(day.year, day.month, day.day, tzinfo=NEW_YORK)
    end = begin + timedelta(hours=17 if regular else 20)
    return bars_between(universe, contract, what, seconds, begin - timedelta(hours=1), end, regular=regular)


@pytest.mark.parametrize("day", [DAY, EARLY, date(2026, 3, 9), date(2026, 11, 2)])
@pytest.mark.parametrize(
    ("symbol", "sec_type", "what", "seconds"),
    [
        ("AAPL", "STK", What.TRADES, A_DAY),
        ("AAPL", "STK", What.TRADES, HOUR),
        ("SPX", "IND", What.TRADES, A_DAY),
        ("SPX", "OPT", What.MIDPOINT, HALF_HOUR),
        ("ES", "FUT", What.TRADES, A_DAY),
        ("ES", "FUT", What.TRADES, HALF_HOUR),
        ("EUR", "CASH", What.MIDPOINT, HALF_HOUR),
        ("SAP", "STK", What.TRADES, HALF_HOUR),
    ],
)
def test_the_last_regular_bar_ends_at_the_close_of_the_day(
    universe: Universe, symbol: str, sec_type: str, what: What, seconds: int, day: date
) -> None:
    contract = of(universe, symbol, sec_type)

    assert bars(universe, contract, what, seconds, day)[-1].close == daily_close(universe, contract.conid, day)


def test_a_bar_after_the_session_does_not_show_the_close(universe: Universe) -> None:
    contract = of(universe, "AAPL")
    late = [
        bar
        for bar in bars(universe, contract, What.TRADES, HALF_HOUR, regular=False)
        if isinstance(bar.begin, datetime) and bar.begin >= us_close(DAY)
    ]

    assert len(late) == 8
    assert daily_close(universe, contract.conid, DAY) not in {bar.close for bar in late}


def test_hours_begin_on_the_hour_and_the_first_is_cut(universe: Universe) -> None:
    found = bars(universe, of(universe, "AAPL"), What.TRADES, HOUR)

    assert [f"{bar.begin:%H:%M}" for bar in found] == ["09:30", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00"]


def test_an_early_close_ends_the_bars(universe: Universe) -> None:
    found = bars(universe, of(universe, "SPX", "OPT"), What.MIDPOINT, HALF_HOUR, EARLY)

    assert f"{found[-1].begin:%H:%M}" == "12:30"


def test_a_holiday_has_no_bars(universe: Universe) -> None:
    assert bars(universe, of(universe, "AAPL"), What.TRADES, HALF_HOUR, date(2026, 11, 26)) == []


def test_options_trade_on_some_days_only_and_not_in_every_bar(universe: Universe) -> None:
    contract = of(universe, "SPX", "OPT")
    days = [DAY - timedelta(days=number) for number in range(60)]
    counts = [len(bars(universe, contract, What.TRADES, HALF_HOUR, day)) for day in days if is_trading_day(day)]

    assert 0 in counts
    assert 0 < max(counts) < 13
    assert all(len(bars(universe, contract, What.MIDPOINT, HALF_HOUR, day)) == 13 for day in days if day.weekday() == 2)


def test_an_option_has_no_bars_after_its_expiry(universe: Universe) -> None:
    contract = of(universe, "SPX", "OPT")
    expiry = expiry_of(contract)
    assert expiry is not None

    assert bars(universe, contract, What.MIDPOINT, HALF_HOUR, expiry)
    assert bars(universe, contract, What.MIDPOINT, HALF_HOUR, expiry + timedelta(days=3)) == []


@pytest.mark.parametrize(
    ("symbol", "sec_type", "what", "seconds"),
    [
        ("SPX", "OPT", What.TRADES, A_DAY),
        ("EUR", "CASH", What.TRADES, HALF_HOUR),
        ("SPX", "IND", What.MIDPOINT, A_DAY),
    ],
)
def test_what_ib_does_not_have(universe: Universe, symbol: str, sec_type: str, what: What, seconds: int) -> None:
    contract = of(universe, symbol, sec_type)

    assert not has_data(contract, what, seconds)
    assert bars(universe, contract, what, seconds) == []


def test_bid_and_ask_lie_around_the_middle(universe: Universe) -> None:
    contract = of(universe, "AAPL")
    closes = [bars(universe, contract, what, HOUR)[-1].close for what in (What.BID, What.MIDPOINT, What.ASK)]

    assert closes[0] < closes[1] < closes[2]
    assert bars(universe, contract, What.MIDPOINT, HOUR)[0].volume == -1


def test_what_comes_after_the_end_is_in_no_bar(universe: Universe) -> None:
    contract = of(universe, "AAPL")
    noon = datetime(2026, 11, 19, 12, tzinfo=NEW_YORK)
    until_noon = bars_between(universe, contract, What.TRADES, A_DAY, noon - timedelta(hours=12), noon, regular=True)

    assert until_noon[0].close != daily_close(universe, contract.conid, DAY)


def test_the_gateways_days_are_those_of_the_exchange() -> None:
    calendar = TradingCalendar()
    days = [date(2023, 1, 1) + timedelta(days=number) for number in range(5 * 365)]

    assert [day for day in days if is_trading_day(day) != calendar.is_session(day)] == []
    sessions = [day for day in days if calendar.is_session(day)]
    assert [day for day in sessions if us_close(day) != calendar.session(day).closes_at] == []
    assert sum(map(closes_early, sessions)) > 5


# Pacing of small bars


def admit(pacing: SmallBarPacing, at: float, number: int, *, contract: str = "", cost: int = 1) -> bool:
    return pacing.admit(at, contract=contract or f"c{number}", identity=f"r{number}", cost=cost)


def test_sixty_small_requests_fit_into_ten_minutes() -> None:
    pacing = SmallBarPacing()

    assert all(admit(pacing, number, number) for number in range(60))
    assert not admit(pacing, 599.9, 99)
    assert admit(pacing, 600, 99)


def test_an_identical_small_request_within_fifteen_seconds_is_one_too_many() -> None:
    pacing = SmallBarPacing()

    assert admit(pacing, 0, 1)
    assert not admit(pacing, 14.9, 1)
    assert admit(pacing, 15, 1)


def test_the_sixth_of_a_contract_in_two_seconds_is_one_too_many_and_bid_ask_counts_twice() -> None:
    pacing = SmallBarPacing()

    assert all(admit(pacing, 0, number, contract="SPX") for number in range(5))
    assert not admit(pacing, 1.9, 9, contract="SPX")
    assert admit(pacing, 2, 9, contract="SPX", cost=2)
    assert admit(pacing, 2, 10, contract="SPX", cost=2)
    assert not admit(pacing, 2, 11, contract="SPX", cost=2)
