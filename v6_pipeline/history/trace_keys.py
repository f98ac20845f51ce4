"""The parts of a snapshot's row, and the keys of the rows that gave them. Pure.

A snapshot of table version 3 stores the table and the time of each part's row; with the account, the contract and the
table's version, which the snapshot has as well, that is a key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from v6_pipeline.history.inputs import GREEKS, QUOTE
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import TABLES

Row = Mapping[str, Any]
"""Any: a row of a table, by column."""


class Part(enum.StrEnum):
    """A part of a snapshot's row that has a source of its own."""

    POSITION = "position"
    PRICE = "price"
    VALUE = "value"
    RATE = "exchange rate"
    QUOTE = "quote"
    GREEKS = "greeks"
    REALIZED = "realized P&L"


@dataclass(frozen=True, slots=True)
class RowKey:
    """Key of a row beyond account, contract and version; ``time`` is its ``timestamp``, None for no row or a sum."""

    table: TableSpec
    time: datetime | None


@dataclass(frozen=True, slots=True)
class Given:
    """Columns of a part: those that hold it, and those that name the table and the time of the row that gave it."""

    names: tuple[str, ...]
    table: str
    time: str


GIVEN: Mapping[Part, Given] = {
    Part.PRICE: Given(("market_price",), "price_table", "price_row_time"),
    Part.RATE: Given(("fx_rate_to_base",), "fx_table", "fx_time"),
    Part.QUOTE: Given(QUOTE, "quote_table", "quote_time"),
    Part.GREEKS: Given(GREEKS, "greeks_table", "greeks_time"),
    Part.REALIZED: Given(("realized_pnl",), "realized_table", "realized_time"),
}
_SPECS = {spec.name: spec for spec in TABLES}


def is_known(snapshot: Row, part: Part) -> bool:
    """Return whether the snapshot has the part."""
    return any(snapshot[name] is not None for name in GIVEN[part].names)


def recorded_key(snapshot: Row, part: Part) -> RowKey | None:
    """Return the key that the snapshot stores for a part; None if it stores none."""
    table = snapshot[GIVEN[part].table]
    return None if table is None else RowKey(_SPECS[table], snapshot[GIVEN[part].time])
