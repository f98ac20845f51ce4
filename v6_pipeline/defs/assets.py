"""Assets: the sources, the logs, and the step that refreshes them; the history tables are in ``defs.history``.

https://docs.dagster.io/guides/build/assets
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from v6_pipeline import __version__
from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.checks.inputs import downloaded_accounts
from v6_pipeline.defs.checks import evaluations_after_refresh
from v6_pipeline.defs.lineage import source_schema
from v6_pipeline.defs.metadata import (
    ERROR,
    KINDS,
    is_first_of_quarter,
    sample_rows,
    shown,
    table_definition,
    table_materialization,
)
from v6_pipeline.defs.partitions import KEY_FORMAT, require_begun
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import newest_accounts, row_count
from v6_pipeline.lake.table import Commit
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.lake.tables.sources import (
    BROKER_FIELDS,
    FLEX_ATTRIBUTES,
    IB_ACCOUNT,
    IB_FLEX,
    REGISTRY_FIELDS,
    STRATEGY_REGISTRY,
)
from v6_pipeline.refresh.due import LOOKAHEAD_SECONDS
from v6_pipeline.refresh.worker import QueueWorker, RefreshReport, RefreshScope
from v6_pipeline.state.account import holdings
from v6_pipeline.state.queue.queue import PositionQueue

ACCOUNT_FEED_POOL = "ib_account_feed"
"""One step at a time: IB serves one account feed."""
BROKER, LIVE, BATCH = "broker", "live", "batch"
_UPSTREAM = (IB_ACCOUNT, STRATEGY_REGISTRY)
PLOTTED = ("net_liquidation", "daily_pnl", "unrealized_pnl", "excess_liquidity")
"""Account figures that Dagster plots."""


class RefreshConfig(dg.Config):
    """Run config of ``queued_positions``."""

    everything: bool = True
    """Refresh all positions that are not streamed, rather than only those about to exceed V6_REFRESH_SECONDS."""


def source_assets(owners: Sequence[str]) -> list[dg.AssetSpec]:
    """Return the assets upstream of all tables: IB's accounts, its Flex statements, and the strategy registry."""
    return [
        dg.AssetSpec(
            name,
            description=description,
            metadata={"dagster/column_schema": source_schema(fields)},
            group_name=BROKER,
            kinds=kinds,
            owners=owners,
        )
        for name, fields, kinds, description in _SOURCES
    ]


_SOURCES = (
    (
        IB_ACCOUNT,
        BROKER_FIELDS,
        {"interactivebrokers"},
        "The accounts at Interactive Brokers: positions, portfolio values and quotes, from the gateway.",
    ),
    (
        STRATEGY_REGISTRY,
        REGISTRY_FIELDS,
        {"sqlite"},
        (
            "The contracts of active strategies, with history; kept in the state database and changed by "
            "'v6 strategies'. Active contracts are streamed, all others queued."
        ),
    ),
    (
        IB_FLEX,
        FLEX_ATTRIBUTES,
        {"interactivebrokers", "xml"},
        (
            "IB's Flex statements, the broker's own account of past days: files in V6_FLEX_DIR, or fetched from the "
            "Flex Web Service with V6_FLEX_TOKEN and V6_FLEX_QUERY_ID."
        ),
    ),
)


def table_asset(
    spec: TableSpec, lake: Lake, *, deps: Sequence[str], group_name: str, owners: Sequence[str]
) -> dg.AssetSpec:
    """Return the asset of a Delta table."""
    return dg.AssetSpec(
        spec.name,
        deps=deps,
        description=spec.description,
        metadata=table_definition(spec, lake),
        group_name=group_name,
        kinds=KINDS,
        code_version=__version__,
        owners=owners,
    )


def streamed_positions(lake: Lake, days: dg.PartitionsDefinition[str], owners: Sequence[str]) -> dg.AssetSpec:
    """Return the log that the streamer writes; ``ib_streamer_sensor`` materializes it."""
    spec = table_asset(STREAMED_POSITIONS, lake, deps=_UPSTREAM, group_name=LIVE, owners=owners)
    return spec.replace_attributes(partitions_def=days)


def queued_positions(
    lake: Lake, days: dg.PartitionsDefinition[str], calendar: TradingCalendar, owners: Sequence[str]
) -> dg.AssetsDefinition:
    """Return the logs that a refresh writes."""

    @dg.multi_asset(
        name=QUEUED_POSITIONS.name,
        specs=[
            table_asset(spec, lake, deps=_UPSTREAM, group_name=BATCH, owners=owners)
            for spec in (QUEUED_POSITIONS, ACCOUNT_VALUES)
        ],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=ACCOUNT_FEED_POOL,
        can_subset=True,
    )
    def refresh(
        context: dg.AssetExecutionContext, config: RefreshConfig, pipeline: PipelineResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Drain the position queue once, for the current trading day; past days report their stored rows.

        IB serves only today's positions, so a past day never connects to it, and a backfill of a range does no harm.
        """
        now = pipeline.now()
        today = calendar.trading_day(now).strftime(KEY_FORMAT)
        for key in context.partition_keys:
            require_begun(key, calendar=calendar, now=now)
        report = RefreshReport()
        try:
            if today in context.partition_keys:
                worker = _worker(context, pipeline, calendar)
                report = worker.report
                asyncio.run(worker.run(RefreshScope(everything=config.everything, interval_seconds=LOOKAHEAD_SECONDS)))
                context.log.info("%s", describe(report))
            yield from _results(context, pipeline, report, today, everything=config.everything)
        except V6Error as error:
            context.log.info("%s", describe(report))
            if today in context.partition_keys:
                for evaluation in evaluations_after_refresh(pipeline):
                    context.log_event(evaluation)
            _report_commits(context, pipeline, report, today)
            raise dg.Failure(str(error), metadata={ERROR: type(error).__name__}) from None

    return refresh


def _worker(context: dg.AssetExecutionContext, pipeline: PipelineResource, calendar: TradingCalendar) -> QueueWorker:
    return QueueWorker(
        pipeline.settings(),
        pipeline.database(),
        pipeline.lake(),
        run_id=context.run.run_id,
        trading_day=calendar.trading_day,
        clock=pipeline.now,
    )


def describe(report: RefreshReport) -> str:
    """Return a refresh in one line, for the run's log."""
    return (
        f"{report.held} positions held, {report.enqueued} newly due; {report.refreshed} refreshed in {report.batches} "
        f"batches ({report.quoted} with a quote), {report.closed} closed, {report.retried} to be retried"
    )


def _results(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    report: RefreshReport,
    today: str,
    *,
    everything: bool,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Return one result per selected asset, with counts and versions by partition, as days differ."""
    reports = [
        (
            dg.AssetKey(spec.name),
            partition,
            _partition_metadata(
                context,
                spec,
                pipeline,
                partition,
                commits,
                queue_depth=report.queue_depth_at_start if partition == today else None,
                everything=everything,
            ),
        )
        for spec, commits in _tables(report)
        for partition in context.partition_keys
        if dg.AssetKey(spec.name) in context.selected_asset_keys
    ]
    # Yielded after all reads: a failure between two results would report a table twice.
    for key, partition, metadata in reports:
        context.add_asset_metadata(metadata, asset_key=key, partition_key=partition)
    for key in dict.fromkeys(key for key, _, _ in reports):
        yield dg.MaterializeResult(asset_key=key)


def _report_commits(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, report: RefreshReport, partition: str
) -> None:
    """Report the commits that a failed run made before its failure."""
    for spec, commits in _tables(report):
        if not commits or dg.AssetKey(spec.name) not in context.selected_asset_keys:
            continue
        try:
            depth = report.queue_depth_at_start
            metadata = _partition_metadata(
                context, spec, pipeline, partition, commits, queue_depth=depth, everything=False
            )
        except V6Error as error:
            context.log.warning("%s: %d commits were not reported to Dagster: %s", spec.name, len(commits), error)
        else:
            context.log_event(dg.AssetMaterialization(spec.name, partition=partition, metadata=metadata))


def _tables(report: RefreshReport) -> tuple[tuple[TableSpec, list[Commit]], ...]:
    return (QUEUED_POSITIONS, report.commits), (ACCOUNT_VALUES, report.account_commits)


def _partition_metadata(
    context: dg.AssetExecutionContext,
    spec: TableSpec,
    pipeline: PipelineResource,
    partition: str,
    commits: list[Commit],
    *,
    queue_depth: int | None,
    everything: bool,
) -> dict[str, Any]:
    """Return the partition's row count, what this run's commits added, and figures and samples to show.

    ``queue_depth``: items at the start of the run; None if it did not refresh this partition.
    """
    day, lake = date.fromisoformat(partition), pipeline.lake()
    added = [commit for commit in commits if commit.rows_by_date.get(day)]
    metadata = table_materialization(
        spec,
        lake,
        partition_rows=row_count(lake.table(spec), day),
        delta_versions=[commit.version for commit in added if commit.version is not None],
        rows=sum(commit.rows_by_date[day] for commit in added),
    )
    if spec is QUEUED_POSITIONS and queue_depth is not None:
        metadata |= shown(lambda: _queue_figures(pipeline, queue_depth), say=context.log.warning)
    if added:
        if spec is ACCOUNT_VALUES:
            metadata |= shown(lambda: _account_figures(pipeline, day=day), say=context.log.warning)

        def sample() -> Mapping[str, Any]:
            # A person launches a refresh of everything, and looks at the result.
            wanted = everything or is_first_of_quarter(context.instance, spec.name, partition, pipeline.now())
            return sample_rows(spec, lake, day) if wanted else {}

        metadata |= shown(sample, say=context.log.warning)
    return metadata


def _queue_figures(pipeline: PipelineResource, depth_at_start: int) -> dict[str, Any]:
    """Return the depth of the queue at the start of the run and after it."""
    stats = PositionQueue(pipeline.database(), pipeline.now).stats()
    return {
        "queue_depth_at_start": depth_at_start,
        "queue_pending": stats.pending,
        "queue_waiting_for_retry": stats.waiting,
        "queue_dead": stats.dead,
    }


def _account_figures(pipeline: PipelineResource, *, day: date) -> dict[str, float]:
    """Return sums of the accounts' newest rows, by base currency."""
    wanted = downloaded_accounts(holdings.list_open(pipeline.database()), pipeline.settings())
    return account_sums(newest_accounts(pipeline.lake().table(ACCOUNT_VALUES), day), wanted)


def account_sums(newest: pl.DataFrame, wanted: Collection[str]) -> dict[str, float]:
    """Return sums over all accounts, by the figure's name and its currency.

    A figure that is not known for some account is left out, because its sum would look complete.

    ``newest`` has a row per account; if any account of ``wanted`` is missing, nothing is summed.
    """
    if set(wanted) - set(newest.get_column("account")):
        return {}
    figures = {}
    for currency in newest.get_column("base_currency").unique().sort():
        rows = newest.filter(pl.col("base_currency") == currency)
        for name in PLOTTED:
            if not rows.get_column(name).null_count():
                figures[f"{name}_{currency.lower()}"] = round(float(rows.get_column(name).sum()), 2)
    return figures
