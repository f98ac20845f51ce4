"""Metadata of the Delta tables on definitions (columns, address) and materializations (versions, counts, samples).

Dagster plots the numbers of materializations. https://docs.dagster.io/guides/build/assets/metadata-and-tags
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
"""Metadata key under which a failure names its error class, for programs."""
LONGEST_BREAK = timedelta(days=5)
"""Longer than the exchange ever closes, so that no holiday raises an alarm."""
FRESH = dg.FreshnessPolicy.time_window(fail_window=LONGEST_BREAK)
"""For tables that the schedule makes after each session. Dagster's policies know neither sessions nor partitions, so
a backfill of an old day counts as fresh. Within a session ``ib_streamer_sensor`` evaluates the checks ``stream_fresh``
and ``queue_drains``."""
SHOWN_EVERY = timedelta(minutes=15)
"""Sample rows take 10 KB, a picture 30 KB: reports that come every minute show them four times an hour."""
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
"""Table -> code that makes its rows."""


def table_definition(spec: TableSpec, lake: Lake) -> dict[str, Any]:
    """Return metadata of a definition: columns with their descriptions, table name, address, partition column."""
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
    """Return metadata of a materialization whose commits (``delta_versions``, oldest first) added ``rows`` rows.

    ``partition_rows`` is the number of rows that the partition has now.
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
    """Return the newest rows of a trading day as a table, without columns that are empty in all of them."""
    rows = last_rows(lake.table(spec), rows=SAMPLE_ROWS, day=day).drop("date", strict=False)
    shown = rows.select(column for column in rows if column.null_count() < rows.height)
    if shown.is_empty():
        return {}
    records = [dg.TableRecord(dict(map(_table_cell, row.items()))) for row in shown.to_dicts()]
    return {"sample": dg.MetadataValue.table(records)}


def _table_cell(cell: tuple[str, object]) -> tuple[str, str | int | float | bool | None]:
    """Return a cell as Dagster's tables can hold it: no instants, no lists."""
    name, value = cell
    if isinstance(value, datetime):
        return name, value.isoformat(sep=" ", timespec="seconds")
    return name, value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def data_version_tag(version: int) -> Mapping[str, str]:
    """Return the tag that makes the table's Delta version the data version, so that Dagster sees a change."""
    return {"dagster/data_version": f"delta-{version}"}


def shown(make: Callable[[], Mapping[str, Any]], *, say: Callable[[str], object]) -> dict[str, Any]:
    """Return the result of ``make``; if it fails, return nothing and pass ``say`` the reason in one line."""
    try:
        return dict(make())
    except Exception as error:  # noqa: BLE001  a failed picture or sample must not stop the report
        say(f"reported without samples, pictures and figures: {type(error).__name__}: {' '.join(str(error).split())}")
        return {}


def is_first_of_quarter(instance: dg.DagsterInstance, asset: str, partition: str, now: datetime) -> bool:
    """Return whether Dagster's log has no materialization of the partition in this quarter of an hour."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition])
    quarter = SHOWN_EVERY.total_seconds()
    newest = instance.fetch_materializations(wanted, limit=1).records
    return not newest or newest[0].timestamp // quarter != now.timestamp() // quarter


def code_references(table: str) -> dg.CodeReferencesMetadataValue:
    """Return links to the installed code that makes a table's rows."""
    with warnings.catch_warnings():
        # Code references are beta in Dagster since 2024; a user who loads the definitions need not see the warning.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.CodeReferencesMetadataValue(code_references=[_reference(maker) for maker in MADE_BY[table]])


def _reference(maker: Callable[..., Any]) -> dg.LocalFileCodeReference:
    file = inspect.getsourcefile(maker) or ""
    label = f"{maker.__module__}.{maker.__qualname__}"
    return dg.LocalFileCodeReference(file_path=file, line_number=_line(file, maker.__name__), label=label)


def _line(file: str, name: str) -> int:
    """Return a definition's line number. ``inspect`` would parse each file: 200 ms for all makers, in each process."""
    definition = re.compile(rf"(class|(async )?def) {re.escape(name)}\b")
    return next((number for number, line in enumerate(linecache.getlines(file), 1) if definition.match(line)), 1)
