"""Dagster against the paper gateway: runs of the queue's assets, and a streamer that the sensor starts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from v6_pipeline.definitions import build_defs
from v6_pipeline.defs import assets
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.defs.streamer_sensor import ib_streamer_sensor
from v6_pipeline.errors import StateError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.lake.commits import read_commits
from v6_pipeline.lake.lineage import CommitKind
from v6_pipeline.lake.reader import newest_accounts
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.paper import AccountConflict, GatewayConfig, GatewayThread
from v6_pipeline.state.leases.streamer import StreamerLease
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.streaming import control as streamer_control

TODAY = "2026-11-20"
YESTERDAY = "2026-11-19"


class FridayPipeline(PipelineResource):
    """On a Friday afternoon, ticking on."""

    def now(self) -> datetime:
        return datetime(2026, 11, 20, 17, tzinfo=UTC) + (datetime.now(UTC) - _BEGUN)


_BEGUN = datetime.now(UTC)


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:  # its own thread: Dagster's steps run loops of their own
    with GatewayThread(GatewayConfig(control_port=None, tick_seconds=0.2, message_rate=100_000)) as running:
        yield running


@pytest.fixture(autouse=True)
def home(gateway: GatewayThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("V6_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("V6_HOME", str(tmp_path))
    monkeypatch.setenv("V6_IB_PORT", str(gateway.port))
    monkeypatch.setenv("V6_MESSAGES_PER_SECOND", "1000")
    monkeypatch.setenv("V6_FLUSH_SECONDS", "0.3")
    monkeypatch.setenv("V6_START_DATE", "2026-11-02")
    return tmp_path


@pytest.fixture
def pipeline() -> FridayPipeline:
    return FridayPipeline()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def refresh(
    pipeline: PipelineResource,
    instance: dg.DagsterInstance,
    first: str,
    last: str | None = None,
    config: dict[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    job = build_defs(pipeline=pipeline).resolve_job_def("refresh_queued_positions")
    return job.execute_in_process(instance=instance, raise_on_error=False, tags=tags, run_config=config)


def materializations(instance: dg.DagsterInstance, asset: str) -> dict[str, dict[str, Any]]:
    """Partition -> metadata of each materialization; two of one partition are an error."""
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
    found = [record.asset_materialization for record in records]
    keys = [event.partition for event in found if event]
    assert len(keys) == len(set(keys)), keys
    return {
        str(event.partition): {name: value.value for name, value in event.metadata.items()} for event in found if event
    }


def user_failure(result: dg.ExecuteInProcessResult) -> Any:  # a class that Dagster keeps to itself
    [event] = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    assert data.user_failure_data is not None, data.error
    return data.user_failure_data


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    return str(user_failure(result).description)


def test_a_run_fills_the_current_day_and_links_dagster_and_delta_both_ways(
    pipeline: FridayPipeline, instance: dg.DagsterInstance
) -> None:
    result = refresh(pipeline, instance, TODAY)

    assert result.success
    metadata = materializations(instance, "queued_positions")[TODAY]
    assert metadata["dagster/partition_row_count"] == 60
    assert metadata["rows_added"] == 60
    assert metadata["dagster/table_name"] == "queued_positions"
    assert metadata["dagster/uri"].endswith("/lake/queued_positions")
    assert "market_value" in metadata["dagster/column_lineage"].deps_by_column
    commits = read_commits(pipeline.lake().table(QUEUED_POSITIONS), -1, 100)
    by_version = {commit.version: commit for commit in commits}
    commit = by_version[metadata["delta_version"]]
    assert (commit.asset, commit.run_id) == ("queued_positions", result.run_id)
    assert commit.rows_by_date == {date(2026, 11, 20): 10}
    assert metadata["delta_commits"] == 2
    accounts = materializations(instance, "account_values")[TODAY]
    assert accounts["rows_added"] == 2
    figures = [metadata[name] for name in ("queue_depth_at_start", "queue_pending", "queue_dead")]
    assert figures == [60, 0, 0]
    assert [len(told["sample"].records) for told in (metadata, accounts)] == [3, 2]
    values = newest_accounts(pipeline.lake().table(ACCOUNT_VALUES), date.fromisoformat(TODAY))
    assert accounts["net_liquidation_usd"] == pytest.approx(values.get_column("net_liquidation").sum(), abs=0.01)
    assert accounts["daily_pnl_usd"] == pytest.approx(values.get_column("daily_pnl").sum(), abs=0.01)


def test_a_backfill_over_past_days_asks_the_broker_for_today_only(
    pipeline: FridayPipeline, instance: dg.DagsterInstance
) -> None:
    result = refresh(pipeline, instance, "2026-11-18", TODAY)

    assert result.success
    counts = {
        partition: (metadata["dagster/partition_row_count"], metadata["rows_added"])
        for partition, metadata in materializations(instance, "queued_positions").items()
    }
    assert counts == {"2026-11-18": (0, 0), YESTERDAY: (0, 0), TODAY: (60, 60)}


def test_a_run_that_found_nothing_due_tells_so_of_today_alone(
    pipeline: FridayPipeline, instance: dg.DagsterInstance
) -> None:
    """Else the plot of the queue's depth would leave out the quiet minutes."""
    assert refresh(pipeline, instance, TODAY).success

    config = {"ops": {"queued_positions": {"config": {"everything": False}}}}
    with dg.DagsterInstance.ephemeral() as other:
        assert refresh(pipeline, other, YESTERDAY, TODAY, config).success
        told = materializations(other, "queued_positions")

    assert told[TODAY]["rows_added"] == 0
    assert (told[TODAY]["queue_depth_at_start"], told[TODAY]["queue_pending"]) == (0, 0)
    assert "queue_depth_at_start" not in told[YESTERDAY]


def test_a_past_day_alone_never_calls_the_broker(
    pipeline: FridayPipeline, instance: dg.DagsterInstance, gateway: GatewayThread
) -> None:
    result = refresh(pipeline, instance, YESTERDAY)

    assert result.success
    assert gateway.call(lambda paper: dict(paper.statistics.connections)) == {}


def test_a_day_that_has_not_begun_fails_saying_so(instance: dg.DagsterInstance, gateway: GatewayThread) -> None:
    """The key exists by Dagster's own clock, but not yet by the pipeline's."""

    class Thursday(PipelineResource):
        def now(self) -> datetime:
            return datetime(2026, 11, 19, 17, tzinfo=UTC)

    result = refresh(Thursday(), instance, TODAY)

    assert not result.success
    assert failure_of(result) == "trading day 2026-11-20 begins at 2026-11-20 09:00 UTC: materialize it after that"
    assert gateway.call(lambda paper: dict(paper.statistics.connections)) == {}


def test_without_a_gateway_the_run_fails_in_one_line_and_writes_nothing(
    pipeline: FridayPipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_IB_PORT", "1")

    result = refresh(pipeline, instance, TODAY)

    assert not result.success
    assert failure_of(result).startswith("no gateway at 127.0.0.1:1: start IB Gateway")
    assert user_failure(result).metadata["error"].value == "GatewayUnreachableError"
    assert materializations(instance, "queued_positions") == {}
    assert [c for c in read_commits(pipeline.lake().table(QUEUED_POSITIONS), -1, 9) if c.kind is CommitKind.DATA] == []


def test_rows_that_landed_before_a_failure_are_reported_though_the_run_fails(
    pipeline: FridayPipeline,
    instance: dg.DagsterInstance,
    gateway: GatewayThread,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One account's feed is taken by another client: the other account is refreshed all the same."""

    def gone(*_: object) -> dict[str, Any]:
        raise StateError("the state database is away")

    monkeypatch.setattr(assets, "_queue_figures", gone)
    monkeypatch.setattr(assets, "is_first_of_quarter", gone)

    async def take_feed_and_refresh() -> dg.ExecuteInProcessResult:
        other = IBConnectionManager(host="127.0.0.1", port=gateway.port, client_id=7)
        await other.connect()
        other.ib.client.reqAccountUpdates(True, "SIM0000001")  # type: ignore[no-untyped-call]
        gateway.call(lambda paper: paper.account_faults.set_account_conflict(AccountConflict.REFUSE))
        result = await asyncio.to_thread(refresh, pipeline, instance, TODAY)
        await other.close()
        return result

    result = asyncio.run(take_feed_and_refresh())

    assert not result.success
    assert "items stay in the queue: account feed of SIM0000002: 2101" in failure_of(result)
    metadata = materializations(instance, "queued_positions")[TODAY]
    assert 0 < metadata["rows_added"] < 60
    assert metadata["dagster/partition_row_count"] == metadata["rows_added"]
    assert "queue_pending" not in metadata, "what cannot be shown keeps nothing from being told"
    # Dagster skips the step of the checks, and would show "execution failed" of each.
    logged = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    told = [event for event in logged if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    found = [event.asset_check_evaluation_data for event in told]
    checks = {(item.asset_key.to_user_string(), item.check_name): item for item in found}
    feed = checks["account_values", "account_feed_free"]
    assert (feed.passed, feed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "account feed of SIM0000002: 2101" in (feed.description or "")
    assert checks["queued_positions", "queue_drains"].passed


def wait_for(what: str, condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def test_the_sensor_starts_the_streamer_renews_it_and_reports_its_versions(
    instance: dg.DagsterInstance, gateway: GatewayThread, home: Path
) -> None:
    pipeline = PipelineResource()
    sensor = ib_streamer_sensor()
    database = pipeline.database()
    conids = sorted({item.conid for item in gateway.gateway.book.held()})[:12]
    StrategyRegistry(database).add_active("condors", conids)
    lease = StreamerLease(database)

    def tick(cursor: str | None = None) -> dg.SensorResult:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"pipeline": pipeline})
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    first = tick()
    assert first.skip_reason is not None
    assert str(first.skip_reason.skip_message) == "started"
    try:
        wait_for("streaming", lambda: lease.read().status.get("streamed_contracts") == 12)
        wait_for("rows in Delta", lambda: (lease.read().status["writer"]["rows"] or 0) >= 12)
        state = lease.read()
        assert state.pid is not None
        assert "dagster" not in " ".join(psutil.Process(state.pid).cmdline()).lower()
        before = state.expires_at

        second = tick(first.cursor)

        after = lease.read().expires_at
        assert after is not None
        assert before is not None
        assert after > before
        assert "12 contracts streamed" in str(second.skip_reason and second.skip_reason.skip_message)
        [event] = [item for item in second.asset_events if isinstance(item, dg.AssetMaterialization)]
        commits = read_commits(pipeline.lake().table(STREAMED_POSITIONS), -1, 500)
        reported = {name: value.value for name, value in event.metadata.items()}
        newest = {commit.version: commit for commit in commits}[_integer(reported["delta_version"])]
        assert (newest.epoch, newest.gateway) == (1, f"127.0.0.1:{gateway.port}")
        assert reported["slots_streaming"] == 12
        assert PositionQueue(database).stats().by_priority == {2: 60 - len(_holders(gateway, conids))}
    finally:
        lease.request_stop()
        for child in streamer_control._children:
            assert child.wait(timeout=30) == 0
    assert lease.read().owner is None
    assert gateway.call(lambda paper: dict(paper.statistics.subscriptions)) == {}
    assert (home / "logs" / "streamer.log").read_text().count("streaming as epoch 1") == 1


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _holders(gateway: GatewayThread, conids: list[int]) -> list[object]:
    return [item for item in gateway.gateway.book.held() if item.conid in conids]


def test_account_values_alone_can_be_selected(pipeline: FridayPipeline, instance: dg.DagsterInstance) -> None:
    defs = build_defs(pipeline=pipeline)
    result = dg.materialize(
        [defs.get_assets_def("account_values")],
        selection=["account_values"],
        instance=instance,
        partition_key=TODAY,
        resources={"pipeline": pipeline},
    )

    assert result.success
    assert materializations(instance, ACCOUNT_VALUES.name)[TODAY]["rows_added"] == 2
    assert materializations(instance, QUEUED_POSITIONS.name) == {}
