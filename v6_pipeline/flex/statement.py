"""Builds a Flex statement from its elements: positions and their changes, nothing counted twice. Pure.

Levels of detail: a query with several levels ticked gives a position as SUMMARY and again by LOT, a trade by EXECUTION
and again by ORDER, SYMBOL_SUMMARY and so on. Positions are taken from SUMMARY rows (whose lots must add up to them),
trades from EXECUTION rows.

Exercises, assignments and expirations are rows of the section OptionEAE and, with ``transactionType`` BookTrade, of
Trades too; both rows have the same ``tradeID``. The trade is counted; the OptionEAE row is counted only if there is no
such trade, for example because the query has no section Trades.

Attributes are parsed strictly. The query decides how IB writes dates and times, so several forms are accepted; forms
with two readings (month first or day first) are refused. An empty text is unknown.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TypeVar
from zoneinfo import ZoneInfo

from v6_pipeline.errors import FlexError
from v6_pipeline.flex.model import FlexActivity, FlexActivityKind, FlexPosition, FlexStatement
from v6_pipeline.model import UNSET_FROM

T = TypeVar("T")

_NEW_YORK = ZoneInfo("America/New_York")
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d*)(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})", re.ASCII)
_TIME = re.compile(r"(\d{2}):?(\d{2}):?(\d{2})", re.ASCII)
_ZONE = re.compile(r"\s*(EST|EDT|ET|America/New_York|UTC|GMT|Z|[+-]\d{2}:?\d{2})$")

POSITIONS, TRADES, EXERCISES = "OpenPositions", "Trades", "OptionEAE"
TRANSFERS, CORPORATE_ACTIONS, ACCOUNT = "Transfers", "CorporateActions", "AccountInformation"
ROWS: Mapping[str, frozenset[str]] = {
    POSITIONS: frozenset({"OpenPosition"}),
    TRADES: frozenset({"Trade", "Order", "Lot", "SymbolSummary", "AssetSummary"}),
    EXERCISES: frozenset({"OptionEAE"}),
    TRANSFERS: frozenset({"Transfer"}),
    CORPORATE_ACTIONS: frozenset({"CorporateAction"}),
    ACCOUNT: frozenset({"AccountInformation"}),
}
"""Elements that are read, by their section."""

_SUMMARY, _LOT = "SUMMARY", "LOT"
_EXECUTION, _ORDER = "EXECUTION", "ORDER"
_BOOKED = "BookTrade"
_EXERCISE_NOTES = frozenset({"A", "Ex", "Ep", "GEA"})
_SHARED = frozenset({"accountId", "conid", "symbol", "currency", "fxRateToBase"})
_POSITION_FIELDS = _SHARED | {
    *("assetCategory", "underlyingSymbol", "underlyingConid", "putCall", "strike", "expiry", "multiplier"),
    *("reportDate", "position", "markPrice", "positionValue", "costBasisMoney", "fifoPnlUnrealized", "accruedInt"),
    "levelOfDetail",
}
_ACTIVITY_FIELDS = _SHARED | {"quantity", "transactionID"}


def number(text: str) -> float:
    """Parse a decimal number, with or without commas between thousands.

    Raises:
        ValueError: the text is not a number.
    """
    digits = text.strip()
    if not digits or not _NUMBER.fullmatch(digits) or not any(sign.isdigit() for sign in digits):
        raise ValueError("is no number")
    value = float(digits.replace(",", ""))
    if not math.isfinite(value) or abs(value) >= UNSET_FROM:
        raise ValueError("is no number")
    return value


def integer(text: str) -> int:
    """Parse an id: a whole number above 0.

    Raises:
        ValueError: the text is not an id.
    """
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) or int(text) == 0:
        raise ValueError("is no id")
    return int(text)


def day(text: str) -> date:
    """Parse a date, yyyyMMdd or yyyy-MM-dd; a time after it is ignored.

    Raises:
        ValueError: the text is not a date, or has two readings.
    """
    found = _DATE.match(text.strip())
    rest = text.strip()[found.end() :] if found else ""
    if not found or (rest and not re.match(r"[;, T]", rest)):
        raise ValueError("is no date as yyyyMMdd or yyyy-MM-dd: set that date format in the Flex query")
    try:
        return date(*(int(part) for part in found.groups()))
    except ValueError:
        raise ValueError("is no date") from None


def instant(text: str) -> datetime:
    """Parse a date and time of New York, unless the text names another zone; the result is UTC.

    Raises:
        ValueError: the text is not a date and time.
    """
    of = day(text)
    found = _DATE.match(text.strip())
    rest = text.strip()[found.end() :].lstrip(";, T") if found else ""
    zone_found = _ZONE.search(rest)
    zone = _zone(zone_found.group(1)) if zone_found else _NEW_YORK
    clock = _TIME.fullmatch(rest[: zone_found.start()] if zone_found else rest)
    if clock is None:
        raise ValueError("is no date and time as yyyyMMdd;HHmmss")
    hour, minute, second = (int(part) for part in clock.groups())
    try:
        return datetime(of.year, of.month, of.day, hour, minute, second, tzinfo=zone).astimezone(UTC)
    except ValueError:
        raise ValueError("is no time") from None


def _zone(name: str) -> ZoneInfo:
    if name in {"UTC", "GMT", "Z"}:
        return ZoneInfo("UTC")
    if name[0] in "+-":
        raise ValueError("has an offset: let the Flex query write New York's time")
    return _NEW_YORK


@dataclass(frozen=True, slots=True)
class Row:
    """An element's attributes, and its place for messages."""

    where: str
    attributes: Mapping[str, str]

    def text(self, name: str) -> str | None:
        """Return an attribute's text; None if it is missing or empty."""
        return self.attributes.get(name, "").strip() or None

    def optional(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Return an attribute's value; None if it is missing or empty.

        Raises:
            FlexError: the text cannot be parsed.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise self.refuse(name, f"{text[:40]!r} {error}") from None

    def required(self, name: str, parse: Callable[[str], T]) -> T:
        """Return an attribute's value.

        Raises:
            FlexError: it is missing, empty, or cannot be parsed.
        """
        value = self.optional(name, parse)
        if value is None:
            raise self.refuse(name, "is missing: add that field to the Flex query")
        return value

    def refuse(self, name: str, why: str) -> FlexError:
        """Return an error that names file, statement, row and field."""
        return FlexError(f"{self.where}: {name} {why}")

    def others(self, used: frozenset[str]) -> tuple[tuple[str, str], ...]:
        """Return the attributes that no field uses, without empty ones, sorted."""
        return tuple(
            sorted((name, text) for name, text in self.attributes.items() if name not in used and text.strip())
        )


@dataclass(slots=True)
class StatementParts:
    """The parts of a statement that were read so far."""

    head: Row
    query_name: str | None = None
    sections: set[str] = field(default_factory=set)
    rows: dict[str, list[tuple[str, Row]]] = field(default_factory=dict)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def note(self, depth: int, element: str, attributes: Mapping[str, str]) -> None:
        """Add an element to the digest, which ignores white space, the order of attributes, and the file."""
        hashed = sorted((name, text) for name, text in attributes.items() if name != "whenGenerated")
        self.digest.update(json.dumps([depth, element, hashed]).encode())

    def add(self, section: str, element: str, attributes: Mapping[str, str]) -> None:
        """Add a row of a section that is read."""
        kept = self.rows.setdefault(section, [])
        symbol = f" ({attributes['symbol']})" if attributes.get("symbol", "").strip() else ""
        kept.append((element, Row(f"{self.head.where}, {element} {len(kept) + 1}{symbol}", attributes)))

    def build(self) -> FlexStatement:
        """Return the finished statement.

        Raises:
            FlexError: the section of positions is missing, or a row cannot be read or contradicts another.
        """
        head = self.head
        account = head.required("accountId", str)
        if POSITIONS not in self.sections:
            raise head.refuse(POSITIONS, "is not among its sections: add Open Positions to the Flex query")
        rows = {section: [row for _, row in found] for section, found in self.rows.items()}
        for found in rows.values():
            for row in found:
                _check_account(row, account)
        currencies = [row.text("currency") for row in rows.get(ACCOUNT, ())]
        return FlexStatement(
            account=account,
            from_date=head.required("fromDate", day),
            to_date=head.required("toDate", day),
            generated_at=head.required("whenGenerated", instant),
            sections=frozenset(self.sections),
            sha256=self.digest.hexdigest(),
            query_name=self.query_name,
            base_currency=next((currency for currency in currencies if currency), None),
            positions=_positions(rows.get(POSITIONS, [])),
            activities=_activities(self.rows),
        )


def _check_account(row: Row, account: str) -> None:
    given = row.text("accountId")
    if given is not None and given != account:
        raise row.refuse("accountId", f"{given!r} is not the statement's: let the Flex query consolidate no accounts")


def _positions(rows: Iterable[Row]) -> tuple[FlexPosition, ...]:
    """Return one position per contract; the lots of a summary must add up to it."""
    summaries: dict[int, dict[str, FlexPosition]] = {}
    lots: dict[int, FlexPosition] = {}
    places: dict[int, Row] = {}
    for row in rows:
        level = (row.text("levelOfDetail") or _SUMMARY).upper()
        if level not in {_SUMMARY, _LOT}:
            raise row.refuse("levelOfDetail", f"{level!r} is neither {_SUMMARY} nor {_LOT}")
        position = _position(row)
        if level == _LOT:
            before = lots.get(position.conid)
            lots[position.conid] = position if before is None else _together(before, position)
        else:
            by_model = summaries.setdefault(position.conid, {})
            model = row.text("model") or ""
            if model in by_model:
                raise row.refuse("conid", f"{position.conid} has two {_SUMMARY} rows")
            by_model[model] = position
        places.setdefault(position.conid, row)
    found = []
    for conid, row in places.items():
        whole: FlexPosition | None = None
        for part in summaries.get(conid, {}).values():
            whole = part if whole is None else _together(whole, part)
        summed = lots.get(conid)
        if whole is not None and summed is not None and not _equal(whole.position, summed.position):
            raise row.refuse("position", f"{whole.position:g} is not the sum of its lots, {summed.position:g}")
        found += [position for position in (whole or summed,) if position is not None]
    return tuple(found)


def _position(row: Row) -> FlexPosition:
    return FlexPosition(
        conid=row.required("conid", integer),
        symbol=row.required("symbol", str),
        sec_type=row.required("assetCategory", str),
        currency=row.required("currency", str),
        position=row.required("position", number),
        report_date=row.optional("reportDate", day),
        underlying_symbol=row.text("underlyingSymbol"),
        underlying_conid=row.optional("underlyingConid", integer),
        right=row.text("putCall"),
        strike=row.optional("strike", number),
        expiry=row.optional("expiry", day),
        multiplier=row.optional("multiplier", number),
        mark_price=row.optional("markPrice", number),
        position_value=row.optional("positionValue", number),
        cost_basis_money=row.optional("costBasisMoney", number),
        unrealized_pnl=row.optional("fifoPnlUnrealized", number),
        accrued_interest=row.optional("accruedInt", number),
        fx_rate_to_base=row.optional("fxRateToBase", number),
        attributes=row.others(_POSITION_FIELDS),
    )


def _together(one: FlexPosition, other: FlexPosition) -> FlexPosition:
    """Add two parts of a position in one contract; an amount that is missing from one of them is unknown."""
    return replace(
        one,
        position=one.position + other.position,
        position_value=_sum(one.position_value, other.position_value),
        cost_basis_money=_sum(one.cost_basis_money, other.cost_basis_money),
        unrealized_pnl=_sum(one.unrealized_pnl, other.unrealized_pnl),
        accrued_interest=_sum(one.accrued_interest, other.accrued_interest),
        attributes=tuple(item for item in one.attributes if item in other.attributes),
    )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


def _activities(rows: Mapping[str, list[tuple[str, Row]]]) -> tuple[FlexActivity, ...]:
    trades = _counted_trades(rows.get(TRADES, []))
    found = [_trade(row) for row in trades]
    trade_ids = {text for row in trades if (text := row.text("tradeID"))}
    booked = {
        (activity.conid, activity.activity_date)
        for activity, row in zip(found, trades, strict=True)
        if row.text("transactionType") == _BOOKED
    }
    for _, row in rows.get(EXERCISES, []):
        if row.text("quantity") is None or row.text("tradeID") in trade_ids:
            continue
        exercise = _activity(row, FlexActivityKind.EXERCISE, _date_of(row, "date", "dateTime"), "tradePrice")
        if (exercise.conid, exercise.activity_date) not in booked:
            found.append(exercise)
    for _, row in rows.get(TRANSFERS, []):
        if row.text("conid") is not None and row.text("quantity") is not None:  # else it is a transfer of cash
            found.append(_transfer(row))
    for _, row in rows.get(CORPORATE_ACTIONS, []):
        if row.text("conid") is not None and row.text("quantity") is not None:
            when = _date_of(row, "reportDate", "dateTime", "date")
            found.append(_activity(row, FlexActivityKind.CORPORATE_ACTION, when))
    return tuple(found)


def _counted_trades(rows: Iterable[tuple[str, Row]]) -> list[Row]:
    """Return the executions, or the orders if the query gives no executions; never both, nor sums of either."""
    by_level: dict[str, list[Row]] = {}
    for element, row in rows:
        default = _EXECUTION if element == "Trade" else element.upper()
        by_level.setdefault((row.text("levelOfDetail") or default).upper(), []).append(row)
    return by_level.get(_EXECUTION) or by_level.get(_ORDER) or []


def _trade(row: Row) -> FlexActivity:
    notes = {note.strip() for note in (row.text("notes") or "").replace(",", ";").split(";")}
    booked = row.text("transactionType") == _BOOKED and bool(notes & _EXERCISE_NOTES)
    kind = FlexActivityKind.EXERCISE if booked else FlexActivityKind.TRADE
    price = "tradePrice" if row.text("tradePrice") is not None else "price"
    return _activity(row, kind, _date_of(row, "tradeDate", "dateTime", "reportDate"), price)


def _transfer(row: Row) -> FlexActivity:
    transfer = _activity(row, FlexActivityKind.TRANSFER, _date_of(row, "date", "reportDate", "dateTime"))
    if (row.text("direction") or "").upper() == "OUT" and transfer.quantity > 0:
        return replace(transfer, quantity=-transfer.quantity)
    return transfer


def _activity(row: Row, kind: FlexActivityKind, when: date, price: str = "") -> FlexActivity:
    pnl = "fifoPnlRealized" if row.text("fifoPnlRealized") is not None else "realizedPnl"
    return FlexActivity(
        kind=kind,
        conid=row.required("conid", integer),
        quantity=row.required("quantity", number),
        activity_date=when,
        symbol=row.text("symbol"),
        currency=row.text("currency"),
        price=row.optional(price, number) if price else None,
        realized_pnl=row.optional(pnl, number),
        fx_rate_to_base=row.optional("fxRateToBase", number),
        transaction_id=row.text("transactionID"),
        attributes=row.others(_ACTIVITY_FIELDS | {price, pnl}),
    )


def _date_of(row: Row, *names: str) -> date:
    """Return the date in the first of the attributes that has a text."""
    name = next((name for name in names if row.text(name) is not None), names[0])
    return row.required(name, day)
