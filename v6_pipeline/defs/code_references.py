"""Where the code is that makes a table: links on its page, to the files as they are installed here.

https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from __future__ import annotations

import inspect
import linecache
import re
import warnings
from collections.abc import Callable
from typing import Any

import dagster as dg

from v6_pipeline.history.close_days import close_days
from v6_pipeline.history.exposure import exposure
from v6_pipeline.history.flex_days import flex_days
from v6_pipeline.history.positions import day_positions
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.lake.tables import (
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
)
from v6_pipeline.refresh.worker import QueueWorker
from v6_pipeline.streaming.streamer import IBPositionStreamer

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
