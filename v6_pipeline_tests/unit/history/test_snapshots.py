"""A day's snapshot: where each value comes from, and that none comes from after the cut-off."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.state.registry.assignments import RegistryEntry
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline_tests.unit.history.day_builders import (
    BEFORE,
    CLOSE,
    DAY,
    INSTANT,
    LATER,
    NOON,
    WINDOW,
    YESTERDAY,
    by_flex,
    day,
    own,
    snapshot,
)

STALE = WINDOW.begins_at - INSTANT
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def priced(at: Any = NOON, price: float = 5.0, **values: Any) -> dict[str, Any]:
    """An own row with a price of the same instant, and IB's value and profit of it."""
    given = {"market_price": price, "price_source": "mark", "price_time": at}
    return own(at, **given | {"market_value": price * 10, "unrealized_pnl": 1.0} | values)


def one(*args: Any, **options: Any) -> dict[str, Any]:
    [row] = snapshot(*args, **options)
    return row


def price_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["market_price"], row["price_source"], row["price_time"]


# --- price and value ---


def test_position_price_and_value_of_one_row_are_taken_as_they_are() -> None:
    """The value is IB's own, whatever the arithmetic would give."""
    row = one(day([priced(market_value=49.0, unrealized_pnl=7.0)]))
    assert price_of(row) == (5.0, "mark", NOON)
    assert (row["market_value"], row["unrealized_pnl"], row["timestamp"]) == (49.0, 7.0, NOON)


def test_a_flex_mark_is_the_best_price() -> None:
    flex = {"market_price": 6.0, "market_value": 61.0, "unrealized_pnl": 2.0}
    row = one(by_flex(flex, observed=[priced(CLOSE + MINUTE)], closes=[{"close": 4.0, "bar_time": CLOSE}]))
    assert price_of(row) == (6.0, "flex", CLOSE)
    assert (row["market_value"], row["unrealized_pnl"]) == (61.0, 2.0)


def test_a_flex_position_without_a_mark_is_valued_at_the_next_best_price() -> None:
    row = one(by_flex({"position": 3.0, "average_cost": 1.0}, observed=[priced()]))
    assert price_of(row) == (5.0, "mark", NOON)
    assert (row["market_value"], row["unrealized_pnl"]) == (15.0, 12.0)


@pytest.mark.parametrize("stream_is_newer", [True, False])
def test_the_price_with_the_newest_own_time_wins_whichever_row_is_newer(stream_is_newer: bool) -> None:
    """A live stream beats a staler account mark, and the reverse."""
    ticked = NOON + MINUTE if stream_is_newer else NOON - MINUTE
    stream = priced(NOON + 2 * MINUTE, 5.0, price_time=ticked)
    queue = priced(NOON + 3 * MINUTE, 6.0, price_time=NOON, source="queue", price_source="portfolio", position=4.0)
    row = one(day([stream, queue]))
    assert row["position"] == 4.0
    assert price_of(row) == ((5.0, "mark", ticked) if stream_is_newer else (6.0, "portfolio", NOON))
    assert row["market_value"] == (20.0 if stream_is_newer else 60.0)


def test_a_historical_close_is_better_than_a_price_from_before_the_day() -> None:
    stale = priced(NOON, 5.0, price_time=STALE)
    close = {"close": 4.0, "bar_time": CLOSE}
    assert price_of(one(day([stale], closes=[close]))) == (4.0, "historical_close", CLOSE)
    assert price_of(one(day([priced(price_time=WINDOW.begins_at)], closes=[close])))[1] == "mark"


def test_a_price_from_before_the_day_keeps_its_time_where_there_is_no_other() -> None:
    close = {"close": None, "reason": "expired"}
    row = one(day([priced(NOON, 5.0, price_time=STALE)], closes=[close]))
    assert price_of(row) == (5.0, "mark", STALE)
    assert row["market_value"] == 50.0


def test_a_position_carried_forward_has_no_price_of_its_own_day() -> None:
    """Yesterday's price is not the day's; a close of the day is."""
    inputs: dict[str, Any] = {"values": [{"timestamp": NOON}], "earlier": [priced(YESTERDAY, average_cost=3.0)]}
    without, with_close = one(day(**inputs)), one(day(**inputs, closes=[{"close": 4.0, "bar_time": CLOSE}]))
    assert without["carried_forward"] is True
    assert price_of(without) == (None, None, None)
    assert (without["market_value"], without["unrealized_pnl"]) == (None, None)
    assert price_of(with_close) == (4.0, "historical_close", CLOSE)
    assert (with_close["market_value"], with_close["unrealized_pnl"]) == (40.0, 10.0)
    assert with_close["timestamp"] == YESTERDAY


def test_a_close_and_a_quote_too_wide_lose_to_any_other_price_of_the_day() -> None:
    """Rows of before have a close dated by its row; others have a close without a time."""
    marked = priced(NOON, 5.0, source="queue", price_source="portfolio")
    for source, at in (("close", NOON + MINUTE), ("close", None), ("wide_mid", NOON + MINUTE)):
        weak = priced(NOON + MINUTE, 9.0, price_source=source, price_time=at)
        assert price_of(one(day([marked, weak]))) == (5.0, "portfolio", NOON)
        assert price_of(one(day([weak], closes=[{"close": 4.0, "bar_time": CLOSE}])))[1] == "historical_close"
        assert price_of(one(day([weak]))) == (9.0, source, at)
        own_mark = priced(NOON - HOUR, 6.0)
        assert price_of(one(day([own_mark, weak]))) == (6.0, "mark", NOON - HOUR)


def test_a_close_of_today_loses_to_no_price_of_yesterday() -> None:
    yesterday = priced(NOON, 5.0, price_time=STALE)
    weak = priced(NOON + MINUTE, 9.0, price_source="close", price_time=None)
    assert price_of(one(day([yesterday, weak])))[1] == "mark"


def test_rows_of_before_have_their_prices_in_pence_and_are_brought_into_pounds() -> None:
    pence = {1: ContractSpec(conid=1, symbol="X", sec_type=SecType.STOCK, currency="GBP", price_magnifier=100)}
    close = {"close": 4400.0, "bar_time": CLOSE}
    old = priced(NOON, 4294.0, bid=4293.0, ask=4295.0, market_value=429.4)
    row = one(day([old]), contracts=pence)
    assert (row["market_price"], row["bid"], row["ask"], row["price_magnifier"]) == (42.94, 42.93, 42.95, 100)
    assert one(day([priced(NOON, 42.94, market_value=429.4)]), contracts=pence)["market_price"] == 42.94
    new = priced(NOON, 42.94, bid=42.93, price_magnifier=100)
    assert (one(day([new]), contracts=pence)["market_price"], one(day([new]), contracts=pence)["bid"]) == (42.94, 42.93)
    assert one(day([own()], closes=[close]), contracts=pence)["market_value"] == 440.0
    assert (
        one(day([own()], closes=[close | {"close": 44.0, "price_magnifier": 100}]), contracts=pence)["market_value"]
        == 440.0
    )


def test_a_bond_without_a_value_is_valued_once_its_unit_is_known_but_not_by_flexs_quantity() -> None:
    known = {1: ContractSpec(conid=1, symbol="X", sec_type=SecType.BOND, currency="USD", unit_value=10.0)}
    close = {"close": 50.0, "bar_time": CLOSE}
    bond = own(sec_type="BOND", position=20.0)
    assert one(day([bond], closes=[close]))["market_value"] is None
    assert one(day([bond], closes=[close]), contracts=known)["market_value"] == 10_000.0
    assert one(day([own(sec_type="BOND", position=20.0, unit_value=0.01)], closes=[close]))["market_value"] == 10.0
    flex = {"sec_type": "BOND", "position": 20_000.0, "market_price": 50.0, "market_value": None}
    assert one(by_flex(flex), contracts=known)["market_value"] is None


def test_a_computed_value_knows_multiplier_and_magnifier() -> None:
    closes = [{"conid": conid, "close": 50.0, "bar_time": CLOSE} for conid in (1, 2, 3)]
    contracts = {
        conid: ContractSpec(conid=conid, symbol="X", sec_type=SecType.FUTURE, currency="USD", price_magnifier=100)
        for conid in (1,)
    }
    rows = snapshot(
        day(
            [
                own(conid=1, sec_type="FUT", multiplier=5000.0, position=2.0),
                own(conid=2, sec_type="STK", multiplier=None, position=10.0),
                own(conid=3, sec_type="OPT", multiplier=100.0, position=-1.0, average_cost=40.0),
            ],
            closes=closes,
        ),
        contracts=contracts,
    )
    assert [row["market_value"] for row in rows] == [5000.0, 500.0, -5000.0]
    assert [row["unrealized_pnl"] for row in rows] == [None, None, -4960.0]


def test_a_closed_position_has_only_its_realized_profit() -> None:
    close = {"close": 4.0, "bar_time": CLOSE}
    row = one(day([own(position=0.0, source="queue", realized_pnl=12.0)], closes=[close]))
    assert (row["market_value"], row["unrealized_pnl"], row["realized_pnl"]) == (0.0, 0.0, 12.0)


# --- the rest of a row ---


def test_realized_profit_is_the_account_feeds_newest_figure() -> None:
    rows = [
        own(NOON, source="queue", realized_pnl=1.0),
        own(NOON + MINUTE, source="queue", realized_pnl=2.0),
        own(NOON + 2 * MINUTE),
    ]
    assert one(day(rows))["realized_pnl"] == 2.0


@pytest.mark.parametrize(
    ("then", "realized"),
    [
        pytest.param({"position": 1.0, "average_cost": 5.0}, None, id="one sold"),
        pytest.param({"position": 2.0, "average_cost": 5.0}, 0.0, id="as it was"),
        pytest.param({"position": 2.0, "average_cost": 6.0}, None, id="sold and bought back"),
        pytest.param({"position": 2.0, "average_cost": 5.0 * (1 + 1e-6)}, 0.0, id="rounded otherwise"),
        pytest.param({"position": 2.0, "average_cost": None}, 0.0, id="cost unknown"),
        pytest.param({"position": -2.0, "average_cost": 5.0}, None, id="turned round"),
        pytest.param({"position": 0.0, "average_cost": 0.0}, None, id="all sold"),
    ],
)
def test_a_realized_profit_from_before_a_trade_is_not_the_days(then: dict[str, Any], realized: float | None) -> None:
    """The profit of a streamed contract was reported as 0 after a part of it had been sold."""
    reported = own(WINDOW.cut_off - 7 * HOUR, source="queue", position=2.0, average_cost=5.0, realized_pnl=0.0)
    row = one(day([reported, own(NOON + 2 * HOUR, **then)]))
    assert (row["position"], row["position_source"]) == (then["position"], "stream")
    assert row["realized_pnl"] == realized


def test_realized_profit_is_known_again_after_the_next_report() -> None:
    before = own(NOON, source="queue", position=2.0, average_cost=5.0, realized_pnl=0.0)
    sold = own(NOON + MINUTE, position=1.0, average_cost=5.0)
    after = own(NOON + 2 * MINUTE, source="queue", position=1.0, average_cost=5.0, realized_pnl=3.0)
    assert one(day([before, sold, after]))["realized_pnl"] == 3.0
    assert one(day([before, after, own(NOON + 3 * MINUTE, position=1.0)]))["realized_pnl"] == 3.0


def test_realized_profit_counts_though_the_account_feed_has_no_cost() -> None:
    reported = own(NOON, source="queue", realized_pnl=2.0)
    assert one(day([reported, own(NOON + MINUTE, average_cost=5.0)]))["realized_pnl"] == 2.0


def test_realized_profit_of_flex_is_the_sum_of_the_days_activity() -> None:
    booked = [
        {"ordinal": 0, "realized_pnl": 1.0},
        {"ordinal": 1, "realized_pnl": 2.0},
        {"ordinal": 2, "realized_pnl": None},
        {"ordinal": 3, "realized_pnl": 50.0, "activity_date": BEFORE},
        {"ordinal": 4, "realized_pnl": 60.0, "activity_date": DAY + timedelta(days=1)},
        {"ordinal": 5, "realized_pnl": 70.0, "conid": 2},
    ]
    rows = {row["conid"]: row["realized_pnl"] for row in snapshot(by_flex({}, activity=booked))}
    assert rows == {1: 3.0, 2: 70.0}
    assert (
        one(by_flex({}, activity=booked[2:3], observed=[own(source="queue", realized_pnl=9.0)]))["realized_pnl"] is None
    )


def test_quotes_and_greeks_come_each_from_the_newest_row_that_has_any() -> None:
    rows = [
        own(NOON, delta=0.1, gamma=0.2, market_data_type=1),
        own(NOON + MINUTE, delta=0.5, bid=1.0, ask=2.0, market_data_type=2),
        own(NOON + 2 * MINUTE, bid=3.0, market_data_type=3, source="queue"),
        own(NOON + 3 * MINUTE, market_data_type=4),
    ]
    row = one(day(rows))
    assert (row["delta"], row["gamma"], row["bid"], row["ask"], row["market_data_type"]) == (0.5, None, 3.0, None, 3)
    assert row["greeks_time"] == NOON + MINUTE
    assert one(day(rows[:1]))["market_data_type"] == 1
    assert one(day(rows[2:]))["greeks_time"] is None


def test_rates_are_flexs_else_an_own_rows_else_the_accounts() -> None:
    values = [
        {"timestamp": NOON, "base_currency": "CHF", "exchange_rates": [{"currency": "EUR", "rate": 3.0}]},
        {"timestamp": NOON - MINUTE, "base_currency": "USD", "exchange_rates": [{"currency": "EUR", "rate": 9.0}]},
        {
            "timestamp": WINDOW.cut_off + INSTANT,
            "base_currency": "USD",
            "exchange_rates": [{"currency": "EUR", "rate": 8.0}],
        },
    ]
    observed = [own(currency="EUR", base_currency="GBP", fx_rate_to_base=2.0), own(NOON + MINUTE, currency="EUR")]
    flex = {"currency": "EUR", "base_currency": "USD", "fx_rate_to_base": 1.0}

    def rate(row: dict[str, Any]) -> tuple[Any, Any]:
        return row["base_currency"], row["fx_rate_to_base"]

    assert rate(one(by_flex(flex, observed=observed, values=values))) == ("USD", 1.0)
    assert rate(one(by_flex(flex | {"fx_rate_to_base": None}, observed=observed, values=values))) == ("GBP", 2.0)
    assert rate(one(day(observed, values=values))) == ("GBP", 2.0)
    assert rate(one(day(observed[1:], values=values))) == ("CHF", 3.0)
    assert rate(one(day([own(currency="JPY")], values=values))) == ("CHF", None)
    assert rate(one(day([own(currency="CHF")], values=values))) == ("CHF", 1.0)
    assert rate(one(day([own(currency="CHF")]))) == (None, None)


def test_a_rate_names_the_row_that_gave_it() -> None:
    eur = [{"currency": "EUR", "rate": 3.0}]
    values = [{"timestamp": NOON - MINUTE, "base_currency": "CHF", "exchange_rates": eur}]
    rated = own(NOON, source="queue", currency="EUR", base_currency="CHF", fx_rate_to_base=2.0)
    flex = {"currency": "EUR", "base_currency": "USD", "fx_rate_to_base": 1.0}

    def key(row: dict[str, Any]) -> tuple[Any, Any]:
        return row["fx_table"], row["fx_time"]

    assert key(one(by_flex(flex))) == ("flex_positions", CLOSE)
    assert key(one(by_flex({"currency": "USD"}))) == (None, None), "its rate is 1, which no row gave"
    assert key(one(day([rated, own(NOON + MINUTE, currency="EUR")]))) == ("queued_positions", NOON)
    assert key(one(day([own(currency="EUR")], values=values))) == ("account_values", NOON - MINUTE)
    assert key(one(day([own(currency="CHF")], values=values))) == ("account_values", NOON - MINUTE)
    assert key(one(day([own(currency="JPY")], values=values))) == (None, None)


def test_a_row_of_an_unknown_source_names_no_table() -> None:
    row = one(day([priced(source="elsewhere")]))
    assert (row["market_price"], row["price_table"]) == (5.0, None)


def test_strategies_are_those_of_the_cut_off() -> None:
    ended = {"valid_from": NOON, "valid_to": WINDOW.cut_off}
    entries = [
        RegistryEntry(strategy="late", priority=1, valid_from=WINDOW.cut_off + INSTANT, valid_to=None, conid=1),
        RegistryEntry(strategy="over", priority=1, conid=1, **ended),  # type: ignore[arg-type]
        RegistryEntry(strategy="z", priority=1, valid_from=NOON, valid_to=None, conid=1),
        RegistryEntry(strategy="a", priority=9, valid_from=NOON, valid_to=None, selector=Selector(symbol="AAPL")),
    ]
    rows = snapshot(day([own(), own(conid=2, symbol="SPX")]), entries=entries)
    assert [row["strategy_ids"] for row in rows] == [["a", "z"], []]


def test_a_day_is_final_from_its_cut_off_on() -> None:
    inputs = day([own()])
    assert one(inputs, now=WINDOW.cut_off - INSTANT)["final"] is False
    assert one(inputs, now=WINDOW.cut_off)["final"] is True


def test_a_running_day_is_read_until_now() -> None:
    rows = [own(NOON, position=1.0), own(NOON + MINUTE, position=2.0)]
    assert one(day(rows, until=NOON), now=NOON)["position"] == 1.0


def test_each_row_names_the_versions_it_was_made_from() -> None:
    row = one(day([own()], versions={"streamed_version": 3, "closes_version": 0, "flex_activity_version": 5}))
    assert (row["streamed_version"], row["queued_version"], row["closes_version"]) == (3, None, 0)
    assert row["flex_activity_version"] == 5
    assert (row["run_id"], row["ingested_at"], row["date"]) == ("run-1", LATER, DAY)


def test_own_logs_alone_can_be_compared_with_flex() -> None:
    inputs = day(
        [priced(account="DU1", position=3.0)],
        statements=[{"account": account} for account in ("DU1", "DU2")],
        flex=[{"account": account, "source": "flex"} for account in ("DU1", "DU2")],
        accounts=["DU1", "DU2"],
    )
    row = one(inputs.own_only())
    assert (row["account"], row["position"], row["position_source"]) == ("DU1", 3.0, "stream")


def test_a_flat_day_is_a_snapshot_without_rows() -> None:
    assert snapshot(by_flex()) == []


def test_the_contract_is_described_by_the_row_of_the_position() -> None:
    described: dict[str, Any] = {
        "local_symbol": "AAPL  260320C00200000",
        "right": "C",
        "strike": 200.0,
        "underlying_conid": 9,
    }
    row = one(day([own(sec_type="OPT", **described)]))
    assert {name: row[name] for name in described} == described
