"""The checks of ``streamed_positions``: executed from the UI, and evaluated by the sensor on change."""

from __future__ import annotations

import dagster as dg

from v6_pipeline.definitions import build_defs
from v6_pipeline.defs.checks import DESCRIPTIONS, EVALUATE_EVERY
from v6_pipeline.defs.history_checks import CHECKS
from v6_pipeline.defs.log_checks import ACCOUNTS, QUEUED, STREAMED
from v6_pipeline.defs.sensors import ib_streamer_sensor
from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.leases import GrantedBy, ProcessIdentity, StreamerLease
from v6_pipeline.sync.slots import SlotLedger
from v6_pipeline_tests.history_runs import numbers
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
    assert {name: event.passed for name, event in first.items()} == dict.fromkeys(DESCRIPTIONS, True)

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
    assert set(again) == set(DESCRIPTIONS)


def test_each_check_tells_its_numbers_whether_it_passes_or_fails(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, database: StateDatabase
) -> None:
    ledger = SlotLedger.from_settings(pipeline.settings(), database, pipeline.now)
    assert ledger.acquire([1], holder="run", purpose=SlotPurpose.BATCH, ttl_seconds=600).granted
    streaming(database, pipeline)
    Clock.forward(120)
    streaming(database, pipeline, streamed_contracts=12, ticks=7, last_tick_at=pipeline.now().isoformat())
    Clock.forward(5)

    passed, cursor = tick(instance, pipeline, None)

    assert all(event.passed for event in passed.values())
    assert numbers(passed["stream_fresh"]) == {"streamed_contracts": 12, "ticks": 7, "last_tick_seconds_ago": 5.0}
    lines = {"lines": 1, "streams": 0, "batches": 1, "ceiling": 90, "ceiling_by_settings": 90}
    assert numbers(passed["slots_within_budget"]) == lines
    active = {"active": 12, "streamed": 12, "active_without_line": 0, "lines_for_streams": 80}
    assert numbers(passed["active_contracts_stream"]) == active

    ledger.report_exhausted("run", 1)
    blind_since = pipeline.now().isoformat()
    Clock.forward(60)
    short = {"streamed_contracts": 10, "overflow_contracts": 2, "overflow_sample": [5, 6]}
    streaming(database, pipeline, **short, blind_since=blind_since, connection="link_lost")

    failed, _ = tick(instance, pipeline, cursor)

    assert not any(event.passed for event in failed.values())
    assert numbers(failed["stream_fresh"]) == {"streamed_contracts": 10, "blind_seconds": 60.0}
    assert numbers(failed["slots_within_budget"]) == lines | {"lines": 0, "batches": 0, "ceiling": 0}
    assert numbers(failed["active_contracts_stream"]) == active | {
        "streamed": 10,
        "active_without_line": 2,
        "lines_for_streams": 0,
        "sample": "5, 6",
    }


def test_an_unreadable_cursor_of_the_checks_starts_over(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    found, _ = tick(instance, pipeline, '{"version": -1, "reported_at": null, "checks": [1]}')
    assert set(found) == set(DESCRIPTIONS)


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
    assert set(found) == {*DESCRIPTIONS, *CHECKS, *QUEUED, *ACCOUNTS, *STREAMED}
    assert not found["stream_fresh"].passed
    assert found["stream_fresh"].description == "no streamer runs"
