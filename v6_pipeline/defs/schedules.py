"""Schedules: they tick often and decide inside.

https://docs.dagster.io/guides/automate/schedules
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from datetime import datetime

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.assets import RefreshConfig
from v6_pipeline.defs.jobs import MAINTENANCE_JOB, REFRESH_JOB
from v6_pipeline.defs.partitions import KEY_FORMAT
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.lake.schemas import QUEUED_POSITIONS
from v6_pipeline.refresh.due import LOOKAHEAD_SECONDS, RefreshDecision, decide_refresh, is_refresh_time
from v6_pipeline.settings import Settings
from v6_pipeline.state.queue.queue import PositionQueue

ACTIVE = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
"""Of runs that are under way."""


def queued_positions_schedule(settings: Settings, calendar: TradingCalendar) -> dg.ScheduleDefinition:
    """Each minute: refresh if something is due, else say why not, with numbers."""

    @dg.schedule(
        name="queued_positions_schedule",
        job_name=REFRESH_JOB,
        cron_schedule="* * * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Keeps the value of every queued position younger than V6_REFRESH_SECONDS.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, pipeline: PipelineResource) -> dg.RunRequest | dg.SkipReason:
        now = pipeline.now()
        try:
            decision = decide(context.instance, pipeline, calendar, now)
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        context.log.info("%s", decision.reason)
        if not decision.refresh:
            return dg.SkipReason(decision.reason)
        return dg.RunRequest(
            run_key=f"refresh-{context.scheduled_execution_time.isoformat()}",
            partition_key=calendar.trading_day(now).strftime(KEY_FORMAT),
            run_config=dg.RunConfig({QUEUED_POSITIONS.name: RefreshConfig(everything=False)}),
            tags={"v6/reason": decision.reason[:250]},
        )

    return schedule


def lake_maintenance_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Each day between two trading days, when hardly anything is written."""
    return dg.ScheduleDefinition(
        name="lake_maintenance_schedule",
        job_name=MAINTENANCE_JOB,
        cron_schedule="30 3 * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Keeps the Delta tables small: merges their small files, deletes those of no use any more.",
    )


def decide(
    instance: DagsterInstance, pipeline: PipelineResource, calendar: TradingCalendar, now: datetime
) -> RefreshDecision:
    """Whether to refresh at ``now``, from the state database and the instance's runs.

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
    """A run that refreshes already: the schedule's, one from the asset's page, or a backfill's."""
    key = dg.AssetKey(QUEUED_POSITIONS.name)
    for run in instance.get_runs(RunsFilter(statuses=ACTIVE)):
        if run.job_name == REFRESH_JOB or key in (run.asset_selection or ()):
            return run.run_id
    return None
