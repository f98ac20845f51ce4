"""``maintain_lake``: the upkeep of all tables in one run."""

from __future__ import annotations

import dagster as dg
import pytest

from v6_pipeline.definitions import build_defs
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.lake.recovery.durability import log_file
from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.settings import Settings
from v6_pipeline_tests.unit.lake.builders import by_epoch, by_run, flush, queued, update


def run_maintenance(pipeline: PipelineResource) -> dg.ExecuteInProcessResult:
    return build_defs(pipeline=pipeline).resolve_job_def("maintain_lake").execute_in_process(raise_on_error=False)


@pytest.fixture
def written(pipeline: PipelineResource) -> PipelineResource:
    lake = pipeline.lake()
    for number in (1, 2):
        lake.table(QUEUED_POSITIONS).append(queued([update(number)]), by_run())
    lake.table(STREAMED_POSITIONS).append(flush(1), by_epoch())
    return pipeline


def test_a_run_merges_the_small_files(written: PipelineResource) -> None:
    result = run_maintenance(written)
    assert result.success
    handle = written.lake().table(QUEUED_POSITIONS).load()
    assert handle is not None
    assert len(handle.file_uris()) == 1


def test_a_damaged_table_fails_the_run_after_the_others_were_kept_up(
    written: PipelineResource, settings: Settings
) -> None:
    log_file(settings.home / "lake" / "streamed_positions", 2).write_text("{")
    result = run_maintenance(written)
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data is not None
    assert "v6 lake repair" in str(failure.step_failure_data.user_failure_data.description)
    handle = written.lake().table(QUEUED_POSITIONS).load()
    assert handle is not None
    assert len(handle.file_uris()) == 1


def test_it_is_scheduled_once_a_day(pipeline: PipelineResource) -> None:
    schedule = build_defs(pipeline=pipeline).resolve_schedule_def("lake_maintenance_schedule")
    assert (schedule.job_name, schedule.cron_schedule) == ("maintain_lake", "30 3 * * *")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
