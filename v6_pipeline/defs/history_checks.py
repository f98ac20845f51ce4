"""Asset checks of history: no day missing, snapshots complete, values and quantities that agree with IB's own account.

The step ``history`` evaluates them for the days of its run, since Dagster skips check steps after a step that yields no
output; the UI's *Execute* button evaluates them for the newest days. What must hold is decided in
``checks.history``. https://docs.dagster.io/guides/test/asset-checks
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date

import dagster as dg

from v6_pipeline.checks.days import DayChecks
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.defs.flex_sensor import RANGE_END, RANGE_START
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.defs.snapshot_schedule import PARTITION_TAG
from v6_pipeline.defs.verdicts import said
from v6_pipeline.errors import V6Error
from v6_pipeline.history.context import HistoryContext
from v6_pipeline.lake.tables import FLEX_POSITIONS, POSITION_SNAPSHOTS

NEWEST = 5
"""Days with a snapshot that a check without partitions looks at."""
_Judge = Callable[[DayChecks, Sequence[date]], Verdict]
CHECKS: dict[str, tuple[str, _Judge, str]] = {
    "no_trading_day_missing": (
        POSITION_SNAPSHOTS.name,
        lambda checks, _: checks.no_day_missing(),
        "Every trading day between the first and the last snapshot has its snapshot.",
    ),
    "snapshot_complete": (
        POSITION_SNAPSHOTS.name,
        lambda checks, days: checks.snapshots_complete(days),
        "Every open position of the day's source is in the snapshot with equal quantity, and no other.",
    ),
    "one_row_per_key": (
        POSITION_SNAPSHOTS.name,
        lambda checks, days: checks.one_row_per_key(days),
        "Each (account, conid) has one row in the day's snapshot.",
    ),
    "values_agree_with_flex": (
        POSITION_SNAPSHOTS.name,
        lambda checks, days: checks.values_agree(days),
        "Where a day has both, own observations add up to the value that Flex gives, by account.",
    ),
    "quantities_explained": (
        FLEX_POSITIONS.name,
        lambda checks, days: checks.quantities_explained(days),
        "Trades, exercises, transfers and corporate actions explain how quantities changed since the day before.",
    ),
}
"""Name -> asset, judge, description."""


def history_checks() -> list[dg.AssetChecksDefinition]:
    """The checks, each executable by itself."""
    return [_check(name, asset, judge, text) for name, (asset, judge, text) in CHECKS.items()]


def evaluations(work: HistoryContext, assets: Collection[str], days: Collection[date]) -> list[dg.AssetCheckEvaluation]:
    """What the checks of these assets say of trading days that have a snapshot.

    Raises:
        LakeError: a table is damaged or unreachable.
    """
    checks = DayChecks(work)
    chosen = [day for day in checks.days() if day in days]
    return [
        dg.AssetCheckEvaluation(asset_key=dg.AssetKey(asset), check_name=name, **said(judge(checks, chosen)))
        for name, (asset, judge, _) in CHECKS.items()
        if asset in assets
    ]


def _check(name: str, asset: str, judge: _Judge, description: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset, name=name, description=description)
    def check(context: dg.AssetCheckExecutionContext, pipeline: PipelineResource) -> dg.AssetCheckResult:
        try:
            checks = DayChecks(
                HistoryContext(
                    settings=pipeline.settings(),
                    database=pipeline.database(),
                    lake=pipeline.lake(),
                    calendar=pipeline.calendar(),
                    run_id=context.run.run_id,
                    now=pipeline.now,
                    say=context.log.info,
                )
            )
            verdict = judge(checks, days_of(context.run.tags, checks))
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        return dg.AssetCheckResult(**said(verdict))

    return check


def days_of(tags: Mapping[str, str], checks: DayChecks) -> list[date]:
    """The trading days of the run with these tags that have a snapshot; without a partition, the newest."""
    days = checks.days()
    first = tags.get(RANGE_START) or tags.get(PARTITION_TAG)
    if first is None:
        return days[-NEWEST:]
    last = tags.get(RANGE_END) or first
    return [day for day in days if date.fromisoformat(first) <= day <= date.fromisoformat(last)]
