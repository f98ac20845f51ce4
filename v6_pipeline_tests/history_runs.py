"""Runs of the step ``history`` in this process, and their events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from v6_pipeline.definitions import build_defs
from v6_pipeline.defs.resources import PipelineResource

FLEX_ASSETS = ("flex_statements", "flex_positions", "flex_activity")
SNAPSHOTS = ("position_snapshots", "portfolio_exposure")


@dataclass(frozen=True)
class Ran:
    """A run by the instance's event log: the result of a run in process leaves out the events of a failed step."""

    success: bool
    run_id: str
    events: list[dg.DagsterEvent]

    def of(self, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
        return [event for event in self.events if event.event_type is kind]


def run(
    pipeline: PipelineResource, instance: dg.DagsterInstance, assets: tuple[str, ...], first: date, last: date
) -> Ran:
    tags = {"dagster/asset_partition_range_start": f"{first}", "dagster/asset_partition_range_end": f"{last}"}
    return _execute(pipeline, instance, dg.AssetSelection.assets(*assets).without_checks(), tags)


def run_check(pipeline: PipelineResource, instance: dg.DagsterInstance, asset: str, name: str) -> Ran:
    """Run a check as *Execute* on its page does."""
    selection = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(asset), name))
    return _execute(pipeline, instance, selection, {})


def _execute(
    pipeline: PipelineResource, instance: dg.DagsterInstance, selection: dg.AssetSelection, tags: dict[str, str]
) -> Ran:
    job = dg.define_asset_job("some", selection=selection)
    definitions = build_defs(pipeline.settings(), pipeline=pipeline)
    resolved = dg.Definitions(
        assets=definitions.assets,
        asset_checks=definitions.asset_checks,
        jobs=[job],
        resources=definitions.resources,
        executor=dg.in_process_executor,
    ).resolve_job_def("some")
    result = resolved.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    events = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event is not None]
    return Ran(result.success, result.run_id, events)


def made(result: Ran, asset: str) -> dict[str, dict[str, Any]]:
    """Return metadata of an asset's materializations by partition; two of one partition are an error."""
    found_events = result.of(dg.DagsterEventType.ASSET_MATERIALIZATION)
    events = [event.step_materialization_data.materialization for event in found_events]
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.asset_key == dg.AssetKey(asset):
            assert event.partition not in found
            found[str(event.partition)] = {name: value.value for name, value in event.metadata.items()}
    return found


def evaluated(result: Ran) -> dict[str, dg.AssetCheckEvaluation]:
    """Return each check's evaluation by name; a run has one per check."""
    found_events = result.of(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [event.asset_check_evaluation_data for event in found_events]
    assert len({item.check_name for item in found}) == len(found)
    return {item.check_name: item for item in found}


def numbers(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    """The metadata of a check."""
    return {name: value.value for name, value in evaluation.metadata.items()}


def failure(result: Ran) -> Any:
    [event] = result.of(dg.DagsterEventType.STEP_FAILURE)
    data = event.step_failure_data.user_failure_data
    assert data is not None, event.step_failure_data.error
    return data


def stored(pipeline: PipelineResource, table: Any) -> pl.DataFrame:
    handle = pipeline.lake().table(table).load()
    return pl.DataFrame(schema=table.schema) if handle is None else pl.scan_delta(handle).collect()
