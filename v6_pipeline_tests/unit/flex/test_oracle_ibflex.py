"""Our reader against the ibflex package: whatever both understand, they understand alike.

What ibflex does not know (other sections, unknown categories) or takes for granted is not its business here.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import ibflex.parser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from v6_pipeline.flex.model import FlexActivityKind, FlexPosition, FlexStatement, RefusedStatement
from v6_pipeline.flex.reader import read_statements

SAMPLES = sorted((Path(__file__).parents[2] / "fixtures" / "flex").glob("*.xml"))
# ibflex warns of each attribute that it does not know.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:ibflex.*")
DAY = date(2026, 3, 2)
_AMOUNTS = {
    "strike": "strike",
    "multiplier": "multiplier",
    "mark_price": "markPrice",
    "fx_rate_to_base": "fxRateToBase",
}
_SUMS = {
    "position": "position",
    "position_value": "positionValue",
    "cost_basis_money": "costBasisMoney",
    "unrealized_pnl": "fifoPnlUnrealized",
}


def ours(xml: bytes) -> list[FlexStatement]:
    found = list(read_statements(io.BytesIO(xml), "statement.xml"))
    assert not [one for one in found if isinstance(one, RefusedStatement)]
    return [one for one in found if isinstance(one, FlexStatement)]


def theirs(xml: bytes) -> list[Any]:
    return list(ibflex.parser.parse(xml).FlexStatements)


def assert_same(xml: bytes) -> None:
    expected = theirs(xml)
    assert expected
    for mine, other in zip(ours(xml), expected, strict=True):
        assert (mine.account, mine.from_date, mine.to_date) == (other.accountId, other.fromDate, other.toDate)
        assert_same_instant(mine.generated_at, other.whenGenerated)
        assert mine.base_currency == (other.AccountInformation.currency if other.AccountInformation else None)
        assert_same_positions(mine.positions, other.OpenPositions)
        assert_same_trades(mine, other.Trades)


def assert_same_instant(aware: datetime, local: datetime) -> None:
    """ibflex leaves the zone open."""
    assert aware.utcoffset() == timedelta(0)
    apart = aware.replace(tzinfo=None) - local
    assert apart % timedelta(hours=1) == timedelta(0)
    assert abs(apart) <= timedelta(hours=14)


def assert_same_positions(mine: Iterable[FlexPosition], rows: Iterable[Any]) -> None:
    """Rows of one contract are summed: its summaries, or its lots where it has none."""
    by_conid: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_conid[int(row.conid)].append(row)
    held = {position.conid: position for position in mine}
    assert held.keys() == by_conid.keys()
    for conid, of_conid in by_conid.items():
        counted = [row for row in of_conid if row.levelOfDetail != "LOT"] or of_conid
        position, first = held[conid], counted[0]
        assert (position.symbol, position.currency) == (first.symbol, first.currency)
        assert (position.sec_type, position.report_date) == (first.assetCategory.value, first.reportDate)
        assert position.underlying_symbol == first.underlyingSymbol
        assert position.underlying_conid == (int(first.underlyingConid) if first.underlyingConid else None)
        assert position.right == (first.putCall.value if first.putCall else None)
        assert position.expiry == first.expiry
        for name, theirs_name in _AMOUNTS.items():
            assert getattr(position, name) == number(getattr(first, theirs_name)), name
        for name, theirs_name in _SUMS.items():
            assert getattr(position, name) == total(getattr(row, theirs_name) for row in counted), name


def assert_same_trades(mine: FlexStatement, rows: Iterable[Any]) -> None:
    """Prices only where the statement has them as ``tradePrice``: ibflex drops a trade's ``price``."""
    trades = [each for each in mine.activities if each.kind is FlexActivityKind.TRADE]
    executions = [row for row in rows if row.levelOfDetail in {None, "EXECUTION"}]
    assert Counter(
        (each.conid, each.symbol, each.currency, each.quantity, each.activity_date, each.realized_pnl)
        for each in trades
    ) == Counter(
        (int(row.conid), row.symbol, row.currency, number(row.quantity), row.tradeDate, number(row.fifoPnlRealized))
        for row in executions
    )
    if all(row.tradePrice is not None for row in executions):
        assert Counter((each.conid, each.price) for each in trades) == Counter(
            (int(row.conid), number(row.tradePrice)) for row in executions
        )


def number(value: Any) -> float | None:
    return None if value is None else float(value)


def total(values: Iterable[Any]) -> Any:
    present = [value for value in values if value is not None]
    return pytest.approx(float(sum(present)), abs=1e-6) if present else None


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_read_alike(sample: Path) -> None:
    assert_same(sample.read_bytes())


def test_there_are_samples() -> None:
    assert len(SAMPLES) == 2


def element(tag: str, attributes: dict[str, object], inner: str = "") -> str:
    given_ones = "".join(f" {name}={quoteattr(str(value))}" for name, value in attributes.items() if value is not None)
    return f"<{tag}{given_ones}>{inner}</{tag}>" if inner else f"<{tag}{given_ones}/>"


def document(*statements: str) -> bytes:
    inner = element("FlexStatements", {"count": len(statements)}, "".join(statements))
    return element("FlexQueryResponse", {"queryName": "all", "type": "AF"}, inner).encode()


def statement(positions: str, trades: str = "", *, account: str = "U1", day: str, generated: str) -> str:
    return element(
        "FlexStatement",
        {"accountId": account, "fromDate": day, "toDate": day, "period": "", "whenGenerated": generated},
        element("AccountInformation", {"accountId": account, "currency": "EUR"})
        + (f"<OpenPositions>{positions}</OpenPositions>" if positions else "<OpenPositions/>")
        + f"<Trades>{trades}</Trades>",
    )


@st.composite
def holdings(draw: st.DrawFn, day: str, expiry: str) -> str:
    """The rows of several contracts: a summary, lots, or both."""
    conids = draw(st.lists(st.integers(1, 10**9), max_size=5, unique=True))
    return "".join(draw(_rows_of(conid, day, expiry)) for conid in conids)


@st.composite
def _rows_of(draw: st.DrawFn, conid: int, day: str, expiry: str) -> str:
    option = draw(st.booleans())
    lots = draw(st.lists(st.integers(1, 10**6), min_size=1, max_size=3))
    sign = draw(st.sampled_from([1, -1]))
    shared: dict[str, object] = {
        "accountId": "U1",
        "currency": draw(st.sampled_from(["USD", "EUR", "JPY", "GBP"])),
        "fxRateToBase": draw(st.sampled_from(["1", "0.91234", ".5", None])),
        "assetCategory": draw(st.sampled_from(["OPT", "FOP"] if option else ["STK", "FUT", "BOND", "FUND", "CASH"])),
        "symbol": draw(st.sampled_from(["AAPL", "BRK B", "A&B <C>", "SIEMENS É"])),
        "conid": conid,
        "multiplier": draw(st.sampled_from(["1", "100", "0.1"])),
        "reportDate": day,
        "markPrice": draw(st.sampled_from(["0", "98.765432", "-0.25", "1e3", ""])),
        "underlyingConid": draw(st.sampled_from(["265598", ""])),
        "underlyingSymbol": draw(st.sampled_from(["AAPL", ""])),
        "strike": "12.5" if option else "",
        "expiry": expiry if option else "",
        "putCall": draw(st.sampled_from("CP")) if option else "",
        "issuerCountryCode": "US",
        "figi": "BBG000B9XRY4",
    }
    levels = draw(st.sampled_from([("SUMMARY", "LOT"), ("SUMMARY",), ("LOT",), (None,)]))
    rows = []
    for level in levels:
        for amount in lots if level == "LOT" else [sum(lots)]:
            amounts = {
                "position": sign * amount,
                "positionValue": f"{sign * amount * 2.5:.2f}",
                "costBasisMoney": f"{sign * amount * 2.25:.2f}",
                "fifoPnlUnrealized": f"{sign * amount * 0.25:.2f}",
            }
            rows.append(element("OpenPosition", shared | amounts | {"levelOfDetail": level}))
    return "".join(rows)


@st.composite
def executions(draw: st.DrawFn, day: str) -> str:
    count = draw(st.integers(0, 3))
    rows = []
    for ordinal in range(count):
        quantity = draw(st.sampled_from(["10", "-3", "0.5"]))
        attributes: dict[str, object] = {
            "accountId": "U1",
            "currency": "USD",
            "assetCategory": "STK",
            "symbol": "AAPL",
            "conid": draw(st.integers(1, 3)),
            "tradeID": 100 + ordinal,
            "transactionID": 200 + ordinal,
            "tradeDate": day,
            "reportDate": day,
            "quantity": quantity,
            "buySell": "SELL" if quantity.startswith("-") else "BUY",
            "tradePrice": draw(st.sampled_from(["250.25", "0.01"])),
            "fifoPnlRealized": draw(st.sampled_from(["0", "-12.5", ""])),
            "levelOfDetail": "EXECUTION",
        }
        rows.append(element("Trade", attributes))
    return "".join(rows)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    form = draw(st.sampled_from(["%Y%m%d", "%Y-%m-%d"]))
    separator = draw(st.sampled_from([";", ","]))
    statements = []
    for offset in range(draw(st.integers(1, 3))):
        day = (DAY + timedelta(days=offset)).strftime(form)
        expiry = (DAY + timedelta(days=90)).strftime(form)
        clock = "%H%M%S" if form == "%Y%m%d" else "%H:%M:%S"
        generated = datetime(2026, 3, 6, 5, 4, 3).strftime(f"{form}{separator}{clock}")  # noqa: DTZ001  (as IB writes)
        statements.append(statement(draw(holdings(day, expiry)), draw(executions(day)), day=day, generated=generated))
    return document(*statements)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(xml=documents())
def test_statements_of_every_form_are_read_alike(xml: bytes) -> None:
    assert_same(xml)
