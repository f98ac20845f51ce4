"""One real Dagster for all that needs one: backfills as the UI launches them, and who owns the streamer.

In the order of the module, each test going on from what the one before left: a Dagster takes half a minute of processor
time to start, and the test that kills it comes last. The streamer's lease is shorter than by default (120 s), and still
longer than a reload, during which no sensor ticks. The backfills are over sixty trading days, some with Flex, some
observed, some with neither, streamer and schedules running beside; what the lake holds is read with polars.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import psutil
import pytest

from v6_pipeline.cli import home
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import FLEX_POSITIONS, FLEX_STATEMENTS, POSITION_SNAPSHOTS
from v6_pipeline.paper import GatewayConfig, GatewayThread
from v6_pipeline.settings import load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.streamer import StreamerLease, StreamerLeaseState
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline_tests.history_days import CALENDAR, POSITIONS, drop, observe
from v6_pipeline_tests.integration.real_dagster import UP_SECONDS, DagsterApi, is_over, running_dagster, wait_for

DAYS, WITH_FLEX, WITHOUT = 60, 24, 12
CORRECTED = 14
"""Days of a run that is ended in the middle: some ten seconds of work."""
ASSETS = ("flex_statements", "flex_positions", "flex_activity", "position_snapshots", "portfolio_exposure")
RUN_SECONDS = 300
LEASE_SECONDS = 45
TICK_SECONDS = 75
"""The lease counts from the last tick that renewed it: one that was under way (60 s at most) may end after a stop."""
LEFT_SECONDS = 10
"""Seconds left of a lease that is no longer renewed, so that the test need not wait for all of it."""
pytestmark = [pytest.mark.slow, pytest.mark.minutes, pytest.mark.timeout(1200)]


class Owned:
    """The streamer, as the state database and the gateway see it."""

    def __init__(self, database: StateDatabase, gateway: GatewayThread) -> None:
        self._database, self._gateway = database, gateway

    @property
    def lease(self) -> StreamerLeaseState:
        return StreamerLease(self._database).read()

    @property
    def lines(self) -> int:
        """Subscriptions at the gateway, by its own count."""
        return self._gateway.call(lambda gateway: gateway.statistics.lines)

    def streaming(self) -> psutil.Process | None:
        """The streamer's process, once it holds its lines."""
        lease = self.lease
        if lease.pid is None or (lease.status or {}).get("state") != "streaming" or self.lines == 0:
            return None
        return psutil.Process(lease.pid)

    def shorten_lease(self) -> None:
        """Shorten the lease, as if its last renewal were longer ago."""
        StreamerLease(self._database).renew(self.lease.epoch, ttl_seconds=LEFT_SECONDS)

    def code_servers(self) -> list[psutil.Process]:
        """The proxy and the process in which it keeps the code."""
        own = psutil.Process(os.getpid()).children(recursive=True)
        return [process for process in own if {"code-server", "grpc"} & set(process.cmdline())]


@dataclass(frozen=True)
class System:
    api: DagsterApi
    owned: Owned
    lake: Lake
    flex_dir: Path
    flex: tuple[date, ...]
    neither: tuple[date, ...]
    own: tuple[date, ...]

    @property
    def good(self) -> tuple[date, ...]:
        return (*self.flex, *self.own)

    def rows(self, spec: TableSpec) -> pl.DataFrame:
        handle = self.lake.table(spec).load()
        return pl.DataFrame(schema=spec.schema) if handle is None else pl.scan_delta(handle).collect()

    def content(self, spec: TableSpec, days: Sequence[date]) -> pl.DataFrame:
        """Return the content of the days without its lineage."""
        told = [name for name in spec.column_names if name not in spec.provenance]
        return self.rows(spec).filter(pl.col("date").is_in(days)).select(told).sort(spec.key)

    def versions(self) -> dict[str, int]:
        return {spec.name: self.lake.table(spec).current().version() for spec in (FLEX_STATEMENTS, FLEX_POSITIONS)}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("home")
    today = CALENDAR.trading_day(datetime.now(UTC))
    days = CALENDAR.sessions_between(CALENDAR.first, CALENDAR.previous_session(today))[-DAYS:]
    flex_dir = folder / "statements"
    flex_dir.mkdir()
    others = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patch, GatewayThread(GatewayConfig(control_port=None)) as gateway:
        for name in list(os.environ):
            if name.startswith("V6_"):
                patch.delenv(name)
        patch.setenv("V6_HOME", str(folder))
        patch.setenv("V6_IB_PORT", str(gateway.port))
        patch.setenv("V6_START_DATE", days[0].isoformat())
        patch.setenv("V6_FLEX_DIR", str(flex_dir))
        patch.setenv("V6_LEASE_SECONDS", str(LEASE_SECONDS))
        settings = load_settings()
        home.prepare_state(settings)
        lake = Lake.from_settings(settings)
        flex, rest = tuple(days[:WITH_FLEX]), days[WITH_FLEX:]
        neither, own = tuple(rest[:WITHOUT]), tuple(rest[WITHOUT:])
        drop(flex_dir / "statements.xml", flex, quantity=10, made="210000")
        observe(lake, own)
        with home.open_state(settings) as database:
            StrategyRegistry(database).add_selector("condors", "symbol=SPX,sec_type=OPT")
            with running_dagster(settings) as api:
                yield System(api, Owned(database, gateway), lake, flex_dir, flex, neither, own)
        wait_for("no process left", lambda: not set(psutil.Process().children(recursive=True)) - others, 60)


def test_statements_that_are_dropped_become_partitions_by_themselves(system: System) -> None:
    wait_for("the sensor's run", lambda: finished(system, "import_flex_statements"), RUN_SECONDS)

    [run] = system.api.runs("import_flex_statements")
    assert run["status"] == "SUCCESS"
    for asset in ASSETS:
        if asset != "flex_activity":
            made = system.api.materializations(asset, run["runId"])
            assert sorted(made) == [day.isoformat() for day in system.flex], asset
    positions = system.api.materializations("flex_positions", run["runId"])
    assert {item["dagster/partition_row_count"] for item in positions.values()} == {2 * POSITIONS}


def finished(system: System, job: str) -> bool:
    runs = system.api.runs(job)
    return bool(runs) and all(run["status"] in {"SUCCESS", "FAILURE", "CANCELED"} for run in runs)


def test_sixty_days_are_made_as_far_as_they_can_be_each_with_its_own_counts_and_sources(system: System) -> None:
    days = (*system.flex, *system.neither, *system.own)
    launched = system.api.launch_backfill(["position_snapshots", "portfolio_exposure"], days)
    done = system.api.finished_backfill(launched, RUN_SECONDS)

    assert done["status"] == "COMPLETED_FAILED"
    good, bad = len(system.good), len(system.neither)
    assert done["counts"] == {"position_snapshots": (good, bad), "portfolio_exposure": (good, bad)}
    [run] = done["runs"]
    said = system.api.failure(run["runId"])
    assert f"position_snapshots of {bad} days from {system.neither[0]} to {system.neither[-1]}" in said
    assert "drop a Flex statement of that day into V6_FLEX_DIR" in said
    assert "\n" not in said
    snapshots = system.api.materializations("position_snapshots", run["runId"])
    exposure = system.api.materializations("portfolio_exposure", run["runId"])
    assert set(snapshots) == set(exposure) == {day.isoformat() for day in system.good}
    for days_of, name in ((system.flex, "positions_from_flex"), (system.own, "positions_from_queue")):
        for day in days_of:
            told = snapshots[day.isoformat()]
            assert (told["dagster/partition_row_count"], told[name]) == (2 * POSITIONS, 2 * POSITIONS)
            assert exposure[day.isoformat()]["dagster/partition_row_count"] == 2 * POSITIONS
    rows = system.rows(POSITION_SNAPSHOTS).filter(pl.col("date").is_in(days))
    assert dict(rows.group_by("date").len().iter_rows()) == dict.fromkeys(system.good, 2 * POSITIONS)
    assert set(rows.filter(pl.col("date").is_in(system.flex)).get_column("position_source")) == {"flex"}
    assert set(rows.filter(pl.col("date").is_in(system.own)).get_column("position_source")) == {"queue"}


@pytest.mark.parametrize("end", ["kill", pytest.param("cancel", marks=pytest.mark.long)])
def test_a_run_that_ends_in_the_middle_leaves_whole_days_and_the_next_one_ends_it(system: System, end: str) -> None:
    """Corrected statements have come; the sensor that would import them is off.

    Dagster runs a killed run again by itself: the backfill after it finds everything done, and changes nothing.
    """
    system.api.stop_sensor("flex_statements_sensor")
    quantity, made = (20, "220000") if end == "kill" else (30, "230000")
    days = system.flex[:CORRECTED]
    drop(system.flex_dir / f"corrected-{quantity}.xml", days, quantity=quantity, made=made)
    launched = system.api.launch_backfill(ASSETS, days)
    run_id = wait_for("its run", lambda: running(system, launched), RUN_SECONDS)
    wait_for("a day", lambda: system.api.materializations("flex_positions", run_id), RUN_SECONDS)
    if end == "kill":
        psutil.Process(system.api.worker(run_id)).kill()
    else:
        system.api.terminate(run_id)
    ended = system.api.finished_backfill(launched, RUN_SECONDS)
    assert sorted(run["status"] for run in ended["runs"]) == (["FAILURE", "SUCCESS"] if end == "kill" else ["CANCELED"])
    assert_whole_days(system)
    before = system.versions(), system.content(POSITION_SNAPSHOTS, system.good)

    done = system.api.finished_backfill(system.api.launch_backfill(ASSETS, days), RUN_SECONDS)

    assert done["status"] == "COMPLETED_SUCCESS", done
    assert_whole_days(system)
    if end == "kill":
        [run] = done["runs"]
        for asset in ("flex_positions", "position_snapshots", "portfolio_exposure"):
            told = system.api.materializations(asset, run["runId"])
            assert [item["changed"] for item in told.values()] == [False] * CORRECTED
        after = system.versions(), system.content(POSITION_SNAPSHOTS, system.good)
        assert after[0] == before[0]
        assert after[1].equals(before[1])
    quantities = system.content(POSITION_SNAPSHOTS, days).select("date", "account", "conid", "position")
    assert quantities.height == CORRECTED * 2 * POSITIONS
    assert quantities.filter(pl.col("position") != quantity * pl.col("conid")).is_empty(), "the corrected statements'"


def running(system: System, backfill_id: str) -> str | None:
    runs = system.api.backfill(backfill_id)["runs"]
    return runs[0]["runId"] if runs and runs[0]["status"] == "STARTED" else None


def assert_whole_days(system: System) -> None:
    """Each day of each table is of one run, whole, and no row is there twice."""
    for spec in (FLEX_POSITIONS, POSITION_SNAPSHOTS):
        rows = system.rows(spec).filter(pl.col("date").is_in(system.flex))
        assert rows.select(spec.key).is_unique().all()
        days = rows.group_by("date").agg(pl.len().alias("rows"), pl.col("run_id").n_unique().alias("runs"))
        assert set(days.get_column("rows")) == {2 * POSITIONS}
        assert set(days.get_column("runs")) == {1}


def test_a_reload_of_the_code_location_leaves_the_same_one_streamer(system: System) -> None:
    streamer = wait_for("streaming", system.owned.streaming, UP_SECONDS)
    epoch, before = system.owned.lease.epoch, set(system.api.tick_ids("ib_streamer_sensor"))

    system.api.reload_location()
    wait_for("ticks", lambda: len(set(system.api.tick_ids("ib_streamer_sensor")) - before) >= 2, UP_SECONDS)

    assert system.owned.streaming() == streamer
    assert system.owned.lease.epoch == epoch


def test_a_stopped_sensor_ends_the_streamer_within_the_lease_and_starting_it_begins_a_new_one(
    system: System,
) -> None:
    streamer = wait_for("streaming", system.owned.streaming, UP_SECONDS)
    epoch = system.owned.lease.epoch

    system.api.stop_sensor("ib_streamer_sensor")
    system.owned.shorten_lease()
    wait_for("the streamer's end", lambda: is_over(streamer), LEASE_SECONDS + TICK_SECONDS)
    assert system.owned.lines == 0, "its market data is cancelled"

    system.api.start_sensor("ib_streamer_sensor")
    wait_for("streaming again", system.owned.streaming, UP_SECONDS)
    assert system.owned.lease.epoch == epoch + 1


def test_a_code_server_killed_for_good_ends_the_streamer_within_the_lease(system: System) -> None:
    streamer = wait_for("streaming", system.owned.streaming, UP_SECONDS)

    for process in system.owned.code_servers():
        process.kill()
    system.owned.shorten_lease()
    wait_for("the streamer's end", lambda: is_over(streamer), LEASE_SECONDS + TICK_SECONDS)

    assert system.owned.lines == 0, "its market data is cancelled"
