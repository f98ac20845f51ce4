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

from v6_pipeline.ib.valuation import market_value
from v6_pipeline.lake.day import GREEKS, QUOTE, has_any
from v6_pipeline.model import PriceSource, UpdateSource
from v6_pipeline.sync.day_positions import holding_of, newest_first

Row = Mapping[str, Any]
"""Any: a row of a table, by column."""

POSITION = ("position", "average_cost", "timestamp")
PRICE = ("market_price", "price_source", "price_time")
VALUE = ("market_value", "unrealized_pnl")
RATE = ("fx_rate_to_base", "base_currency")
_CLOSE = {"market_price": "close", "price_time": "bar_time"}
"""Columns of a snapshot, and what a historical close calls them."""
_MAGNIFIERS = (1, 10, 100, 1_000, 10_000)
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


def compare_rate(snapshot: Row, values: Row) -> list[Number]:
    """The exchange rate beside the account's own table of rates."""
    rates = {item["currency"]: item["rate"] for item in values["exchange_rates"] or ()}
    own = 1.0 if snapshot["currency"] == values["base_currency"] else None
    found = {"fx_rate_to_base": rates.get(snapshot["currency"], own), "base_currency": values["base_currency"]}
    return compare(snapshot, found, RATE)


def compare_realized(snapshot: Row, activity: Sequence[Row]) -> Number:
    """A Flex position's realized profit beside the sum of what the statement's activity realized."""
    told, total = snapshot["realized_pnl"], math.fsum(row["realized_pnl"] for row in activity)
    agrees = told is not None and math.isclose(told, total, rel_tol=1e-9, abs_tol=1e-9)
    return Number(name="realized_pnl", snapshot=told, source=total, agrees=agrees)


def compare_value(snapshot: Row, priced: Row | None) -> tuple[list[Number], str | None]:
    """The value beside that of the row that gave both position and price; else beside position times price.

    The second is how it was computed, where it was.
    """
    given = [] if priced is None else [name for name in VALUE if priced[name] is not None]
    if priced is not None and "market_value" in given and snapshot["position"]:
        return compare(snapshot, priced, given), None
    value = snapshot["market_value"]
    if not snapshot["position"]:
        return [Number(name="market_value", snapshot=value, source=0.0, agrees=value == 0)], "nothing is held"
    product = market_value(holding_of(snapshot, {}).contract, snapshot["position"], snapshot["market_price"])
    if product is None:
        return [], None
    for magnifier in _MAGNIFIERS:
        if value is not None and math.isclose(value, product / magnifier, rel_tol=1e-9, abs_tol=1e-9):
            quoted = "" if magnifier == 1 else f" / {magnifier}, the price magnifier"
            number = Number(name="market_value", snapshot=value, source=product / magnifier, agrees=True)
            return [number], f"computed: position x price x multiplier{quoted}"
    number = Number(name="market_value", snapshot=value, source=product, agrees=False)
    return [number], "computed: position x price x multiplier"


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
