"""Everything that Dagster shows by name, as text: a renamed asset, column or check shows up in review.

A renamed asset or check loses its history in Dagster, a renamed column breaks its readers. Where a change is meant,
renew ``specs.txt`` and commit it:
``RENEW_SPECS=1 python -m pytest v6_pipeline_tests/unit/defs/test_spec_snapshot.py``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from v6_pipeline.definitions import build_defs
from v6_pipeline.lake import tables
from v6_pipeline.settings import Settings
from v6_pipeline_tests.unit.defs.conftest import ClockedPipeline

SPECS = Path(__file__).with_name("specs.txt")
RENEW = "RENEW_SPECS"
"""Without the prefix of settings, which refuse a variable that they do not know."""


def rendered(definitions: dg.Definitions) -> str:
    """One line per thing, sorted, so that a difference reads well."""
    return "\n".join([*_assets(definitions), *_jobs(definitions), *_triggers(definitions)]) + "\n"


def _assets(definitions: dg.Definitions) -> Iterator[str]:
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    graph = definitions.resolve_asset_graph()
    for key, spec in sorted(specs.items()):
        yield f"asset {key.to_user_string()}"
        yield f"  group {spec.group_name}"
        yield f"  kinds {_listed(spec.kinds)}"
        yield f"  owners {_listed(spec.owners)}"
        yield f"  freshness {_freshness(spec.freshness_policy)}"
        yield f"  deps {_listed(dep.asset_key.to_user_string() for dep in spec.deps)}"
        yield f"  partitions {spec.partitions_def or '-'}"
        for check in sorted(graph.get_check_keys_for_assets({key}), key=lambda check: check.name):
            yield f"  check {check.name}"
        schema = spec.metadata.get("dagster/column_schema")
        for column in schema.columns if isinstance(schema, dg.TableSchema) else ():
            yield f"  column {column.name}: {column.type}{'' if column.constraints.nullable else ' not null'}"
        yield ""


def _jobs(definitions: dg.Definitions) -> Iterator[str]:
    for job in sorted(definitions.resolve_all_job_defs(), key=lambda job: job.name):
        if job.name.startswith("__"):  # Dagster's own
            continue
        yield f"job {job.name}"
        yield f"  assets {_listed(key.to_user_string() for key in job.asset_layer.selected_asset_keys)}"
        yield f"  steps {_listed(node.name for node in job.nodes)}"
        yield ""


def _triggers(definitions: dg.Definitions) -> Iterator[str]:
    repository = definitions.get_repository_def()
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        yield f"schedule {schedule.name}"
        yield f"  {schedule.cron_schedule} {schedule.execution_timezone}, {schedule.default_status.value}"
        yield f"  job {schedule.job_name}"
        yield ""
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        yield f"sensor {sensor.name}"
        yield f"  every {sensor.minimum_interval_seconds} s, {sensor.default_status.value}"
        yield f"  jobs {_listed(target.job_name for target in sensor.targets)}"
        yield ""


def _freshness(policy: dg.FreshnessPolicy | None) -> str:
    return "-" if policy is None else f"fails after {policy.fail_window.to_timedelta()}"  # type: ignore[attr-defined]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "-"


def difference(expected: str, found: str) -> str:
    """Empty if they are equal."""
    lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), SPECS.name, "definitions", n=2, lineterm="")
    return "\n".join(lines)


def test_what_dagster_shows_is_what_was_reviewed(settings: Settings, pipeline: ClockedPipeline) -> None:
    found = rendered(build_defs(settings, pipeline=pipeline))
    if os.environ.get(RENEW) == "1":
        SPECS.write_text(found, encoding="utf-8")

    changed = difference(SPECS.read_text(encoding="utf-8"), found)

    assert not changed, (
        f"definitions have changed:\n{changed}\nIf that is meant: {RENEW}=1 and this test renew the file"
    )


def test_a_renamed_column_is_a_difference_of_two_lines(
    settings: Settings, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables.ACCOUNT_VALUES
    renamed = tuple(replace(column, name="cash") if column.name == "total_cash" else column for column in table.columns)
    monkeypatch.setattr("v6_pipeline.defs.assets.ACCOUNT_VALUES", replace(table, columns=renamed))

    changed = difference(
        SPECS.read_text(encoding="utf-8"), rendered(build_defs(settings, pipeline=pipeline))
    ).splitlines()

    assert [line for line in changed[2:] if line[0] in "+-"] == [
        "-  column total_cash: Float64",
        "+  column cash: Float64",
    ]
