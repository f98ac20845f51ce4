"""Metadata: what definitions and materializations say of their Delta tables.

Column schema and address stand on the definition; versions and counts on each materialization, where Dagster plots
them. https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from v6_pipeline.defs.code_references import code_references
from v6_pipeline.defs.history_origins import HISTORY_LINEAGE
from v6_pipeline.defs.lineage import ACCOUNTS, QUEUED, STREAMED, column_lineage
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.faults import safe_uri
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import last_rows
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS

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
LINEAGE = {
    STREAMED_POSITIONS.name: column_lineage(STREAMED, strategies=True),
    QUEUED_POSITIONS.name: column_lineage(QUEUED, strategies=True),
    ACCOUNT_VALUES.name: column_lineage(ACCOUNTS, strategies=False),
    **HISTORY_LINEAGE,
}


def table_definition(spec: TableSpec, lake: Lake) -> dict[str, Any]:
    """Metadata of a definition: columns with their descriptions, table name, address, partition column."""
    columns = [
        dg.TableColumn(
            name=column.name,
            type=str(column.dtype),
            description=column.description,
            constraints=dg.TableColumnConstraints(nullable=not column.required),
        )
        for column in spec.columns
    ]
    return {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/table_name": spec.name,
        "dagster/uri": safe_uri(lake.uri(spec)),
        "dagster/code_references": code_references(spec.name),
        "partition_expr": "date",
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
