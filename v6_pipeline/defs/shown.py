"""What a page shows beside the facts: pictures, sample rows, figures to plot. Dagster keeps it all in its event log.

It is never worth a fact: what cannot be shown is said in the run's log, and what was written is reported without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

SHOWN_EVERY = timedelta(minutes=15)
"""Sample rows are some 10 KB, a picture some 30 KB: what is told of each minute shows them four times an hour."""


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
