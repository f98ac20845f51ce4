"""Jobs: selections of assets that schedules and people launch by name.

https://docs.dagster.io/guides/build/jobs
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import dagster as dg

from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS, TABLES
from v6_pipeline.lake.tables import (
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
)
from v6_pipeline.lake.upkeep import Upkeep, maintain

REFRESH_JOB = "refresh_queued_positions"
SNAPSHOT_JOB = "snapshot_positions"
FLEX_JOB = "import_flex_statements"
MAINTENANCE_JOB = "maintain_lake"
MAINTENANCE_POOL = "lake_maintenance"
"""One at a time: no lock keeps two compactions apart in an object store."""


def refresh_queued_positions() -> "dg.UnresolvedAssetJobDefinition":
    """Drains the position queue for one trading day."""
    return dg.define_asset_job(
        REFRESH_JOB,
        selection=dg.AssetSelection.assets(QUEUED_POSITIONS.name, ACCOUNT_VALUES.name),
        description="Refreshes the positions that are not streamed, and the account figures.",
    )


def snapshot_positions() -> "dg.UnresolvedAssetJobDefinition":
    """Makes a trading day's snapshot and what it says of the risk."""
    return dg.define_asset_job(
        SNAPSHOT_JOB,
        selection=dg.AssetSelection.assets(POSITION_SNAPSHOTS.name, PORTFOLIO_EXPOSURE.name),
        description="Makes the snapshot of a trading day from what was observed until its cut-off, and the exposure.",
    )


def import_flex_statements() -> "dg.UnresolvedAssetJobDefinition":
    """Takes in trading days' Flex statements, and makes the snapshots anew that they tell better."""
    tables = (FLEX_STATEMENTS, FLEX_POSITIONS, FLEX_ACTIVITY, POSITION_SNAPSHOTS, PORTFOLIO_EXPOSURE)
    return dg.define_asset_job(
        FLEX_JOB,
        selection=dg.AssetSelection.assets(*(spec.name for spec in tables)),
        description="Takes in the Flex statements of trading days, then makes their snapshots and exposure anew.",
    )


def maintain_lake() -> dg.JobDefinition:
    """Merges small files of every table and deletes what no version of the last week needs."""

    @dg.op(name="keep_up_tables", pool=MAINTENANCE_POOL)
    def keep_up_tables(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
        try:
            done = maintain(pipeline.lake(), TABLES, compacted_elsewhere=[STREAMED_POSITIONS.name])
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        for table in done:
            context.log.info("%s", describe_upkeep(table))
        if failed := [table for table in done if table.failed]:
            raise dg.Failure("; ".join(table.note for table in failed))

    @dg.job(
        name=MAINTENANCE_JOB,
        description="Merges small files of every table and deletes what no version of the last week needs.",
    )
    def job() -> None:
        keep_up_tables()

    return job


def describe_upkeep(table: Upkeep) -> str:
    """What was done to a table, in one line."""
    done = (
        f"{table.table}: {table.files_merged} small files merged, {table.files_deleted} dead ones deleted "
        f"({table.bytes_deleted / 2**20:.1f} MiB)"
    )
    return f"{done}; {table.note}" if table.note else done
