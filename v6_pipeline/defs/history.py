"""Assets of history, by trading day: Flex statements, historical closes, snapshots, exposure.

One step makes all tables that a run selects: with a step per table, one failed day would skip the downstream tables of
every day. Each day is reported to Dagster once it is committed; failed days fail the run at its end, in one message.
https://docs.dagster.io/guides/build/partitions-and-backfills/backfilling-data
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

import dagster as dg

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.assets import table_asset
from v6_pipeline.defs.checks import evaluations_of_days
from v6_pipeline.defs.metadata import (
    FRESH,
    data_version_tag,
    is_first_of_quarter,
    sample_rows,
    shown,
    table_materialization,
)
from v6_pipeline.defs.partitions import KEY_FORMAT, require_begun
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.history.context import Absent, Failed, HistoryContext, Made
from v6_pipeline.history.make import make_history
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import (
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORY_TABLES,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
)
from v6_pipeline.pictures import as_markdown, exposure_by_underlying

STEP = "history"
GROUP = "history"
EVERY_DAY = {POSITION_SNAPSHOTS.name, PORTFOLIO_EXPOSURE.name}
"""Made by the schedule after each session; the others need Flex statements."""


class HistoryConfig(dg.Config):
    """Run config of the step ``history``."""

    refetch: bool = False
    """Fetch the Flex statements and the historical closes of the days again."""


def _upstream(spec: TableSpec) -> tuple[str, ...]:
    """Return the assets upstream of a table: those of its columns, and for a statement's contents the statement."""
    return (*spec.upstream, FLEX_STATEMENTS.name) if spec in (FLEX_POSITIONS, FLEX_ACTIVITY) else spec.upstream


def history(
    lake: Lake, days: dg.PartitionsDefinition[str], calendar: TradingCalendar, owners: Sequence[str]
) -> dg.AssetsDefinition:
    """Return the history tables; a run can make any of them for any trading days."""
    specs = [
        table_asset(spec, lake, deps=_upstream(spec), group_name=GROUP, owners=owners).replace_attributes(
            freshness_policy=FRESH if spec.name in EVERY_DAY else None,
            skippable=True,  # each day has an event of its own; an output would report all days of the run
        )
        for spec in HISTORY_TABLES
    ]

    @dg.multi_asset(
        name=STEP,
        specs=specs,
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def make(
        context: dg.AssetExecutionContext, config: HistoryConfig, pipeline: PipelineResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Make the selected tables for the run's trading days."""
        now = pipeline.now()
        for key in context.partition_keys:
            require_begun(key, calendar=calendar, now=now)
        _make(context, config, pipeline)
        yield from ()  # an output would report all days of the run, each of which is already reported

    return make


def _make(context: dg.AssetExecutionContext, config: HistoryConfig, pipeline: PipelineResource) -> None:
    tables = {key.to_user_string() for key in context.selected_asset_keys}
    days = [date.fromisoformat(key) for key in context.partition_keys]
    failed: list[Failed] = []
    try:
        work = pipeline.history(context.run.run_id, context.log.info)
        for outcome in make_history(work, tables, days, refetch=config.refetch):
            if isinstance(outcome, Failed):
                context.log.warning("%s: %s", outcome.spec.name, outcome.reason)
                failed.append(outcome)
            elif isinstance(outcome, Absent):
                _report_absent(context, work.lake, outcome)
            else:
                context.log.info("%s", describe(outcome))
                is_newest = outcome.day == max(days)
                extra = shown(partial(_shown, context, work, outcome), say=context.log.warning) if is_newest else {}
                context.log_event(_materialization(work.lake, outcome, extra))
        for evaluation in evaluations_of_days(work, tables, days):
            context.log_event(evaluation)
    except V6Error as error:
        raise dg.Failure("; ".join([*_reasons(failed), str(error)]), allow_retries=False) from None
    if failed:
        raise dg.Failure("; ".join(_reasons(failed)), metadata=_failures(failed), allow_retries=False)


def _report_absent(context: dg.AssetExecutionContext, lake: Lake, absent: Absent) -> None:
    """Report days of which there is nothing as made without rows: a backfill calls a day without an event failed."""
    context.log.info("%s of %s: %s", absent.spec.name, _span(absent.days), absent.reason)
    for day in absent.days:
        nothing = Made(spec=absent.spec, day=day, version=None, rows=0, changed=False)
        context.log_event(_materialization(lake, nothing, {"not_there": absent.reason}))


def describe(made: Made) -> str:
    """Return a day of a table in one line, for the run's log."""
    what = f"{made.spec.name} {made.day}: {made.rows} rows"
    if made.version is None:
        return f"{what}; there is no table yet"
    return f"{what} in Delta version {made.version}" + ("" if made.changed else ", unchanged")


def _shown(context: dg.AssetExecutionContext, work: HistoryContext, made: Made) -> dict[str, Any]:
    """Return sample rows and a picture of a day that changed, four times an hour at most before its cut-off."""
    if not made.changed:
        return {}
    is_over = work.window(made.day).cut_off <= work.now()
    partition = made.day.strftime(KEY_FORMAT)
    if not is_over and not is_first_of_quarter(context.instance, made.spec.name, partition, work.now()):
        return {}
    found: dict[str, Any] = sample_rows(made.spec, work.lake, made.day) if made.rows else {}
    if made.dollar_delta and made.currency is not None:
        title = f"Exposure by underlying, {made.day}"
        picture = exposure_by_underlying(made.dollar_delta, currency=made.currency, title=title)
        found["exposure_by_underlying"] = dg.MetadataValue.md(as_markdown(picture, title))
    return found


def _materialization(lake: Lake, made: Made, extra: Mapping[str, Any]) -> dg.AssetMaterialization:
    metadata: dict[str, Any] = table_materialization(
        made.spec,
        lake,
        partition_rows=made.rows,
        delta_versions=[] if made.version is None else [made.version],
        rows=made.rows if made.changed else 0,
    )
    metadata |= {name: value for name, value in made.numbers.items() if value is not None}
    metadata["changed"] = made.changed
    metadata |= extra
    return dg.AssetMaterialization(
        made.spec.name,
        partition=made.day.strftime(KEY_FORMAT),
        metadata=metadata,
        tags={} if made.version is None else data_version_tag(made.version),
    )


def _reasons(failed: Iterable[Failed]) -> list[str]:
    """Return one line per table: the days that failed, and the first reason; the failure's metadata has all reasons."""
    by_table: dict[str, list[Failed]] = {}
    for item in failed:
        by_table.setdefault(item.spec.name, []).append(item)
    found = []
    for table, items in by_table.items():
        days = sorted({day for item in items for day in item.days})
        others = " (and so on: see not_made)" if len(items) > 1 else ""
        found.append(f"{table} of {_span(days)}: {items[0].reason}{others}" if days else f"{table}: {items[0].reason}")
    return found


def _span(days: Sequence[date]) -> str:
    ordered = sorted(set(days))
    if len(ordered) <= 3:
        return ", ".join(day.isoformat() for day in ordered)
    return f"{len(ordered)} days from {ordered[0]} to {ordered[-1]}"


def _failures(failed: Iterable[Failed]) -> dict[str, dg.MetadataValue[Any]]:
    """Return every day that failed, for the run's page."""
    records = [
        dg.TableRecord({"table": item.spec.name, "day": day.isoformat(), "reason": item.reason})
        for item in failed
        for day in item.days
    ]
    return {"not_made": dg.MetadataValue.table(records)}
