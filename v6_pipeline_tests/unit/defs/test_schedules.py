"""``queued_positions_schedule``: due or not, never two at once, and words with numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.jobs import REFRESH_JOB
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.defs.schedules import queued_positions_schedule, refresh_decision
from v6_pipeline.ib.resets import ExpectedOutage
from v6_pipeline.model import ContractSpec, Holding, SecType
from v6_pipeline.refresh.due import RefreshDecision
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.unit.defs.conftest import FRIDAY_NOON, Clock, ClockedPipeline


def ask(instance: dg.DagsterInstance, pipeline: PipelineResource) -> RefreshDecision:
    return refresh_decision(instance, pipeline, TradingCalendar(), Clock.instant)


def hold(database: StateDatabase, *conids: int, refreshed_at: datetime | None = None) -> None:
    with database.write() as connection:
        rows = [
            Holding(
                account="SIM1",
                contract=ContractSpec(conid=conid, symbol="X", sec_type=SecType.STOCK, currency="USD"),
                position=1,
                average_cost=None,
                observed_at=FRIDAY_NOON - timedelta(days=1),
            )
            for conid in conids
        ]
        holdings.upsert_holdings(connection, rows)
        if refreshed_at is not None:
            holdings.set_refreshed(connection, [row.key for row in rows], refreshed_at=refreshed_at)


def test_what_is_due_is_refreshed_into_the_current_trading_day_and_what_is_not_is_skipped_with_numbers(
    pipeline: ClockedPipeline, database: StateDatabase, settings: Settings, calendar: TradingCalendar
) -> None:
    hold(database, 1, 2)

    schedule = queued_positions_schedule(settings, calendar)
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(
            instance=instance, scheduled_execution_time=FRIDAY_NOON, resources={"pipeline": pipeline}
        ) as context,
    ):
        result = schedule(context)
        Clock.forward(-7200)
        hold(database, 1, 2, refreshed_at=Clock.instant)
        skipped = schedule(context)

    assert isinstance(result, dg.RunRequest)
    assert result.partition_key == "2026-11-20"
    assert result.run_config["ops"] == {"queued_positions": {"config": {"everything": False}}}
    assert result.tags["v6/reason"] == "2 due, 0 in the queue; 2 held, 0 streamed, 0 fresh"
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "nothing due: 2 held, 0 streamed, 2 fresh; next due in 210 s"


def test_a_value_counts_as_due_before_it_gets_too_old_at_the_next_tick(
    instance: dg.DagsterInstance,
    pipeline: ClockedPipeline,
    database: StateDatabase,
) -> None:
    """Due at the limit itself would refresh at every other tick only."""
    hold(database, 1, refreshed_at=FRIDAY_NOON)

    Clock.forward(300 - 91)
    early = ask(instance, pipeline)
    Clock.forward(1)
    due = ask(instance, pipeline)

    assert (early.refresh, early.reason) == (False, "nothing due: 1 held, 0 streamed, 1 fresh; next due in 1 s")
    assert due.refresh


@pytest.mark.parametrize("by_job", [True, False])
def test_while_a_refresh_runs_no_other_is_started(
    instance: dg.DagsterInstance,
    pipeline: ClockedPipeline,
    database: StateDatabase,
    *,
    by_job: bool,
) -> None:
    """A run from the asset's page or a backfill counts too."""
    hold(database, 1)
    run = instance.create_run_for_job(_job(REFRESH_JOB if by_job else "other"), status=dg.DagsterRunStatus.STARTED)
    if not by_job:
        run = run._replace(asset_selection=frozenset({dg.AssetKey("queued_positions")}))
        instance.delete_run(run.run_id)
        instance.add_run(run)

    result = ask(instance, pipeline)

    assert (result.refresh, result.reason) == (False, f"run {run.run_id[:8]} refreshes already")


@pytest.mark.parametrize(
    ("now", "open_"),
    [
        (datetime(2026, 11, 20, 14, 29, tzinfo=UTC), False),
        (datetime(2026, 11, 20, 14, 30, tzinfo=UTC), True),
        (datetime(2026, 11, 20, 21, 34, tzinfo=UTC), True),  # the close's marks come until the cut-off
        (datetime(2026, 11, 20, 21, 35, tzinfo=UTC), False),
        (datetime(2026, 11, 22, 17, 0, tzinfo=UTC), False),
    ],
)
def test_it_keeps_the_exchanges_hours(
    instance: dg.DagsterInstance,
    pipeline: ClockedPipeline,
    database: StateDatabase,
    monkeypatch: pytest.MonkeyPatch,
    now: datetime,
    *,
    open_: bool,
) -> None:
    hold(database, 1)
    monkeypatch.setattr(Clock, "instant", now)

    result = ask(instance, pipeline)

    assert result.refresh is open_
    if not open_:
        assert result.reason == "outside the exchange's hours (V6_MARKET_HOURS=session)"


def test_with_market_hours_always_it_refreshes_on_a_weekend_too(
    instance: dg.DagsterInstance,
    pipeline: ClockedPipeline,
    database: StateDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold(database, 1)
    monkeypatch.setenv("V6_MARKET_HOURS", "always")
    monkeypatch.setattr(Clock, "instant", datetime(2026, 11, 22, 17, 0, tzinfo=UTC))

    result = ask(instance, pipeline)

    assert result.refresh


def test_with_nothing_known_to_be_held_the_broker_is_asked_and_not_at_every_tick(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    first = ask(instance, pipeline)
    run = instance.create_run_for_job(_job(REFRESH_JOB), status=dg.DagsterRunStatus.SUCCESS)
    created_at = instance.get_run_record_by_id(run.run_id)
    assert created_at is not None
    Clock.instant = created_at.create_timestamp.astimezone(UTC) + timedelta(seconds=100)
    second = ask(instance, _AlwaysOpen())

    assert first.refresh
    assert (second.refresh, second.reason) == (False, "no positions known; looked for again in 200 s")


@pytest.mark.parametrize(
    ("status", "refresh"), [(dg.DagsterRunStatus.FAILURE, False), (dg.DagsterRunStatus.SUCCESS, True)]
)
def test_in_ibs_reset_the_last_runs_end_decides(
    instance: dg.DagsterInstance,
    database: StateDatabase,
    monkeypatch: pytest.MonkeyPatch,
    status: dg.DagsterRunStatus,
    *,
    refresh: bool,
) -> None:
    hold(database, 1)
    run = instance.create_run_for_job(_job(REFRESH_JOB), status=status)
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    launched_at = record.create_timestamp.astimezone(UTC)
    outage = ExpectedOutage("IB's nightly reset", launched_at + timedelta(hours=1))
    monkeypatch.setattr("v6_pipeline.defs.schedules.expected_outage", lambda _instant, _region: outage)
    Clock.instant = launched_at + timedelta(seconds=200)

    result = ask(instance, _AlwaysOpen())

    assert result.refresh is refresh
    assert result.reason.endswith("tried again in 400 s") is not refresh


class _AlwaysOpen(ClockedPipeline):
    def settings(self) -> Settings:
        return _always()


def _always() -> Settings:
    return Settings.model_validate({"market_hours": "always"})


def _job(name: str) -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        """Nothing."""

    @dg.job(name=name)
    def job() -> None:
        nothing()

    return job
