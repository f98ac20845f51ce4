"""The tables' columns: names, types, units, versions. No I/O and no deltalake here.

Money, prices and greeks are Float64 and not Decimal: sums over 200,000 rows of six columns take about half the time (23
against 43 ms), the writer silently rounds floats into a decimal's scale anyway, and IB itself sends doubles.
Timestamps are microseconds in UTC, the only form that Delta stores.

A new column is nullable, goes to the end of ``columns`` with ``since`` one above the table's version, and raises that
version; ``lake.table`` then adds it to tables that are older. A column is never renamed, retyped or dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

PARTITION_COLUMN = "date"
TIMESTAMP = pl.Datetime("us", "UTC")
EXCHANGE_RATES = pl.List(pl.Struct({"currency": pl.String, "rate": pl.Float64}))
"""A list of typed pairs: polars has no map type and reads Delta's as this; JSON text would have to be parsed to be
used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; ``description`` is a line with the unit, shown in Dagster and kept as the Delta field's comment.

    ``required`` columns hold no null. ``since`` is the schema version that brought the column.
    """

    name: str
    dtype: pl.DataType
    description: str
    required: bool = False
    since: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """A table: its columns in order, its key, its version, and how long its log is kept.

    ``key`` identifies a row within one commit. ``log_retention`` is a Delta interval: the newest commits' own metadata
    can be read back for that long. It costs: on a local disk every open lists the log folder (about 8 microseconds a
    file).
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    version: int = 1
    log_retention: str = "interval 30 days"

    @property
    def schema(self) -> pl.Schema:
        """Name to polars type, in the order of the table."""
        return pl.Schema({column.name: column.dtype for column in self.columns})

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that hold no null."""
        return tuple(column.name for column in self.columns if column.required)

    def has(self, name: str) -> bool:
        """Whether the table has a column of this name."""
        return name in self.column_names


def _required(name: str, dtype: pl.DataType, description: str) -> Column:
    return Column(name=name, dtype=dtype, description=description, required=True)


def _column(name: str, dtype: pl.DataType, description: str) -> Column:
    return Column(name=name, dtype=dtype, description=description)


def _floats(described: Sequence[tuple[str, str]]) -> tuple[Column, ...]:
    return tuple(_column(name, pl.Float64(), text) for name, text in described)


_DATE = _required(PARTITION_COLUMN, pl.Date(), "trading day that the timestamp belongs to; the partition")
_ACCOUNT = _required("account", pl.String(), "IB account; simulated ones begin with SIM")
_TIMESTAMP = _required("timestamp", TIMESTAMP, "when the observation was made (UTC)")

POSITION_COLUMNS: tuple[Column, ...] = (
    _DATE,
    _ACCOUNT,
    _required("conid", pl.Int64(), "IB's contract id"),
    _required("symbol", pl.String(), "symbol of the contract or of its underlying"),
    _column("local_symbol", pl.String(), "the exchange's symbol of the contract"),
    _column("trading_class", pl.String(), "IB's trading class"),
    _required("sec_type", pl.String(), "IB's security type: STK, OPT, FUT, FOP, ..."),
    _column("right", pl.String(), "C or P for options"),
    _column("strike", pl.Float64(), "strike price, contract currency"),
    _column("expiry", pl.Date(), "last trading day of the contract"),
    _column("multiplier", pl.Float64(), "units of the underlying per contract"),
    _required("currency", pl.String(), "contract currency (ISO 4217)"),
    _column("underlying_conid", pl.Int64(), "contract id of the underlying"),
    _required("position", pl.Float64(), "contracts or shares held, negative if short, 0 once closed"),
    *_floats(
        (
            ("average_cost", "IB's cost per unit of position, multiplier included, contract currency"),
            ("market_price", "price that values the position, contract currency"),
            ("market_value", "value of the whole position, contract currency"),
            ("unrealized_pnl", "unrealized profit and loss of the position, contract currency"),
            ("realized_pnl", "profit and loss realized this trading day, contract currency; null for streamed rows"),
            ("bid", "best bid, contract currency"),
            ("ask", "best ask, contract currency"),
            ("last", "last trade, contract currency"),
            ("close", "close of the previous session, contract currency"),
            ("implied_vol", "implied volatility, fraction a year"),
            ("delta", "price change per unit of the underlying's, per unit"),
            ("gamma", "change of delta per unit of the underlying's price, per unit"),
            ("vega", "price change per percentage point of volatility, per unit"),
            ("theta", "price change per calendar day, per unit"),
            ("underlying_price", "the underlying's price that the greeks were computed with"),
        )
    ),
    _column("market_data_type", pl.Int32(), "1 live, 2 frozen, 3 delayed, 4 delayed and frozen"),
    _column("price_source", pl.String(), "what market_price is: mark, mid, last, close or portfolio"),
    _column("price_time", TIMESTAMP, "when the price was received (UTC)"),
    _column("base_currency", pl.String(), "the account's base currency (ISO 4217)"),
    _column("fx_rate_to_base", pl.Float64(), "base-currency value of one unit of the contract currency"),
    _column("strategy_ids", pl.List(pl.String()), "active strategies that the contract served, sorted"),
    _TIMESTAMP,
)

_SOURCE = _required("source", pl.String(), "the feed of the row: stream, queue or flex")
_EPOCH = _required("epoch", pl.Int64(), "epoch of the streamer that wrote the row")
_RUN_ID = _required("run_id", pl.String(), "the run that wrote the row")
_INGESTED_AT = _required("ingested_at", TIMESTAMP, "when the row was handed to Delta (UTC)")

STREAMED_POSITIONS = TableSpec(
    name="streamed_positions",
    description="Log of streamed positions: at most one row per (account, conid) and flush.",
    columns=(*POSITION_COLUMNS, _SOURCE, _EPOCH, _INGESTED_AT),
    key=("account", "conid", "timestamp"),
    # A flush every 3 s makes 28,800 log files a day; three days reach over a weekend.
    log_retention="interval 3 days",
)

QUEUED_POSITIONS = TableSpec(
    name="queued_positions",
    description="Log of queued positions: one row per refreshed item.",
    columns=(*POSITION_COLUMNS, _SOURCE, _RUN_ID, _INGESTED_AT),
    key=("account", "conid", "timestamp"),
)

ACCOUNT_VALUES = TableSpec(
    name="account_values",
    description="Log of each account's own figures, one row per account download.",
    columns=(
        _DATE,
        _ACCOUNT,
        _required("base_currency", pl.String(), "the account's base currency (ISO 4217)"),
        *_floats(
            (
                ("net_liquidation", "net liquidation value, base currency"),
                ("total_cash", "cash over all currencies, base currency"),
                ("gross_position_value", "sum of the positions' absolute values, base currency"),
                ("buying_power", "buying power, base currency"),
                ("initial_margin", "initial margin requirement, base currency"),
                ("maintenance_margin", "maintenance margin requirement, base currency"),
                ("excess_liquidity", "equity above the maintenance margin, base currency"),
                ("unrealized_pnl", "unrealized profit and loss, base currency"),
                ("realized_pnl", "profit and loss realized this trading day, base currency"),
                ("daily_pnl", "profit and loss since the previous close, base currency"),
            )
        ),
        _column(
            "exchange_rates", EXCHANGE_RATES, "base-currency value of one unit of each currency, sorted by currency"
        ),
        _TIMESTAMP,
        _SOURCE,
        _RUN_ID,
        _INGESTED_AT,
    ),
    key=("account", "timestamp"),
)

TABLES: tuple[TableSpec, ...] = (STREAMED_POSITIONS, QUEUED_POSITIONS, ACCOUNT_VALUES)
"""Every table of the lake."""
