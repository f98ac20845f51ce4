"""The profit of a day is proven or unknown: sales after hours, transfers, assignments, splits, day trades."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from v6_pipeline.history.daily_pnl import ContractDay, Unknown, contract_days
from v6_pipeline.ib.resets import realized_since
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_STATEMENTS, POSITION_SNAPSHOTS
from v6_pipeline_tests.unit.history.day_builders import BEFORE, NOON, WINDOW, YESTERDAY, table

ES: dict[str, Any] = {"symbol": "ES", "sec_type": "FUT", "multiplier": 50.0}
PUT: dict[str, Any] = {"conid": 2, "sec_type": "OPT", "right": "P", "multiplier": 100.0, "underlying_conid": 1}


def held(position: float, price: float, cost: float, *, unit: float = 1.0, **values: Any) -> dict[str, Any]:
    """A position of the day: ``cost`` is for one unit of it, as ``price``, and ``unit`` is the multiplier."""
    return {
        "position": position,
        "market_price": price,
        "market_value": position * price * unit,
        "unrealized_pnl": position * (price - cost) * unit,
        "average_cost": cost * unit,
        "fx_rate_to_base": 1.0,
        "base_currency": "USD",
        "timestamp": NOON,
        "lowest_price": price,
        "highest_price": price,
    } | values


def was(position: float, price: float, cost: float, *, unit: float = 1.0, **values: Any) -> dict[str, Any]:
    """The same in the session before."""
    earlier: dict[str, Any] = {"date": BEFORE, "timestamp": YESTERDAY}
    return held(position, price, cost, unit=unit) | earlier | values


def closed(price: float | None = None, **values: Any) -> dict[str, Any]:
    """The row of a closed position; ``price`` is the newest of the day."""
    row = held(0.0, price or 0.0, 0.0, **values)
    return row if price else row | {"market_price": None, "lowest_price": None, "highest_price": None}


def of_days(
    now: Sequence[dict[str, Any]],
    before: Sequence[dict[str, Any]],
    *,
    activity: Sequence[dict[str, Any]] = (),
    sections: Sequence[str] = (),
) -> list[ContractDay]:
    return contract_days(
        table(POSITION_SNAPSHOTS, *now),
        table(POSITION_SNAPSHOTS, *before),
        columns=("account", "conid"),
        window=WINDOW,
        activity=table(FLEX_ACTIVITY, *({"ordinal": place} | row for place, row in enumerate(activity))),
        statements=table(FLEX_STATEMENTS, {"sections": list(sections)}) if sections else None,
    )


def one(now: dict[str, Any], before: dict[str, Any] | None = None, **options: Any) -> float | Unknown | None:
    """The profit of one contract, or why it is unknown; the account had another position before."""
    other: dict[str, Any] = {"conid": 99, "symbol": "OTHER"}
    days = of_days([now, held(1, 5, 5, **other)], [was(1, 5, 5, **other), *([before] if before else [])], **options)
    [found] = [item for item in days if item.row["conid"] != 99]
    return found.pnl if found.unknown is None else found.unknown


# --- sales that IB's realized profit does not cover ---


@pytest.mark.parametrize(
    ("now", "before"),
    [
        pytest.param(
            held(1, 6000, 5000, unit=50, realized_pnl=0.0, **ES), was(2, 6000, 5000, unit=50, **ES), id="2 ES, one sold"
        ),
        pytest.param(held(500, 250, 100, realized_pnl=0.0), was(1000, 250, 100), id="500 of 1000 AAPL"),
        pytest.param(held(-500, 250, 300, realized_pnl=0.0), was(-1000, 250, 300), id="short side"),
        pytest.param(held(-500, 250, 250, realized_pnl=0.0), was(1000, 250, 100), id="flip to short"),
        pytest.param(held(500, 250, 250, realized_pnl=0.0), was(-1000, 250, 300), id="flip to long"),
        pytest.param(closed(250, realized_pnl=0.0), was(1000, 250, 100), id="closed"),
        pytest.param(held(500, 250, 249.9, realized_pnl=0.0), was(1000, 250, 249.9), id="cost near the price"),
        pytest.param(held(500, 250, 100, realized_pnl=None), was(1000, 250, 100), id="realized unknown"),
    ],
)
def test_a_sale_that_ib_did_not_report_makes_the_profit_unknown(now: dict[str, Any], before: dict[str, Any]) -> None:
    assert one(now, before) is Unknown.NOT_REALIZED


@pytest.mark.parametrize(
    ("realized", "expected"),
    [
        pytest.param(150_000.0, 0.0, id="the whole sale of 1000"),
        pytest.param(75_000.0, Unknown.NOT_OF_THE_DAY, id="half of it, the other half before the reset"),
        pytest.param(-20.0, Unknown.NOT_OF_THE_DAY, id="a day trade after the reset"),
        pytest.param(160_000.0, Unknown.NOT_OF_THE_DAY, id="with a sale of the day before"),
    ],
)
def test_realized_profit_of_another_period_is_no_profit_of_the_day(realized: float, expected: float | Unknown) -> None:
    found = one(held(1000, 250, 100, realized_pnl=realized), was(2000, 250, 100))
    assert found == expected


@pytest.mark.parametrize("realized", [None, 0.0])
@pytest.mark.parametrize("cost", [29510.650000000005 / 100, 295.1065 * (1 + 1e-6)])
def test_a_cost_that_differs_by_its_rounding_is_no_trade(cost: float, realized: float | None) -> None:
    """A statement and the API round the same average differently."""
    now = held(3, 69.125, cost, unit=100, realized_pnl=realized, **PUT)
    found = one(now, was(3, 127.65, 29510.649999999998 / 100, unit=100, position_source="flex", **PUT))
    assert found == pytest.approx(3 * (69.125 - 127.65) * 100, abs=0.2)


def test_a_cost_that_changed_without_a_realized_profit_is_unknown() -> None:
    assert one(held(3, 70, 61, realized_pnl=None), was(3, 70, 60)) is Unknown.NOT_REALIZED


def test_a_sale_at_a_price_of_the_day_is_proven() -> None:
    now = held(500, 252, 100, lowest_price=246.0, highest_price=255.0, realized_pnl=500 * (248.0 - 100) - 1.0)
    assert one(now, was(1000, 250, 100)) == pytest.approx(500 * 2.0 + 500 * -2.0 - 1.0)
    assert one(closed(255.0, realized_pnl=500 * 155.0), was(500, 250, 100)) == pytest.approx(2500.0)
    es = held(1, 6010, 5000, unit=50, realized_pnl=50 * 1005.0, **ES)
    assert one(es, was(2, 6000, 5000, unit=50, **ES)) == pytest.approx(50 * 10 + 50 * 5)


def test_realized_profit_that_the_day_before_has_already_counts_once() -> None:
    """With market_hours=always the day ends at 04:00, between two resets of IB."""
    night = NOON + timedelta(hours=10)
    before = was(500, 250, 100, realized_pnl=1000.0, realized_time=night - timedelta(hours=1))
    assert one(held(500, 251, 100, realized_pnl=1000.0, realized_time=night), before) == 500.0
    next_night = night + timedelta(days=1)
    assert one(held(500, 251, 100, realized_pnl=1000.0, realized_time=next_night), before) == 1500.0


@pytest.mark.parametrize(
    ("at", "futures", "expected"),
    [
        ((21, 0), False, (20, 30)),
        ((20, 29), False, (-4, 30)),
        ((12, 0), True, (7, 10)),
        ((18, 0), True, (17, 30)),
        ((5, 0), True, (-7, 30)),
    ],
)
def test_ibs_realized_profit_begins_at_its_reset(at: tuple[int, int], futures: bool, expected: tuple[int, int]) -> None:
    """By New York's clock, which is 5 hours behind UTC on that day; a negative hour is of the evening before."""
    midnight = datetime(2026, 3, 6, 5, tzinfo=UTC)
    instant = midnight + timedelta(hours=at[0], minutes=at[1])
    assert realized_since(instant, futures=futures) == midnight + timedelta(hours=expected[0], minutes=expected[1])


# --- growth ---


@pytest.mark.parametrize(
    ("now", "before"),
    [
        pytest.param(held(1000, 300, 0.0, realized_pnl=0.0), None, id="without a cost"),
        pytest.param(held(1000, 300, 180.0, realized_pnl=0.0), None, id="with the cost of the other broker"),
        pytest.param(held(1100, 300, 100 / 11, realized_pnl=0.0), was(100, 300, 100), id="more of it"),
        pytest.param(held(-1000, 300, 400.0, realized_pnl=0.0), None, id="a short position"),
        pytest.param(held(200, 150, 50, realized_pnl=0.0), was(100, 300, 100), id="a split, which needs no cost"),
        pytest.param(held(2, 4.0, 1.0, unit=100, realized_pnl=0.0, **PUT), None, id="options"),
    ],
)
def test_a_position_that_was_transferred_in_is_no_profit(now: dict[str, Any], before: dict[str, Any] | None) -> None:
    assert one(now, before) is Unknown.NO_TRADE_PRICE


def test_a_position_transferred_out_is_no_loss() -> None:
    assert one(held(100, 300, 100, realized_pnl=0.0), was(1000, 300, 100)) is Unknown.NOT_REALIZED


def test_a_purchase_at_a_price_of_the_day_counts_from_that_price() -> None:
    new = held(100, 305, 300.01, lowest_price=298.0, highest_price=306.0, realized_pnl=0.0)
    assert one(new) == pytest.approx(100 * 4.99)
    more = held(200, 305, 202.5, lowest_price=299.0, highest_price=306.0, realized_pnl=0.0)
    assert one(more, was(100, 300, 105)) == pytest.approx(100 * 5 + 100 * 5)
    bought_back = held(-1, 2.0, 2.6, unit=100, realized_pnl=58.0, lowest_price=1.9, highest_price=2.6, **PUT)
    assert one(bought_back, was(-2, 2.5, 2.6, unit=100, **PUT)) == pytest.approx(50 + 48, abs=2)


# --- events with two legs ---


def test_a_weekend_assignment_without_its_option_is_no_loss() -> None:
    """Friday a short put of strike 420; Monday 100 shares at 420, the price is 415."""
    put = was(-1, 5.0, 3.0, unit=100, **PUT)
    shares = held(100, 415, 420, realized_pnl=0.0, lowest_price=414.0, highest_price=420.0)
    found = {item.row["conid"]: (item.pnl, item.unknown) for item in of_days([shares], [put])}
    assert found == {1: (None, Unknown.EVENT), 2: (None, Unknown.NOT_REALIZED)}


def test_an_exercised_long_call_is_known_with_its_shares_or_not_at_all() -> None:
    call = was(1, 15.0, 3.0, unit=100, **PUT | {"right": "C"})
    shares = held(100, 415, 413, realized_pnl=0.0)
    days = of_days([shares, closed(realized_pnl=0.0, **PUT)], [call])
    assert [item.unknown for item in days] == [Unknown.EVENT, Unknown.NOT_REALIZED]
    sold = closed(16.0, realized_pnl=1290.0, **PUT)
    assert [item.pnl for item in of_days([shares, sold], [call])] == [200.0, 90.0]


def test_an_assigned_future_option_is_known_with_its_future_or_not_at_all() -> None:
    fop = {"conid": 2, "sec_type": "FOP", "symbol": "CL", "underlying_conid": 1}
    cl = {"sec_type": "FUT", "symbol": "CL"}
    days = of_days([held(1, 70, 70.1, unit=1000, realized_pnl=0.0, **cl)], [was(-1, 2.0, 1.0, unit=1000, **fop)])
    assert [item.unknown for item in days] == [Unknown.EVENT, Unknown.NOT_REALIZED]


def test_an_option_without_its_underlyings_id_is_matched_by_symbol() -> None:
    put = was(-1, 5.0, 3.0, unit=100, **PUT | {"underlying_conid": None})
    assert [item.unknown for item in of_days([held(100, 415, 420, realized_pnl=0.0)], [put])][:1] == [Unknown.EVENT]


def test_an_expired_option_leaves_an_unchanged_underlying_known() -> None:
    days = of_days([held(100, 416, 400, realized_pnl=0.0)], [was(100, 415, 400), was(-1, 0.1, 3.0, unit=100, **PUT)])
    assert [(item.pnl, item.unknown) for item in days] == [(100.0, None), (None, Unknown.NOT_REALIZED)]


# --- days with a statement ---


def flexed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"position_source": "flex", "lowest_price": None, "highest_price": None}


def booked(quantity: float, kind: str = "trade", **values: Any) -> dict[str, Any]:
    attributes = values.pop("attributes", {})
    pairs = [{"name": name, "value": value} for name, value in attributes.items()]
    return {"quantity": quantity, "kind": kind, "attributes": pairs} | values


def test_a_day_trade_of_a_statement_is_in_the_days_profit() -> None:
    row = flexed(closed(realized_pnl=500.0))
    assert one(row, activity=[booked(100, realized_pnl=0.0), booked(-100, realized_pnl=500.0)]) == 500.0


def test_a_transfer_that_a_statement_values_is_a_flow() -> None:
    row = flexed(held(1000, 302, 0.0))
    attributes = {"positionAmount": "300,000", "direction": "IN"}
    assert one(row, activity=[booked(1000, "transfer", attributes=attributes)]) == 2000.0
    sold = flexed(held(900, 302, 0.0, realized_pnl=30_000.0))
    trade = booked(-100, price=303.0, realized_pnl=30_000.0, attributes={"ibCommission": "-1"})
    assert one(sold, activity=[booked(1000, "transfer", attributes=attributes), trade]) == pytest.approx(2099.0)


def test_a_transfer_out_of_a_statement_is_a_flow_whatever_its_sign() -> None:
    row, before = flexed(held(400, 302, 100)), was(1000, 300, 100, position_source="flex")
    for amount in ("180600", "-180600"):
        out = booked(-600, "transfer", attributes={"positionAmount": amount, "direction": "OUT"})
        assert one(row, before, activity=[out]) == pytest.approx(400 * 2 + 600)
    by_price = booked(-600, "transfer", attributes={"positionAmount": "0", "transferPrice": "301"})
    assert one(row, before, activity=[by_price]) == pytest.approx(400 * 2 + 600)


def test_a_transfer_of_a_future_at_a_negative_price_has_that_sign() -> None:
    row = flexed(held(2, -30, 0.0, unit=1000, symbol="CL", sec_type="FUT"))
    moved = booked(2, "transfer", attributes={"transferPrice": "-31"})
    assert one(row, activity=[moved]) == pytest.approx(2 * 1000)


def test_taxes_are_paid_and_a_commission_in_another_currency_is_not_added() -> None:
    row, before = held(900, 302, 100, position_source="flex"), was(1000, 302, 100)
    taxed = {"ibCommission": "-1", "taxes": "-151", "ibCommissionCurrency": "USD"}
    sold = booked(-100, price=302.0, realized_pnl=20_048.0, attributes=taxed)
    assert one(row, before, activity=[sold]) == pytest.approx(-152.0)
    foreign = booked(-100, price=302.0, realized_pnl=None, attributes={**taxed, "ibCommissionCurrency": "EUR"})
    assert one(row, before, activity=[foreign]) is Unknown.NOT_REALIZED


def test_a_transfer_without_a_value_is_unknown() -> None:
    transfer = booked(1000, "transfer", attributes={"positionAmount": "0", "transferPrice": "--"})
    assert one(flexed(held(1000, 300, 0.0)), activity=[transfer]) is Unknown.TRANSFER


def test_a_change_that_a_statement_does_not_book_is_unknown() -> None:
    row, before = flexed(held(1000, 300, 290, realized_pnl=0.0)), was(900, 299, 290, position_source="flex")
    assert one(row, before) is Unknown.NOT_BOOKED
    assert one(row, before, activity=[booked(50, realized_pnl=0.0)]) is Unknown.NOT_BOOKED
    assert one(row, before, activity=[booked(100, realized_pnl=0.0)]) == 1900.0


def test_a_split_of_a_statement_is_no_profit_and_a_spin_off_is_unknown_on_both_sides() -> None:
    split, before = flexed(held(200, 151, 50)), was(100, 300, 100, position_source="flex")
    assert one(split, before, activity=[booked(100, "corporate_action")]) == pytest.approx(200.0)
    parent = flexed(held(100, 200, 100))
    attributes = {"actionDescription": "AAPL(US0378331005) SPINOFF 1 FOR 1 (NEW, NEWCO, US0000000001)"}
    child = flexed(held(100, 100, 0.0, conid=7, symbol="NEW"))
    action = booked(100, "corporate_action", conid=7, realized_pnl=0.0, attributes=attributes)
    days = of_days([parent, child], [before], activity=[action])
    assert [item.unknown for item in days] == [Unknown.CORPORATE_ACTION] * 2


def test_an_assignment_that_a_statement_books_is_known_on_both_sides() -> None:
    put = was(-1, 5.0, 3.0, unit=100, position_source="flex", **PUT)
    shares = flexed(held(100, 415, 417, realized_pnl=0.0))
    legs = [booked(1, "exercise", conid=2, realized_pnl=0.0), booked(100, "exercise", price=420.0, realized_pnl=0.0)]
    days = of_days([shares], [put], activity=legs)
    assert sum(item.pnl or 0.0 for item in days) == pytest.approx(-200 + 200)
    assert all(item.unknown is None for item in days)


def test_a_restated_cost_is_no_profit_only_if_the_statement_shows_trades() -> None:
    row, before = flexed(held(100, 301, 120)), was(100, 300, 100, position_source="flex")
    assert one(row, before, sections=["OpenPositions", "Trades"]) == pytest.approx(100.0)
    assert one(row, before, sections=["OpenPositions"]) is Unknown.NOT_REALIZED


def test_a_conversion_of_currencies_books_nothing_of_a_position() -> None:
    row, before = flexed(held(100, 301, 100)), was(100, 300, 100, position_source="flex")
    assert one(row, before, activity=[booked(5000, "conversion")]) == pytest.approx(100.0)


def test_a_bond_by_face_and_by_units_is_the_same_position() -> None:
    """A statement has the face, the API units of 1,000: 21,000 and 21 of one bill."""
    bill: dict[str, Any] = {"sec_type": "BILL"}
    face = was(21_000, 98.7, 98.6, unit=0.01, position_source="flex", **bill)
    units = held(21, 98.8, 98.6, unit=10, realized_pnl=0.0, **bill)
    assert one(units, face) == pytest.approx(21.0)
    assert one(flexed(held(21_000, 98.8, 98.6, unit=0.01, **bill)), was(21, 98.7, 98.6, unit=10, **bill)) == (
        pytest.approx(21.0)
    )
    sold = held(11, 98.8, 98.6, unit=10, realized_pnl=0.0, **bill)
    assert one(sold, face) is Unknown.NOT_REALIZED


def test_a_fraction_that_a_statement_rounds_is_the_same_position() -> None:
    before = was(0.012346, 96_902, 99_437, position_source="flex", sec_type="CRYPTO")
    now = held(0.01234567, 96_933, 99_440, realized_pnl=0.0, sec_type="CRYPTO")
    assert one(now, before) == pytest.approx(0.35, abs=0.1)


# --- kinds that the source of the session before does not list ---

EUR: dict[str, Any] = {"conid": 12_087_792, "symbol": "EUR", "sec_type": "CASH"}
STATED: dict[str, Any] = {"position_source": "flex"}


def first_seen(now: dict[str, Any], *before: dict[str, Any]) -> ContractDay:
    """The day of a contract without a row in the session before, which has these rows."""
    [found] = [item for item in of_days([now], before) if item.row["conid"] == now.get("conid", 1)]
    return found


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(held(20_000, 1.20, 1.18, realized_pnl=0.0, **EUR), id="long"),
        pytest.param(held(-20_000, 1.20, 1.18, realized_pnl=0.0, **EUR), id="short"),
        pytest.param(held(20_000, 1.20, 1.18, realized_pnl=50.0, **EUR), id="with a realized profit"),
        pytest.param(closed(1.20, realized_pnl=50.0, **EUR), id="sold today"),
    ],
)
def test_a_currency_first_seen_after_a_statement_has_no_known_profit(now: dict[str, Any]) -> None:
    found = first_seen(now, was(1, 5, 5, conid=99, symbol="OTHER", **STATED))
    assert (found.pnl, found.unknown) == (None, Unknown.NOT_LISTED)


def test_a_currency_first_seen_on_a_day_with_a_statement_has_no_known_profit() -> None:
    now = held(20_000, 1.20, 1.18, realized_pnl=0.0, position_source="portfolio", **EUR)
    other = held(1, 5, 5, conid=99, symbol="OTHER", **STATED)
    before = was(1, 5, 5, conid=99, symbol="OTHER", **STATED)
    days = of_days([now, other], [before])
    assert [(day.row["conid"], day.unknown) for day in days] == [(EUR["conid"], Unknown.NOT_LISTED), (99, None)]


def test_a_currency_bought_after_a_session_whose_currencies_we_saw_is_proven() -> None:
    now = held(20_000, 1.20, 1.199, realized_pnl=0.0, **EUR)
    own = was(1, 5, 5, conid=99, symbol="OTHER")
    assert first_seen(now, own).pnl == pytest.approx(20)
    pound = was(100, 1.3, 1.3, conid=12_087_797, symbol="GBP", sec_type="CASH")
    assert first_seen(now, was(1, 5, 5, conid=99, **STATED), pound).pnl == pytest.approx(20)


def test_a_stock_bought_after_a_statement_is_proven() -> None:
    now = held(100, 305, 300.01, lowest_price=298.0, realized_pnl=0.0)
    assert first_seen(now, was(1, 5, 5, conid=99, **STATED)).pnl == pytest.approx(499)
