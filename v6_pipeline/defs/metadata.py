"""Metadata: what definitions and materializations say of their Delta tables.

Column schema and address stand on the definition; versions and counts on each materialization, where Dagster plots
them. https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from __future__ import annotations

import inspect
import linecache
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from v6_pipeline.defs.lineage import column_lineage, column_schema
from v6_pipeline.history.close_days import close_days
from v6_pipeline.history.exposure import exposure
from v6_pipeline.history.flex_days import flex_days
from v6_pipeline.history.positions import day_positions
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.lake.columns import PARTITION_COLUMN, TableSpec
from v6_pipeline.lake.faults import safe_uri
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import last_rows
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
    STREAMED_POSITIONS,
    TABLES,
)
from v6_pipeline.refresh.worker import QueueWorker
from v6_pipeline.streaming.streamer import IBPositionStreamer

KINDS = {"deltalake", "polars"}
SAMPLE_ROWS = 3
ERROR = "error"
"""Of a failure: the class of the error, by which a program tells why."""
LONGEST_BREAK = timedelta(days=5)
"""More than the exchange is ever closed, so that no holiday is an alarm."""
FRESH = dg.FreshnessPolicy.time_window(fail_window=LONGEST_BREAK)
"""Of what every trading day brings, whatever is held: the schedule makes it after each session. Dagster's policies
know neither sessions nor partitions, and a backfill of an old day counts as fresh here. What must be newer within a
session is for the checks that ``ib_streamer_sensor`` evaluates: ``stream_fresh``, and ``queue_drains`` where refreshes
stop."""
SHOWN_EVERY = timedelta(minutes=15)
"""Sample rows are some 10 KB, a picture some 30 KB: what is told of each minute shows them four times an hour."""
LINEAGE = {spec.name: column_lineage(spec) for spec in TABLES}
"""Table -> column lineage."""
MADE_BY: dict[str, tuple[Callable[..., Any], ...]] = {
    STREAMED_POSITIONS.name: (IBPositionStreamer, position_rows),
    QUEUED_POSITIONS.name: (QueueWorker, position_rows),
    ACCOUNT_VALUES.name: (QueueWorker, account_rows),
    FLEX_STATEMENTS.name: (flex_days,),
    FLEX_POSITIONS.name: (flex_days,),
    FLEX_ACTIVITY.name: (flex_days,),
    HISTORICAL_CLOSES.name: (close_days,),
    POSITION_SNAPSHOTS.name: (day_positions, assemble),
    PORTFOLIO_EXPOSURE.name: (exposure,),
}
"""Table -> what makes its rows."""


def table_definition(spec: TableSpec, lake: Lake) -> dict[str, Any]:
    """Metadata of a definition: columns with their descriptions, table name, address, partition column."""
    return {
        "dagster/column_schema": column_schema(spec),
        "dagster/table_name": spec.name,
        "dagster/uri": safe_uri(lake.uri(spec)),
        "dagster/code_references": code_references(spec.name),
        "partition_expr": PARTITION_COLUMN,
        "delta/schema_version": spec.version,
    }


def table_materialization(
    spec: TableSpec, lake: Lake, *, partition_rows: int, delta_versions: Sequence[int], rows: int
) -> dict[str, Any]:
    """Metadata that every materialization of a table carries.

    Args:
        spec: the table.
        lake: where it is.
        partition_rows: rows in the partition now.
        delta_versions: the commits that this materialization stands for, oldest first.
        rows: rows that they added to the partition.
    """
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": partition_rows,
        "dagster/uri": safe_uri(lake.uri(spec)),
        "dagster/table_name": spec.name,
        "dagster/column_lineage": LINEAGE[spec.name],
        "rows_added": rows,
        "delta_commits": len(delta_versions),
    }
    if delta_versions:
        newest = delta_versions[-1]
        metadata |= {
            "delta_version": newest,
            "delta_first_version": delta_versions[0],
            "delta_commit": dg.MetadataValue.path(f"{safe_uri(lake.uri(spec))}/_delta_log/{newest:020}.json"),
        }
    return metadata


def sample_rows(spec: TableSpec, lake: Lake, day: date) -> dict[str, dg.MetadataValue[Any]]:
    """The newest rows of a trading day as a table; columns that are empty in all of them are left out."""
    rows = last_rows(lake.table(spec), rows=SAMPLE_ROWS, day=day).drop("date", strict=False)
    shown = rows.select(column for column in rows if column.null_count() < rows.height)
    if shown.is_empty():
        return {}
    records = [dg.TableRecord(dict(map(_shown, row.items()))) for row in shown.to_dicts()]
    return {"sample": dg.MetadataValue.table(records)}


def _shown(cell: tuple[str, object]) -> tuple[str, str | int | float | bool | None]:
    """What Dagster's tables can hold, which is neither instants nor lists."""
    name, value = cell
    if isinstance(value, datetime):
        return name, value.isoformat(sep=" ", timespec="seconds")
    return name, value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def data_version_tag(version: int) -> Mapping[str, str]:
    """The materialization's data version is the table's Delta version, so that Dagster sees what changed."""
    return {"dagster/data_version": f"delta-{version}"}


def shown(make: Callable[[], Mapping[str, Any]], *, say: Callable[[str], object]) -> dict[str, Any]:
    """What ``make`` gives, or nothing; ``say`` is told why in a line."""
    try:
        return dict(make())
    except Exception as error:  # noqa: BLE001  whatever drawing or reading says: the facts are told without it
        say(f"told without samples, pictures and figures: {type(error).__name__}: {' '.join(str(error).split())}")
        return {}


def is_first_of_quarter(instance: dg.DagsterInstance, asset: str, partition: str, now: datetime) -> bool:
    """Whether nothing was told of a partition of an asset yet in this quarter of an hour, by Dagster's log."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition])
    quarter = SHOWN_EVERY.total_seconds()
    told = instance.fetch_materializations(wanted, limit=1).records
    return not told or told[0].timestamp // quarter != now.timestamp() // quarter


def code_references(table: str) -> dg.CodeReferencesMetadataValue:
    """The code that makes a table's rows."""
    with warnings.catch_warnings():
        # Beta in Dagster since 2024: whoever loads the definitions cannot do anything about it.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.CodeReferencesMetadataValue(code_references=[_reference(maker) for maker in MADE_BY[table]])


def _reference(maker: Callable[..., Any]) -> dg.LocalFileCodeReference:
    file = inspect.getsourcefile(maker) or ""
    label = f"{maker.__module__}.{maker.__qualname__}"
    return dg.LocalFileCodeReference(file_path=file, line_number=_line(file, maker.__name__), label=label)


def _line(file: str, name: str) -> int:
    """Where a file defines it. ``inspect`` would parse the whole of it: 200 ms for all makers, in each process."""
    definition = re.compile(rf"(class|(async )?def) {re.escape(name)}\b")
    return next((number for number, line in enumerate(linecache.getlines(file), 1) if definition.match(line)), 1)
