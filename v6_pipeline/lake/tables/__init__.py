"""The tables of the lake. Each column is described in one place: type, meaning, unit, origins.

Belongs here: table specs, a module per family, and the sources outside the lake. Dagster's column schemas and column
lineage, the reference document and the tables on disk derive from these specs.

Does not belong here: I/O, deltalake, dagster, and the computation of values (``streaming``, ``refresh``, ``history``).
"""

from v6_pipeline.lake.tables.account import ACCOUNT_VALUES, FLEX_ACTIVITY, FLEX_STATEMENTS
from v6_pipeline.lake.tables.history import HISTORICAL_CLOSES, PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS
from v6_pipeline.lake.tables.positions import FLEX_POSITIONS, QUEUED_POSITIONS, STREAMED_POSITIONS

__all__ = [
    "ACCOUNT_VALUES",
    "FLEX_ACTIVITY",
    "FLEX_POSITIONS",
    "FLEX_STATEMENTS",
    "HISTORICAL_CLOSES",
    "HISTORY_TABLES",
    "PORTFOLIO_EXPOSURE",
    "POSITION_SNAPSHOTS",
    "QUEUED_POSITIONS",
    "STREAMED_POSITIONS",
    "TABLES",
]

HISTORY_TABLES = (
    *(FLEX_STATEMENTS, FLEX_POSITIONS, FLEX_ACTIVITY),
    *(HISTORICAL_CLOSES, POSITION_SNAPSHOTS, PORTFOLIO_EXPOSURE),
)
"""Every table whose days are replaced."""
TABLES = (STREAMED_POSITIONS, QUEUED_POSITIONS, ACCOUNT_VALUES, *HISTORY_TABLES)
"""Every table of the lake."""
