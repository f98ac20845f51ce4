"""Changes of quantities in a Flex statement: trades, exercises, transfers, corporate actions, each counted once. Pure.

A change belongs to the day on which IB booked it, ``reportDate``: expiries, assignments and exercises of a Friday are
traded on Friday and booked on Monday, and Friday's positions still have the contract (reported from real statements). A
row without that field is booked on the day that it has, or on the first of the statement's period if that is later.

Levels of detail: a query with several levels ticked gives a trade by EXECUTION and again by ORDER, SYMBOL_SUMMARY and
so on, and other sections by DETAIL and again as SUMMARY. One level counts per section, the finest that is known.

Exercises, assignments and expirations are rows of the section OptionEAE and, with ``transactionType`` BookTrade, of
Trades too; both rows have the same ``tradeID``. The trade is counted; the OptionEAE row is counted only if there is no
such trade, for example because the query has no section Trades. The cash of a cash-settled index option stands in an
OptionEAE row of quantity 0 alone (reported): it is kept, with the profit that it realizes.

Currency conversions are trades in Flex, IB's automatic ones too, though no open position: they have their own kind.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date

from v6_pipeline.flex.model import FlexActivity, FlexActivityKind
from v6_pipeline.flex.values import Row, day, integer, number

TRADES, EXERCISES = "Trades", "OptionEAE"
TRANSFERS, CORPORATE_ACTIONS = "Transfers", "CorporateActions"
LEVELS: Mapping[str, tuple[str, ...]] = {
    TRADES: ("EXECUTION", "ORDER"),
    EXERCISES: ("DETAIL", "EXECUTION", "ORDER", "SUMMARY"),
    TRANSFERS: ("DETAIL", "TRANSFER", "SUMMARY"),
    CORPORATE_ACTIONS: ("DETAIL", "SUMMARY"),
}
"""Levels of detail that are read, by section; the first one with rows counts."""
CASH = "CASH"
"""IB's asset category of currencies."""

_BOOKED = "BookTrade"
_EXERCISE_NOTES = frozenset({"A", "Ex", "Ep", "GEA"})
_FIELDS = frozenset({"accountId", "conid", "symbol", "currency", "fxRateToBase", "quantity", "transactionID"})


def unread_levels(section: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the levels of a section that has rows, none of them at a level that is read."""
    return () if at_one_level(section, rows) else tuple(sorted({_level(section, row) for row in rows}))


def at_one_level(section: str, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the first level that is read; rows without a level count as that one."""
    by_level: dict[str, list[Row]] = {}
    for row in rows:
        by_level.setdefault(_level(section, row), []).append(row)
    return next((by_level[level] for level in LEVELS[section] if level in by_level), [])


def _level(section: str, row: Row) -> str:
    default = row.element.upper() if section == TRADES and row.element != "Trade" else LEVELS[section][0]
    return row.level or default


def activities(sections: Mapping[str, Sequence[Row]], first_day: date) -> tuple[FlexActivity, ...]:
    """Return what the rows of a statement's sections change; ``first_day`` is that of its period.

    Raises:
        FlexError: a row cannot be read.
    """
    rows = {section: at_one_level(section, sections.get(section, ())) for section in LEVELS}
    trades = [(row, _trade(row, first_day)) for row in rows[TRADES]]
    found = [trade for _, trade in trades]
    found += _exercises(rows[EXERCISES], trades, first_day)
    found += [
        _transfer(row, first_day)
        for row in rows[TRANSFERS]
        if row.text("conid") and row.text("quantity") and row.text("assetCategory") != CASH  # else it moves cash
    ]
    found += [
        _activity(row, FlexActivityKind.CORPORATE_ACTION, _booked_on(row, first_day, "dateTime", "date"))
        for row in rows[CORPORATE_ACTIONS]
        if row.text("conid") and row.text("quantity")
    ]
    return tuple(found)


def _exercises(
    rows: Iterable[Row], trades: Sequence[tuple[Row, FlexActivity]], first_day: date
) -> Iterable[FlexActivity]:
    """Yield the exercises, assignments, expirations and cash settlements that are not among the trades."""
    ids = {text for row, _ in trades if (text := row.text("tradeID"))}
    booked = {(trade.conid, trade.activity_date) for row, trade in trades if row.text("transactionType") == _BOOKED}
    unnamed = {(trade.conid, trade.quantity) for row, trade in trades if row.text("transactionType") is None}
    for row in rows:
        if row.text("quantity") is None:
            continue
        booked_on = _booked_on(row, first_day, "date", "dateTime")
        item = _activity(row, FlexActivityKind.EXERCISE, booked_on, "tradePrice")
        if item.quantity == 0:
            settled = _settlement(row, item)
            if not _is_counted(settled, row, trades):
                yield settled
        elif row.text("tradeID") not in ids and not (
            (item.conid, item.quantity) in unnamed or (item.conid, item.activity_date) in booked
        ):
            yield item


def _settlement(row: Row, item: FlexActivity) -> FlexActivity:
    """Return a row of quantity 0 with the cash as its profit, if IB gives it no other."""
    return item if item.realized_pnl else replace(item, realized_pnl=row.optional("proceeds", number))


def _is_counted(settled: FlexActivity, row: Row, trades: Collection[tuple[Row, FlexActivity]]) -> bool:
    """Return whether a trade's profit has the settlement already: by its id, or by its own cost and proceeds.

    For each trade, IB's profit is proceeds + commission + cost (``cost`` has the opposite sign of what was paid).
    """
    amount = settled.realized_pnl
    for of, trade in trades:
        if trade.conid != settled.conid or trade.realized_pnl is None or not amount:
            continue
        trade_id = row.text("tradeID")
        if trade_id and trade_id == of.text("tradeID") and _equal(trade.realized_pnl, amount):
            return True
        cost, proceeds = of.optional("cost", number), of.optional("proceeds", number)
        if cost is not None and proceeds is not None:
            without = proceeds + cost + (of.optional("ibCommission", number) or 0.0)
            if _equal(trade.realized_pnl, without + amount):
                return True
    return False


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=0.005)


def _trade(row: Row, first_day: date) -> FlexActivity:
    notes = {note.strip() for note in (row.text("notes") or "").replace(",", ";").split(";")}
    kind = FlexActivityKind.TRADE
    if row.text("assetCategory") == CASH:
        kind = FlexActivityKind.CONVERSION
    elif row.text("transactionType") == _BOOKED and notes & _EXERCISE_NOTES:
        kind = FlexActivityKind.EXERCISE
    price = "tradePrice" if row.text("tradePrice") is not None else "price"
    return _activity(row, kind, _booked_on(row, first_day, "tradeDate", "dateTime"), price)


def _transfer(row: Row, first_day: date) -> FlexActivity:
    transfer = _activity(row, FlexActivityKind.TRANSFER, _booked_on(row, first_day, "date", "dateTime"))
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
        attributes=row.others(_FIELDS | {price, pnl}),
    )


def _booked_on(row: Row, first_day: date, *names: str) -> date:
    """Return the day on which IB booked a row; `names` are attributes with a date that may be earlier."""
    if row.text("reportDate") is not None:
        return row.required("reportDate", day)
    name = next((name for name in names if row.text(name) is not None), names[0])
    return max(row.required(name, day), first_day)
