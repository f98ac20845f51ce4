"""Creating a Delta table from its spec, and migrating an older one to the spec's version."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from deltalake import CommitProperties, DeltaTable, Field, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import ArrayType, PrimitiveType, StructType

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake.columns import PARTITION_COLUMN, Column, TableSpec
from v6_pipeline.lake.faults import is_conflict

SCHEMA_VERSION = "v6.schema_version"
CHECKPOINT_INTERVAL = 20
"""Commits between checkpoints: an append at commit 200 took 89 ms with 100, delta-rs's default, and 36 ms with 20."""
ONCE = CommitProperties(max_commit_retries=0)
"""For creations: by default delta-rs retries the loser of a race, and its table definition lands as version 1."""
_MIGRATION_ATTEMPTS = 5

_PRIMITIVES: dict[pl.DataType, str] = {
    pl.String(): "string",
    pl.Int64(): "long",
    pl.Int32(): "integer",
    pl.Float64(): "double",
    pl.Boolean(): "boolean",
    pl.Date(): "date",
    pl.Datetime("us", "UTC"): "timestamp",
}


def delta_type(dtype: pl.DataType) -> PrimitiveType | ArrayType | StructType:
    """Return the Delta type of a polars type."""
    if isinstance(dtype, pl.List):
        return ArrayType(delta_type(_instance(dtype.inner)))
    if isinstance(dtype, pl.Struct):
        return StructType([Field(field.name, delta_type(_instance(field.dtype))) for field in dtype.fields])
    return PrimitiveType(_PRIMITIVES[dtype])


def create(spec: TableSpec, uri: str, options: Mapping[str, str]) -> DeltaTable:
    """Create the table, or open it if another process has created it at the same time.

    Raises:
        DeltaError, OSError: neither worked.
    """
    # Statistics for these columns only: they prune by time and contract and keep a log entry small. By default delta-rs
    # takes the first 32 columns, without timestamp.
    indexed = [name for name in dict.fromkeys((*spec.key, "timestamp")) if spec.has(name)]
    try:
        return DeltaTable.create(
            uri,
            Schema([_field(column) for column in spec.columns]),
            mode="error",
            partition_by=[PARTITION_COLUMN],
            name=spec.name,
            description=spec.description,
            configuration={
                "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
                "delta.dataSkippingStatsColumns": ",".join(indexed),
                "delta.logRetentionDuration": spec.log_retention,
                # A checkpoint must be flushed before the log files that it replaces are dropped. delta-rs would drop
                # them right after writing it, during a compaction even if its hook forbids it.
                "delta.enableExpiredLogCleanup": "false",
                SCHEMA_VERSION: str(spec.version),
            },
            storage_options=dict(options) or None,
            raise_if_key_not_exists=False,
            commit_properties=ONCE,
        )
    except DeltaError:
        # The loser of a race to create gets one DeltaError or another; with a table there now, nothing is wrong.
        if not DeltaTable.is_deltatable(uri, storage_options=dict(options) or None):
            raise
        return DeltaTable(uri, storage_options=dict(options) or None)


def stored_version(handle: DeltaTable, spec: TableSpec) -> int:
    """Return the schema version that the table was created with or migrated to.

    Raises:
        LakeError: it has none, so another program made the table, or it is newer than this code.
    """
    text = handle.metadata().configuration.get(SCHEMA_VERSION, "")
    if not text.isdigit():
        raise LakeError(
            f"table {spec.name} has no {SCHEMA_VERSION}: it is not a table of v6_pipeline; use another V6_LAKE_URI"
        )
    if int(text) > spec.version:
        raise LakeError(
            f"table {spec.name} has schema version {text}, this v6_pipeline knows {spec.version}: upgrade v6_pipeline"
        )
    return int(text)


def migrate(handle: DeltaTable, spec: TableSpec) -> None:
    """Add the columns that are missing in the table, then record the version; safe to repeat and to race.

    Raises:
        LakeError: the table's columns are not those of its version, or the table is newer.
        LakeConflictError: other writers changed the table during each attempt.
    """
    for _ in range(_MIGRATION_ATTEMPTS):
        stored = stored_version(handle, spec)
        check_columns(handle, spec, stored)
        if stored == spec.version:
            return
        present = {field.name for field in handle.schema().fields}
        new = [column for column in spec.columns if column.name not in present]
        if required := [column.name for column in new if column.required]:
            raise LakeError(f"table {spec.name} exists, so no required column can be added: {', '.join(required)}")
        try:
            if new:
                handle.alter.add_columns([_field(column) for column in new])
            handle.alter.set_table_properties({SCHEMA_VERSION: str(spec.version)}, raise_if_not_exists=False)
        except (CommitFailedError, DeltaError) as error:
            if not is_conflict(error) and "already exists" not in str(error):
                raise
            handle.update_incremental()
    raise LakeConflictError(
        f"table {spec.name} could not be migrated to schema version {spec.version}: other writers came first"
    )


def check_columns(handle: DeltaTable, spec: TableSpec, stored: int) -> None:
    """Refuse a table whose columns differ from those of the spec at the table's version.

    Raises:
        LakeError: names the first column that differs.
    """
    found = {field.name: field.type for field in handle.schema().fields}
    for column in spec.columns:
        if column.name not in found:
            if column.since <= stored:
                raise LakeError(f"table {spec.name} has no column {column.name}: it was changed by hand; restore it")
            continue
        if found[column.name] != delta_type(column.dtype):
            raise LakeError(f"table {spec.name}: column {column.name} is {found[column.name]}, must be {column.dtype}")


def _field(column: Column) -> Field:
    return Field(
        column.name, delta_type(column.dtype), nullable=not column.required, metadata={"comment": column.description}
    )


def _instance(dtype: object) -> pl.DataType:
    """Return an instance: polars gives inner types as class or instance."""
    return dtype() if isinstance(dtype, type) else dtype  # type: ignore[return-value]
