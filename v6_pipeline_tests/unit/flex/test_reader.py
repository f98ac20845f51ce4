"""Reading Flex statements: what is there is read once, what cannot be read is an error that names its place."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.errors import FlexError
from v6_pipeline.flex import reader
from v6_pipeline.flex import statement as flex_statement
from v6_pipeline.flex.model import FlexActivity, FlexActivityKind, FlexPosition, FlexStatement, RefusedStatement
from v6_pipeline.flex.needs import explain
from v6_pipeline.flex.reader import read_statements

SAMPLES = Path(__file__).parents[2] / "fixtures" / "flex"
STOCK = {
    "accountId": "U1",
    "assetCategory": "STK",
    "symbol": "AAPL",
    "conid": "265598",
    "currency": "USD",
    "position": "100",
    "markPrice": "250",
    "positionValue": "25,000.00",
    "costBasisMoney": "24000",
    "fifoPnlUnrealized": "1000",
    "fxRateToBase": "0.9",
    "multiplier": "1",
    "reportDate": "20250103",
}
TRADE = {
    "accountId": "U1",
    "assetCategory": "STK",
    "symbol": "AAPL",
    "conid": "265598",
    "currency": "USD",
    "tradeDate": "20250103",
    "quantity": "50",
    "tradePrice": "248",
    "levelOfDetail": "EXECUTION",
    "transactionType": "ExchTrade",
    "tradeID": "1",
}


def element(name: str, attributes: dict[str, Any] | None = None, inside: str = "") -> str:
    written = "".join(f' {key}="{value}"' for key, value in (attributes or {}).items())
    return f"<{name}{written}>{inside}</{name}>"


def positions(*rows: dict[str, Any]) -> str:
    return element("OpenPositions", inside="".join(element("OpenPosition", row) for row in rows))


def trades(*rows: dict[str, Any]) -> str:
    return element("Trades", inside="".join(element("Trade", row) for row in rows))


def statement(*sections: str, **attributes: Any) -> str:
    head = {"accountId": "U1", "fromDate": "20250103", "toDate": "20250103", "whenGenerated": "20250104;080000"}
    return element("FlexStatement", head | attributes, "".join(sections))


def document(*statements: str, count: int | None = None) -> str:
    inside = element("FlexStatements", {"count": len(statements) if count is None else count}, "".join(statements))
    return element("FlexQueryResponse", {"queryName": "Daily", "type": "AF"}, inside)


def read_all(text: str | bytes) -> list[FlexStatement | RefusedStatement]:
    return list(read_statements(io.BytesIO(text.encode() if isinstance(text, str) else text), "daily.xml"))


def read(text: str | bytes) -> list[FlexStatement]:
    """The statements, or the reason of the first one that cannot be read as an error."""
    found = []
    for item in read_all(text):
        if isinstance(item, RefusedStatement):
            raise FlexError(item.reason)
        found.append(item)
    return found


def read_one(*sections: str, **attributes: Any) -> FlexStatement:
    [found] = read(document(statement(*sections, **attributes)))
    return found


def refused(text: str | bytes) -> str:
    with pytest.raises(FlexError) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a statement says


def test_a_statement_with_its_account_period_time_and_positions() -> None:
    account = element("AccountInformation", {"accountId": "U1", "currency": "EUR"})

    found = read_one(account, positions(STOCK | {"cusip": "037833100", "figi": ""}))

    assert (found.account, found.from_date, found.to_date) == ("U1", date(2025, 1, 3), date(2025, 1, 3))
    assert found.generated_at == datetime(2025, 1, 4, 13, tzinfo=UTC), "08:00 in New York"
    assert (found.query_name, found.base_currency) == ("Daily", "EUR")
    assert found.sections == {"AccountInformation", "OpenPositions"}
    assert found.positions == (
        FlexPosition(
            conid=265598,
            symbol="AAPL",
            sec_type="STK",
            currency="USD",
            position=100,
            report_date=date(2025, 1, 3),
            multiplier=1,
            mark_price=250,
            position_value=25_000,
            cost_basis_money=24_000,
            unrealized_pnl=1_000,
            fx_rate_to_base=0.9,
            attributes=(("cusip", "037833100"),),
        ),
    )


def test_an_option_keeps_its_terms_and_a_bond_its_percent_of_par() -> None:
    option = STOCK | {
        "assetCategory": "OPT",
        "symbol": "AAPL  250117C00260000",
        "underlyingSymbol": "AAPL",
        "underlyingConid": "265598",
        "conid": "7",
        "putCall": "C",
        "strike": "260",
        "expiry": "2025-01-17",
        "multiplier": "100",
    }
    bond = STOCK | {"assetCategory": "BOND", "conid": "8", "position": "10000", "markPrice": "98.5", "accruedInt": "12"}

    first, second = read_one(positions(option, bond)).positions

    assert (first.right, first.strike, first.expiry, first.multiplier) == ("C", 260, date(2025, 1, 17), 100)
    assert (first.underlying_symbol, first.underlying_conid) == ("AAPL", 265598)
    assert (second.sec_type, second.mark_price, second.accrued_interest) == ("BOND", 98.5, 12)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("20250104;080000", datetime(2025, 1, 4, 13, tzinfo=UTC)),
        ("2025-01-04;08:00:00", datetime(2025, 1, 4, 13, tzinfo=UTC)),
        ("2025-01-04, 08:00:00 EST", datetime(2025, 1, 4, 13, tzinfo=UTC)),
        ("20250704 080000 EDT", datetime(2025, 7, 4, 12, tzinfo=UTC)),
        ("2025-07-04T08:00:00 America/New_York", datetime(2025, 7, 4, 12, tzinfo=UTC)),
        ("2025-07-04T08:00:00Z", datetime(2025, 7, 4, 8, tzinfo=UTC)),
    ],
)
def test_times_are_new_yorks_in_every_form_that_a_query_can_give_them(text: str, meant: datetime) -> None:
    assert read_one(positions(), whenGenerated=text).generated_at == meant


def test_several_accounts_and_days_in_one_file() -> None:
    days = [
        statement(positions(STOCK | {"accountId": account}), accountId=account, fromDate=day, toDate=day)
        for account in ("U1", "U2")
        for day in ("20250102", "2025-01-03")
    ]
    found = read(document(*days))
    assert [(item.account, item.to_date.day) for item in found] == [("U1", 2), ("U1", 3), ("U2", 2), ("U2", 3)]


def test_an_empty_section_is_a_flat_account_and_a_missing_one_an_error() -> None:
    assert read_one(positions()).positions == ()
    assert read_one("<OpenPositions/>").positions == ()
    assert refused(document(statement(trades(TRADE)))) == (
        "daily.xml, statement 1 (U1 20250103 20250103): OpenPositions is not among its sections: add Open Positions to "
        "the Flex query"
    )


def test_unknown_sections_and_elements_are_skipped_in_any_place() -> None:
    odd = element("NewSection", {"a": "1"}, element("OpenPosition", STOCK | {"conid": "9"}))
    inside = element("OpenPositions", inside=element("OpenPosition", STOCK, element("Deep", {"x": "y"})) + "<Odd/>")
    found = read_one(odd, inside)
    assert [position.conid for position in found.positions] == [265598]
    assert found.sections == {"NewSection", "OpenPositions"}


def test_the_digest_covers_the_content_and_not_the_notation() -> None:
    plain = read_one(positions(STOCK)).sha256
    assert read(document(statement("\n  " + positions(STOCK) + "\n")))[0].sha256 == plain
    assert read_one(positions(dict(reversed(STOCK.items())))).sha256 == plain
    assert read_one(positions(STOCK), whenGenerated="20250105;080000").sha256 == plain, "the same, fetched again"
    assert read_one(positions(STOCK | {"position": "101"})).sha256 != plain
    assert read_one(positions(STOCK), element("New")).sha256 != plain


# Levels of detail


def lot(quantity: float, **changes: Any) -> dict[str, Any]:
    return STOCK | {"levelOfDetail": "LOT", "position": quantity, "positionValue": quantity * 250} | changes


def test_lots_next_to_their_summary_are_not_added_to_it() -> None:
    summary = STOCK | {"levelOfDetail": "SUMMARY"}
    [found] = read_one(positions(summary, lot(60), lot(40))).positions
    assert (found.position, found.position_value) == (100, 25_000)


def test_lots_alone_are_summed() -> None:
    [found] = read_one(positions(lot(60), lot(40, openDateTime="20240101;093000"))).positions
    assert (found.position, found.position_value, found.cost_basis_money) == (100, 25_000, 48_000)


def test_an_amount_missing_from_one_lot_is_unknown_for_all() -> None:
    [found] = read_one(positions(lot(60), lot(40, costBasisMoney=""))).positions
    assert (found.position, found.cost_basis_money) == (100, None)


def test_lots_that_do_not_add_up_to_their_summary_are_refused() -> None:
    text = document(statement(positions(STOCK | {"levelOfDetail": "SUMMARY"}, lot(60), lot(39))))
    assert refused(text) == (
        "daily.xml, statement 1 (U1 20250103 20250103), OpenPosition 1 (AAPL): position 100 is not the sum of its "
        "lots, 99"
    )


def test_a_contract_in_two_models_is_one_position_and_twice_in_one_an_error() -> None:
    [found] = read_one(positions(STOCK | {"model": "A"}, STOCK | {"model": "B"})).positions
    assert (found.position, found.position_value) == (200, 50_000)
    assert "OpenPosition 2 (AAPL): conid 265598 has two SUMMARY rows" in refused(
        document(statement(positions(STOCK, STOCK)))
    )


@given(st.lists(st.integers(-500, 500), min_size=1, max_size=8), st.booleans(), st.randoms(use_true_random=False))
def test_whatever_the_order_and_levels_a_quantity_is_counted_once(
    quantities: list[int], with_summary: bool, random: Any
) -> None:
    rows = [lot(quantity) for quantity in quantities]
    if with_summary:
        rows.append(STOCK | {"levelOfDetail": "SUMMARY", "position": sum(quantities)})
    random.shuffle(rows)
    [found] = read_one(positions(*rows)).positions
    assert found.position == sum(quantities)


# What changed quantities


def moves(found: FlexStatement) -> list[tuple[str, int, float]]:
    return [(move.kind.value, move.conid, move.quantity) for move in found.activities]


def test_a_trade_with_its_price_and_profit() -> None:
    row = TRADE | {"fifoPnlRealized": "12.5", "fxRateToBase": "1", "transactionID": "77", "exchange": "NASDAQ"}
    [found] = read_one(positions(), trades(row)).activities
    assert (found.kind, found.activity_date, found.price) == (FlexActivityKind.TRADE, date(2025, 1, 3), 248)
    assert (found.realized_pnl, found.fx_rate_to_base, found.transaction_id) == (12.5, 1, "77")
    assert ("exchange", "NASDAQ") in found.attributes


def test_executions_are_counted_and_not_their_orders_and_sums_as_well() -> None:
    rows = [
        *[TRADE | {"levelOfDetail": level, "quantity": "100"} for level in ("ORDER", "SYMBOL_SUMMARY", "CLOSED_LOT")],
        *[TRADE | {"quantity": "50", "tradeID": str(number)} for number in (1, 2)],
    ]
    assert moves(read_one(positions(), trades(*rows))) == [("trade", 265598, 50), ("trade", 265598, 50)]
    assert moves(read_one(positions(), trades(*rows[:3]))) == [("trade", 265598, 100)], "orders, if there is no more"


def test_an_assignment_in_two_sections_is_counted_once() -> None:
    option = TRADE | {"conid": "7", "quantity": "1", "transactionType": "BookTrade", "notes": "A;C", "tradeID": "70"}
    shares = TRADE | {"quantity": "100", "transactionType": "BookTrade", "notes": "A", "tradeID": "71"}
    events = element(
        "OptionEAE",
        inside=element("OptionEAE", eae("7", 1, "Assignment", "70")) + element("OptionEAE", eae("265598", 100, "Buy")),
    )
    both = read_one(positions(), trades(option, shares), events)
    alone = read_one(positions(), events)
    expected = [("exercise", 7, 1), ("exercise", 265598, 100)]
    assert moves(both) == expected
    assert moves(alone) == expected


def eae(conid: str, quantity: float, what: str, trade_id: str = "") -> dict[str, Any]:
    kept = {key: TRADE[key] for key in ("accountId", "symbol", "currency")}
    more = {"conid": conid, "quantity": quantity, "date": "20250103", "transactionType": what, "tradeID": trade_id}
    return kept | more


def test_transfers_and_corporate_actions_change_quantities_too() -> None:
    row = {"accountId": "U1", "conid": "265598", "symbol": "AAPL", "quantity": "10", "date": "20250103"}
    cash = {"accountId": "U1", "conid": "", "quantity": "0", "date": "20250103", "cashTransfer": "500"}
    transfers = "".join(
        element("Transfer", item) for item in (row | {"direction": "IN"}, row | {"direction": "OUT"}, cash)
    )
    split = element("CorporateAction", row | {"date": "", "reportDate": "20250103", "type": "FS", "quantity": "100"})
    found = read_one(positions(), element("Transfers", inside=transfers), element("CorporateActions", inside=split))
    assert moves(found) == [("transfer", 265598, 10), ("transfer", 265598, -10), ("corporate_action", 265598, 100)]


# What cannot be read


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"position": "1O0"}, "position '1O0' is no number"),
        ({"position": ""}, "position is missing: add that field to the Flex query"),
        ({"position": "NaN"}, "position 'NaN' is no number"),
        ({"position": "1.797e308"}, "position '1.797e308' is no number"),
        ({"position": "1,00"}, "position '1,00' is no number"),
        ({"markPrice": "--"}, "markPrice '--' is no number"),
        ({"conid": ""}, "conid is missing: add that field to the Flex query"),
        ({"conid": "-5"}, "conid '-5' is no id"),
        ({"currency": " "}, "currency is missing: add that field to the Flex query"),
        ({"levelOfDetail": "WASH"}, "levelOfDetail 'WASH' is neither SUMMARY nor LOT"),
        (
            {"expiry": "01/02/2025"},
            "expiry '01/02/2025' is no date as yyyyMMdd or yyyy-MM-dd: set that date format in the Flex query",
        ),
        ({"expiry": "20250230"}, "expiry '20250230' is no date"),
        (
            {"accountId": "U2"},
            "accountId 'U2' is not the statement's: let the Flex query consolidate no accounts",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_file_statement_row_and_field(changes: dict[str, str], says: str) -> None:
    text = document(statement(positions(STOCK | {"symbol": "MSFT", "conid": "1"}, STOCK | changes)))
    assert refused(text) == f"daily.xml, statement 1 (U1 20250103 20250103), OpenPosition 2 (AAPL): {says}"


@pytest.mark.parametrize("name", ["accountId", "fromDate", "toDate", "whenGenerated"])
def test_a_statement_without_its_head_is_refused(name: str) -> None:
    assert f"{name} is missing" in refused(document(statement(positions(), **{name: ""})))


def test_a_truncated_file_is_refused_at_any_length() -> None:
    whole = document(statement(positions(STOCK)), statement(positions(STOCK), accountId="U1")).encode()
    for length in range(1, len(whole)):
        message = refused(whole[:length])
        assert "the file is incomplete" in message or "not well-formed" in message, message
    assert len(read(whole)) == 2


def test_an_empty_file_is_refused() -> None:
    assert refused("") == "daily.xml: is not well-formed at line 1, column 1: no element found"


def test_a_number_of_statements_that_is_not_the_announced_one_is_refused() -> None:
    assert refused(document(statement(positions()), count=2)) == "daily.xml: announces 2 statements and holds 1"
    assert refused(element("FlexQueryResponse")).startswith("daily.xml: has no FlexStatements")


def test_a_reply_that_a_statement_is_not_ready_does_not_mean_a_flat_account() -> None:
    reply = element(
        "FlexStatementResponse",
        inside=element("Status", inside="Warn")
        + element("ErrorCode", inside="1019")
        + element("ErrorMessage", inside="Statement generation in progress. Please try again shortly."),
    )
    assert refused(reply) == (
        "daily.xml: a reply of the Flex Web Service without a statement: Warn 1019 Statement generation in progress. "
        "Please try again shortly."
    )


@pytest.mark.parametrize("text", ["<html><body/></html>", "not xml", '{"a": 1}', "<FlexQueryResponse>\x00"])
def test_a_document_that_is_not_a_flex_statement_is_refused(text: str) -> None:
    assert refused(text).startswith("daily.xml: ")


def test_documents_that_declare_entities_are_not_read() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "cccc"><!ENTITY d "&b;&b;">]>' + document(statement(positions()))
    assert "document type declaration" in refused(bomb)


# Samples and size


def test_the_samples() -> None:
    backfill = (SAMPLES / "clifton_activity_backfill.xml").read_bytes()
    found = read(backfill)
    assert [item.to_date for item in found] == [date(2025, 1, day) for day in (1, 2, 3)]
    assert all(len(item.positions) >= 3 for item in found)
    assert {position.sec_type for item in found for position in item.positions} == {"STK", "OPT"}
    [daily] = read((SAMPLES / "clifton_activity_daily_portfolio.xml").read_bytes())
    kinds = {activity.kind for activity in daily.activities}
    assert kinds == {FlexActivityKind.TRADE, FlexActivityKind.CORPORATE_ACTION}


_BIG = """
import resource, sys
from v6_pipeline.flex.reader import read_statements
class Endless:
    # A file that is never in memory: days of 600 positions.
    def __init__(self):
        self.parts = self.made(); self.rest = b''; self.given = 0
    def made(self):
        yield f'<FlexQueryResponse queryName="q"><FlexStatements count="{sys.argv[1]}">'.encode()
        for day in range(int(sys.argv[1])):
            yield (f'<FlexStatement accountId="U1" fromDate="20250103" toDate="20250103" '
                   'whenGenerated="20250104;080000"><OpenPositions>').encode()
            for conid in range(1, 601):
                yield (f'<OpenPosition accountId="U1" assetCategory="OPT" symbol="AAPL C{conid:08d}" conid="{conid}" '
                       'underlyingSymbol="AAPL" currency="USD" fxRateToBase="1" multiplier="100" strike="260" '
                       'expiry="20250117" putCall="C" position="-5" markPrice="10.25" positionValue="-5125" '
                       'costBasisMoney="-4000" fifoPnlUnrealized="-1125" side="Short" description="filler" />').encode()
            yield b'</OpenPositions></FlexStatement>'
        yield b'</FlexStatements></FlexQueryResponse>'
    def read(self, size):
        while len(self.rest) < size:
            part = next(self.parts, None)
            if part is None: break
            self.rest += part
        given, self.rest = self.rest[:size], self.rest[size:]
        self.given += len(given)
        return given
file = Endless()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(len(item.positions) for item in read_statements(file, 'big.xml'))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(rows, file.given // 10**6, grown // 1024)
"""


@pytest.mark.parametrize("days", [50, pytest.param(252, marks=pytest.mark.long)])
def test_a_large_file_is_read_with_one_statement_in_memory(days: int) -> None:
    """Whatever its size: a tree of the smaller one would take four times what is allowed."""
    command = [sys.executable, "-c", _BIG, str(days)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    rows, megabytes, grown = (int(part) for part in done.stdout.split())
    assert rows == days * 600
    assert megabytes >= 0.2 * days
    assert grown < 10, f"{grown} MB more for a file of {megabytes} MB"


def test_equal_rows_give_equal_activities() -> None:
    """Dataclasses compare: what a second reading gives is the same."""
    one, other = (read_one(positions(), trades(TRADE)).activities for _ in range(2))
    assert one == other
    assert isinstance(one[0], FlexActivity)


# Forms of real accounts


@pytest.mark.parametrize("date_form", ["20261123", "2026-11-23", "23-NOV-26"])
@pytest.mark.parametrize("time_form", ["230000", "23:00:00"])
@pytest.mark.parametrize("separator", [";", ",", ", ", " ", "", "T"])
@pytest.mark.parametrize(("zone", "hours"), [("", -5), (" EST", -5), ("EST", -5), (" +01:00", 1), (" -0500", -5)])
def test_each_form_of_date_and_time_that_a_query_offers(
    date_form: str, time_form: str, separator: str, zone: str, hours: int
) -> None:
    text = f"{date_form}{separator}{time_form}{zone}"
    found = read_one(positions(), whenGenerated=text, fromDate=date_form, toDate=date_form)
    assert found.generated_at == datetime(2026, 11, 23, 23, tzinfo=timezone(timedelta(hours=hours)))
    assert found.to_date == date(2026, 11, 23)


def test_a_date_with_a_time_behind_it_without_a_separator_is_a_date() -> None:
    row = {key: text for key, text in TRADE.items() if key != "tradeDate"} | {"dateTime": "20250103162000"}
    [found] = read_one(positions(), trades(row)).activities
    assert found.activity_date == date(2025, 1, 3)


@pytest.mark.parametrize("text", ["01/02/2026", "13/02/26", "2026/02/13"])
def test_dates_with_slashes_are_refused_with_the_remedy(text: str) -> None:
    assert "set that date format in the Flex query" in refused(document(statement(positions(), toDate=text)))


def test_levels_of_detail_that_are_not_read_are_no_fault() -> None:
    summary, other = STOCK | {"levelOfDetail": "SUMMARY"}, STOCK | {"levelOfDetail": "WASH_SALE", "position": "3"}
    of_all = STOCK | {"levelOfDetail": "SUMMARY", "accountId": "-", "position": "300"}
    [found] = read_one(positions(of_all, summary, other)).positions
    assert found.position == 100


@pytest.mark.parametrize(
    ("section", "name", "fine"),
    [
        ("Transfers", "Transfer", "DETAIL"),
        ("Transfers", "Transfer", "TRANSFER"),
        ("OptionEAE", "OptionEAE", "DETAIL"),
        ("CorporateActions", "CorporateAction", "DETAIL"),
    ],
)
def test_sums_over_accounts_on_another_level_are_not_counted_as_well(section: str, name: str, fine: str) -> None:
    row = {"accountId": "U1", "conid": "7", "symbol": "X", "quantity": "10", "reportDate": "20250103"}
    sums = row | {"accountId": "-", "levelOfDetail": "SUMMARY"}
    both = element(section, inside=element(name, sums) + element(name, row | {"levelOfDetail": fine}))
    alone = element(section, inside=element(name, sums))
    assert [move.quantity for move in read_one(positions(), both).activities] == [10]
    assert [move.quantity for move in read_one(positions(), alone).activities] == [10], "if there is no other level"


@pytest.mark.parametrize(
    ("given", "is_read"), [("U1F", True), ("U1X", True), ("U1FF", False), ("U1f", False), ("U2F", False)]
)
def test_a_letter_behind_the_account_number_is_the_account(given: str, is_read: bool) -> None:
    [found] = read_all(document(statement(positions(STOCK), trades(TRADE | {"accountId": given}))))
    assert isinstance(found, FlexStatement) is is_read


def test_an_option_without_its_terms_has_those_of_its_symbol() -> None:
    row = STOCK | {"assetCategory": "OPT", "symbol": "AAPL  261218P00200500", "conid": "7"}
    found = read_one(positions(row))
    [option] = found.positions
    assert (option.right, option.strike, option.expiry) == ("P", 200.5, date(2026, 12, 18))
    given = row | {"strike": "201", "putCall": "C", "expiry": "20261219"}
    [option] = read_one(positions(given)).positions
    assert (option.right, option.strike, option.expiry) == ("C", 201, date(2026, 12, 19)), "IB's own fields come first"


# What the query does not have


def test_sections_and_fields_that_are_needed_and_not_there_are_named_with_what_is_unknown() -> None:
    option = {key: text for key, text in STOCK.items() if key != "multiplier"} | {"assetCategory": "FOP", "conid": "7"}
    found = read_one(positions(STOCK, option), trades(TRADE | {"levelOfDetail": "SYMBOL_SUMMARY"}))
    assert found.not_in_query == (
        "AccountInformation",
        "CorporateActions",
        "OpenPositions.expiry",
        "OpenPositions.multiplier",
        "OpenPositions.putCall",
        "OpenPositions.strike",
        "OpenPositions.underlyingConid",
        "OpenPositions.underlyingSymbol",
        "OptionEAE",
        "Trades.fifoPnlRealized",
        "Trades.reportDate",
        "Trades@SYMBOL_SUMMARY",
        "Transfers",
    )
    assert "Trades" not in found.sections, "its rows are at no level that is read"
    line = explain(found.not_in_query) or ""
    assert "no section Option Exercises, Assignments and Expirations (cash settlements of index options are" in line
    assert "no field strike in Open Positions (unknown: the strike of options" in line
    assert "Trades at SYMBOL_SUMMARY alone, not at Execution" in line
    assert "\n" not in line


def test_a_query_with_everything_lacks_nothing_and_an_empty_field_is_there() -> None:
    empty = [element(name) for name in ("Trades", "OptionEAE", "Transfers", "CorporateActions")]
    account = element("AccountInformation", {"accountId": "U1", "currency": "EUR"})
    found = read_one(account, positions(STOCK | {"positionValue": ""}), *empty)
    assert found.not_in_query == ()
    assert explain(found.not_in_query) is None


# Bounds


def test_an_element_of_80_mb_is_refused_before_it_is_held() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'<FlexQueryResponse><FlexStatements count="1"><FlexStatement accountId="'
        for _ in range(80):
            yield b"x" * 1_000_000

    file = Pieces(pieces())
    with pytest.raises(FlexError, match=r"^big\.xml: an element at byte .* is larger than 4 MiB"):
        list(read_statements(cast("BinaryIO", file), "big.xml"))
    assert file.given < 7_000_000


@pytest.mark.parametrize("inside", ["a", "!--", "?p"])
def test_two_million_nested_elements_and_endless_comments_are_refused(inside: str) -> None:
    nested = (f"<{inside} " * 1_000 if inside != "a" else "<a>" * 1_000).encode()
    file = Pieces(itertools.chain([b"<FlexQueryResponse>"], itertools.repeat(nested, 2_000)))
    with pytest.raises(
        FlexError, match=r"^big\.xml: (has elements nested 32 deep|an element at byte|is not well-formed)"
    ):
        list(read_statements(cast("BinaryIO", file), "big.xml"))
    assert file.given < 7_000_000


def test_a_statement_that_would_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_STATEMENT_BYTES", 200_000)
    fitting = statement(positions(*[STOCK | {"conid": str(number + 1)} for number in range(300)]))
    large = statement(positions(*[STOCK | {"conid": str(number + 1)} for number in range(3_000)]))
    assert len(read(document(fitting, fitting, fitting))) == 3
    assert "is larger than 0 MiB: set 'Breakout by Day' to Yes" in refused(document(fitting, large))


def test_a_document_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a small gzip file of blanks."""
    monkeypatch.setattr(reader, "MOST_BYTES", 1 << 20)
    file = Pieces(itertools.chain([b"<FlexQueryResponse>"], itertools.repeat(b" <a/>" * 10_000)))
    with pytest.raises(FlexError, match=r"^big\.xml: is larger than 0 GiB"):
        list(read_statements(cast("BinaryIO", file), "big.xml"))


def test_more_rows_than_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex_statement, "MOST_ROWS", 2)
    text = document(statement(positions(*[STOCK | {"conid": str(number)} for number in (1, 2, 3)])))
    assert refused(text).endswith("OpenPositions has more than 2 rows: not read")


@pytest.mark.parametrize(
    ("begin", "says"),
    [
        (b'"ClientAccountID","Symbol"\n', 'is not XML (it begins with \'"ClientAccountID"'),
        (b"PK\x03\x04rest", "is a zip archive"),
    ],
)
def test_other_formats_are_named(begin: bytes, says: str) -> None:
    assert says in refused(begin)


class Pieces:
    """A file that is never in memory."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self.given = 0

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, None)) is not None:
            self._rest += piece
        given, self._rest = self._rest[:size], self._rest[size:]
        self.given += len(given)
        return given


def test_control_characters_of_a_file_are_visible() -> None:
    """XML 1.0 forbids ESC, and allows CSI in one character, line breaks as references, and what turns the writing."""
    evil = {"symbol": "A\x9b31m\u202eB&#10;C", "description": "&#x9b;2J", "accountId": "U1"}
    found = read_one(positions(STOCK | evil))

    assert found.positions[0].symbol == r"A\x9b31m\u202eB C"
