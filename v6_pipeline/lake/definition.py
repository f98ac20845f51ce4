"""Creating a Delta table from its spec, and bringing an older one up to the spec's version."""

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
"""Commits between checkpoints: with 100, delta-rs's default, an append at commit 200 took 89 ms, with 20 36 ms."""
ONCE = CommitProperties(max_commit_retries=0)
"""For creations: by default delta-rs retries the loser of a race, whose table definition then lands as version 1."""
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
    """The Delta type of a polars type."""
    if isinstance(dtype, pl.List):
        return ArrayType(delta_type(_instance(dtype.inner)))
    if isinstance(dtype, pl.Struct):
        return StructType([Field(field.name, delta_type(_instance(field.dtype))) for field in dtype.fields])
    return PrimitiveType(_PRIMITIVES[dtype])


def create(spec: TableSpec, uri: str, options: Mapping[str, str]) -> DeltaTable:
    """Create the table, or open the one that another process created meanwhile.

    Raises:
        DeltaError, OSError: neither worked.
    """
    # Statistics of these alone: they prune by time and contract, and keep a log entry small; by default delta-rs takes
    # the first 32 columns, which leaves out timestamp.
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
                # A checkpoint must be flushed before the log files that it stands for are dropped; delta-rs would drop
                # them right after writing it, in a compaction even where its hook is told not to.
                "delta.enableExpiredLogCleanup": "false",
                SCHEMA_VERSION: str(spec.version),
            },
            storage_options=dict(options) or None,
            raise_if_key_not_exists=False,
            commit_properties=ONCE,
        )
    except DeltaError:
        # The loser of a first creation gets one DeltaError or another; if there is a table now, all is well.
        if not DeltaTable.is_deltatable(uri, storage_options=dict(options) or None):
            raise
        return DeltaTable(uri, storage_options=dict(options) or None)


def stored_version(handle: DeltaTable, spec: TableSpec) -> int:
    """The schema version that the table was created with or migrated to.

    Raises:
        LakeError: it has none, so something else made the table, or it is newer than this code.
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
    """Add the columns that the spec has and the table lacks, then record the version; safe to repeat and to race.

    Raises:
        LakeError: the table's columns are not those of its version, or the table is newer.
        LakeConflictError: others kept changing the table.
    """
    for _ in range(_MIGRATION_ATTEMPTS):
        stored = stored_version(handle, spec)
        check_columns(handle, spec, stored)
        if stored == spec.version:
            return
        present = {field.name for field in handle.schema().fields}
        new = [column for column in spec.columns if column.name not in present]
        if required := [column.name for column in new if column.required]:
            raise LakeError(f"table {spec.name} cannot be given required columns later: {', '.join(required)}")
        try:
            if new:
                handle.alter.add_columns([_field(column) for column in new])
            handle.alter.set_table_properties({SCHEMA_VERSION: str(spec.version)}, raise_if_not_exists=False)
        except (CommitFailedError, DeltaError) as error:
            if not is_conflict(error) and "already exists" not in str(error):
                raise
            handle.update_incremental()
    raise LakeConflictError(
        f"table {spec.name} could not be migrated to schema version {spec.version}: others write it"
    )


def check_columns(handle: DeltaTable, spec: TableSpec, stored: int) -> None:
    """Refuse a table whose columns of its version differ from the spec's.

    Raises:
        LakeError: naming the first column that differs.
    """
    found = {field.name: field.type for field in handle.schema().fields}
    for column in spec.columns:
        if column.name not in found:
            if column.since <= stored:
                raise LakeError(f"table {spec.name} lacks column {column.name}: it was changed by hand; restore it")
            continue
        if found[column.name] != delta_type(column.dtype):
            raise LakeError(f"table {spec.name}: column {column.name} is {found[column.name]}, must be {column.dtype}")


def _field(column: Column) -> Field:
    return Field(
        column.name, delta_type(column.dtype), nullable=not column.required, metadata={"comment": column.description}
    )


def _instance(dtype: object) -> pl.DataType:
    """Polars gives inner types as class or instance."""
    return dtype() if isinstance(dtype, type) else dtype  # type: ignore[return-value]
