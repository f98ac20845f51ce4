"""Jobs: selections of assets that schedules and people launch by name.

https://docs.dagster.io/guides/build/jobs
"""

from __future__ import annotations

import dagster as dg

from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS

REFRESH_JOB = "refresh_queued_positions"


def refresh_queued_positions() -> dg.UnresolvedAssetJobDefinition:
    """Drains the position queue for one trading day."""
    return dg.define_asset_job(
        REFRESH_JOB,
        selection=dg.AssetSelection.assets(QUEUED_POSITIONS.name, ACCOUNT_VALUES.name),
        description="Refreshes the positions that are not streamed, and the account figures.",
    )
