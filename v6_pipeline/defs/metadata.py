"""Metadata: what definitions and materializations say of their Delta tables.

Column schema and address stand on the definition; versions and counts on each materialization, where Dagster plots
them. https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from v6_pipeline.defs.history_origins import HISTORY_LINEAGE
from v6_pipeline.defs.origins import ACCOUNTS, QUEUED, STREAMED, column_lineage
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.faults import safe_uri
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS

KINDS = {"deltalake", "polars"}
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
        metadata |= {"delta_version": delta_versions[-1], "delta_first_version": delta_versions[0]}
    return metadata


def data_version_tag(version: int) -> Mapping[str, str]:
    """The materialization's data version is the table's Delta version, so that Dagster sees what changed."""
    return {"dagster/data_version": f"delta-{version}"}
