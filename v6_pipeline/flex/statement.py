"""Builds a Flex statement from its elements: its head, its positions, and the changes that ``activity`` reads. Pure.

Levels of detail: a query with several levels ticked gives a position as SUMMARY and again by LOT. Positions are taken
from SUMMARY rows, whose lots must add up to them; a position at other levels alone is refused.

Rows may name no account (``-``, sums over accounts, which do not count next to rows that name one), or the account with
a letter behind it: IB books futures of U1 under U1F. Both are reported from real statements.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from v6_pipeline.errors import FlexError
from v6_pipeline.flex.activity import (
    CORPORATE_ACTIONS,
    EXERCISES,
    LEVELS,
    TRADES,
    TRANSFERS,
    activities,
    unread_levels,
)
from v6_pipeline.flex.model import FlexPosition, FlexStatement, RefusedStatement
from v6_pipeline.flex.needs import ACCOUNT, POSITIONS, lacking
from v6_pipeline.flex.values import Row, day, instant, integer, number

ROWS: Mapping[str, frozenset[str]] = {
    POSITIONS: frozenset({"OpenPosition"}),
    TRADES: frozenset({"Trade", "Order", "Lot", "SymbolSummary", "AssetSummary"}),
    EXERCISES: frozenset({"OptionEAE"}),
    TRANSFERS: frozenset({"Transfer"}),
    CORPORATE_ACTIONS: frozenset({"CorporateAction"}),
    ACCOUNT: frozenset({"AccountInformation"}),
}
"""Elements that are read, by their section."""
MOST_ROWS = 500_000
"""Rows of one statement that are kept in memory."""

_SUMMARY, _LOT = "SUMMARY", "LOT"
_NO_ACCOUNT = "-"
"""Account of rows that sum over accounts (reported from real statements)."""
_OPTION_SYMBOL = re.compile(r"\S.{0,5}\s*(\d{6})([CP])(\d{8})", re.ASCII)
"""The OCC's symbol of an option: root, yymmdd, C or P, strike in thousandths."""
_POSITION_FIELDS = frozenset(
    {
        *("accountId", "conid", "symbol", "currency", "fxRateToBase", "levelOfDetail"),
        *("assetCategory", "underlyingSymbol", "underlyingConid", "putCall", "strike", "expiry", "multiplier"),
        *("reportDate", "position", "markPrice", "positionValue", "costBasisMoney", "fifoPnlUnrealized", "accruedInt"),
    }
)


@dataclass(slots=True)
class StatementParts:
    """The parts of a statement that were read so far."""

    head: Row
    query_name: str | None = None
    sections: set[str] = field(default_factory=set)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def note(self, depth: int, element: str, attributes: Mapping[str, str]) -> None:
        """Add an element to the digest, which ignores white space, the order of attributes, and the file."""
        hashed = sorted((name, text) for name, text in attributes.items() if name != "whenGenerated")
        self.digest.update(json.dumps([depth, element, hashed]).encode())

    def add(self, section: str, element: str, attributes: Mapping[str, str]) -> None:
        """Add a row of a section that is read.

        Raises:
            FlexError: the statement has more rows than fit into memory.
        """
        kept = self.rows.setdefault(section, [])
        if len(kept) >= MOST_ROWS:
            raise FlexError(f"{self.head.where}: {section} has more than {MOST_ROWS:,} rows: not read")
        kept.append(Row(self.head.statement, attributes, element, len(kept) + 1))

    def build(self) -> FlexStatement | RefusedStatement:
        """Return the finished statement, or why it cannot be read.

        It is refused without a section of positions, and if a row cannot be read or contradicts another one.
        """
        try:
            return self._build()
        except FlexError as error:
            return self._refused(str(error))

    def _build(self) -> FlexStatement:
        head = self.head
        account = head.required("accountId", str)
        if POSITIONS not in self.sections:
            raise head.refuse(POSITIONS, "is not among its sections: add Open Positions to the Flex query")
        rows = {section: _of_account(found, account) for section, found in self.rows.items()}
        first, last = head.required("fromDate", day), head.required("toDate", day)
        if first > last:
            raise head.refuse("fromDate", "is after toDate")
        unread = {section: unread_levels(section, rows[section]) for section in LEVELS if rows.get(section)}
        currencies = [row.text("currency") for row in rows.get(ACCOUNT, ())]
        return FlexStatement(
            account=account,
            from_date=first,
            to_date=last,
            generated_at=head.required("whenGenerated", instant),
            sections=frozenset(self.sections.difference(section for section, levels in unread.items() if levels)),
            sha256=self.digest.hexdigest(),
            query_name=self.query_name,
            base_currency=next((currency for currency in currencies if currency), None),
            positions=_positions(rows.get(POSITIONS, [])),
            activities=activities(rows, first),
            not_in_query=lacking(self.sections, rows),
        )

    def _refused(self, reason: str) -> RefusedStatement:
        def known(name: str) -> date | None:
            try:
                return self.head.optional(name, day)
            except FlexError:
                return None

        account = self.head.text("accountId")
        return RefusedStatement(account=account, from_date=known("fromDate"), to_date=known("toDate"), reason=reason)


def _of_account(rows: Sequence[Row], account: str) -> list[Row]:
    """Return the rows of the statement's account, without sums over accounts that its own rows have too.

    Raises:
        FlexError: a row names another account.
    """
    named = [row for row in rows if row.text("accountId") not in {None, _NO_ACCOUNT}]
    for row in named:
        given = row.text("accountId") or ""
        if given != account and not is_part_of(given, account):
            raise row.refuse(
                "accountId", f"{given!r} is not the statement's: let the Flex query consolidate no accounts"
            )
    return [row for row in rows if not named or row.text("accountId") != _NO_ACCOUNT]


def is_part_of(given: str, account: str) -> bool:
    """Return whether an account number is another one with a letter behind it, such as U1F, the futures of U1."""
    return given[:-1] == account and given[-1:].isascii() and given[-1:].isupper()


def _positions(rows: Iterable[Row]) -> tuple[FlexPosition, ...]:
    """Return one position per contract; the lots of a summary must add up to it."""
    summaries: dict[int, dict[tuple[str, str], FlexPosition]] = {}
    lots: dict[int, FlexPosition] = {}
    places: dict[int, Row] = {}
    for row in rows:
        conid = row.required("conid", integer)
        places.setdefault(conid, row)
        level = row.level or _SUMMARY
        if level == _LOT:
            position = _position(row)
            lots[conid] = together(lots[conid], position) if conid in lots else position
        elif level == _SUMMARY:
            parts = summaries.setdefault(conid, {})
            part = (row.text("model") or "", row.text("accountId") or "")
            if part in parts:
                raise row.refuse("conid", f"{conid} has two {_SUMMARY} rows")
            parts[part] = _position(row)
    found = []
    for conid, row in places.items():
        whole: FlexPosition | None = None
        for position in summaries.get(conid, {}).values():
            whole = position if whole is None else together(whole, position)
        summed = lots.get(conid)
        if whole is not None and summed is not None and not _equal(whole.position, summed.position):
            raise row.refuse("position", f"{whole.position:g} is not the sum of its lots, {summed.position:g}")
        held = whole or summed
        if held is None:
            raise row.refuse("levelOfDetail", f"{row.level!r} is neither {_SUMMARY} nor {_LOT}")
        found.append(held)
    return tuple(found)


def _position(row: Row) -> FlexPosition:
    right, strike, expiry = _terms(row)
    return FlexPosition(
        conid=row.required("conid", integer),
        symbol=row.required("symbol", str),
        sec_type=row.required("assetCategory", str),
        currency=row.required("currency", str),
        position=row.required("position", number),
        report_date=row.optional("reportDate", day),
        underlying_symbol=row.text("underlyingSymbol"),
        underlying_conid=row.optional("underlyingConid", integer),
        right=right,
        strike=strike,
        expiry=expiry,
        multiplier=row.optional("multiplier", number),
        mark_price=row.optional("markPrice", number),
        position_value=row.optional("positionValue", number),
        cost_basis_money=row.optional("costBasisMoney", number),
        unrealized_pnl=row.optional("fifoPnlUnrealized", number),
        accrued_interest=row.optional("accruedInt", number),
        fx_rate_to_base=row.optional("fxRateToBase", number),
        attributes=row.others(_POSITION_FIELDS),
    )


def _terms(row: Row) -> tuple[str | None, float | None, date | None]:
    """Return right, strike and expiry; of an option without these fields, those in the symbol that the OCC gives it."""
    right, strike, expiry = row.text("putCall"), row.optional("strike", number), row.optional("expiry", day)
    symbol = _OPTION_SYMBOL.fullmatch(row.text("symbol") or "") if row.text("assetCategory") == "OPT" else None
    if symbol is None:
        return right, strike, expiry
    try:
        written = day(f"20{symbol[1]}")
    except ValueError:
        return right, strike, expiry
    return right or symbol[2], int(symbol[3]) / 1000 if strike is None else strike, expiry or written


def together(one: FlexPosition, other: FlexPosition) -> FlexPosition:
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
