"""Make the tables of history in order: Flex statements, historical closes, snapshots, exposure.

A failed table does not stop the next one: a snapshot needs no Flex statement where own logs cover the day, and no
historical close where prices were observed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date

from v6_pipeline.errors import V6Error
from v6_pipeline.history.close_days import close_days
from v6_pipeline.history.context import Failed, HistoryContext, Made, Outcome
from v6_pipeline.history.flex_days import FLEX_TABLES, flex_days
from v6_pipeline.history.snapshot_days import exposure_days, snapshot_days
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import FLEX_STATEMENTS, HISTORICAL_CLOSES, PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS


def make_history(
    context: HistoryContext, tables: Collection[str], days: Sequence[date], *, refetch: bool = False
) -> Iterator[Outcome]:
    """Make tables for sessions that have begun, and yield each day once its commit is durable.

    ``refetch`` requests from IB again what was fetched before.
    """
    if any(spec.name in tables for spec in FLEX_TABLES):
        yield from _isolated(FLEX_STATEMENTS, days, flex_days(context, days, refetch=refetch))
    if HISTORICAL_CLOSES.name in tables:
        yield from _isolated(HISTORICAL_CLOSES, days, close_days(context, days, refetch=refetch))
    left = set(days)
    if POSITION_SNAPSHOTS.name in tables:
        for outcome in _isolated(POSITION_SNAPSHOTS, days, snapshot_days(context, days)):
            if isinstance(outcome, Failed):
                left.difference_update(outcome.days)
            yield outcome
    if PORTFOLIO_EXPOSURE.name in tables:
        if without := tuple(sorted(set(days) - left)):
            yield Failed(spec=PORTFOLIO_EXPOSURE, days=without, reason="their snapshots could not be made")
        yield from _isolated(PORTFOLIO_EXPOSURE, sorted(left), exposure_days(context, sorted(left)))


def _isolated(spec: TableSpec, days: Sequence[date], outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Yield the outcomes; an error fails the remaining days of ``spec`` and no other table."""
    left = set(days)
    try:
        for outcome in outcomes:
            if outcome.spec is spec:
                left.difference_update((outcome.day,) if isinstance(outcome, Made) else outcome.days)
            yield outcome
    except V6Error as error:
        yield Failed(spec=spec, days=tuple(sorted(left)), reason=str(error))
