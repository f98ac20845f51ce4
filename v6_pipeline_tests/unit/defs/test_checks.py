"""The checks of ``streamed_positions``: executed from the UI, and evaluated by the sensor on change."""

from __future__ import annotations

import dagster as dg

from v6_pipeline.definitions import build_defs
from v6_pipeline.defs.checks import EVALUATE_EVERY
from v6_pipeline.defs.history_checks import CHECKS
from v6_pipeline.defs.log_checks import QUEUED, STREAMED
from v6_pipeline.defs.sensors import ib_streamer_sensor
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.leases import GrantedBy, ProcessIdentity, StreamerLease
from v6_pipeline_tests.unit.defs.conftest import Clock, ClockedPipeline

SENSOR = ib_streamer_sensor()


def tick(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, cursor: str | None
) -> tuple[dict[str, dg.AssetCheckEvaluation], str | None]:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"pipeline": pipeline})
    result = SENSOR(context)
    assert isinstance(result, dg.SensorResult)
    found = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    return {event.check_name: event for event in found}, result.cursor


def streaming(database: StateDatabase, pipeline: ClockedPipeline, **status: object) -> None:
    lease = StreamerLease(database, pipeline.now)
    if lease.read().owner is None:
        lease.claim("me", granted_by=GrantedBy.SELF, ttl_seconds=3600, process=ProcessIdentity.current())
    lease.heartbeat(lease.read().epoch, {"state": "streaming", **status})


def test_the_sensor_evaluates_on_change_and_every_five_minutes(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, database: StateDatabase
) -> None:
    streaming(database, pipeline)
    Clock.forward(120)
    streaming(database, pipeline)
    first, cursor = tick(instance, pipeline, None)
    assert {name: event.passed for name, event in first.items()} == {"stream_fresh": True, "slots_within_budget": True}

    Clock.forward(10)
    streaming(database, pipeline)
    unchanged, cursor = tick(instance, pipeline, cursor)
    assert unchanged == {}

    blind_since = pipeline.now().isoformat()
    Clock.forward(60)
    streaming(database, pipeline, blind_since=blind_since, connection="link_lost")
    changed, cursor = tick(instance, pipeline, cursor)
    assert not changed["stream_fresh"].passed
    assert changed["stream_fresh"].severity is dg.AssetCheckSeverity.ERROR
    assert "no fresh market data since 2026-11-20 17:02:10 UTC" in (changed["stream_fresh"].description or "")

    Clock.forward(EVALUATE_EVERY.total_seconds())
    streaming(database, pipeline, blind_since=blind_since, connection="link_lost")
    again, _ = tick(instance, pipeline, cursor)
    assert set(again) == {"stream_fresh", "slots_within_budget"}


def test_an_unreadable_cursor_of_the_checks_starts_over(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    found, _ = tick(instance, pipeline, '{"version": -1, "reported_at": null, "checks": [1]}')
    assert set(found) == {"stream_fresh", "slots_within_budget"}


def test_the_checks_can_be_executed_from_the_ui(instance: dg.DagsterInstance, pipeline: ClockedPipeline) -> None:
    definitions = build_defs(pipeline.settings(), pipeline=pipeline)
    checks = [check for check in definitions.asset_checks or () if isinstance(check, dg.AssetChecksDefinition)]
    selection = dg.AssetSelection.checks(*checks)
    job = dg.define_asset_job("checks", selection=selection)
    resolved = dg.Definitions(
        assets=definitions.assets, asset_checks=checks, jobs=[job], resources={"pipeline": pipeline}
    ).resolve_job_def("checks")

    result = resolved.execute_in_process(instance=instance)

    found = {event.check_name: event for event in result.get_asset_check_evaluations()}
    assert set(found) == {"stream_fresh", "slots_within_budget", *CHECKS, *QUEUED, *STREAMED}
    assert not found["stream_fresh"].passed
    assert found["stream_fresh"].description == "no streamer runs"
