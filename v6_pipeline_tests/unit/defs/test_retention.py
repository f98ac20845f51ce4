"""What Dagster keeps stays bounded, on a real instance with its SQLite files; the newest state of each asset stays."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.instigation_logger import InstigationLogger
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    DagsterEventType,
    StepMaterializationData,
)
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.tags import BACKFILL_ID_TAG

from v6_pipeline.defs.retention import Pruned, prune

OURS, THEIRS = "v6_pipeline", "another"
QUEUED, STREAMED = dg.AssetKey("queued_positions"), dg.AssetKey("streamed_positions")
CHECK = dg.AssetCheckKey(STREAMED, "stream_fresh")
DAYS = 2
TICKS_AN_HOUR = {"ib_streamer_sensor": 360, "alerts_sensor": 120, "flex_statements_sensor": 60, "schedules": 120}
# A refresh every five minutes.
RUNS_AN_HOUR, REPORTS_AN_HOUR = 12, 60


@dataclass
class Home:
    """A Dagster home on disk, in which code locations tick, run and report."""

    folder: Path
    instance: dg.DagsterInstance
    runs: int = 0

    def tick(self, sensor: str, tick: int, location: str = OURS) -> None:
        """Write the log of a tick as the daemon does, and the state that a first tick leaves."""
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), f"repository_of_{location}")
        origin = RemoteInstigatorOrigin(repository, sensor)
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE)
        if self.instance.get_instigator_state(state.instigator_origin_id, state.selector_id) is None:
            self.instance.add_instigator_state(state)
        key = [repository.repository_name, sensor, str(tick)]
        with InstigationLogger(key, self.instance, console_logger=logging.getLogger("quiet")) as logger:
            logger.info("0 runs requested: %s", "x" * 700)

    def run(self, day: str, location: str = OURS, job: str = "refresh_queued_positions") -> str:
        """Record a finished run that materialized a day of ``queued_positions``, with its log file."""
        self.runs += 1
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), f"repository_of_{location}")
        run = dg.DagsterRun(
            job_name=job,
            run_id=f"00000000-0000-0000-0000-{self.runs:012d}",
            status=dg.DagsterRunStatus.SUCCESS,
            remote_job_origin=RemoteJobOrigin(repository, job),
        )
        self.instance.add_run(run)
        asset = QUEUED if location == OURS else dg.AssetKey("theirs")
        planned = DagsterEvent.build_asset_materialization_planned_event(
            job, "s", AssetMaterializationPlannedData(asset, partition=day)
        )
        self.instance.report_dagster_event(planned, run.run_id)
        made = dg.AssetMaterialization(asset, partition=day, metadata={"columns": "x" * 10_000})
        event = DagsterEvent(
            DagsterEventType.ASSET_MATERIALIZATION.value,
            job,
            event_specific_data=StepMaterializationData(made),
            step_key="s",
        )
        self.instance.report_dagster_event(event, run.run_id)
        manager = self.instance.compute_log_manager
        assert isinstance(manager, LocalComputeLogManager)
        log = Path(manager.get_captured_local_path([run.run_id, "compute_logs", "step"], "err"))
        log.parent.mkdir(parents=True)
        log.write_text("x" * 5_000)
        return run.run_id

    def report(self, day: str, *, passed: bool = True) -> None:
        """Report what a tick of the streamer's sensor does: a materialization and a check, of no run."""
        made = dg.AssetMaterialization(STREAMED, partition=day, metadata={"columns": "x" * 10_000})
        self.instance.report_runless_asset_event(made)
        verdict = dg.AssetCheckEvaluation(
            passed=passed, check_name=CHECK.name, asset_key=STREAMED, metadata={"x": "x" * 900}
        )
        self.instance.report_runless_asset_event(verdict)

    def age(self, days: float) -> None:
        """Make all that exists older: no test waits for days."""
        columns: dict[str, dict[str, tuple[str, ...]]] = {
            "history/runs.db": {"runs": ("create_timestamp", "update_timestamp")},
            "history/runs/index.db": {
                "event_logs": ("timestamp",),
                "asset_check_executions": ("create_timestamp", "evaluation_event_timestamp"),
            },
            "history/runs/.db": {"event_logs": ("timestamp",)},
        }
        for file, tables in columns.items():
            if not (self.folder / file).exists():
                continue
            with closing(sqlite3.connect(self.folder / file)) as raw, raw:
                for table, names in tables.items():
                    for name in names:
                        past = f"strftime('%Y-%m-%d %H:%M:%f', {name}, '-{days * 86_400:.0f} seconds')"
                        raw.execute(f"UPDATE {table} SET {name} = {past} WHERE {name} IS NOT NULL")
        for path in (self.folder / "storage").rglob("*"):
            if path.is_file():
                then = path.stat().st_mtime - days * 86_400
                os.utime(path, (then, then))

    def prune(self, *, days: int = DAYS, now: datetime | None = None) -> Pruned:
        """Delete as the maintenance job does."""
        return prune(self.instance, location=OURS, assets=[QUEUED, STREAMED], days=days, now=now or datetime.now(UTC))

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files())

    def rows(self, file: str, table: str) -> int:
        with closing(sqlite3.connect(self.folder / file)) as raw:
            return int(raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Home(tmp_path, instance)


def test_old_runs_go_with_their_databases_and_logs_and_partitions_stay_materialized(home: Home) -> None:
    old = [home.run(day) for day in ("2026-11-02", "2026-11-02", "2026-11-03", "2026-11-04")]
    home.age(DAYS + 1)
    new = home.run("2026-11-05")

    pruned = home.prune()

    assert (pruned.runs, pruned.events) == (4, 1 + 4), "one superseded materialization, and what the runs had planned"
    assert [run.run_id for run in home.instance.get_runs()] == [new]
    assert not [path for path in home.files() if any(run in str(path) for run in old)]
    partitions = home.instance.get_materialized_partitions(QUEUED)
    assert partitions == {"2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05"}
    records = home.instance.fetch_materializations(
        dg.AssetRecordsFilter(QUEUED, asset_partitions=["2026-11-02"]), limit=9
    ).records
    assert [record.run_id for record in records] == [old[1]]


def test_reports_without_a_run_keep_the_newest_of_each_partition_and_the_last_verdict(home: Home) -> None:
    for day in ("2026-11-02", "2026-11-02", "2026-11-03"):
        home.report(day, passed=day == "2026-11-02")
    home.age(DAYS + 1)

    pruned = home.prune()

    assert pruned.events == 1 + 2, "one superseded materialization, two superseded verdicts"
    assert home.instance.get_materialized_partitions(STREAMED) == {"2026-11-02", "2026-11-03"}
    latest = home.instance.event_log_storage.get_latest_asset_check_execution_by_key([CHECK])[CHECK]
    assert latest.evaluation is not None
    assert not latest.evaluation.passed
    assert home.rows("history/runs/.db", "event_logs") == 0
    assert home.rows("history/runs/index.db", "asset_check_executions") == 1


def test_nothing_recent_is_deleted_and_the_last_run_of_a_job_stays(home: Home) -> None:
    home.run("2026-11-02")
    home.report("2026-11-02")
    home.report("2026-11-02")
    home.tick("ib_streamer_sensor", 1)
    assert home.prune() == Pruned(0, 0, 0)

    home.age(400)
    assert home.prune().runs == 0
    assert len(home.instance.get_runs()) == 1


def test_other_code_locations_keep_everything(home: Home) -> None:
    theirs = home.run("2026-11-02", THEIRS, "their_job")
    home.run("2026-11-02", THEIRS, "their_job")
    home.tick("their_sensor", 1, THEIRS)
    home.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey("theirs"), partition="2026-11-02"))
    home.report("2026-11-02")
    before = {path.relative_to(home.folder) for path in home.files()}
    events = home.rows("history/runs/index.db", "event_logs")
    home.age(400)

    copies = home.rows("history/runs/.db", "event_logs")

    assert home.prune() == Pruned(0, 0, 0)

    assert home.rows("history/runs/.db", "event_logs") == copies - 2, "our report is old; theirs stays"
    assert {path.relative_to(home.folder) for path in home.files()} == before
    assert home.rows("history/runs/index.db", "event_logs") == events
    assert theirs in {run.run_id for run in home.instance.get_runs()}


def test_the_last_run_of_a_job_stays_though_another_location_has_a_job_of_its_name(home: Home) -> None:
    home.run("2026-11-02")
    newest = home.run("2026-11-03")
    home.age(DAYS + 1)
    home.run("2026-11-04", THEIRS)

    assert home.prune().runs == 1
    assert newest in {run.run_id for run in home.instance.get_runs()}


def test_runs_of_a_backfill_under_way_stay(home: Home) -> None:
    """The daemon judges by them what is still to do."""
    runs = [home.run(day) for day in ("2026-11-02", "2026-11-03")]
    for run in runs:
        home.instance.add_run_tags(run, {BACKFILL_ID_TAG: "paused"})
    home.age(DAYS + 1)
    home.run("2026-11-04")
    backfill = PartitionBackfill(
        backfill_id="paused",
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={},
        backfill_timestamp=0.0,
        asset_selection=[QUEUED],
        serialized_asset_backfill_data=None,
    )
    home.instance.add_backfill(backfill)
    assert home.prune().runs == 0

    done = backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS)  # type: ignore[no-untyped-call]
    home.instance.update_backfill(done)
    assert home.prune().runs == 2


def test_the_newest_observation_of_an_asset_that_is_no_table_stays(home: Home) -> None:
    """The registry's changes are recorded by runs of a job, whose later runs may have changed nothing."""
    registry = dg.AssetKey("strategy_registry")
    job, run = "set_strategy_contracts", home.run("2026-11-02", job="set_strategy_contracts")
    for entries in (2, 5):
        seen = AssetObservationData(dg.AssetObservation(registry, metadata={"entries": entries}))
        observed = DagsterEventType.ASSET_OBSERVATION.value
        home.instance.report_dagster_event(DagsterEvent(observed, job, event_specific_data=seen, step_key="s"), run)
    home.age(DAYS + 1)
    home.run("2026-11-05", job=job)

    assert home.prune().runs == 1

    [left] = home.instance.fetch_observations(registry, limit=5).records
    assert left.asset_observation is not None
    assert left.asset_observation.metadata["entries"].value == 5


def test_logs_of_ticks_are_kept_for_two_days(home: Home) -> None:
    home.tick("ib_streamer_sensor", 1)
    home.report("2026-11-02")
    home.run("2026-11-02")
    home.age(1.5)
    home.tick("ib_streamer_sensor", 2)
    assert home.prune().tick_logs == 0
    home.age(1)

    assert home.prune().tick_logs == 1
    assert [path.name for path in home.files() if "ib_streamer_sensor" in str(path)] == ["2.err"]


def _an_hour(home: Home, hour: int, share: int = 1) -> None:
    """Do the ``share``-th part of what a demo does in an hour: numbers and sizes are measured."""
    day = f"2026-11-{hour + 2:02d}"
    for sensor, ticks in TICKS_AN_HOUR.items():
        for tick in range(ticks // share):
            home.tick(sensor, hour * 1_000 + tick)
    for _ in range(max(1, RUNS_AN_HOUR // share)):
        home.run(day)
    for _ in range(REPORTS_AN_HOUR // share):
        home.report(day)


def test_an_hour_projected_to_a_year_fits_into_two_gigabytes(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Two parts: what an hour adds, and what is left for ever of an hour that is older than the retention."""
    empty, no_files = home.size(), len(home.files())
    _an_hour(home, 0)
    bytes_an_hour, files_an_hour = home.size() - empty, len(home.files()) - no_files
    sizes = []
    for hour in range(1, 3 * DAYS):
        home.age(1)
        home.prune()
        sizes.append((home.size(), len(home.files())))
        _an_hour(home, hour, share=10)
    (middle, middle_files), (end, end_files) = sizes[DAYS + 1], sizes[-1]
    left = max(0, end - middle) / (len(sizes) - DAYS - 2)
    kept_days, tick_days, files_a_run = 7, 2, 4

    a_year = bytes_an_hour * 24 * kept_days + left * 10 * 24 * 365
    files = 24 * (sum(TICKS_AN_HOUR.values()) * tick_days + RUNS_AN_HOUR * files_a_run * kept_days)
    without = bytes_an_hour * 24 * 365
    with capsys.disabled():
        print(f"a year: {a_year / 2**30:.2f} GiB in {files} files; without retention {without / 2**30:.0f} GiB")  # noqa: T201
    assert end_files == middle_files, "no file is left for ever"
    assert files_an_hour * 24 * 365 > 5_000_000
    assert files < 50_000
    assert a_year < 2 * 2**30
    assert without > 10 * a_year
