"""``position_snapshots_schedule``: provisional snapshots while a day goes on, the final one after its cut-off.

https://docs.dagster.io/guides/automate/schedules
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from datetime import date, datetime

import dagster as dg
import polars as pl
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.jobs import SNAPSHOT_JOB
from v6_pipeline.defs.partitions import KEY_FORMAT, PARTITION_TAG
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.defs.schedules import ACTIVE
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
from v6_pipeline.settings import MarketHours, Settings

_RUNS_LOOKED_AT = 30
_OUTCOMES = {DagsterRunStatus.SUCCESS: True, DagsterRunStatus.FAILURE: False}


def position_snapshots_schedule(settings: Settings, calendar: TradingCalendar) -> dg.ScheduleDefinition:
    """Every minute: the snapshot that is due, else why none is."""

    @dg.schedule(
        name="position_snapshots_schedule",
        job_name=SNAPSHOT_JOB,
        cron_schedule="* * * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=(
            "Snapshots the current trading day every ten minutes (provisional), and each day once after its cut-off "
            "(final), 35 minutes after the close."
        ),
    )
    def schedule(context: dg.ScheduleEvaluationContext, pipeline: PipelineResource) -> dg.RunRequest | dg.SkipReason:
        now = pipeline.now()
        try:
            decision = decide(context.instance, pipeline, calendar, now)
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        context.log.info("%s", decision.reason)
        if decision.day is None:
            return dg.SkipReason(decision.reason)
        return dg.RunRequest(
            run_key=f"snapshot-{decision.day}-{context.scheduled_execution_time.isoformat()}",
            partition_key=decision.day.strftime(KEY_FORMAT),
            tags={"v6/reason": decision.reason[:250]},
        )

    return schedule


def decide(
    instance: DagsterInstance, pipeline: PipelineResource, calendar: TradingCalendar, now: datetime
) -> SnapshotDecision:
    """Which day to snapshot at ``now``, from what the lake holds and the instance's runs.

    Raises:
        LakeError: a table is damaged or unreachable.
    """
    settings = pipeline.settings()
    first = settings.start_date
    recent = [day for day in recent_days(calendar, now) if day >= first]
    days = LakeDays(pipeline.lake(), calendar)
    observed = {day for spec in SOURCES for day in days.days(spec)}
    active = instance.get_runs(RunsFilter(job_name=SNAPSHOT_JOB, statuses=ACTIVE), limit=1)
    return decide_snapshot(
        rules=DayRules(calendar, always=settings.market_hours is MarketHours.ALWAYS),
        observed=observed & set(recent),
        made={day: made for day in recent if (made := _made(days.snapshot(day)[0])) is not None},
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
    """The newest snapshot run of each day, where it has made the day or failed to."""
    newest: dict[date, SnapshotRun | None] = {}
    for record in instance.get_run_records(RunsFilter(job_name=SNAPSHOT_JOB), limit=_RUNS_LOOKED_AT):
        key, succeeded = record.dagster_run.tags.get(PARTITION_TAG), _OUTCOMES.get(record.dagster_run.status)
        if key is not None:
            run = None if succeeded is None else SnapshotRun(record.create_timestamp, succeeded)
            newest.setdefault(date.fromisoformat(key), run)
    return {day: run for day, run in newest.items() if run is not None}
