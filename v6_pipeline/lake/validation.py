"""Bringing a frame into exactly a table's form, or refusing it before anything is written.

delta-rs accepts what corrupts data: it truncates a float for an integer column (1.7 becomes 1), turns digits in a
string into a number, stores a time without zone as such or fails halfway, and panics at a categorical column.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.columns import PARTITION_COLUMN, TableSpec


def conform(frame: pl.DataFrame, spec: TableSpec, *, partition: str | None = None) -> pl.DataFrame:
    """Return the frame with the table's columns, order and types, after lossless casts only.

    ``frame`` must have every column of the table and no other; ``partition`` is an ISO date that all rows must have.

    Raises:
        LakeError: columns missing or unknown, a wrong type, null or non-finite values where none may be, a repeated
            key, or rows outside the partition.
    """
    _check_names(frame, spec)
    cast = pl.DataFrame([_cast(frame.get_column(column.name), column.dtype, spec.name) for column in spec.columns])
    for name in spec.required:
        if nulls := cast.get_column(name).null_count():
            raise _refused(spec, f"{nulls} of {cast.height} rows have no {name}")
    floats = [column.name for column in spec.columns if column.dtype == pl.Float64]
    for name, are_finite in cast.select(pl.col(floats).is_finite().all()).row(0, named=True).items() if floats else ():
        if not are_finite:
            raise _refused(spec, f"{name} holds NaN or an infinity, where unknown is null")
    if twice := cast.height - cast.select(spec.key).n_unique():
        raise _refused(spec, f"{twice} rows repeat a key ({', '.join(spec.key)})")
    if partition is not None:
        _check_partition(cast, spec, partition)
    return cast


def _check_names(frame: pl.DataFrame, spec: TableSpec) -> None:
    if missing := [name for name in spec.column_names if name not in frame.columns]:
        raise _refused(spec, f"columns missing: {', '.join(missing)}")
    if unknown := [name for name in frame.columns if not spec.has(name)]:
        raise _refused(spec, f"columns unknown: {', '.join(unknown)}")


def _check_partition(frame: pl.DataFrame, spec: TableSpec, partition: str) -> None:
    try:
        day = date.fromisoformat(partition)
    except ValueError:
        raise _refused(spec, f"partition {partition!r} is not a date") from None
    outside = frame.filter(pl.col(PARTITION_COLUMN) != day)
    if outside.height:
        raise _refused(spec, f"{outside.height} rows lie outside the partition {partition}")


def _cast(series: pl.Series, dtype: pl.DataType, table: str) -> pl.Series:
    if series.dtype == dtype:
        return series
    if not _lossless(series.dtype, dtype):
        hint = " (no time zone)" if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is None else ""
        raise LakeError(f"table {table} refused the rows: {series.name} is {series.dtype}{hint}, must be {dtype}")
    try:
        return series.cast(dtype, strict=True)
    except pl.exceptions.PolarsError:
        raise LakeError(f"table {table} refused the rows: {series.name} has values that {dtype} cannot hold") from None


def _lossless(given: pl.DataType, wanted: pl.DataType) -> bool:
    """Return whether every value keeps its meaning; the strict cast finds overflow."""
    if given == pl.Null:
        return True
    if isinstance(wanted, pl.List) and isinstance(given, pl.List):
        return any(given.inner == inner for inner in (wanted.inner, pl.Null))
    if isinstance(wanted, pl.Datetime):
        return isinstance(given, pl.Datetime) and given.time_zone is not None
    if wanted.is_integer():
        return given.is_integer()
    if wanted.is_float():
        return given.is_float() or given.is_integer()
    return wanted == pl.String and isinstance(given, pl.Categorical | pl.Enum)


def _refused(spec: TableSpec, why: str) -> LakeError:
    return LakeError(f"table {spec.name} refused the rows: {why}")
