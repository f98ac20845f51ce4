"""A trace ends with the run id that Dagster shows, and the run leads to its commits."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg

from v6_pipeline.history.trace import commits_of_run, trace
from v6_pipeline_tests.history_days import ACCOUNTS, CALENDAR, POSITIONS, drop, observe
from v6_pipeline_tests.history_runs import FLEX_ASSETS, SNAPSHOTS, made, run
from v6_pipeline_tests.unit.defs.conftest import ClockedPipeline

FLEX_DAY, OWN_DAY = date(2026, 11, 9), date(2026, 11, 10)


def test_every_row_leads_to_the_dagster_run_that_made_it_and_the_run_to_its_commits(
    flex_dir: Path, pipeline: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    drop(flex_dir / "statements.xml", [FLEX_DAY], quantity=10, made="210000")
    observe(pipeline.lake(), [OWN_DAY])
    imported = run(pipeline, instance, FLEX_ASSETS, FLEX_DAY, FLEX_DAY)
    built = run(pipeline, instance, SNAPSHOTS, FLEX_DAY, OWN_DAY)
    assert imported.success
    assert built.success
    lake = pipeline.lake()
    snapshot_commits = {item.table: item.commits for item in commits_of_run(lake, built.run_id)}
    flex_commits = {item.table: item.commits for item in commits_of_run(lake, imported.run_id)}

    for day, by, table in ((FLEX_DAY, imported.run_id, "flex_positions"), (OWN_DAY, "seed", "queued_positions")):
        found = [item for conid in range(1, POSITIONS + 1) for item in trace(lake, CALENDAR, conid, day=day)]
        assert len(found) == POSITIONS * len(ACCOUNTS)
        for item in found:
            assert item.agrees
            assert item.writer.commit in snapshot_commits["position_snapshots"]
            for source in item.sources:
                assert source.table == table
                assert source.writer is not None
                assert source.writer.commit is not None
                assert source.writer.commit.run_id == by

    for result, commits in ((imported, flex_commits), (built, snapshot_commits)):
        reported = {
            (asset, item["delta_version"])
            for asset in (*FLEX_ASSETS, *SNAPSHOTS)
            for item in made(result, asset).values()
            if item["changed"]
        }
        assert reported == {(table, commit.version) for table, of_table in commits.items() for commit in of_table}
