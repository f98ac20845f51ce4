"""The checks of ``streamed_positions``: executed from the UI, and evaluated by the sensor on change."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from v6_pipeline.checks.registry import CHECKS, When
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.definitions import build_defs
from v6_pipeline.defs.checks import EVALUATE_EVERY, _arguments
from v6_pipeline.defs.streamer_sensor import ib_streamer_sensor
from v6_pipeline.errors import StateError
from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import GrantedBy, StreamerLease
from v6_pipeline.state.queue import due
from v6_pipeline_tests.history_runs import numbers
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.defs.conftest import Clock, ClockedPipeline
from v6_pipeline_tests.unit.state.samples import holding, stock

SENSOR = ib_streamer_sensor()
OF_STREAM = {check.name for check in CHECKS if check.when is When.TICK}
EVALUATED = {*OF_STREAM, "queue_drains"}


def tick(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, cursor: str | None
) -> tuple[dict[str, dg.AssetCheckEvaluation], str | None]:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"pipeline": pipeline})
    result = SENSOR(context)
    assert isinstance(result, dg.SensorResult)
    found = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    return {event.check_name: event for event in found}, result.cursor


def damaged(pipeline: ClockedPipeline) -> None:
    """Make every read of ``queued_positions`` fail."""
    folder = pipeline.settings().home / "lake" / "queued_positions" / "_delta_log"
    folder.mkdir(parents=True)
    (folder / f"{0:020}.json").write_text("{")


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
    assert {name: event.passed for name, event in first.items()} == dict.fromkeys(EVALUATED, True)

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
    assert set(again) == EVALUATED


def test_each_check_reports_its_numbers_whether_it_passes_or_fails(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, database: StateDatabase
) -> None:
    ledger = StepLedger.from_settings(pipeline.settings(), database, pipeline.now)
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

    still = {"queue_drains": True}
    assert {name: event.passed for name, event in failed.items()} == dict.fromkeys(OF_STREAM, False) | still
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
    assert set(found) == EVALUATED


def test_a_cursor_of_checks_by_their_names_alone_starts_over(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    _, text = tick(instance, pipeline, None)
    cursor = json.loads(text or "")
    passed = cursor["checks"]["passed"]
    assert set(passed) > {"streamed_positions:stream_fresh", "queued_positions:queue_drains"}
    assert tick(instance, pipeline, text)[0] == {}

    cursor["checks"]["passed"] = {name.rpartition(":")[2]: said for name, said in passed.items()}

    assert set(tick(instance, pipeline, json.dumps(cursor))[0]) == EVALUATED


def test_the_sensor_reports_that_refreshes_stopped(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, database: StateDatabase
) -> None:
    """It does not read the lake, as a tick must not wait for it."""
    damaged(pipeline)
    with database.write() as connection:
        holdings.upsert_holdings(connection, [holding(stock(1), observed_at=pipeline.now())])
    found, cursor = tick(instance, pipeline, None)
    assert found["queue_drains"].passed
    assert found["queue_drains"].asset_key == dg.AssetKey("queued_positions")
    Clock.forward(200)
    unchanged, cursor = tick(instance, pipeline, cursor)
    assert unchanged == {}

    Clock.forward(221)

    stopped, _ = tick(instance, pipeline, cursor)
    assert not stopped["queue_drains"].passed
    assert stopped["queue_drains"].severity is dg.AssetCheckSeverity.ERROR
    assert "no refresh was ever attempted" in (stopped["queue_drains"].description or "")


def test_a_queue_that_cannot_be_judged_keeps_no_other_check_from_being_reported(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StateError("the state database is away")

    monkeypatch.setattr(due, "overdue", away)

    found, cursor = tick(instance, pipeline, None)

    assert set(found) == EVALUATED
    assert found["queue_drains"].description == "not checked: the state database is away"
    assert cursor is not None


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
    assert set(found) == {check.name for check in CHECKS}
    assert not found["stream_fresh"].passed
    assert found["stream_fresh"].description == "no streamer runs: is ib_streamer_sensor on?"


def test_a_verdict_is_no_markdown() -> None:
    """A symbol that is a picture would be requested from whoever wrote it by each browser that shows the check."""
    verdict = Verdict.warning("1 of 2 open positions have no price", {}, ["SIM1/1 ![x](http://a/b.png)"])

    assert _arguments(verdict)["description"] == (r"1 of 2 open positions have no price: SIM1/1 !\[x\](http://a/b.png)")
    assert _arguments(verdict)["metadata"]["sample"] == "SIM1/1 ![x](http://a/b.png)", "plain text on Dagster's pages"
