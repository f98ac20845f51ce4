"""Flex statements as rows: what the broker said, in the tables' own terms, and nothing made up."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import FlexError
from v6_pipeline.flex.model import FlexActivityKind, FlexPosition, FlexStatement
from v6_pipeline.flex.rows import FlexDay, flex_activity_rows, flex_position_rows, flex_statement_rows
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_POSITIONS, FLEX_STATEMENTS
from v6_pipeline.lake.validation import conform
from v6_pipeline_tests.unit.flex.flex_builders import FRIDAY, GENERATED, MONDAY, SUNDAY, activity, position, statement

CLOSE = datetime(2026, 3, 2, 21, tzinfo=UTC)
INGESTED = datetime(2026, 3, 4, 9, tzinfo=timezone(timedelta(hours=1)))
OF = FlexDay(day=MONDAY, calendar=TradingCalendar(), run_id="run 1", ingested_at=INGESTED)
NO_NUMBERS = [math.nan, math.inf, -math.inf, 1.7976931348623157e308]


def on(day: date) -> FlexDay:
    return FlexDay(day=day, calendar=OF.calendar, run_id=OF.run_id, ingested_at=OF.ingested_at)


def row_of(held: FlexPosition, **given: Any) -> dict[str, Any]:
    return flex_position_rows([statement(positions=(held,), **given)], OF).row(0, named=True)


def frames(statements: list[FlexStatement]) -> list[pl.DataFrame]:
    origins = {each.account: "a.xml" for each in statements}
    return [
        flex_statement_rows(statements, OF, origins=origins),
        flex_position_rows(statements, OF),
        flex_activity_rows(statements, OF),
    ]


@pytest.mark.parametrize("filled", [True, False], ids=["filled", "flat"])
def test_rows_are_what_the_tables_accept_as_they_are(filled: bool) -> None:
    held = (position(1), position(2, sec_type="XYZ")) if filled else ()
    done = (activity(1), activity(1)) if filled else ()
    given = [statement(account, positions=held, activities=done) for account in ("U2", "U1")]

    for frame, spec in zip(frames(given), (FLEX_STATEMENTS, FLEX_POSITIONS, FLEX_ACTIVITY), strict=True):
        assert frame.schema == spec.schema
        assert conform(frame, spec, partition=str(MONDAY)).equals(frame)


def test_a_day_without_statements_has_no_rows() -> None:
    assert [frame.height for frame in frames([])] == [0, 0, 0]


def test_a_flat_account_is_a_statement_without_positions() -> None:
    statements, positions, _ = frames([statement()])
    assert statements.get_column("positions").to_list() == [0]
    assert positions.height == 0


@pytest.mark.parametrize(
    ("sec_type", "quantity", "mark", "given", "multiplier", "price", "value"),
    [
        ("STK", 100, 13.9, None, 1, 13.9, 1390),
        ("STK", 100, 1390, 1390, 1, 13.9, 1390),
        ("STK", -100, 1390, -1389.96, 1, 13.9, -1389.96),
        ("STK", 100, 13.9, 1390, None, 13.9, 1390),
        ("FUT", 2, 4.5125, None, 5000, 4.5125, 45_125),
        ("FUT", 2, 451.25, 45_125, 5000, 4.5125, 45_125),
        ("FUT", 2, 4.5125, None, None, 4.5125, None),
        ("BOND", 10_000, 98.5, None, 1, 98.5, 9850),
        ("BOND", 10_000, 0.985, 9850, 1, 98.5, 9850),
        ("BILL", 21_000, 98.8, None, 1, 98.8, 20_748),
        ("STK", 100, 13.9, 1000, 1, 13.9, 1000),
        ("STK", 100, 0, None, 1, 0, 0),
    ],
)
def test_marks_are_in_units_of_the_currency_and_give_a_value_that_is_missing(
    sec_type: str,
    quantity: float,
    mark: float,
    given: float | None,
    multiplier: float | None,
    price: float,
    value: float | None,
) -> None:
    held = position(sec_type=sec_type, position=quantity, mark_price=mark, position_value=given, multiplier=multiplier)
    row = row_of(held)
    assert row["market_price"] == pytest.approx(price)
    assert row["market_value"] == (value if value is None else pytest.approx(value))


def test_a_statement_row_names_its_file() -> None:
    given = statement(
        from_date=FRIDAY,
        generated_at=GENERATED.astimezone(timezone(timedelta(hours=-5))),
        sections=frozenset({"Trades", "OpenPositions"}),
        query_name="all",
        base_currency="EUR",
        positions=(position(1), position(2)),
        activities=(activity(),),
    )

    row = flex_statement_rows([given], OF, origins={"U1": "a.xml"}).row(0, named=True)

    assert row == {
        "date": MONDAY,
        "account": "U1",
        "from_date": FRIDAY,
        "to_date": MONDAY,
        "query_name": "all",
        "base_currency": "EUR",
        "positions": 2,
        "activities": 1,
        "sections": ["OpenPositions", "Trades"],
        "sha256": f"U1 {MONDAY}",
        "not_in_query": [],
        "origin": "a.xml",
        "timestamp": GENERATED,
        "run_id": "run 1",
        "ingested_at": INGESTED,
    }


def test_an_option_is_a_row_as_our_own_logs_have_it() -> None:
    held = position(
        5,
        symbol="AAPL  260618C00260000",
        underlying_symbol="AAPL",
        underlying_conid=265598,
        sec_type="OPT",
        right="C",
        strike=260.0,
        expiry=date(2026, 6, 18),
        multiplier=100.0,
        position=-5.0,
        mark_price=10.0,
        position_value=-5000.0,
        cost_basis_money=-4000.0,
        unrealized_pnl=-1000.0,
        accrued_interest=0.0,
        fx_rate_to_base=0.9,
        report_date=MONDAY,
        attributes=(("isin", "X"), ("side", "Short")),
    )

    row = row_of(held, base_currency="EUR")

    expected = {
        "date": MONDAY,
        "account": "U1",
        "conid": 5,
        "symbol": "AAPL",
        "local_symbol": "AAPL  260618C00260000",
        "sec_type": "OPT",
        "right": "C",
        "strike": 260.0,
        "expiry": date(2026, 6, 18),
        "multiplier": 100.0,
        "currency": "USD",
        "underlying_conid": 265598,
        "position": -5.0,
        "average_cost": 800.0,
        "market_price": 10.0,
        "market_value": -5000.0,
        "unrealized_pnl": -1000.0,
        "price_source": "flex",
        "price_time": CLOSE,
        "base_currency": "EUR",
        "fx_rate_to_base": 0.9,
        "timestamp": CLOSE,
        "accrued_interest": 0.0,
        "attributes": [{"name": "isin", "value": "X"}, {"name": "side", "value": "Short"}],
        "source": "flex",
        "run_id": "run 1",
        "ingested_at": INGESTED,
    }
    assert {name: value for name, value in row.items() if value is not None} == expected


@pytest.mark.parametrize(
    ("category", "underlying", "symbol"),
    [
        ("OPT", "SPX", "SPX"),
        ("FUT", "SPX", "SPX"),
        ("FOP", "SPX", "SPX"),
        ("OPT", None, "LOCAL"),
        ("STK", "SPX", "LOCAL"),
        ("WAR", "SPX", "LOCAL"),
        ("BOND", "SPX", "LOCAL"),
    ],
)
def test_only_derivatives_are_called_by_their_underlying_and_only_if_it_is_known(
    category: str, underlying: str | None, symbol: str
) -> None:
    row = row_of(position(symbol="LOCAL", sec_type=category, underlying_symbol=underlying))
    assert (row["symbol"], row["local_symbol"]) == (symbol, "LOCAL")


@pytest.mark.parametrize(
    "category",
    ["STK", "OPT", "FUT", "FOP", "CASH", "BOND", "FUND", "WAR", "CFD", "CMDTY", "BILL", "CRYPTO", "IND"],
)
def test_a_known_category_is_the_security_type(category: str) -> None:
    row = row_of(position(sec_type=category))
    assert (row["sec_type"], row["attributes"]) == (category, [])


@pytest.mark.parametrize(("category", "sec_type"), [("FSFOP", "FOP"), ("FSOPT", "OPT")])
def test_an_option_margined_like_a_future_is_an_option(category: str, sec_type: str) -> None:
    row = row_of(position(symbol="OGBL  260619C00132000", sec_type=category, underlying_symbol="FGBL"))
    assert (row["sec_type"], row["symbol"]) == (sec_type, "FGBL")


def test_a_category_that_we_do_not_list_is_the_security_type_as_ib_writes_it() -> None:
    row = row_of(position(sec_type="IOPT", attributes=(("accountId", "U1"), ("side", "Long"))))
    assert row["sec_type"] == "IOPT"
    assert row["attributes"] == [{"name": "accountId", "value": "U1"}, {"name": "side", "value": "Long"}]


def test_attributes_stay_with_their_position() -> None:
    given = [(), (("a", "1"), ("b", "2")), (), (("a", "3"),)]
    held = tuple(position(conid, attributes=attributes) for conid, attributes in enumerate(given))

    kept = flex_position_rows([statement(positions=held)], OF).get_column("attributes").to_list()

    assert [tuple((pair["name"], pair["value"]) for pair in row) for row in kept] == given


@pytest.mark.parametrize("unset", NO_NUMBERS)
def test_an_amount_that_is_not_a_number_is_unknown(unset: float) -> None:
    names = ("mark_price", "position_value", "cost_basis_money", "unrealized_pnl", "accrued_interest", "strike")
    more = ("multiplier", "fx_rate_to_base")
    given: dict[str, Any] = dict.fromkeys((*names, *more), unset)
    row = row_of(position(**given))
    columns = ("market_price", "market_value", "average_cost", "unrealized_pnl", "accrued_interest", "strike", *more)
    assert {name: row[name] for name in columns} == dict.fromkeys(columns)


def test_without_a_mark_there_is_no_source_of_a_price_and_the_value_stays() -> None:
    row = row_of(position(mark_price=None, position_value=25_000.0))
    assert (row["market_price"], row["price_source"], row["price_time"]) == (None, None, None)
    assert row["market_value"] == 25_000.0


def test_a_mark_and_value_are_taken_as_given_and_not_computed() -> None:
    bond = position(sec_type="BOND", position=10_000.0, mark_price=98.5, position_value=9_850.0)
    row = row_of(bond)
    assert (row["market_price"], row["market_value"]) == (98.5, 9_850.0)


def test_a_position_of_zero_has_no_average_cost() -> None:
    assert row_of(position(position=0.0, cost_basis_money=0.0))["average_cost"] is None


@pytest.mark.parametrize("unset", NO_NUMBERS)
def test_a_position_that_is_not_a_number_is_refused(unset: float) -> None:
    with pytest.raises(FlexError, match=r"^U1 on 2026-03-02: conid 265598 \(AAPL\) has position .*not a quantity$"):
        row_of(position(position=unset))


def test_rows_are_in_order_of_account_and_contract() -> None:
    given = [statement(account, positions=(position(9), position(3))) for account in ("U2", "U1")]
    rows = flex_position_rows(given, OF).select("account", "conid").rows()
    assert rows == [("U1", 3), ("U1", 9), ("U2", 3), ("U2", 9)]


@pytest.mark.parametrize("reported", [None, FRIDAY, SUNDAY])
def test_a_statement_to_a_sunday_is_fridays_under_either_date(reported: date | None) -> None:
    weekend = statement(from_date=FRIDAY, to_date=SUNDAY, positions=(position(report_date=reported),))
    row = flex_position_rows([weekend], on(FRIDAY)).row(0, named=True)
    assert (row["date"], row["timestamp"]) == (FRIDAY, datetime(2026, 2, 27, 21, tzinfo=UTC))


def test_an_early_close_is_when_that_days_positions_were_held() -> None:
    early = date(2025, 11, 28)
    row = flex_position_rows([statement(day=early, positions=(position(),))], on(early)).row(0, named=True)
    assert row["timestamp"] == datetime(2025, 11, 28, 18, tzinfo=UTC)


def test_a_position_that_is_reported_for_another_day_is_refused() -> None:
    with pytest.raises(FlexError, match=r"^U1 on 2026-03-02: conid 265598 \(AAPL\) has reportDate 2026-02-27"):
        row_of(position(report_date=FRIDAY), from_date=FRIDAY)


@pytest.mark.parametrize("make", [flex_position_rows, flex_activity_rows])
def test_a_statement_of_another_day_is_refused(make: Any) -> None:
    with pytest.raises(
        FlexError, match=r"^the statement of U1 for 2026-02-27 to 2026-02-27 does not cover 2026-03-02$"
    ):
        make([statement(day=FRIDAY)], OF)


def test_a_statement_row_of_another_day_is_refused() -> None:
    with pytest.raises(FlexError, match="does not cover"):
        flex_statement_rows([statement(day=FRIDAY)], OF, origins={"U1": "a.xml"})


def test_activity_is_in_the_statements_order_with_its_own_day() -> None:
    trade = activity(
        7,
        symbol="AAPL",
        currency="USD",
        price=250.0,
        realized_pnl=-1.5,
        fx_rate_to_base=1.0,
        transaction_id="42",
        activity_date=FRIDAY,
        attributes=(("exchange", "NASDAQ"),),
    )
    given = statement(
        from_date=FRIDAY, activities=(trade, activity(3, kind=FlexActivityKind.EXERCISE, quantity=-1.0, price=math.nan))
    )

    first, second = flex_activity_rows([given], OF).rows(named=True)

    assert first == {
        "date": MONDAY,
        "account": "U1",
        "conid": 7,
        "ordinal": 0,
        "kind": "trade",
        "activity_date": FRIDAY,
        "quantity": 10.0,
        "symbol": "AAPL",
        "currency": "USD",
        "price": 250.0,
        "realized_pnl": -1.5,
        "fx_rate_to_base": 1.0,
        "transaction_id": "42",
        "attributes": [{"name": "exchange", "value": "NASDAQ"}],
        "timestamp": CLOSE,
        "run_id": "run 1",
        "ingested_at": INGESTED,
    }
    assert (second["ordinal"], second["kind"], second["quantity"], second["price"]) == (1, "exercise", -1.0, None)


@pytest.mark.parametrize("unset", NO_NUMBERS)
def test_a_quantity_that_is_not_a_number_is_refused(unset: float) -> None:
    with pytest.raises(FlexError, match=r"^U1 on 2026-03-02: conid 7 has quantity .*not a quantity$"):
        flex_activity_rows([statement(activities=(activity(7, quantity=unset),))], OF)
