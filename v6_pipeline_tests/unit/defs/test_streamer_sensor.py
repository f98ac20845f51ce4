"""``ib_streamer_sensor``: what a tick does and says. One tick's cursor is handed to the next, as the daemon does."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs import streamer_sensor
from v6_pipeline.defs.streamer_sensor import ib_streamer_sensor
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.lineage import CommitKind, CommitLineage
from v6_pipeline.lake.rows import position_rows
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.model import PositionUpdate, UpdateSource
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease
from v6_pipeline.streaming.report import ReportCursor
from v6_pipeline.streaming.status import FeedStatus, StreamerStatus, StreamState, WriterStatus
from v6_pipeline_tests.unit.defs.conftest import FRIDAY_NOON, Clock, ClockedPipeline

SENSOR = ib_streamer_sensor()


def tick(instance: dg.DagsterInstance, pipeline: ClockedPipeline, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"pipeline": pipeline})
    result = SENSOR(context)
    assert isinstance(result, dg.SensorResult)
    return result


def materialized(result: dg.SensorResult) -> list[dg.AssetMaterialization]:
    """Return the materializations without the check evaluations."""
    return [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]


def said(result: dg.SensorResult) -> str:
    assert result.skip_reason is not None
    return str(result.skip_reason.skip_message)


class Stream:
    """A streamer's commits without a streamer."""

    def __init__(self, pipeline: ClockedPipeline, *, epoch: int = 1) -> None:
        self._pipeline = pipeline
        self._epoch = epoch
        store = pipeline.lake().table(STREAMED_POSITIONS)
        self._appender = FencedAppender(
            store, application_id="test", epoch=epoch, lineage=self._lineage(CommitKind.FENCE)
        )
        self._appender.open()

    def write(self, *conids: int) -> None:
        now = self._pipeline.now()
        updates = [
            PositionUpdate(
                account="SIM1", conid=conid, symbol="X", sec_type="STK", currency="USD", position=1, timestamp=now
            )
            for conid in conids
        ]
        rows = position_rows(
            updates,
            spec=STREAMED_POSITIONS,
            trading_day=TradingCalendar().trading_day,
            source=UpdateSource.STREAM,
            ingested_at=now,
            epoch=self._epoch,
        )
        self._appender.append(rows, self._lineage(CommitKind.DATA))

    def _lineage(self, kind: CommitKind) -> CommitLineage:
        return CommitLineage(
            asset=STREAMED_POSITIONS.name, source="stream", code_version="test", epoch=self._epoch, kind=kind
        )


def test_the_first_tick_offers_the_lease(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, database: StateDatabase
) -> None:
    result = tick(instance, pipeline)

    assert "lease offered" in said(result)
    assert StreamerLease(database, pipeline.now).read().is_open_grant(FRIDAY_NOON)
    assert materialized(result) == []


def test_a_tick_renews_the_lease_of_the_streamer_and_shows_its_report(
    instance: dg.DagsterInstance,
    pipeline: ClockedPipeline,
    database: StateDatabase,
) -> None:
    tick(instance, pipeline)
    lease = StreamerLease(database, pipeline.now)
    process = ProcessIdentity.current()
    epoch = lease.claim_grant(process.owner, process)
    assert epoch == 1
    lease.heartbeat(epoch, {"state": "streaming", "streamed_contracts": 12, "queued_holdings": 46})
    Clock.forward(50)

    result = tick(instance, pipeline)

    assert lease.read().expires_at == FRIDAY_NOON + timedelta(seconds=50 + 120)
    assert "renewed epoch 1" in said(result)
    assert "12 contracts streamed, 46 holdings queued, 0 of 90 slots" in said(result)


def test_a_tick_shows_what_keeps_the_streamer_from_its_work(
    instance: dg.DagsterInstance,
    pipeline: ClockedPipeline,
    database: StateDatabase,
) -> None:
    tick(instance, pipeline)
    lease = StreamerLease(database, pipeline.now)
    process = ProcessIdentity.current()
    epoch = lease.claim_grant(process.owner, process)
    assert epoch == 1
    report = StreamerStatus(
        state=StreamState.BLIND,
        blind_since=FRIDAY_NOON,
        feeds={"options": FeedStatus(state="stale", since=FRIDAY_NOON, reason="farm usopt is broken")},
        writer=WriterStatus(failing_since=FRIDAY_NOON, last_error="disk full", last_compaction_error="no space left"),
    )
    lease.heartbeat(epoch, report.as_json())
    Clock.forward(50)

    words = said(tick(instance, pipeline))

    assert "no data from the broker for 50 s (options stale)" in words
    assert f"no write since {FRIDAY_NOON.isoformat()}: disk full" in words
    assert "compaction fails, the rows are safe: no space left" in words


def test_new_commits_are_reported_once_as_one_materialization_with_versions_and_counts(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    stream = Stream(pipeline)
    stream.write(1, 2)
    stream.write(1, 2, 3)

    first = tick(instance, pipeline)
    [event] = materialized(first)
    assert (event.asset_key.to_user_string(), event.partition) == ("streamed_positions", "2026-11-20")
    metadata = {name: value.value for name, value in event.metadata.items()}
    assert metadata["rows_added"] == 5
    assert metadata["dagster/partition_row_count"] == 5
    assert metadata["contracts"] == 3
    assert (metadata["delta_first_version"], metadata["delta_version"], metadata["delta_commits"]) == (2, 3, 2)
    assert metadata["streamer_epochs"] == "1"
    assert metadata["slots_ceiling"] == 90
    assert metadata["lag_seconds"] == 0
    assert "reported versions 2 to 3, 5 rows" in said(first)

    second = tick(instance, pipeline, first.cursor)
    assert materialized(second) == []


def test_there_is_at_most_one_report_a_minute(instance: dg.DagsterInstance, pipeline: ClockedPipeline) -> None:
    stream = Stream(pipeline)
    stream.write(1)
    cursor = tick(instance, pipeline).cursor
    stream.write(1)

    Clock.forward(59)
    early = tick(instance, pipeline, cursor)
    Clock.forward(1)
    due = tick(instance, pipeline, early.cursor)

    assert materialized(early) == []
    assert len(materialized(due)) == 1


def test_a_replayed_tick_reports_the_same_again(instance: dg.DagsterInstance, pipeline: ClockedPipeline) -> None:
    """The daemon stores events and cursor apart: after a crash between them the tick is played again."""
    Stream(pipeline).write(1, 2)

    assert tick(instance, pipeline).asset_events == tick(instance, pipeline).asset_events


def test_a_fencing_commit_alone_is_no_materialization(instance: dg.DagsterInstance, pipeline: ClockedPipeline) -> None:
    Stream(pipeline)

    assert materialized(tick(instance, pipeline)) == []


def test_rows_around_four_in_the_morning_are_reported_for_both_days(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "instant", FRIDAY_NOON.replace(hour=8, minute=59))
    stream = Stream(pipeline)
    stream.write(1)
    Clock.forward(60)
    stream.write(1)

    events = materialized(tick(instance, pipeline))

    assert [event.partition for event in events] == ["2026-11-19", "2026-11-20"]


def test_a_table_that_was_created_again_is_reported_from_its_beginning(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    Stream(pipeline).write(1)

    result = tick(instance, pipeline, '{"version": 500, "reported_at": null}')

    assert "created again" in said(result)
    assert len(materialized(tick(instance, pipeline, result.cursor))) == 1


def test_a_streamer_that_runs_without_dagster_is_left_running(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, database: StateDatabase
) -> None:
    lease = StreamerLease(database, pipeline.now)
    lease.claim("me", granted_by=GrantedBy.SELF, ttl_seconds=30, process=ProcessIdentity.current())
    before = lease.read()

    result = tick(instance, pipeline)

    assert "runs without Dagster" in said(result)
    assert lease.read() == before


def test_a_stop_request_is_respected(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, database: StateDatabase
) -> None:
    lease = StreamerLease(database, pipeline.now)
    lease.request_stop()

    result = tick(instance, pipeline)

    assert "stopped on request" in said(result)
    assert lease.read().desired_state is DesiredState.STOP
    assert not lease.read().is_open_grant(FRIDAY_NOON)


def test_a_state_database_that_cannot_be_used_fails_the_tick_in_one_line(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("V6_STATE_URL", f"sqlite:///{tmp_path}")

    with pytest.raises(dg.Failure) as caught:
        tick(instance, pipeline)

    assert "is a folder" in str(caught.value.description)


def test_four_reports_an_hour_have_a_picture_of_the_slots_and_sample_rows(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    stream = Stream(pipeline)
    cursor = tick(instance, pipeline).cursor  # nothing to report; a sample of the slots is taken
    reports = []
    for _ in range(5):
        Clock.forward(300)
        stream.write(1, 2)
        result = tick(instance, pipeline, cursor)
        cursor = result.cursor
        [event] = materialized(result)
        reports.append(event.metadata)

    pictured = [{"slots_over_the_day", "sample"} & report.keys() for report in reports]
    assert [len(names) for names in pictured] == [0, 2, 0, 0, 2]
    last = reports[4]
    assert str(last["slots_over_the_day"].value).startswith("![Market-data lines in use over the day](data:image/png;")
    sample = last["sample"]
    assert isinstance(sample, dg.TableMetadataValue)
    assert sample.records[0].data["conid"] in {1, 2}
    assert "date" not in sample.records[0].data
    assert "delta" not in sample.records[0].data, "empty columns are left out"
    assert str(last["delta_commit"].value).endswith(f"/{last['delta_version'].value:020}.json")


def test_a_picture_that_cannot_be_drawn_keeps_nothing_from_being_reported(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(pipeline)
    cursor = None
    for _ in range(3):  # samples of the slots
        cursor = tick(instance, pipeline, cursor).cursor
        Clock.forward(60)
    stream.write(1, 2)

    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(streamer_sensor, "slots_over_time", broken)
    result = tick(instance, pipeline, cursor)

    [event] = materialized(result)
    assert event.metadata["rows_added"].value == 2
    assert "no picture of the slots: RuntimeError: no fonts" in said(result)
    assert not ReportCursor.parse(result.cursor).is_picture_due(pipeline.now()), "not tried again with every report"
