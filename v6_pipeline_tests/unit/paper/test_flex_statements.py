"""Flex statements of the simulated accounts, read with an independent parser."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from v6_pipeline.paper.contracts import Universe
from v6_pipeline.paper.flex_statements import AS_IB, FlexQuery, Section, statements
from v6_pipeline.paper.past import Past
from v6_pipeline.paper.prices import daily_close

from .conftest import ACCOUNTS, AS_OF, by_symbol

FIRST = AS_OF - timedelta(days=120)


@pytest.fixture(scope="module")
def past(universe: Universe) -> Past:
    return Past(universe)


def read(past: Past, query: FlexQuery | None = None, first: date = FIRST, last: date = AS_OF) -> list[ET.Element]:
    generated = datetime(2026, 11, 21, 5, 0, 7, tzinfo=UTC)
    document = "".join(statements(past, first, last, query or FlexQuery(), generated=generated))
    return ET.fromstring(document).findall("FlexStatements/FlexStatement")


def positions(statement: ET.Element, level: str = "SUMMARY") -> Counter[str]:
    found: Counter[str] = Counter()
    for row in statement.findall("OpenPositions/OpenPosition"):
        if row.get("levelOfDetail") == level:
            found[row.attrib["conid"]] += float(row.attrib["position"])  # type: ignore[assignment]
    return found


def activity(statement: ET.Element) -> Counter[str]:
    found: Counter[str] = Counter()
    paths = ("Trades/Trade", "OptionEAE/OptionEAE", "Transfers/Transfer", "CorporateActions/CorporateAction")
    for row in [row for path in paths for row in statement.findall(path)]:
        if row.get("assetCategory") == "CASH" or row.get("accountId") == "-":
            continue  # conversions are no positions, and a row without an account repeats others
        found[row.attrib["conid"]] += float(row.attrib["quantity"])  # type: ignore[assignment]
    return found


def nonzero(counter: Counter[str]) -> dict[str, int]:
    return {key: value for key, value in counter.items() if value}


def test_by_day_there_is_a_statement_of_each_account_and_session(past: Past) -> None:
    days = [day.day for day in past.between(FIRST, AS_OF)]
    found = read(past)

    assert [(row.get("accountId"), row.get("fromDate"), row.get("toDate")) for row in found] == [
        (account, f"{day:%Y%m%d}", f"{day:%Y%m%d}") for day in days for account in ACCOUNTS
    ]
    assert {row.get("whenGenerated") for row in found} == {"20261121;050007"}
    for row in found:
        assert [child.tag for child in row] == [
            *("AccountInformation", "OpenPositions", "Trades", "OptionEAE", "Transfers", "CorporateActions")
        ]
        assert {position.get("reportDate") for position in row.iter("OpenPosition")} <= {row.get("toDate")}


def test_a_whole_period_is_one_statement_with_the_positions_of_its_end(past: Past) -> None:
    saturday = AS_OF + timedelta(days=1)
    whole = read(past, FlexQuery(by_day=False), last=saturday)
    by_day = read(past)

    assert [(row.get("fromDate"), row.get("toDate")) for row in whole] == [
        (f"{FIRST:%Y%m%d}", f"{saturday:%Y%m%d}")
    ] * 2
    for number, statement in enumerate(whole):
        assert positions(statement) == positions(by_day[-2 + number])
        assert {position.get("reportDate") for position in statement.iter("OpenPosition")} == {f"{AS_OF:%Y%m%d}"}
        assert len(list(statement.iter("Trade"))) == sum(len(list(row.iter("Trade"))) for row in by_day[number::2])


def test_trades_and_exercises_explain_what_changed(past: Past) -> None:
    for account in range(2):
        for before, after in pairwise(read(past)[account::2]):
            total = Counter(positions(before))
            total.update(activity(after))
            assert nonzero(total) == nonzero(positions(after))


def test_book_trades_repeat_the_exercises_as_ibs_do(past: Past) -> None:
    plain, repeated = read(past), read(past, FlexQuery(book_trades=True))
    exercises = sum(item.get("quantity") != "0" for row in repeated for item in row.findall("OptionEAE/OptionEAE"))
    booked = [trade for row in repeated for trade in row.iter("Trade") if trade.get("transactionType") == "BookTrade"]

    assert len(booked) == exercises > 0
    assert not [trade for row in plain for trade in row.iter("Trade") if trade.get("transactionType") == "BookTrade"]
    assert {trade.get("notes") for trade in booked} >= {"A", "Ep"}


def test_lots_add_up_to_the_summary(past: Past) -> None:
    for statement in read(past, FlexQuery(lots=True), first=AS_OF):
        assert positions(statement, "LOT") == positions(statement)
        assert all(
            row.get("openDateTime") for row in statement.iter("OpenPosition") if row.get("levelOfDetail") == "LOT"
        )


def test_values_are_position_times_price_times_multiplier(past: Past) -> None:
    corn = by_symbol(past.universe, "ZC", "FUT")
    for statement in read(past, first=AS_OF):
        for row in statement.iter("OpenPosition"):
            contract = past.universe.contracts[int(row.attrib["conid"])]
            price = daily_close(past.universe, contract.conid, AS_OF)
            assert price is not None
            # Corn is quoted in cents; a statement has dollars.
            assert float(row.attrib["markPrice"]) == pytest.approx(price / (100 if contract == corn else 1))
            value = float(row.attrib["position"]) * float(row.attrib["markPrice"]) * float(row.attrib["multiplier"])
            assert float(row.attrib["positionValue"]) == pytest.approx(value)
            assert float(row.attrib["fifoPnlUnrealized"]) == pytest.approx(
                float(row.attrib["positionValue"]) - float(row.attrib["costBasisMoney"]), abs=1e-5
            )


def test_a_missing_section_and_an_empty_one_differ(past: Past) -> None:
    without = FlexQuery(sections=frozenset(Section) - {Section.POSITIONS})
    empty = FlexQuery(empty=frozenset({Section.POSITIONS}))

    assert all(row.find("OpenPositions") is None for row in read(past, without, first=AS_OF))
    for row in read(past, empty, first=AS_OF):
        section = row.find("OpenPositions")
        assert section is not None
        assert len(section) == 0


def test_a_range_without_a_session_has_no_statement(past: Past) -> None:
    saturday = AS_OF + timedelta(days=1)
    assert read(past, first=saturday, last=saturday) == []
    assert read(past, FlexQuery(by_day=False), first=saturday, last=saturday) == []


def rows_of(statement: ET.Element, path: str) -> list[dict[str, str]]:
    return [dict(row.attrib) for row in statement.findall(path)]


def test_every_section_can_be_chosen_and_the_value_follows_from_its_parts(past: Past) -> None:
    found = read(past, FlexQuery(sections=frozenset(Section)))
    for statement in found:
        assert {child.tag for child in statement} == set(Section)
        head = statement.find("ChangeInNAV")
        assert head is not None
        about = {"accountId", "fromDate", "toDate", "startingValue", "endingValue"}
        parts = sum(float(text) for name, text in head.attrib.items() if name not in about)
        change = float(head.attrib["endingValue"]) - float(head.attrib["startingValue"])
        assert parts == pytest.approx(change, abs=1e-6)
        [equity] = rows_of(statement, "EquitySummaryInBase/EquitySummaryByReportDateInBase")
        assert float(equity["total"]) == pytest.approx(float(head.attrib["endingValue"]), abs=1e-6)
        kinds = sum(float(equity[name]) for name in ("cash", "stock", "options", "bonds", "funds", "crypto"))
        assert kinds == pytest.approx(float(equity["total"]), abs=1e-4)
        mtm = rows_of(statement, "MTMPerformanceSummaryInBase/MTMPerformanceSummaryUnderlying")
        profit = float(head.attrib["mtm"]) + float(head.attrib["commissions"])
        fees = sum(
            float(row["ibCommission"]) for row in rows_of(statement, "Trades/Trade") if row["assetCategory"] == "CASH"
        )
        assert sum(float(row["total"]) for row in mtm) == pytest.approx(profit - fees, abs=1e-3)


def test_cash_of_a_day_is_that_of_the_day_before_and_its_flows(past: Past) -> None:
    found = read(
        past, FlexQuery(sections=frozenset({Section.POSITIONS, Section.CASH_REPORT, Section.CASH_TRANSACTIONS}))
    )
    for account in range(2):
        for before, after in pairwise(found[account::2]):
            ended, began = (
                {
                    row["currency"]: float(row[name])
                    for row in rows_of(statement, "CashReport/CashReportCurrency")
                    if row["levelOfDetail"] == "Currency"
                }
                for statement, name in ((before, "endingCash"), (after, "startingCash"))
            )
            assert began == pytest.approx(ended, abs=1e-5)
    kinds = {row["type"] for statement in found for row in rows_of(statement, "CashTransactions/CashTransaction")}
    assert kinds >= {"Dividends", "Withholding Tax", "Broker Interest Received", "Other Fees"}


def test_corporate_actions_have_two_levels_and_sums_name_no_account(past: Past) -> None:
    rows = [row for statement in read(past) for row in rows_of(statement, "CorporateActions/CorporateAction")]
    assert {(row["levelOfDetail"], row["accountId"] == "-") for row in rows} == {("DETAIL", False), ("SUMMARY", True)}
    assert {row["type"] for row in rows} == {"FS", "IC"}


def test_futures_of_one_account_are_booked_under_its_number_and_a_letter(past: Past) -> None:
    trades = [
        row for statement in read(past) for row in rows_of(statement, "Trades/Trade") if row["assetCategory"] == "FUT"
    ]
    assert {row["accountId"] for row in trades} == {ACCOUNTS[0], f"{ACCOUNTS[1]}F"}
    assert any(row["dateTime"][:8] < row["tradeDate"] for row in trades), "evening"


def test_all_levels_of_trades_repeat_them(past: Past) -> None:
    for statement in read(past, AS_IB):
        executed = [row for row in rows_of(statement, "Trades/Trade") if row["transactionType"] == "ExchTrade"]
        assert len(rows_of(statement, "Trades/Order")) == len(executed)
