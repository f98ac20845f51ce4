"""``position_snapshots_schedule`` over a real instance and lake: what is due, what failed, and why nothing is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from v6_pipeline.defs.jobs import SNAPSHOT_JOB
from v6_pipeline.defs.partitions import PARTITION_TAG
from v6_pipeline.defs.schedules import newest_runs, position_snapshots_schedule, snapshot_decision
from v6_pipeline.history.due import SnapshotDecision
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.replace import replace
from v6_pipeline.lake.tables import POSITION_SNAPSHOTS
from v6_pipeline.settings import load_settings
from v6_pipeline_tests.history_days import CALENDAR, observe
from v6_pipeline_tests.unit.defs.conftest import FRIDAY_NOON, Clock, ClockedPipeline

FRIDAY, THURSDAY, WEDNESDAY = date(2026, 11, 20), date(2026, 11, 19), date(2026, 11, 18)


def snapshot(pipeline: ClockedPipeline, day: date, *, final: bool, made_at: datetime) -> None:
    """A snapshot of one row, as a run would have left it."""
    values: dict[str, Any] = dict.fromkeys(POSITION_SNAPSHOTS.column_names)
    values |= {"date": day, "account": "SIM0000001", "conid": 1, "symbol": "S", "sec_type": "STK", "currency": "USD"}
    values |= {"position": 1.0, "timestamp": made_at, "position_source": "queue", "carried_forward": False}
    values |= {"final": final, "run_id": "r", "ingested_at": made_at}
    frame = pl.DataFrame([values], schema=POSITION_SNAPSHOTS.schema)
    lineage = CommitLineage(asset=POSITION_SNAPSHOTS.name, source="derived", code_version="0", run_id="r")
    replace(pipeline.lake().table(POSITION_SNAPSHOTS), frame, [(day,)], lineage)


def ran(instance: dg.DagsterInstance, day: date, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    return instance.add_run(dg.DagsterRun(job_name=SNAPSHOT_JOB, status=status, tags={PARTITION_TAG: f"{day}"}))


def ask(instance: dg.DagsterInstance, pipeline: ClockedPipeline) -> SnapshotDecision:
    return snapshot_decision(instance, pipeline, CALENDAR, Clock.instant)


@pytest.fixture
def observed(pipeline: ClockedPipeline) -> ClockedPipeline:
    """Something was observed on Friday, whose noon it is."""
    observe(pipeline.lake(), [FRIDAY])
    return pipeline


def test_what_is_due_is_asked_for_and_what_is_not_is_skipped_with_numbers(
    observed: ClockedPipeline,
) -> None:
    schedule = position_snapshots_schedule(load_settings(), CALENDAR)

    with dg.instance_for_test() as instance:

        def tick() -> Any:
            with dg.build_schedule_context(
                instance=instance, scheduled_execution_time=Clock.instant, resources={"pipeline": observed}
            ) as context:
                return schedule(context)

        due = tick()
        snapshot(observed, FRIDAY, final=False, made_at=FRIDAY_NOON)
        Clock.forward(60)
        skipped = tick()

    assert isinstance(due, dg.RunRequest)
    assert (due.partition_key, due.tags["v6/reason"]) == ("2026-11-20", "2026-11-20: observed, and no snapshot yet")
    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message).startswith(
        "2026-11-20: provisional snapshot of 2026-11-20 17:00 UTC, the next in 540 s"
    )


def test_after_the_cut_off_the_final_one_is_due_once(observed: ClockedPipeline, instance: dg.DagsterInstance) -> None:
    snapshot(observed, FRIDAY, final=False, made_at=FRIDAY_NOON)
    Clock.forward(5 * 3600)
    due = ask(instance, observed)
    snapshot(observed, FRIDAY, final=True, made_at=Clock.instant)
    assert due.day == FRIDAY
    assert ask(instance, observed).day is None


def test_a_day_before_the_first_partition_is_not_asked_for(
    pipeline: ClockedPipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe(pipeline.lake(), [THURSDAY])
    assert ask(instance, pipeline).day == THURSDAY
    monkeypatch.setenv("V6_START_DATE", "2026-11-20")
    assert ask(instance, pipeline) == SnapshotDecision(None, "nothing was observed yet on 2026-11-20")


def test_of_each_day_the_newest_run_is_known_if_it_succeeded_or_failed(instance: dg.DagsterInstance) -> None:
    for day, status in (
        (WEDNESDAY, dg.DagsterRunStatus.FAILURE),
        (WEDNESDAY, dg.DagsterRunStatus.CANCELED),
        (THURSDAY, dg.DagsterRunStatus.SUCCESS),
        (THURSDAY, dg.DagsterRunStatus.FAILURE),
        (FRIDAY, dg.DagsterRunStatus.FAILURE),
        (FRIDAY, dg.DagsterRunStatus.SUCCESS),
    ):
        ran(instance, day, status)

    found = newest_runs(instance)

    assert {day: run.succeeded for day, run in found.items()} == {THURSDAY: False, FRIDAY: True}
    assert all(abs(datetime.now(UTC) - run.started_at) < timedelta(minutes=1) for run in found.values())


def test_a_day_on_which_nothing_was_held_is_asked_for_once_and_later_days_are_made(
    pipeline: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    """It leaves no rows: it was asked for every minute for ever, and no later day was."""
    today = CALENDAR.trading_day(datetime.now(UTC))
    later = CALENDAR.previous_session(today)
    flat = CALENDAR.previous_session(later)
    observe(pipeline.lake(), [flat], conids=())
    observe(pipeline.lake(), [later])
    Clock.instant = datetime.now(UTC)
    assert ask(instance, pipeline).day == flat

    run = ran(instance, flat, dg.DagsterRunStatus.SUCCESS)
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    Clock.instant = record.create_timestamp + timedelta(minutes=1)
    assert ask(instance, pipeline).day == later
    snapshot(pipeline, later, final=True, made_at=Clock.instant)
    assert ask(instance, pipeline).day is None
    Clock.forward(12 * 3600)
    assert ask(instance, pipeline).day == flat


def test_never_two_at_once(observed: ClockedPipeline, instance: dg.DagsterInstance) -> None:
    run = instance.add_run(dg.DagsterRun(job_name=SNAPSHOT_JOB, status=dg.DagsterRunStatus.STARTED))
    assert ask(instance, observed) == SnapshotDecision(None, f"run {run.run_id[:8]} is already making a snapshot")


def test_an_empty_lake_has_nothing_to_snapshot(pipeline: ClockedPipeline, instance: dg.DagsterInstance) -> None:
    assert ask(instance, pipeline) == SnapshotDecision(None, "nothing was observed yet on 2026-11-20")
