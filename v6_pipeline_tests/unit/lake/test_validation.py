"""A frame becomes exactly the table's, or is refused whole, before anything is written."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.tables import QUEUED_POSITIONS
from v6_pipeline.lake.validation import conform
from v6_pipeline_tests.unit.lake.builders import by_run, queued, store, stored_rows, update

GOOD = queued([update(1), update(2)])

REFUSED: dict[str, tuple[pl.DataFrame, str]] = {
    "a float into an integer column, which delta-rs would truncate": (
        GOOD.with_columns(conid=pl.Series([1.7, 2.0])),
        "conid is Float64",
    ),
    "digits into an integer column": (GOOD.with_columns(conid=pl.Series(["1", "2"])), "conid is String"),
    "a time without zone": (
        GOOD.with_columns(pl.col("timestamp").dt.replace_time_zone(None)),
        r"timestamp is Datetime.*no time zone",
    ),
    "an integer too large": (
        GOOD.with_columns(market_data_type=pl.Series([2**40, 1])),
        "market_data_type has values that Int32 cannot hold",
    ),
    "no account": (GOOD.with_columns(account=pl.lit(None, dtype=pl.String)), "2 of 2 rows have no account"),
    "no trading day": (GOOD.with_columns(date=pl.lit(None)), "2 of 2 rows have no date"),
    "NaN": (GOOD.with_columns(bid=pl.lit(math.nan)), "bid holds NaN"),
    "infinity": (GOOD.with_columns(market_value=pl.lit(math.inf)), "market_value holds NaN or an infinity"),
    "a column missing": (GOOD.drop("strike"), "columns missing: strike"),
    "a column too many": (GOOD.with_columns(colour=pl.lit(1)), "columns unknown: colour"),
    "a key twice": (pl.concat([GOOD, GOOD.head(1)]), "1 rows repeat a key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    frame, message = REFUSED[case]
    table = store(tmp_path)
    with pytest.raises(LakeError, match=message) as caught:
        table.append(frame, by_run())
    assert "\n" not in str(caught.value)
    assert not Path(table.uri).exists()


def test_rows_outside_the_commits_partition_are_refused() -> None:
    assert conform(GOOD, QUEUED_POSITIONS, partition="2026-03-04").height == 2
    with pytest.raises(LakeError, match="2 rows lie outside the partition 2026-03-05"):
        conform(GOOD, QUEUED_POSITIONS, partition="2026-03-05")
    with pytest.raises(LakeError, match="'today' is not a date"):
        conform(GOOD, QUEUED_POSITIONS, partition="today")


def test_lossless_types_are_cast_and_columns_put_in_order(tmp_path: Path) -> None:
    """delta-rs panics at a categorical column and refuses an all-null one; neither is an error of the caller."""
    given = GOOD.with_columns(
        pl.col("symbol").cast(pl.Categorical),
        pl.col("conid").cast(pl.Int32),
        pl.col("timestamp").dt.cast_time_unit("ns").dt.convert_time_zone("America/New_York"),
        position=pl.lit(2),
        bid=pl.lit(None),
        strategy_ids=pl.Series([[], []]),
    ).select(reversed(GOOD.columns))
    assert conform(given, QUEUED_POSITIONS).equals(GOOD)
    table = store(tmp_path)
    table.append(given, by_run())
    assert stored_rows(table).equals(GOOD)
