"""``Column`` and ``TableSpec``, which declare the tables, with types and units. No I/O, no deltalake, no table.

Money, prices and greeks are Float64 and not Decimal: sums over 200,000 rows of six columns take about half the time (23
against 43 ms), the writer silently rounds floats into a decimal's scale anyway, and IB itself sends doubles.
Timestamps are microseconds in UTC, the only form that Delta stores.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import NamedTuple, Self

import polars as pl

PARTITION_COLUMN = "date"
"""Every table is partitioned by it: the trading day."""
TIMESTAMP = pl.Datetime("us", "UTC")
EXCHANGE_RATES = pl.List(pl.Struct({"currency": pl.String, "rate": pl.Float64}))
"""A list of typed pairs: polars has no map type and reads Delta's as this; JSON text would have to be parsed to be
used."""
ATTRIBUTES = pl.List(pl.Struct({"name": pl.String, "value": pl.String}))
"""Attributes of a Flex statement that have no column, as typed pairs sorted by name."""


class Origin(NamedTuple):
    """A column of another table, or a field of one of the sources in ``tables.sources``."""

    table: str
    column: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; below are short forms for the types and units of the tables.

    Attributes:
        dtype: polars type; ``definition.delta_type`` gives Delta's. Neither it nor the name ever changes.
        meaning: description of a value without its unit.
        origins: upstream columns, Dagster's column lineage; none for a value that the writer of the row adds.
        unit: unit, time zone or standard of the values.
        required: without nulls; in other columns null is unknown.
        since: the version of the table that added the column.
        provenance: describes the origin of the row: does not count when rows are compared.
    """

    dtype: pl.DataType
    name: str
    meaning: str
    origins: tuple[Origin, ...] = ()
    _: KW_ONLY
    unit: str = ""
    required: bool = False
    since: int = 1
    provenance: bool = False

    @property
    def description(self) -> str:
        """Meaning and unit: a line for Dagster, the reference, and the comment of the Delta field."""
        return f"{self.meaning} ({self.unit})" if self.unit else self.meaning

    def made_from(self, origins: tuple[Origin, ...]) -> Self:
        """Return the same column with other origins."""
        return replace(self, origins=origins)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """A table: its columns in order, its key, and how long its log is kept; partitioned by ``PARTITION_COLUMN``.

    To add a column, give a nullable one a ``since`` above the versions of all tables that get it: ``lake.definition``
    adds it to older tables. A column is never renamed, retyped or dropped.

    Attributes:
        key: identifies a row within one commit.
        replaced_by: rows of equal values in these columns are replaced together; empty for a log, which is appended to.
        log_retention: a Delta interval, for which the commits' own metadata can be read back. Longer costs more: on a
        local disk every open lists the log folder (about 8 microseconds a file).
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replaced_by: tuple[str, ...] = ()
    log_retention: str = "interval 30 days"

    @property
    def version(self) -> int:
        """The schema version: that of the newest column."""
        return max(column.since for column in self.columns)

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

    @property
    def provenance(self) -> tuple[str, ...]:
        """Columns that do not count when rows are compared."""
        return tuple(column.name for column in self.columns if column.provenance)

    @property
    def upstream(self) -> tuple[str, ...]:
        """Tables and sources that the columns come from, sorted."""
        return tuple(sorted({origin.table for column in self.columns for origin in column.origins}))

    def has(self, name: str) -> bool:
        """Return whether the table has a column of this name."""
        return name in self.column_names


text = partial(Column, pl.String())
currency = partial(Column, pl.String(), unit="ISO 4217")
integer = partial(Column, pl.Int64())
flag = partial(Column, pl.Boolean(), required=True)
trading_day = partial(Column, pl.Date(), PARTITION_COLUMN, required=True)
day = partial(Column, pl.Date())
instant = partial(Column, TIMESTAMP, unit="UTC")
number = partial(Column, pl.Float64())
price = partial(Column, pl.Float64(), unit="contract currency")
base_amount = partial(Column, pl.Float64(), unit="base currency")
percent = partial(Column, pl.Float64(), unit="percent")
version_read = partial(Column, pl.Int64(), provenance=True)
"""Delta version of a table that was read for the row."""

DAY = trading_day("trading day; the partition")
DAY_OF_TIMESTAMP = trading_day("trading day that the timestamp belongs to; the partition")
ACCOUNT = text("account", "IB account; simulated ones begin with SIM", required=True)
CONID = integer("conid", "IB's contract id", required=True)
OBSERVED_AT = instant("timestamp", "when the observation was made", required=True)
SOURCE = text("source", "the feed of the row: stream, queue or flex", required=True)
EPOCH = integer("epoch", "epoch of the streamer that wrote the row", required=True)
RUN_ID = text("run_id", "the run that wrote the row", required=True, provenance=True)
INGESTED_AT = instant("ingested_at", "when the row was handed to Delta", required=True, provenance=True)
