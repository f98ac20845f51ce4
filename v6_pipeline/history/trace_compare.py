"""Which rows the parts of a snapshot's row came from, and whether the numbers agree. Pure.

The same order of sources as ``snapshots``: among the rows that could have given a part, the newest that holds the same
numbers.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from v6_pipeline.history.inputs import GREEKS, QUOTE, has_any
from v6_pipeline.history.positions import holding_of, newest_first
from v6_pipeline.ib.valuation import market_value, unrealized_pnl
from v6_pipeline.model import PriceSource, UpdateSource

Row = Mapping[str, Any]
"""Any: a row of a table, by column."""

POSITION = ("position", "average_cost", "timestamp")
PRICE = ("market_price", "price_source", "price_time")
VALUE = ("market_value", "unrealized_pnl")
RATE = ("fx_rate_to_base", "base_currency")
_CLOSE = {"market_price": "close", "price_time": "bar_time"}
"""Columns of a snapshot, and what a historical close calls them."""
_MAGNIFIERS = (10, 100, 1_000, 10_000)
"""By how much IB may quote a price above the currency's unit, as pence; the snapshot does not keep it."""


class Part(enum.StrEnum):
    """What of a row may have a source of its own."""

    POSITION = "position"
    PRICE = "price"
    VALUE = "value"
    RATE = "exchange rate"
    QUOTE = "quote"
    GREEKS = "greeks"
    REALIZED = "realized P&L"


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number of the snapshot beside that of its source."""

    name: str
    snapshot: object
    source: object
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedValue:
    """Value and unrealized profit: what a row gave, and what was computed, with the line that says how."""

    given: Sequence[Number] = ()
    computed: Sequence[Number] = ()
    how: str | None = None


def compare(
    snapshot: Row, source: Row, names: Sequence[str], *, called: Mapping[str, str] | None = None
) -> list[Number]:
    """Columns of a snapshot's row beside those of a source; ``called`` maps to the source's names."""
    called = called or {}
    return [
        Number(name=name, snapshot=snapshot[name], source=other, agrees=snapshot[name] == other)
        for name in names
        for other in [source[called.get(name, name)]]
    ]


def compare_close(snapshot: Row, close: Row) -> list[Number]:
    """The price beside a historical close."""
    return compare(snapshot, close, tuple(_CLOSE), called=_CLOSE)


def compare_greeks_time(snapshot: Row, row: Row) -> list[Number]:
    """When the greeks were observed beside the time of their row; older snapshots do not tell."""
    if snapshot["greeks_time"] is None:
        return []
    return compare(snapshot, row, ("greeks_time",), called={"greeks_time": "timestamp"})


def compare_rate(snapshot: Row, values: Row) -> list[Number]:
    """The exchange rate beside the account's own table of rates."""
    rates = {item["currency"]: item["rate"] for item in values["exchange_rates"] or ()}
    own = 1.0 if snapshot["currency"] == values["base_currency"] else None
    found = {"fx_rate_to_base": rates.get(snapshot["currency"], own), "base_currency": values["base_currency"]}
    return compare(snapshot, found, RATE)


def compare_realized(snapshot: Row, activity: Sequence[Row]) -> Number:
    """A Flex position's realized profit beside the sum of what the statement's activity realized."""
    return _number(snapshot, "realized_pnl", math.fsum(row["realized_pnl"] for row in activity))


def compare_value(snapshot: Row, priced: Row | None) -> ComparedValue:
    """Value and unrealized profit beside those of the row that gave both position and price; else computed again."""
    if not snapshot["position"]:
        nothing = [_number(snapshot, name, 0.0) for name in VALUE]
        return ComparedValue(computed=nothing, how="nothing is held")
    given = [] if priced is None else [name for name in VALUE if priced[name] is not None]
    numbers = [] if priced is None else compare(snapshot, priced, given)
    again = [_COMPUTED[name](snapshot) for name in VALUE if name not in given]
    told = [(number, how) for number, how in again if number.snapshot is not None or number.source is not None]
    return ComparedValue(
        given=numbers,
        computed=[number for number, _ in told],
        how=f"computed: {'; '.join(how for _, how in told)}" if told else None,
    )


def _computed_value(snapshot: Row) -> tuple[Number, str]:
    """Position times price, over whichever price magnifier gives the snapshot's."""
    how = "position x price x multiplier"
    product = market_value(holding_of(snapshot, {}).contract, snapshot["position"], snapshot["market_price"])
    plain = _number(snapshot, "market_value", product)
    if product is None or plain.agrees:
        return plain, how
    for magnifier in _MAGNIFIERS:
        number = _number(snapshot, "market_value", product / magnifier)
        if number.agrees:
            return number, f"{how} / {magnifier}, the price magnifier"
    return plain, how


def _computed_profit(snapshot: Row) -> tuple[Number, str]:
    profit = unrealized_pnl(snapshot["position"], snapshot["market_value"], snapshot["average_cost"])
    return _number(snapshot, "unrealized_pnl", profit), "unrealized_pnl is value - position x average cost"


_COMPUTED = {"market_value": _computed_value, "unrealized_pnl": _computed_profit}


def _number(snapshot: Row, name: str, other: float | None) -> Number:
    """A number beside one computed again, whose last digits may differ."""
    told = snapshot[name]
    if told is None or other is None:
        return Number(name=name, snapshot=told, source=other, agrees=told is other)
    return Number(name=name, snapshot=told, source=other, agrees=math.isclose(told, other, rel_tol=1e-9, abs_tol=1e-9))


def priced_row(snapshot: Row, own: pl.DataFrame) -> Row | None:
    """The own row that gave the price."""
    if snapshot["market_price"] is None or snapshot["price_source"] in {
        PriceSource.FLEX.value,
        PriceSource.HISTORICAL_CLOSE.value,
    }:
        return None
    return _first(snapshot, own.filter(pl.col("market_price").is_not_null()), PRICE)


def rated_row(snapshot: Row, own: pl.DataFrame) -> Row | None:
    """The own row that gave the exchange rate."""
    return _first(snapshot, own.filter(pl.col("fx_rate_to_base").is_not_null()), RATE)


def quoted_row(snapshot: Row, own: pl.DataFrame, part: Part) -> tuple[Row | None, tuple[str, ...]]:
    """The own row that gave the quote, or the greeks, and which columns those are."""
    names = QUOTE if part is Part.QUOTE else GREEKS
    if all(snapshot[name] is None for name in names):
        return None, names
    return _first(snapshot, own.filter(has_any(names)), names), names


def realized_row(snapshot: Row, own: pl.DataFrame) -> Row | None:
    """The own row that gave the realized profit of a position that is not from Flex."""
    if snapshot["realized_pnl"] is None:
        return None
    of_queue = (pl.col("source") == UpdateSource.QUEUE.value) & pl.col("realized_pnl").is_not_null()
    return _first(snapshot, own.filter(of_queue), ("realized_pnl",))


def is_same(first: Row, second: Row) -> bool:
    """Whether two rows of one table are the same one."""
    return all(first[name] == second[name] for name in ("date", "timestamp", "ingested_at"))


def _first(snapshot: Row, rows: pl.DataFrame, names: Sequence[str]) -> Row | None:
    """The newest row with the snapshot's numbers; the newest of all if none has them."""
    if rows.is_empty():
        return None
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(snapshot[name], dtype=rows.schema[name])) for name in names)
    ordered = newest_first(rows)
    agreeing = ordered.filter(same)
    return (agreeing if agreeing.height else ordered).row(0, named=True)
