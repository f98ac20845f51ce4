"""Search for the rows that gave the parts of a snapshot older than table version 3, which does not name them. Pure.

Sources come in the same order as in ``snapshots``: among the rows that could have given a part, the newest one that
holds the same numbers, else the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import polars as pl

from v6_pipeline.history.inputs import (
    GREEKS,
    OBSERVED_SCHEMA,
    OWN_LOGS,
    POSITION_TABLES,
    QUOTE,
    VERSION_COLUMNS,
    has_any,
    observed_until,
)
from v6_pipeline.history.positions import newest_first
from v6_pipeline.history.trace_compare import PRICE, RATE
from v6_pipeline.history.trace_keys import Part, Row, RowKey, is_known
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import ACCOUNT_VALUES, FLEX_ACTIVITY, FLEX_POSITIONS, HISTORICAL_CLOSES, STREAMED_POSITIONS
from v6_pipeline.model import PriceSource, UpdateSource

RowsOf = Callable[[TableSpec], pl.DataFrame]
"""Returns the contract's rows of a table on the snapshot's day."""
_NO_ROW = RowKey(STREAMED_POSITIONS, None)


def searched_key(snapshot: Row, part: Part, position: Row | None, *, rows_of: RowsOf, last: datetime) -> RowKey | None:
    """Return the key of the row that gave a part; None if the part is unknown or needs no row.

    ``position`` is the row that gave the position, whose key every snapshot stores, and ``last`` the newest observation
    that the snapshot could see (UTC).
    """
    is_flex = snapshot["position_source"] == UpdateSource.FLEX.value
    if part is Part.REALIZED and is_flex and snapshot[VERSION_COLUMNS[FLEX_ACTIVITY.name]] is not None:
        return RowKey(FLEX_ACTIVITY, None)  # activity of a snapshot without realized profit is a difference
    if not is_known(snapshot, part):
        return None
    if part is Part.PRICE:
        return _price_key(snapshot, rows_of, last)
    if part is Part.RATE:
        return _rate_key(snapshot, position if is_flex else None, rows_of, last)
    if part is Part.REALIZED:
        if is_flex:
            return RowKey(FLEX_ACTIVITY, None)
        realized = pl.col("realized_pnl").is_not_null() & (pl.col("source") == UpdateSource.QUEUE.value)
        return _own_key(snapshot, rows_of, last, realized, ("realized_pnl",))
    names = QUOTE if part is Part.QUOTE else GREEKS
    return _own_key(snapshot, rows_of, last, has_any(names), names) or _NO_ROW


def _price_key(snapshot: Row, rows_of: RowsOf, last: datetime) -> RowKey:
    if snapshot["price_source"] == PriceSource.HISTORICAL_CLOSE.value:
        return RowKey(HISTORICAL_CLOSES, None)
    if snapshot["price_source"] == PriceSource.FLEX.value:
        return RowKey(FLEX_POSITIONS, snapshot["timestamp"])
    return _own_key(snapshot, rows_of, last, pl.col("market_price").is_not_null(), PRICE) or _NO_ROW


def _rate_key(snapshot: Row, flex: Row | None, rows_of: RowsOf, last: datetime) -> RowKey | None:
    if flex is not None and flex["fx_rate_to_base"] is not None:
        return RowKey(FLEX_POSITIONS, snapshot["timestamp"])
    if flex is not None and snapshot["currency"] == snapshot["base_currency"]:
        return None  # 1 by definition
    own = _own_key(snapshot, rows_of, last, pl.col("fx_rate_to_base").is_not_null(), RATE)
    if own is not None:
        return own
    times = rows_of(ACCOUNT_VALUES).get_column("timestamp")
    return RowKey(ACCOUNT_VALUES, max((time for time in times.to_list() if time <= last), default=None))


def _own_key(
    snapshot: Row, rows_of: RowsOf, last: datetime, could_give: pl.Expr, names: Sequence[str]
) -> RowKey | None:
    """Return the key of the newest own row with the snapshot's numbers, else of the newest; None if there is no row."""
    own = pl.concat([rows_of(spec).select(OBSERVED_SCHEMA.names()) for spec in OWN_LOGS])
    rows = newest_first(observed_until(own.lazy(), last).filter(could_give).collect())
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(snapshot[name], dtype=rows.schema[name])) for name in names)
    agreeing = rows.filter(same)
    for found in (agreeing, rows):
        if found.height:
            return RowKey(POSITION_TABLES[found.item(0, "source")], found.item(0, "timestamp"))
    return None
