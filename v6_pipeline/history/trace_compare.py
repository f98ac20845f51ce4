"""Compare the parts of a snapshot's row with the rows that gave them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from v6_pipeline.history.inputs import GREEKS, QUOTE
from v6_pipeline.history.positions import holding_of
from v6_pipeline.history.trace_keys import Part, Row
from v6_pipeline.ib.valuation import market_value, unrealized_pnl
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import ACCOUNT_VALUES, FLEX_ACTIVITY, FLEX_POSITIONS, HISTORICAL_CLOSES

POSITION = ("position", "average_cost", "timestamp")
PRICE = ("market_price", "price_source", "price_time")
VALUE = ("market_value", "unrealized_pnl")
RATE = ("fx_rate_to_base", "base_currency")
_COMPARED = {
    Part.POSITION: POSITION,
    Part.PRICE: PRICE,
    Part.RATE: RATE,
    Part.QUOTE: QUOTE,
    Part.GREEKS: GREEKS,
    Part.REALIZED: ("realized_pnl",),
}
_CLOSE = {"market_price": "close", "price_time": "bar_time"}
"""Columns of a snapshot and of a historical close."""
_MAGNIFIERS = (10, 100, 1_000, 10_000)
"""IB's price magnifiers, such as 100 for pence; the snapshot does not store the contract's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number of the snapshot and that of its source."""

    name: str
    snapshot: object
    source: object
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedValue:
    """Value and unrealized profit: those that a row gave, and those that were computed, with a line that says how."""

    given: Sequence[Number] = ()
    computed: Sequence[Number] = ()
    how: str | None = None


def compare_part(snapshot: Row, part: Part, table: TableSpec, rows: Sequence[Row]) -> list[Number]:
    """Compare the numbers of a part with those of the row that gave it.

    ``rows`` is the row in ``table``; of ``flex_activity`` all rows of the sum. The value is for ``compare_value``.
    """
    row = rows[0]
    match part:
        case Part.PRICE if table is HISTORICAL_CLOSES:
            return compare(snapshot, row, tuple(_CLOSE), called=_CLOSE)
        case Part.POSITION if table is FLEX_ACTIVITY:  # it has bookings alone, none of them the position
            return compare(snapshot, row, ("timestamp",))
        case Part.RATE if table is FLEX_ACTIVITY:
            rates = [booked["fx_rate_to_base"] for booked in rows if booked["fx_rate_to_base"] is not None]
            return [_number(snapshot, "fx_rate_to_base", rates[-1] if rates else None)]
        case Part.RATE if table is ACCOUNT_VALUES:
            return _compare_rate(snapshot, row)
        case Part.RATE if table is FLEX_POSITIONS:
            return compare(snapshot, row, ("fx_rate_to_base",))
        case Part.GREEKS if snapshot["greeks_time"] is not None:  # snapshots of table version 1 have none
            return compare(snapshot, row, (*GREEKS, "greeks_time"), called={"greeks_time": "timestamp"})
        case Part.REALIZED if table is FLEX_ACTIVITY:
            return [_number(snapshot, "realized_pnl", math.fsum(booked["realized_pnl"] for booked in rows))]
    return compare(snapshot, row, _COMPARED[part])


def compare(
    snapshot: Row, source: Row, names: Sequence[str], *, called: Mapping[str, str] | None = None
) -> list[Number]:
    """Compare columns of a snapshot's row with those of a source; ``called`` maps to the source's names."""
    called = called or {}
    return [
        Number(name=name, snapshot=snapshot[name], source=other, agrees=snapshot[name] == other)
        for name in names
        for other in [source[called.get(name, name)]]
    ]


def _compare_rate(snapshot: Row, values: Row) -> list[Number]:
    """Compare the exchange rate with the account's own rates."""
    rates = {item["currency"]: item["rate"] for item in values["exchange_rates"] or ()}
    own = 1.0 if snapshot["currency"] == values["base_currency"] else None
    found = {"fx_rate_to_base": rates.get(snapshot["currency"], own), "base_currency": values["base_currency"]}
    return compare(snapshot, found, RATE)


def compare_value(snapshot: Row, priced: Row | None) -> ComparedValue:
    """Compare value and unrealized profit with the row that gave position and price, else with computed ones."""
    if not snapshot["position"]:
        nothing = [_number(snapshot, name, 0.0) for name in VALUE]
        return ComparedValue(computed=nothing, how="nothing is held")
    given = [] if priced is None else [name for name in VALUE if priced[name] is not None]
    numbers = [] if priced is None else compare(snapshot, priced, given)
    again = [_COMPUTED[name](snapshot) for name in VALUE if name not in given]
    known = [(number, how) for number, how in again if number.snapshot is not None or number.source is not None]
    return ComparedValue(
        given=numbers,
        computed=[number for number, _ in known],
        how=f"computed: {'; '.join(how for _, how in known)}" if known else None,
    )


def _computed_value(snapshot: Row) -> tuple[Number, str]:
    """Compute position x price x multiplier, divided by the price magnifier that gives the snapshot's value."""
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
    """Compare a number with a computed one, whose last digits may differ."""
    own = snapshot[name]
    if own is None or other is None:
        return Number(name=name, snapshot=own, source=other, agrees=own is other)
    return Number(name=name, snapshot=own, source=other, agrees=math.isclose(own, other, rel_tol=1e-9, abs_tol=1e-9))
