"""Schedules: each ticks every minute, decides whether a run is due, and says why or why not, with numbers.

Belongs here: what a decision needs to know of Dagster's runs. Does not belong here: the decisions (``refresh.due``,
``history.due``). https://docs.dagster.io/guides/automate/schedules
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from collections.abc import Callable
from datetime import date, datetime

import dagster as dg
import polars as pl
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.assets import RefreshConfig
from v6_pipeline.defs.jobs import MAINTENANCE_JOB, REFRESH_JOB, SNAPSHOT_JOB
from v6_pipeline.defs.partitions import KEY_FORMAT, PARTITION_TAG
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.history.due import (
    DayRules,
    MadeSnapshot,
    SnapshotDecision,
    SnapshotRun,
    decide_snapshot,
    recent_days,
)
from v6_pipeline.history.inputs import SOURCES, LakeDays
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.lake.tables import POSITION_SNAPSHOTS, QUEUED_POSITIONS
from v6_pipeline.refresh.due import LOOKAHEAD_SECONDS, RefreshDecision, decide_refresh, is_refresh_time
from v6_pipeline.settings import MarketHours, Settings
from v6_pipeline.state.queue.queue import PositionQueue

_UNDER_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
_NEWEST_RUNS = 30
_OUTCOMES = {DagsterRunStatus.SUCCESS: True, DagsterRunStatus.FAILURE: False}


def queued_positions_schedule(settings: Settings, calendar: TradingCalendar) -> dg.ScheduleDefinition:
    """Return the schedule that refreshes queued positions when one is due."""

    def decide(instance: DagsterInstance, pipeline: PipelineResource, now: datetime) -> tuple[str, date | None]:
        decision = refresh_decision(instance, pipeline, calendar, now)
        return decision.reason, calendar.trading_day(now) if decision.refresh else None

    return _each_minute(
        "queued_positions_schedule",
        REFRESH_JOB,
        settings,
        decide,
        run_key="refresh",
        run_config=dg.RunConfig({QUEUED_POSITIONS.name: RefreshConfig(everything=False)}),
        description="Keeps the value of every queued position younger than V6_REFRESH_SECONDS.",
    )


def position_snapshots_schedule(settings: Settings, calendar: TradingCalendar) -> dg.ScheduleDefinition:
    """Return the schedule that makes provisional snapshots during a day and the final one after its cut-off."""

    def decide(instance: DagsterInstance, pipeline: PipelineResource, now: datetime) -> tuple[str, date | None]:
        decision = snapshot_decision(instance, pipeline, calendar, now)
        return decision.reason, decision.day

    return _each_minute(
        "position_snapshots_schedule",
        SNAPSHOT_JOB,
        settings,
        decide,
        run_key="snapshot",
        description=(
            "Snapshots the current trading day every ten minutes (provisional), and each day once after its cut-off "
            "(final), 35 minutes after the close."
        ),
    )


def lake_maintenance_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule of the daily upkeep, at 03:30 between two trading days, when little is written."""
    return dg.ScheduleDefinition(
        name="lake_maintenance_schedule",
        job_name=MAINTENANCE_JOB,
        cron_schedule="30 3 * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Keeps the Delta tables small: merges their small files, deletes those that no version needs.",
    )


def _each_minute(
    name: str,
    job_name: str,
    settings: Settings,
    decide: Callable[[DagsterInstance, PipelineResource, datetime], tuple[str, date | None]],
    *,
    run_key: str,
    description: str,
    run_config: dg.RunConfig | None = None,
) -> dg.ScheduleDefinition:
    """Return a schedule; ``decide`` returns its reason, and the trading day to launch the job for, or None."""

    @dg.schedule(
        name=name,
        job_name=job_name,
        cron_schedule="* * * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
    def schedule(context: dg.ScheduleEvaluationContext, pipeline: PipelineResource) -> dg.RunRequest | dg.SkipReason:
        try:
            reason, day = decide(context.instance, pipeline, pipeline.now())
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        context.log.info("%s", reason)
        if day is None:
            return dg.SkipReason(reason)
        return dg.RunRequest(
            run_key=f"{run_key}-{day}-{context.scheduled_execution_time.isoformat()}",
            partition_key=day.strftime(KEY_FORMAT),
            run_config=run_config,
            tags={"v6/reason": reason[:250]},
        )

    return schedule


def refresh_decision(
    instance: DagsterInstance, pipeline: PipelineResource, calendar: TradingCalendar, now: datetime
) -> RefreshDecision:
    """Decide whether to refresh at ``now``, from the state database and the instance's runs.

    Raises:
        StateError: the state database cannot be used.
    """
    settings = pipeline.settings()
    queue = PositionQueue(pipeline.database(), pipeline.now)
    last = instance.get_run_records(RunsFilter(job_name=REFRESH_JOB), limit=1)
    return decide_refresh(
        market_open=is_refresh_time(settings, calendar, now),
        active_run_id=_active_refresh(instance),
        due=queue.count_due(refresh_seconds=settings.refresh_seconds, interval_seconds=LOOKAHEAD_SECONDS),
        queue=queue.stats(),
        last_run_at=last[0].create_timestamp if last else None,
        last_run_failed=bool(last) and last[0].dagster_run.status is DagsterRunStatus.FAILURE,
        outage=expected_outage(now, settings.ib_region),
        refresh_seconds=settings.refresh_seconds,
        now=now,
    )


def _active_refresh(instance: DagsterInstance) -> str | None:
    """Return the id of a run that is already refreshing: the schedule's, one from the asset's page, or a backfill's."""
    key = dg.AssetKey(QUEUED_POSITIONS.name)
    for run in instance.get_runs(RunsFilter(statuses=_UNDER_WAY)):
        if run.job_name == REFRESH_JOB or key in (run.asset_selection or ()):
            return run.run_id
    return None


def snapshot_decision(
    instance: DagsterInstance, pipeline: PipelineResource, calendar: TradingCalendar, now: datetime
) -> SnapshotDecision:
    """Decide which day to snapshot at ``now``, from what the lake holds and the instance's runs.

    Raises:
        LakeError: a table is damaged or unreachable.
    """
    settings = pipeline.settings()
    recent = [day for day in recent_days(calendar, now) if day >= settings.start_date]
    days = LakeDays(pipeline.lake(), calendar)
    observed = {day for spec in SOURCES for day in days.table(spec).days}
    active = instance.get_runs(RunsFilter(job_name=SNAPSHOT_JOB, statuses=_UNDER_WAY), limit=1)
    return decide_snapshot(
        rules=DayRules(calendar, always=settings.market_hours is MarketHours.ALWAYS),
        observed=observed & set(recent),
        made={day: made for day in recent if (made := _made(days.table(POSITION_SNAPSHOTS).rows(day))) is not None},
        runs=newest_runs(instance),
        active_run_id=active[0].run_id if active else None,
        now=now,
    )


def _made(snapshot: pl.DataFrame) -> MadeSnapshot | None:
    if snapshot.is_empty():
        return None
    made_at = snapshot.get_column("ingested_at").max()
    return MadeSnapshot(final=bool(snapshot.get_column("final").all()), made_at=made_at)  # type: ignore[arg-type]  # of any column


def newest_runs(instance: DagsterInstance) -> dict[date, SnapshotRun]:
    """Return the newest snapshot run of each day, if that run has succeeded or failed."""
    newest: dict[date, SnapshotRun | None] = {}
    for record in instance.get_run_records(RunsFilter(job_name=SNAPSHOT_JOB), limit=_NEWEST_RUNS):
        key, succeeded = record.dagster_run.tags.get(PARTITION_TAG), _OUTCOMES.get(record.dagster_run.status)
        if key is not None:
            run = None if succeeded is None else SnapshotRun(record.create_timestamp, succeeded)
            newest.setdefault(date.fromisoformat(key), run)
    return {day: run for day, run in newest.items() if run is not None}
