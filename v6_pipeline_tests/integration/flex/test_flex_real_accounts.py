"""What statements of real accounts hold, from the dropped file to the tables of the days and the checks on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from v6_pipeline.doctor.statements import examine_statements
from v6_pipeline.history.context import Failed, Made
from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.paper.flex_statements import FlexQuery, statements
from v6_pipeline.state.account import contracts
from v6_pipeline_tests.integration.flex.flex_rig import past
from v6_pipeline_tests.integration.flex.statement_days import ACCOUNT, CALENDAR, StatementDays, statement_days
from v6_pipeline_tests.unit.flex.test_reader import document, element, statement

THURSDAY, FRIDAY, MONDAY = date(2026, 11, 19), date(2026, 11, 20), date(2026, 11, 23)
TUESDAY, WEDNESDAY = date(2026, 11, 24), date(2026, 11, 25)
AFTER_THANKSGIVING = date(2026, 11, 27)
EMPTY = {"Trades": "", "OptionEAE": "", "Transfers": "", "CorporateActions": ""}


@pytest.fixture
def days(tmp_path: Path) -> Iterator[StatementDays]:
    made = statement_days(tmp_path)
    yield made
    made.context.database.close()


def held(days: StatementDays, day: date) -> dict[str, float]:
    rows = days.rows("position_snapshots", day).filter(pl.col("position") != 0)
    return dict(rows.select("local_symbol", "position").iter_rows())


def assert_explained(days: StatementDays, *of: date) -> None:
    for day in of:
        verdict = days.explained(day)
        assert (verdict.passed, verdict.numbers.get("unexplained")) == (True, 0), f"{day}: {verdict.reason}"


def row(day: date, conid: int, symbol: str, **changes: object) -> dict[str, object]:
    """A row of any section, in dollars, of a stock unless the changes say otherwise."""
    shared = {"accountId": ACCOUNT, "currency": "USD", "fxRateToBase": "1", "assetCategory": "STK"}
    return {**shared, "conid": conid, "symbol": symbol, "reportDate": f"{day:%Y%m%d}", **changes}


def of_day(day: date, *held: dict[str, object], account: str = ACCOUNT, last: date | None = None, **rows: str) -> str:
    """A statement; `rows` are the XML rows of a section, by its name."""
    filled = [element("OpenPosition", {"multiplier": 1, "markPrice": 10, "costBasisMoney": 0, **one}) for one in held]
    sections = (element(name, inside=inside) for name, inside in {**EMPTY, **rows}.items())
    return statement(
        element("AccountInformation", {"accountId": account, "currency": "USD"}),
        element("OpenPositions", inside="".join(filled)),
        *sections,
        accountId=account,
        fromDate=f"{day:%Y%m%d}",
        toDate=f"{last or day:%Y%m%d}",
        whenGenerated=f"{last or day:%Y%m%d};230000 EST",
    )


def trade(day: date, conid: int, symbol: str, quantity: float, **changes: object) -> str:
    shared = {"quantity": quantity, "tradeDate": f"{day:%Y%m%d}", "transactionType": "ExchTrade", "tradePrice": 10}
    return element("Trade", row(day, conid, symbol, levelOfDetail="EXECUTION", **{**shared, **changes}))


# Bookings of Friday on Monday


def test_a_friday_expiry_is_booked_on_monday_once(days: StatementDays) -> None:
    days.drop_sample("friday_expiry_booked_monday.xml")
    days.made(THURSDAY, TUESDAY)

    option = "MSTR  261120C00500000"
    assert held(days, FRIDAY) == {"MSTR": 10, option: -1}
    assert held(days, MONDAY) == {"MSTR": 10}
    [booked] = days.rows("flex_activity").rows(named=True)
    assert (booked["date"], booked["activity_date"], booked["kind"]) == (MONDAY, MONDAY, "exercise")
    assert (booked["quantity"], booked["realized_pnl"]) == (1, 250)
    assert_explained(days, FRIDAY, MONDAY, TUESDAY)
    assert days.pnl(MONDAY) == {"MSTR": pytest.approx(250 * 0.88)}
    assert days.pnl(TUESDAY) == {"MSTR": 0}


def test_a_friday_assignment_is_booked_on_monday_with_both_legs(days: StatementDays) -> None:
    days.drop_sample("friday_assignment_booked_monday.xml")
    days.made(FRIDAY, MONDAY)

    assert held(days, MONDAY) == {"XYZ": 10, "MSTR": 100}
    [shares] = days.rows("position_snapshots", MONDAY).filter(pl.col("conid") == 8314).rows(named=True)
    assert shares["average_cost"] == pytest.approx(420 - 2.5), "less the premium"
    assert_explained(days, MONDAY)
    # The put was worth -1,000 and is gone; the shares cost 42,000 and are worth 41,200.
    assert days.pnl(MONDAY) == {"XYZ": 0, "MSTR": pytest.approx((1000 - 800) * 0.88)}


CALL = {"assetCategory": "OPT", "multiplier": 100, "strike": 100, "putCall": "C", "underlyingConid": 1}


def test_exercise_of_long_calls_before_a_holiday_is_booked_after_it(days: StatementDays) -> None:
    """Expiry on the Thursday before Good Friday (2026-04-03): traded on Thursday, booked on Monday."""
    thursday, monday = date(2026, 4, 2), date(2026, 4, 6)
    terms = {**CALL, "expiry": "20260402", "underlyingSymbol": "AA"}
    option = row(thursday, 7, "AA  260402C00100000", position=2, positionValue=2000, **terms)
    booked = {"transactionType": "BookTrade", "notes": "Ex", "reportDate": f"{monday:%Y%m%d}"}
    trades = trade(thursday, 7, "AA  260402C00100000", -2, **{"assetCategory": "OPT", "tradeID": 1, **booked})
    trades += trade(thursday, 1, "AA", 200, **{"tradeID": 2, **booked})
    days.drop(
        "days.xml",
        document(
            of_day(thursday, option),
            of_day(monday, row(monday, 1, "AA", position=200, positionValue=22_000), Trades=trades),
        ),
    )
    days.made(thursday, monday)
    assert held(days, thursday) == {"AA  260402C00100000": 2}
    assert held(days, monday) == {"AA": 200}
    assert_explained(days, monday)


@pytest.mark.parametrize(
    ("expires", "booked"),
    [(date(2026, 11, 27), date(2026, 11, 30)), (date(2026, 12, 16), date(2026, 12, 17))],
    ids=["early_close_friday", "wednesday"],
)
def test_expiries_of_other_days_are_booked_on_the_day_that_the_row_has(
    days: StatementDays, expires: date, booked: date
) -> None:
    option = row(expires, 7, "AA  261127C00100000", position=-3, positionValue=0, **CALL, expiry=f"{expires:%Y%m%d}")
    stock = {"position": 5, "positionValue": 50}
    expired = trade(
        expires, 7, "AA", 3, assetCategory="OPT", transactionType="BookTrade", notes="Ep", reportDate=f"{booked:%Y%m%d}"
    )
    days.drop(
        "days.xml",
        document(
            of_day(expires, option, row(expires, 1, "AA", **stock)),
            of_day(booked, row(booked, 1, "AA", **stock), Trades=expired),
        ),
    )
    days.made(expires, booked)
    assert days.rows("flex_activity").select("activity_date", "kind").row(0) == (booked, "exercise")
    assert_explained(days, booked)


def test_an_expiry_that_only_option_eae_has_without_a_report_date_is_booked_in_its_statement(
    days: StatementDays,
) -> None:
    option = row(FRIDAY, 7, "AA  261120C00100000", position=1, positionValue=1, **CALL, expiry="20261120")
    stock = {"position": 5, "positionValue": 50}
    given = row(FRIDAY, 7, "AA", quantity=-1, date="20261120", transactionType="Expiration", realizedPnl=-40)
    del given["reportDate"]
    days.drop(
        "days.xml",
        document(
            of_day(FRIDAY, option, row(FRIDAY, 1, "AA", **stock)),
            of_day(MONDAY, row(MONDAY, 1, "AA", **stock), OptionEAE=element("OptionEAE", given)),
        ),
    )
    days.made(FRIDAY, MONDAY)
    assert_explained(days, MONDAY)
    assert days.rows("flex_activity").select("activity_date", "realized_pnl").row(0) == (MONDAY, -40)


# Cash settlement


def settled(**more: object) -> tuple[str, str]:
    booked = {"transactionType": "BookTrade", "notes": "A", "tradePrice": 0, "proceeds": 0, "tradeID": 5}
    trades = trade(MONDAY, 7, "SPX", 1, assetCategory="OPT", **{**booked, **more})
    assigned = row(MONDAY, 7, "SPX", quantity=1, date="20261123", transactionType="Assignment", tradeID=5)
    cash = {"transactionType": "Cash Settlement", "proceeds": -1500, "realizedPnl": 0, "tradeID": 6}
    cash_row = row(MONDAY, 7, "SPX", quantity=0, date="20261123", **cash)
    return trades, element("OptionEAE", assigned) + element("OptionEAE", cash_row)


@pytest.mark.parametrize(
    ("of_trade", "expected"),
    [
        ({"fifoPnlRealized": 400}, -1100),
        ({"fifoPnlRealized": 400, "cost": 400}, -1100),
        ({"fifoPnlRealized": -1100, "cost": 400}, -1100),
    ],
    ids=["cost_unknown", "apart", "contained"],
)
def test_the_cash_of_a_settled_index_option_is_in_the_days_profit_once(
    days: StatementDays, of_trade: dict[str, float], expected: float
) -> None:
    option = row(FRIDAY, 7, "SPX", position=-1, positionValue=-1200, **CALL, underlyingSymbol="SPX", expiry="20261123")
    stock = {"position": 5, "positionValue": 50}
    trades, events = settled(**of_trade)
    days.drop(
        "days.xml",
        document(
            of_day(FRIDAY, option, row(FRIDAY, 1, "AA", **stock)),
            of_day(MONDAY, row(MONDAY, 1, "AA", **stock), Trades=trades, OptionEAE=events),
        ),
    )
    days.made(FRIDAY, MONDAY)
    assert_explained(days, MONDAY)
    assert days.rows("flex_activity").get_column("realized_pnl").sum() == expected


# Levels of detail, accounts, conversions


def test_a_corporate_action_on_two_levels_counts_once(days: StatementDays) -> None:
    days.drop_sample("corporate_action_two_levels.xml")
    days.made(MONDAY, TUESDAY)
    assert held(days, MONDAY) == {"ZT0": 24}
    assert held(days, TUESDAY) == {"VNOM": 24}
    assert days.rows("flex_activity").select("conid", "quantity").rows() == [(665375414, -24), (808825105, 24)]
    assert_explained(days, TUESDAY)


def test_futures_under_the_account_number_with_a_letter_belong_to_the_account(days: StatementDays) -> None:
    days.drop_sample("futures_under_account_suffix.xml")
    days.made(MONDAY, TUESDAY)
    booked = days.rows("flex_activity")
    assert booked.select("account", "conid", "quantity").rows() == [(ACCOUNT, 310773603, 1), (ACCOUNT, 310773603, -1)]
    assert_explained(days, TUESDAY)


def test_a_statement_of_the_futures_of_an_account_is_a_part_of_the_accounts_own(days: StatementDays) -> None:
    future = row(MONDAY, 9, "FDAX DEC 26", accountId=f"{ACCOUNT}F", assetCategory="FUT", position=1, positionValue=7)
    own = of_day(MONDAY, row(MONDAY, 1, "AA", position=5, positionValue=50))
    days.drop("days.xml", document(own, of_day(MONDAY, future, account=f"{ACCOUNT}F")))
    days.made(MONDAY, MONDAY)
    assert held(days, MONDAY) == {"AA": 5, "FDAX DEC 26": 1}
    assert days.rows("flex_statements").get_column("account").to_list() == [ACCOUNT]


def test_a_statement_of_another_account_is_no_part_of_it(days: StatementDays) -> None:
    own = of_day(MONDAY, row(MONDAY, 1, "AA", position=5, positionValue=50))
    other = of_day(
        MONDAY, row(MONDAY, 1, "AA", accountId="U0000002F", position=6, positionValue=60), account="U0000002F"
    )
    days.drop("days.xml", document(own, other))
    days.made(MONDAY, MONDAY)
    assert days.rows("flex_statements").get_column("account").to_list() == [ACCOUNT, "U0000002F"]


def test_conversions_of_currencies_are_no_positions(days: StatementDays) -> None:
    days.drop_sample("currency_conversion_among_trades.xml")
    days.made(MONDAY, TUESDAY)
    kinds = days.rows("flex_activity").select("kind", "quantity").rows()
    assert kinds == [("trade", 20), ("conversion", -3500), ("conversion", -0.15)]
    assert held(days, TUESDAY) == {"AAPL": 30}
    assert_explained(days, TUESDAY)


def test_a_currency_that_is_listed_as_a_position_needs_no_explanation_and_a_crypto_coin_does(
    days: StatementDays,
) -> None:
    def both(day: date, cash: float, coins: float) -> tuple[dict[str, object], dict[str, object]]:
        return (
            row(day, 2, "EUR.USD", assetCategory="CASH", position=cash, positionValue=1),
            row(day, 3, "BTC", assetCategory="CRYPTO", position=coins, positionValue=1),
        )

    conversion = trade(TUESDAY, 2, "EUR.USD", -3500, assetCategory="CASH", buySell="SELL")
    days.drop(
        "days.xml",
        document(of_day(MONDAY, *both(MONDAY, 1, 1)), of_day(TUESDAY, *both(TUESDAY, 9, 2), Trades=conversion)),
    )
    days.made(MONDAY, TUESDAY)
    verdict = days.explained(TUESDAY)
    assert (verdict.passed, verdict.numbers["unexplained"]) == (False, 1)
    assert f"{ACCOUNT}/3 1 to 2" in verdict.reason


# Closed days


def test_a_european_trade_on_a_us_holiday_belongs_to_the_next_session(days: StatementDays) -> None:
    days.drop_sample("european_trade_on_us_holiday.xml")
    days.made(WEDNESDAY, AFTER_THANKSGIVING)
    [booked] = days.rows("flex_activity").rows(named=True)
    assert (booked["date"], booked["quantity"], booked["realized_pnl"]) == (AFTER_THANKSGIVING, -40, 1040)
    assert_explained(days, AFTER_THANKSGIVING)
    assert days.pnl(AFTER_THANKSGIVING) == {"SAP": pytest.approx(1040 - 1000)}


@pytest.mark.parametrize(
    ("before", "closed", "after"),
    [
        (date(2026, 4, 2), date(2026, 4, 3), date(2026, 4, 6)),
        (date(2026, 7, 2), date(2026, 7, 3), date(2026, 7, 6)),
        (date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 23)),
    ],
    ids=["good_friday", "independence_day_observed", "saturday"],
)
def test_trades_of_other_closed_days_belong_to_the_next_session(
    days: StatementDays, before: date, closed: date, after: date
) -> None:
    days.drop(
        "days.xml",
        document(
            of_day(before, row(before, 1, "SAP", position=100, positionValue=1000)),
            of_day(
                closed,
                row(closed, 1, "SAP", position=60, positionValue=600),
                Trades=trade(closed, 1, "SAP", -40, fifoPnlRealized=7),
            ),
            of_day(
                after,
                row(after, 1, "SAP", position=50, positionValue=500),
                Trades=trade(after, 1, "SAP", -10, fifoPnlRealized=1),
            ),
        ),
    )
    days.made(before, after)
    assert days.rows("flex_activity", after).get_column("quantity").to_list() == [-40, -10]
    assert_explained(days, after)


def test_a_closed_day_that_the_next_statement_contains_is_not_counted_twice(days: StatementDays) -> None:
    closed, after = date(2026, 11, 26), AFTER_THANKSGIVING
    sale = trade(closed, 1, "SAP", -40)
    days.drop(
        "days.xml",
        document(
            of_day(WEDNESDAY, row(WEDNESDAY, 1, "SAP", position=100, positionValue=1000)),
            of_day(closed, row(closed, 1, "SAP", position=60, positionValue=600), Trades=sale),
            of_day(closed, row(after, 1, "SAP", position=60, positionValue=600), last=after, Trades=sale),
        ),
    )
    days.made(WEDNESDAY, after)
    assert days.rows("flex_activity", after).get_column("quantity").to_list() == [-40]
    assert_explained(days, after)


def test_a_trade_of_a_closed_day_that_the_next_statement_repeats_is_counted_once(days: StatementDays) -> None:
    closed, after = date(2026, 11, 26), AFTER_THANKSGIVING
    sale = trade(after, 1, "SAP", -40, tradeDate=f"{closed:%Y%m%d}", tradeID=1)
    other = trade(after, 1, "SAP", -40, tradeID=2)
    days.drop(
        "days.xml",
        document(
            of_day(WEDNESDAY, row(WEDNESDAY, 1, "SAP", position=100, positionValue=1000)),
            of_day(closed, row(closed, 1, "SAP", position=60, positionValue=600), Trades=sale),
            of_day(after, row(after, 1, "SAP", position=20, positionValue=200), Trades=sale + other),
        ),
    )
    days.made(WEDNESDAY, after)
    assert days.rows("flex_activity", after).get_column("quantity").to_list() == [-40, -40]
    assert_explained(days, after)


# One bad statement


def test_one_statement_that_cannot_be_read_costs_its_own_account_and_day(days: StatementDays) -> None:
    def good(day: date, account: str) -> str:
        return of_day(day, row(day, 1, "AA", accountId=account, position=5, positionValue=50), account=account)

    bad = good(TUESDAY, "U2").replace('position="5"', 'position="five"')
    days.drop(
        "a.xml",
        document(
            good(MONDAY, ACCOUNT),
            good(MONDAY, "U2"),
            good(TUESDAY, ACCOUNT),
            bad,
            good(WEDNESDAY, ACCOUNT),
            good(WEDNESDAY, "U2"),
        ),
    )
    outcomes = days.make(MONDAY, WEDNESDAY, ["flex_statements"])

    [failed] = [one for one in outcomes if isinstance(one, Failed)]
    assert failed.days == (TUESDAY,)
    assert (
        "a.xml, statement 4 (U2 20261124 20261124), OpenPosition 1 (AA): position 'five' is no number" in failed.reason
    )
    written = days.rows("flex_statements").sort("date", "account").select("date", "account").rows()
    assert written == [(MONDAY, ACCOUNT), (MONDAY, "U2"), (TUESDAY, ACCOUNT), (WEDNESDAY, ACCOUNT), (WEDNESDAY, "U2")]


def test_a_readable_statement_of_the_same_day_replaces_one_that_is_not(days: StatementDays) -> None:
    good = of_day(MONDAY, row(MONDAY, 1, "AA", position=5, positionValue=50))
    days.drop("a.xml", document(good))
    days.drop("b.xml", document(good.replace('position="5"', 'position="five"')))
    days.made(MONDAY, MONDAY)
    assert held(days, MONDAY) == {"AA": 5}
    assert any("position 'five' is no number; that of a.xml (statement 1) is used" in line for line in days.said)


# Marks


def test_flex_marks_are_in_units_of_the_currency(days: StatementDays) -> None:
    """The gateway quotes both contracts in hundredths: its magnifier is known, and does not divide a Flex mark."""
    pence = ContractSpec(conid=601, symbol="STAN", sec_type=SecType.STOCK, currency="GBP", price_magnifier=100)
    cents = replace(pence, conid=604, symbol="ZC", sec_type=SecType.FUTURE, currency="USD", multiplier=5000)
    contracts.save(days.context.database, [pence, cents], qualified_at=datetime(2026, 11, 20, tzinfo=UTC))
    days.drop_sample("marks_without_position_value.xml")
    made = days.made(MONDAY, TUESDAY)
    rows = {one["conid"]: one for one in days.rows("position_snapshots", TUESDAY).rows(named=True)}
    assert (rows[601]["market_value"], rows[604]["market_value"]) == (1390, 45_125)
    option = rows[605]
    assert (option["strike"], option["right"], option["expiry"]) == (200, "C", date(2026, 12, 18))
    not_in_query = days.rows("flex_statements", TUESDAY).get_column("not_in_query").to_list()
    assert not_in_query == [["OpenPositions.underlyingConid", "OpenPositions.underlyingSymbol"]]
    [said] = [line for line in days.said if "underlying" in line]
    assert said == (
        "the Flex query has no field underlyingConid in Open Positions (unknown: the underlying of options: they are "
        "in no sum with it); no field underlyingSymbol in Open Positions (unknown: the symbol of the underlying of "
        "options): add that in Client Portal"
    )
    assert made[TUESDAY].numbers["not_in_query"] == said, "in the metadata of the day"
    assert [one.says for one in examine_statements(days.context.settings)] == [f"{TUESDAY}: {said}"], "for v6 doctor"


# The simulated accounts, whose ledger knows nothing of the reader


ALL_LEVELS = FlexQuery(lots=True, orders=True, book_trades=True)


@pytest.mark.parametrize("query", [FlexQuery(), ALL_LEVELS], ids=["plain", "all_levels"])
def test_every_change_of_the_simulated_accounts_over_a_month_is_explained(
    days: StatementDays, query: FlexQuery
) -> None:
    """With expiries, exercises, assignments, settlements, conversions and a holiday."""
    first, last = date(2026, 9, 1), date(2026, 9, 30)
    generated = datetime(2026, 11, 1, 12, tzinfo=UTC)
    days.drop("all.xml", "".join(statements(past(), first, last, query, generated=generated)))
    outcomes = days.make(first, last, ["flex_statements"])

    assert [one for one in outcomes if not isinstance(one, Made)] == []
    assert_explained(days, *CALENDAR.sessions_between(date(2026, 9, 2), last))
    assert set(days.rows("flex_activity").get_column("kind")) >= {"trade", "exercise"}
