"""Exposure: who has which share, what is known of it, and that nothing unknown is added up as 0."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v6_pipeline.history.exposure import UNASSIGNED, allocate, exposure
from v6_pipeline.lake.tables import FLEX_ACTIVITY, PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS
from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.state.registry.assignments import Assignment, RegistryAt, RegistryEntry
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.history.day_builders import AFTER, BEFORE, DAY, LATER, NOON, WINDOW, YESTERDAY, table

AMOUNTS = ("market_value", "daily_pnl", "dollar_delta", "dollar_gamma", "vega", "theta")


def position(**values: Any) -> dict[str, Any]:
    """A stock of 10 at 5, in the base currency."""
    known = {"market_price": 5.0, "market_value": 50.0, "unrealized_pnl": 3.0, "average_cost": 4.7}
    return known | {"fx_rate_to_base": 1.0, "base_currency": "USD", "timestamp": NOON} | values


def option(**values: Any) -> dict[str, Any]:
    """A short put of an underlying at 100."""
    greeks = {"delta": -0.4, "gamma": 0.02, "vega": 0.1, "theta": -0.05, "underlying_price": 100.0}
    described = {"sec_type": "OPT", "right": "P", "strike": 95.0, "expiry": date(2026, 6, 19), "multiplier": 100.0}
    return position(conid=2, position=-2.0, underlying_conid=1, **greeks, **described) | values


def before(**values: Any) -> dict[str, Any]:
    """The stock as it was the session before."""
    return position(date=BEFORE, timestamp=YESTERDAY, unrealized_pnl=1.0) | values


def exposed(
    rows: Sequence[dict[str, Any]],
    previous: Sequence[dict[str, Any]] = (),
    *,
    entries: Sequence[RegistryEntry] = (),
    contracts: dict[int, ContractSpec] | None = None,
    activity: pl.DataFrame | None = None,
) -> list[dict[str, Any]]:
    frame = exposure(
        table(POSITION_SNAPSHOTS, *rows),
        table(POSITION_SNAPSHOTS, *previous),
        window=WINDOW,
        next_session=AFTER,
        registry=RegistryAt(entries, WINDOW.cut_off, day=DAY),
        contracts=contracts or {},
        now=LATER,
        run_id="run-1",
        activity=activity,
        snapshot_version=4,
    )
    assert frame.schema == PORTFOLIO_EXPOSURE.schema
    return frame.to_dicts()


def one(*args: Any, **options: Any) -> dict[str, Any]:
    [row] = exposed(*args, **options)
    return row


def member(strategy: str, conid: int = 1, quantity: float | None = None, priority: int = 1) -> RegistryEntry:
    return RegistryEntry(
        strategy=strategy, priority=priority, valid_from=YESTERDAY, valid_to=None, conid=conid, quantity=quantity
    )


# --- shares ---


@pytest.mark.parametrize(
    ("held", "quantities", "expected"),
    [
        (10, [], [(UNASSIGNED, 1.0)]),
        (10, [None], [("s0", 1.0)]),
        (10, [4], [("s0", 0.4), (UNASSIGNED, 0.6)]),
        (10, [4, None], [("s0", 0.4), ("s1", 0.6)]),
        (10, [8, 8, None], [("s0", 0.8), ("s1", 0.2)]),
        (-10, [-4, 4, None], [("s0", 0.4), ("s2", 0.6)]),
        (10, [-4], [(UNASSIGNED, 1.0)]),
        (0, [4, None], [("s0", 1.0)]),
        (0, [], [(UNASSIGNED, 1.0)]),
    ],
)
def test_strategies_take_their_quantities_in_order(
    held: float, quantities: list[float | None], expected: list[tuple[str, float]]
) -> None:
    assignments = [Assignment(f"s{number}", number, quantity) for number, quantity in enumerate(quantities)]
    shares = allocate(held, assignments)
    assert [strategy for strategy, _ in shares] == [strategy for strategy, _ in expected]
    assert [share for _, share in shares] == pytest.approx([share for _, share in expected])


def test_priority_then_name_decides_who_takes_first() -> None:
    assignments = [Assignment("b", 1, 6), Assignment("a", 1, 6), Assignment("c", 0, 6)]
    assert [strategy for strategy, _ in allocate(10, assignments)] == ["c", "a"]


def test_a_position_of_two_strategies_is_in_both_by_its_share() -> None:
    rows = exposed([position()], [before()], entries=[member("a", quantity=4), member("b", priority=2)])
    assert [(row["strategy"], row["positions"], row["market_value"], row["daily_pnl"]) for row in rows] == [
        ("a", 1, 20.0, pytest.approx(0.8)),
        ("b", 1, 30.0, pytest.approx(1.2)),
    ]


# --- the day's profit ---


def test_daily_profit_is_realized_profit_and_the_change_of_unrealized_profit() -> None:
    assert one([position(realized_pnl=7.0)], [before()])["daily_pnl"] == 9.0


def test_realized_profit_is_0_where_position_and_cost_stayed_and_else_unknown() -> None:
    assert one([position()], [before()])["daily_pnl"] == 2.0
    for changed in ({"position": 9.0}, {"average_cost": 4.0}):
        row = one([position(**changed)], [before()])
        assert (row["daily_pnl"], row["daily_pnl_coverage"]) == (None, 0.0)


def test_a_cost_that_was_restated_overnight_is_no_profit() -> None:
    """Sold at 5.5 of lots at 5 and 6: by the average nothing was realized, by the lots what is left cost 6."""
    restated = position(average_cost=4.0, unrealized_pnl=10.0, realized_pnl=0.0)
    assert one([restated], [before(market_value=49.0)])["daily_pnl"] == 1.0
    assert one([restated | {"market_value": None}], [before()])["daily_pnl"] is None
    assert one([restated], [before(market_value=None)])["daily_pnl"] is None
    traded = restated | {"realized_pnl": 7.0}
    assert one([traded], [before(market_value=49.0)])["daily_pnl"] == 10.0 - 1.0 + 7.0


def test_a_position_that_is_new_had_no_profit_before() -> None:
    rows = [position(conid=3, realized_pnl=0.0), position()]
    assert one([row | {"underlying_conid": 1} for row in rows], [before()])["daily_pnl"] == 5.0
    assert one([position(realized_pnl=0.0)], [before(position=0.0, unrealized_pnl=9.0)])["daily_pnl"] == 3.0


def test_without_a_snapshot_of_the_account_before_it_is_unknown() -> None:
    assert one([position(realized_pnl=7.0)])["daily_pnl"] is None
    assert one([position(realized_pnl=7.0)], [before(account="DU2")])["daily_pnl"] is None


def test_unknown_profit_of_the_session_before_is_not_0() -> None:
    assert one([position()], [before(unrealized_pnl=None)])["daily_pnl"] is None


def test_a_closed_position_counts_for_the_days_profit_alone() -> None:
    closed = position(position=0.0, market_value=0.0, unrealized_pnl=0.0, realized_pnl=4.0)
    rows = exposed([closed], [before()], entries=[member("a", quantity=3), member("b", priority=2)])
    assert [(row["strategy"], row["positions"], row["market_value"]) for row in rows] == [
        ("a", 0, None),
        ("b", 0, None),
    ]
    assert [row["daily_pnl"] for row in rows] == pytest.approx([0.9, 2.1])
    assert {row["greeks_coverage"] for row in rows} == {None}


def test_a_position_that_is_gone_without_a_row_lowers_the_coverage() -> None:
    gone = before(conid=3, underlying_conid=1, expiry=BEFORE)
    row = one([position()], [before(), gone])
    assert (row["positions"], row["daily_pnl"], row["daily_pnl_coverage"]) == (1, 2.0, 50.0)
    assert row["timestamp"] == NOON


def test_a_value_of_the_day_before_is_at_the_rate_of_the_day_before() -> None:
    """Profit in prices at the day's rate, as the broker states it, and the change of the rate apart."""
    old = before(market_value=48.0, unrealized_pnl=1.0, fx_rate_to_base=1.1)
    row = one([position(fx_rate_to_base=1.2)], [old])
    assert (row["daily_pnl"], row["fx_pnl"]) == (pytest.approx(2.4), pytest.approx(4.8))
    assert row["daily_pnl"] + row["fx_pnl"] == pytest.approx(50 * 1.2 - 48 * 1.1)
    assert one([position(fx_rate_to_base=1.2)], [before(fx_rate_to_base=None)])["fx_pnl"] is None
    future = {"sec_type": "FUT", "multiplier": 50.0}
    assert one([position(**future, fx_rate_to_base=1.2)], [old | future])["fx_pnl"] == 0.0
    assert one([position(realized_pnl=0.0)], [before(conid=9, position=0.0)])["fx_pnl"] == 0.0


def test_the_coverage_of_the_daily_profit_is_weighed_by_value() -> None:
    """Of 500 shares nothing is known, of 99 positions of one share all."""
    small = [position(conid=conid, position=1.0, market_value=5.0, unrealized_pnl=0.3) for conid in range(10, 109)]
    large = position(conid=3, position=500.0, market_value=2500.0, unrealized_pnl=150.0, realized_pnl=0.0)
    old = [row | {"date": BEFORE, "timestamp": YESTERDAY} for row in (*small, large)]
    old[-1] |= {"position": 1000.0, "market_value": 5000.0, "unrealized_pnl": 300.0}
    rows = exposed([row | {"underlying_conid": 1} for row in (*small, large)], old)
    [row] = [row for row in rows if row["underlying_conid"] == 1]
    assert row["daily_pnl_coverage"] == pytest.approx(100 * 495 / 5495)
    assert row["daily_pnl_unknown"] == "1 closed, reduced or traded, and no realized profit of the day is known"


def test_the_weight_of_an_unknown_value_makes_the_coverage_of_the_daily_profit_unknown() -> None:
    nothing = {"market_value": None, "unrealized_pnl": None, "average_cost": None}
    rows = [position(), position(conid=3, underlying_conid=1, **nothing)]
    row = one(rows, [before(), before(conid=3, **nothing)])
    assert (row["daily_pnl"], row["daily_pnl_coverage"]) == (2.0, None)


def test_flex_activity_has_what_a_gone_position_realized() -> None:
    gone = before(conid=3, underlying_conid=1)
    booked = {"conid": 3, "quantity": -10.0, "realized_pnl": 6.0, "fx_rate_to_base": 2.0}
    activity = table(FLEX_ACTIVITY, booked, booked | {"ordinal": 1, "activity_date": BEFORE, "realized_pnl": 99.0})
    row = one([position()], [before(), gone], activity=activity)
    assert (row["daily_pnl"], row["daily_pnl_coverage"]) == (12.0, 100.0)


def test_an_account_without_any_row_that_day_lost_nothing() -> None:
    assert len(exposed([position()], [before(), before(account="DU2")])) == 1


# --- greeks ---


def test_greeks_are_in_money_of_the_base_currency() -> None:
    row = one([option(fx_rate_to_base=2.0)])
    assert row["dollar_delta"] == pytest.approx(-2 * 100 * -0.4 * 100 * 2)
    assert row["dollar_gamma"] == pytest.approx(-2 * 100 * 0.02 * 100**2 / 100 * 2)
    assert (row["vega"], row["theta"]) == (pytest.approx(-40.0), pytest.approx(20.0))
    assert row["greeks_coverage"] == 100.0


def test_stocks_have_delta_1_and_no_curvature() -> None:
    row = one([position()])
    assert [row[name] for name in ("dollar_delta", "dollar_gamma", "vega", "theta")] == [50.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("sec_type", [SecType.BOND, SecType.BILL, SecType.COMBO, SecType.OTHER])
def test_a_type_that_may_have_any_delta_has_no_greeks(sec_type: SecType) -> None:
    row = one([position(sec_type=sec_type.value)])
    assert (row["market_value"], row["dollar_delta"], row["greeks_coverage"]) == (50.0, None, None)


@pytest.mark.parametrize("price", [pytest.param(450.0, id="IB: in cents"), pytest.param(4.5, id="Flex: in dollars")])
def test_futures_have_their_value_for_delta_whatever_the_price_is_quoted_in(price: float) -> None:
    corn = ContractSpec(conid=1, symbol="ZC", sec_type=SecType.FUTURE, currency="USD", price_magnifier=100)
    future = position(sec_type="FUT", multiplier=5000.0, market_price=price, market_value=22_500.0, position=1.0)
    row = one([future], contracts={1: corn})
    assert [row[name] for name in ("dollar_delta", "dollar_gamma", "vega", "theta")] == [22_500.0, 0.0, 0.0, 0.0]
    assert one([future | {"fx_rate_to_base": 2.0}], contracts={1: corn})["dollar_delta"] == 45_000.0


def test_the_delta_of_a_stock_without_a_value_is_unknown() -> None:
    row = one([position(market_price=None, market_value=None)])
    assert (row["dollar_delta"], row["greeks_coverage"]) == (None, 0.0)


def test_a_future_is_in_one_row_with_its_options_and_not_with_a_stock_of_its_symbol() -> None:
    product = {"symbol": "ES", "multiplier": 50.0}
    rows = exposed(
        [
            position(symbol="ES", market_value=600.0),
            position(conid=2, sec_type="FUT", underlying_conid=7, market_value=300_000.0, **product),
            option(conid=3, sec_type="FOP", underlying_conid=2, underlying_price=6_000.0, position=-1.0, **product)
            | {"delta": 0.5},
        ]
    )
    assert [(row["underlying"], row["underlying_conid"], row["positions"], row["dollar_delta"]) for row in rows] == [
        ("ES", 1, 1, 600.0),
        ("ES FUT", 7, 2, 300_000.0 - 0.5 * 50 * 6_000.0),
    ]


def test_a_stock_is_in_one_group_with_its_options() -> None:
    row = one([position(), option()])
    assert (row["underlying"], row["underlying_conid"], row["positions"]) == ("AAPL", 1, 2)
    assert row["dollar_delta"] == pytest.approx(50 + 8000)


def test_greeks_that_are_unknown_are_not_0() -> None:
    row = one([position(), option(gamma=None, vega=None, theta=None)])
    assert (row["dollar_gamma"], row["vega"], row["theta"]) == (None, None, None)
    assert row["greeks_coverage"] == pytest.approx(100 * 50 / (50 + 2 * 100 * 100)), "of 50 and 20,000"


def test_one_large_position_without_greeks_outweighs_many_small_ones() -> None:
    small = [option(conid=number, position=-1.0) for number in range(100, 199)]
    row = one([*small, option(position=500.0, delta=None)])
    assert row["greeks_coverage"] == pytest.approx(100 * 99 / 599)


@pytest.mark.parametrize(
    ("unknown", "weight"),
    [
        pytest.param(option(delta=None, underlying_price=None), 2 * 100 * 95, id="an option by its strike"),
        pytest.param(position(conid=3, underlying_conid=1, market_value=None), 10 * 4.7, id="a stock by its cost"),
        pytest.param(option(conid=9, underlying_conid=1, gamma=None, position=3.0), 3 * 100 * 100, id="a long option"),
    ],
)
def test_a_position_without_greeks_has_its_weight_nevertheless(unknown: dict[str, Any], weight: float) -> None:
    row = one([position(market_value=50_000.0), unknown])
    assert row["greeks_coverage"] == pytest.approx(100 * 50_000 / (50_000 + weight))


def test_a_share_that_depends_on_an_unknown_weight_is_unknown() -> None:
    row = one([position(), position(conid=3, underlying_conid=1, market_value=None, average_cost=None)])
    assert row["greeks_coverage"] is None
    without = one([option(underlying_price=None)])
    assert (without["dollar_delta"], without["dollar_gamma"], without["greeks_coverage"]) == (None, None, 0.0)


def test_bonds_have_no_delta() -> None:
    row = one([position(sec_type="BOND")])
    assert (row["market_value"], row["dollar_delta"], row["greeks_coverage"]) == (50.0, None, None)


def test_without_a_rate_nothing_is_known_in_base_currency() -> None:
    row = one([position(fx_rate_to_base=None), position(conid=3, underlying_conid=1)], [before()])
    assert (row["market_value"], row["market_value_coverage"], row["greeks_coverage"]) == (50.0, 50.0, None)
    assert one([position(fx_rate_to_base=None)])["market_value"] is None


# --- short options ---


@pytest.mark.parametrize(
    ("values", "expiring", "in_the_money"),
    [
        ({}, 0, 0),
        ({"expiry": DAY}, 1, 0),
        ({"expiry": AFTER}, 1, 0),
        ({"expiry": date(2026, 3, 10)}, 0, 0),
        ({"expiry": AFTER, "position": 2.0}, 0, 0),
        ({"expiry": DAY - timedelta(days=1), "trading_class": "SPX"}, 1, 0),
        ({"expiry": DAY - timedelta(days=1), "trading_class": "SPXW"}, 0, 0),
        ({"underlying_price": 94.0}, 0, 1),
        ({"underlying_price": 94.0, "right": "C"}, 0, 0),
        ({"underlying_price": 96.0, "right": "C"}, 0, 1),
        ({"underlying_price": 95.0}, 0, 0),
        ({"underlying_price": None, "expiry": DAY}, 1, 0),
        ({"underlying_price": 94.0, "position": 2.0}, 0, 0),
        ({"underlying_price": 94.0, "position": 0.0, "expiry": DAY}, 0, 0),
    ],
)
def test_short_options_that_expire_or_are_in_the_money_are_counted(
    values: dict[str, Any], expiring: int, in_the_money: int
) -> None:
    row = one([option(**values)])
    assert (row["short_options_expiring"], row["short_options_in_the_money"]) == (expiring, in_the_money)


@pytest.mark.parametrize(
    ("stock", "of_option", "magnifier", "in_the_money"),
    [
        pytest.param({"price_time": NOON}, {"greeks_time": YESTERDAY}, 1, 1, id="its own price is newer"),
        pytest.param({"price_time": NOON}, {"greeks_time": None}, 1, 1, id="the greeks have no time"),
        pytest.param({"price_time": NOON}, {"underlying_price": None}, 1, 1, id="there are no greeks"),
        pytest.param({"price_time": YESTERDAY}, {"greeks_time": NOON}, 1, 0, id="the greeks are newer"),
        pytest.param({"price_time": None}, {"greeks_time": YESTERDAY}, 1, 0, id="its own price has no time"),
        pytest.param({"price_time": NOON}, {"greeks_time": YESTERDAY}, 100, 0, id="it is quoted in cents"),
        pytest.param({"conid": 7, "price_time": NOON}, {"greeks_time": YESTERDAY}, 1, 0, id="of something else"),
    ],
)
def test_an_option_is_in_the_money_by_the_newest_price_of_the_underlying(
    stock: dict[str, Any], of_option: dict[str, Any], magnifier: int, in_the_money: int
) -> None:
    """The greeks of a contract that found a line seldom may be of the morning."""
    underlying = ContractSpec(conid=1, symbol="AAPL", sec_type=SecType.STOCK, currency="USD", price_magnifier=magnifier)
    rows = exposed([position(market_price=94.0) | stock, option() | of_option], contracts={1: underlying})
    assert sum(row["short_options_in_the_money"] for row in rows) == in_the_money


def test_a_row_says_what_it_is_made_of() -> None:
    row = one([position(final=True), option(final=False)])
    assert (row["final"], row["snapshot_version"], row["base_currency"]) == (False, 4, "USD")
    assert (row["date"], row["timestamp"], row["run_id"]) == (DAY, NOON, "run-1")


def test_a_flat_day_has_no_exposure() -> None:
    assert exposed([]) == []


# --- sums ---

_unknown_or = st.one_of(st.none(), st.sampled_from([-2.0, 0.0, 0.5, 3.0]))
_names = st.sampled_from(["a", "b", "c"])


@st.composite
def portfolios(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[RegistryEntry]]:
    def held(conid: int, **values: Any) -> dict[str, Any]:
        made = option if draw(st.booleans()) else position
        names = ("market_value", "unrealized_pnl", "realized_pnl", "delta", "gamma", "vega", "fx_rate_to_base")
        given = {name: draw(_unknown_or) for name in names}
        quantity = draw(st.sampled_from([-7.0, -1.0, 0.0, 3.0, 10.0]))
        return made(conid=conid, underlying_conid=draw(st.sampled_from([1, 9])), position=quantity, **given) | values

    conids = draw(st.lists(st.integers(1, 5), unique=True, max_size=5))
    earlier = draw(st.lists(st.integers(1, 5), unique=True, max_size=5))
    entries = draw(
        st.lists(
            st.builds(member, _names, st.integers(1, 5), st.sampled_from([None, -3.0, 2.0, 5.0]), st.integers(0, 2)),
            max_size=6,
            unique_by=lambda entry: (entry.strategy, entry.conid),
        )
    )
    return [held(conid) for conid in conids], [held(conid, date=BEFORE) for conid in earlier], entries


@settings(max_examples=examples(150), deadline=None)
@given(portfolios())
def test_sums_over_strategies_are_the_accounts_own_and_nothing_unknown_is_0(
    given_: tuple[list[dict[str, Any]], list[dict[str, Any]], list[RegistryEntry]],
) -> None:
    rows, previous, entries = given_
    split, whole = exposed(rows, previous, entries=entries), exposed(rows, previous)
    assert {row["strategy"] for row in whole} <= {UNASSIGNED}
    for total in whole:
        parts = [row for row in split if row["underlying_conid"] == total["underlying_conid"]]
        for name in AMOUNTS:
            known = [part[name] for part in parts if part[name] is not None]
            if total[name] is None:
                assert not any(known)
            else:
                assert sum(known) == pytest.approx(total[name])
        for part in (total, *parts):
            assert (part["market_value"] is None) == (not part["market_value_coverage"])
            coverage = part["daily_pnl_coverage"]
            if part["daily_pnl"] is None:
                assert coverage == 0
            assert (coverage == 100) == (part["daily_pnl_unknown"] is None)


def test_a_currency_first_seen_after_a_statement_has_no_known_profit_or_rate_effect() -> None:
    euro = {"conid": 12_087_792, "symbol": "EUR", "sec_type": "CASH"}
    row = one([position(**euro, realized_pnl=0.0)], [before(conid=9, position=0.0, position_source="flex")])
    assert (row["daily_pnl"], row["fx_pnl"]) == (None, None)
    assert row["daily_pnl_unknown"] == "1 the source of the session before does not list contracts of this kind"
    assert row["daily_pnl_coverage"] == 0.0
