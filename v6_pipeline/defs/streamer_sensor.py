"""``ib_streamer_sensor``: the control plane of the streamer.

A tick renews the streamer's lease or starts the streamer, and reports its commits (after a crash, some of them twice).
It never waits for the broker. https://docs.dagster.io/guides/automate/sensors
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from v6_pipeline.defs.checks import evaluations_due, verdicts_of_tick
from v6_pipeline.defs.metadata import data_version_tag, sample_rows, table_materialization
from v6_pipeline.defs.partitions import KEY_FORMAT
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.lake.commits import durable_commits
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import row_count
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.pictures import as_markdown, slots_over_time
from v6_pipeline.settings import Settings
from v6_pipeline.state.leases.streamer import StreamerLeaseState
from v6_pipeline.state.slots import samples as slot_samples
from v6_pipeline.state.slots.allocation import SlotUsage
from v6_pipeline.state.slots.ledger import SlotLedger
from v6_pipeline.streaming.control import Action, StreamerControl
from v6_pipeline.streaming.report import DayReport, ReportCursor, summarize
from v6_pipeline.streaming.status import StreamerStatus, StreamState

TICK_SECONDS = 10
PICTURE_AT_LEAST = timedelta(hours=2)
SAMPLES_AT_LEAST = 3
"""Fewer samples, at one a minute, make no line worth drawing."""
COMMITS_PER_REPORT = 500
"""A streamer commits 20 times a minute; after a long pause the sensor catches up over several reports."""


def ib_streamer_sensor() -> dg.SensorDefinition:
    """Return the sensor that starts the streamer, renews its lease, and reports its Delta versions."""

    @dg.sensor(
        name="ib_streamer_sensor",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(STREAMED_POSITIONS.name),
        description=(
            "Owns the IB streamer: renews its lease every ten seconds, starts it if it does not run, and reports its "
            "commits as materializations of streamed_positions. It also notices when refreshes stop. Once the sensor "
            "is switched off, the streamer ends within V6_LEASE_SECONDS."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
        try:
            result = _tick(context.cursor, pipeline)
        except V6Error as error:
            # The tick's page shows this one line; a traceback would bury it.
            raise dg.Failure(str(error)) from None
        context.log.info("%s", result.skip_reason.skip_message if result.skip_reason else "")
        return result

    return sensor


def _tick(cursor_text: str | None, pipeline: PipelineResource) -> dg.SensorResult:
    settings, database, now = pipeline.settings(), pipeline.database(), pipeline.now()
    outcome = StreamerControl(settings, database, pipeline.now).tick()
    ledger = SlotLedger.from_settings(settings, database, pipeline.now)
    ledger.sample()
    usage = ledger.usage()
    cursor = ReportCursor.parse(cursor_text)
    events, cursor, reported = _report(pipeline, cursor, settings, usage, now)
    checked = verdicts_of_tick(pipeline, outcome.lease, usage)
    judged, checks = evaluations_due(checked, cursor.checks, now)
    cursor = replace(cursor, checks=checks)
    parts = [outcome.decision.reason]
    if outcome.decision.action in {Action.RENEW, Action.GRANT, Action.LEAVE}:
        parts.append(describe_streamer(outcome.lease, usage, now))
    parts.append(reported)
    # A tick without a run request counts as skipped, and its reason is the only text that Dagster shows.
    return dg.SensorResult(
        asset_events=[*events, *judged], cursor=cursor.dump(), skip_reason="; ".join(part for part in parts if part)
    )


def _report(
    pipeline: PipelineResource, cursor: ReportCursor, settings: Settings, usage: SlotUsage, now: datetime
) -> tuple[list[dg.AssetMaterialization], ReportCursor, str]:
    """Return materializations of the commits after the cursor, the new cursor, and a text for the tick."""
    if not cursor.is_due(now):
        return [], cursor, ""
    store = pipeline.lake().table(STREAMED_POSITIONS)
    commits = durable_commits(store, cursor.version, COMMITS_PER_REPORT)
    if not commits:
        handle = store.load()
        if handle is not None and handle.version() < cursor.version:
            text = "the table was created again: the next tick reports it from its beginning"
            return [], ReportCursor(checks=cursor.checks), text
        return [], cursor, ""
    days = summarize(commits)
    cursor = replace(cursor, version=commits[-1].version, reported_at=now.isoformat())
    if not days:
        return [], cursor, ""
    shown, problem = _shown(pipeline, settings, days[-1].day, now) if cursor.is_picture_due(now) else ({}, "")
    if shown or problem:  # a failure, too, postpones the next picture by the usual interval
        cursor = replace(cursor, pictured_at=now.isoformat())
    events = [
        _materialization(pipeline.lake(), day, settings, usage, now, shown=shown if day is days[-1] else {})
        for day in days
    ]
    rows = sum(day.rows for day in days)
    return events, cursor, f"reported versions {days[0].first_version} to {days[-1].last_version}, {rows} rows{problem}"


def _shown(
    pipeline: PipelineResource, settings: Settings, day: date, now: datetime
) -> tuple[dict[str, dg.MetadataValue[Any]], str]:
    """Return a picture of the slots over the day with its newest rows, or why there is none."""
    try:
        begins_at = min(pipeline.calendar().begins_at(day), now - PICTURE_AT_LEAST)
        samples = slot_samples.between(pipeline.database(), begins_at, now)
        if len(samples) < SAMPLES_AT_LEAST:
            return {}, ""
        configured = settings.market_data_lines - settings.reserved_lines
        png = slots_over_time(samples, configured=configured, timezone=settings.timezone)
        sample = sample_rows(STREAMED_POSITIONS, pipeline.lake(), day)
    except Exception as error:  # noqa: BLE001  versions are reported even without a picture
        return {}, f"; no picture of the slots: {type(error).__name__}: {error}"
    picture = dg.MetadataValue.md(as_markdown(png, "Market-data lines in use over the day"))
    return {"slots_over_the_day": picture, **sample}, ""


def _materialization(
    lake: Lake,
    day: DayReport,
    settings: Settings,
    usage: SlotUsage,
    now: datetime,
    *,
    shown: Mapping[str, dg.MetadataValue[Any]],
) -> dg.AssetMaterialization:
    metadata: dict[str, Any] = table_materialization(
        STREAMED_POSITIONS,
        lake,
        partition_rows=row_count(lake.table(STREAMED_POSITIONS), day.day),
        delta_versions=[day.first_version, day.last_version],
        rows=day.rows,
    )
    metadata |= {
        "delta_commits": day.commits,
        "contracts": day.contracts,
        "streamer_epochs": ", ".join(str(epoch) for epoch in day.epochs),
        "slots_streaming": usage.streams,
        "slots_batch": usage.batches,
        "slots_ceiling": usage.ceiling,
        "market_data_lines": settings.market_data_lines,
    }
    metadata |= shown
    if day.newest is not None:
        metadata["lag_seconds"] = round((now - day.newest).total_seconds(), 1)
        metadata["newest_row"] = dg.MetadataValue.timestamp(day.newest)
    return dg.AssetMaterialization(
        STREAMED_POSITIONS.name,
        partition=day.day.strftime(KEY_FORMAT),
        metadata=metadata,
        tags=data_version_tag(day.last_version),
    )


def describe_streamer(lease: StreamerLeaseState, usage: SlotUsage, now: datetime) -> str:
    """Return the streamer's report in one line."""
    if not lease.status:
        return f"pid {lease.pid} is starting" if lease.pid else "waiting for the process"
    status = StreamerStatus.parse(lease.status)
    if status.state is StreamState.FAILED:
        return f"failed: {status.error}"
    parts = [
        f"pid {lease.pid} {status.state}",
        f"{status.streamed_contracts} contracts streamed, {status.queued_holdings} holdings queued",
        f"{usage.streams + usage.batches} of {usage.ceiling} slots",
    ]
    if status.blind_since is not None:
        blind = (now - status.blind_since).total_seconds()
        feeds = ", ".join(f"{name} {feed.state}" for name, feed in status.feeds.items())
        why = status.expected_outage or feeds or status.connection
        parts.append(f"no data from the broker for {blind:.0f} s ({why})")
    writer = status.writer
    if writer.failing_since is not None:
        parts.append(f"no write since {writer.failing_since.isoformat()}: {writer.last_error}")
    if writer.last_compaction_error is not None:
        parts.append(f"compaction fails, the rows are safe: {writer.last_compaction_error}")
    return ", ".join(parts)
