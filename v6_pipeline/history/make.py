"""Make the tables of history in order: Flex statements, historical closes, snapshots, exposure.

A failed table does not stop the next one: a snapshot needs no Flex statement where own logs cover the day, and no
historical close where prices were observed. Where Flex has nothing of a day and own logs do not cover it, there is
nothing to be made of the other tables either, and that is no failure of theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date

from v6_pipeline.errors import V6Error
from v6_pipeline.history.close_days import close_days
from v6_pipeline.history.context import Absent, Failed, HistoryContext, Made, Outcome
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
    absent: dict[date, str] = {}
    if any(spec.name in tables for spec in FLEX_TABLES):
        for outcome in _isolated(FLEX_STATEMENTS, days, flex_days(context, days, refetch=refetch)):
            if isinstance(outcome, Absent):
                absent |= dict.fromkeys(outcome.days, outcome.reason)
            yield outcome
    if HISTORICAL_CLOSES.name in tables:
        closes = _isolated(HISTORICAL_CLOSES, days, close_days(context, days, refetch=refetch))
        yield from (_or_absent(outcome, absent) for outcome in closes)
    without: list[Failed | Absent] = []
    if POSITION_SNAPSHOTS.name in tables:
        for found in _isolated(POSITION_SNAPSHOTS, days, snapshot_days(context, days)):
            outcome = _or_absent(found, absent)
            without += [outcome] if not isinstance(outcome, Made) else []
            yield outcome
    if PORTFOLIO_EXPOSURE.name in tables:
        yield from _exposure(context, days, without)


def _exposure(context: HistoryContext, days: Sequence[date], without: Sequence[Failed | Absent]) -> Iterator[Outcome]:
    """Make the exposure of the days whose snapshot was not just refused."""
    for outcome in without:
        if isinstance(outcome, Absent):
            yield Absent(spec=PORTFOLIO_EXPOSURE, days=outcome.days, reason=outcome.reason)
    if failed := tuple(sorted(day for outcome in without if isinstance(outcome, Failed) for day in outcome.days)):
        yield Failed(spec=PORTFOLIO_EXPOSURE, days=failed, reason="their snapshots could not be made")
    left = sorted(set(days) - {day for outcome in without for day in outcome.days})
    yield from _isolated(PORTFOLIO_EXPOSURE, left, exposure_days(context, left))


def _or_absent(outcome: Outcome, absent: Mapping[date, str]) -> Outcome:
    """Return a failure for want of any source as no failure, where Flex has nothing of its days."""
    if not isinstance(outcome, Failed) or not outcome.not_covered or not absent.keys() >= set(outcome.days):
        return outcome
    return Absent(spec=outcome.spec, days=outcome.days, reason=absent[outcome.days[0]])


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
