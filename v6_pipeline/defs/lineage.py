"""Columns and column lineage for Dagster, translated from the table specs of ``lake.tables``.

https://docs.dagster.io/guides/build/assets/metadata-and-tags/column-level-lineage
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from v6_pipeline.lake.columns import TableSpec


def column_schema(spec: TableSpec) -> dg.TableSchema:
    """Return the columns of a table with their types and descriptions."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.dtype),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=not column.required),
            )
            for column in spec.columns
        ]
    )


def source_schema(fields: Mapping[str, str]) -> dg.TableSchema:
    """Return the fields (name to description) of a source outside the lake."""
    return dg.TableSchema(columns=[dg.TableColumn(name=name, description=text) for name, text in fields.items()])


def column_lineage(spec: TableSpec) -> dg.TableColumnLineage:
    """Return the upstream columns of each column; columns that the writer adds have none."""
    return dg.TableColumnLineage(
        deps_by_column={
            column.name: [
                dg.TableColumnDep(asset_key=dg.AssetKey(origin.table), column_name=origin.column)
                for origin in column.origins
            ]
            for column in spec.columns
            if column.origins
        }
    )
