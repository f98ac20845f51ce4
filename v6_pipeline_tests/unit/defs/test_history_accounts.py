"""Days of several accounts: what one of them has no source for refuses its own rows, never another's."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from v6_pipeline.lake.tables import PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS, TABLES
from v6_pipeline_tests.history_days import ACCOUNTS, CALENDAR, POSITIONS, drop, observe
from v6_pipeline_tests.history_runs import FLEX_ASSETS, SNAPSHOTS, evaluated, made, numbers, run, run_check, stored
from v6_pipeline_tests.unit.defs.conftest import ClockedPipeline

WEEK = CALENDAR.sessions_between(date(2026, 11, 9), date(2026, 11, 13))
MONDAY, TUESDAY, WEDNESDAY = WEEK[:3]
FIRST, SECOND = ACCOUNTS


def complete(pipeline: ClockedPipeline, instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    name = "snapshot_complete"
    return evaluated(run_check(pipeline, instance, POSITION_SNAPSHOTS.name, name))[name]


def accounts_of(pipeline: ClockedPipeline, day: date, table: object = POSITION_SNAPSHOTS) -> set[str]:
    return set(stored(pipeline, table).filter(pl.col("date") == day).get_column("account"))


@pytest.fixture
def went_dark(pipeline: ClockedPipeline) -> ClockedPipeline:
    """The second account has rows on Monday, and nothing at all from Tuesday on."""
    observe(pipeline.lake(), [MONDAY])
    observe(pipeline.lake(), [TUESDAY], accounts=[FIRST])
    return pipeline


def test_an_account_without_a_source_refuses_its_own_rows_and_the_check_is_red(
    went_dark: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    result = run(went_dark, instance, SNAPSHOTS, MONDAY, TUESDAY)

    assert result.success
    assert accounts_of(went_dark, MONDAY) == {FIRST, SECOND}
    assert accounts_of(went_dark, TUESDAY) == accounts_of(went_dark, TUESDAY, PORTFOLIO_EXPOSURE) == {FIRST}
    reported = made(result, "position_snapshots")[f"{TUESDAY}"]
    assert (reported["accounts_refused"], reported["positions_closed"]) == (1, 0)
    assert f"no source has the positions of {SECOND}" in reported["refused_because"]
    failed = complete(went_dark, instance)
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (failed.description or "").startswith(f"{TUESDAY}: it is without {SECOND}: {TUESDAY}: no source has the")
    assert numbers(failed)["accounts_refused"] == 1


def test_the_account_comes_back_with_its_statement(
    went_dark: ClockedPipeline, instance: dg.DagsterInstance, flex_dir: Path
) -> None:
    assert run(went_dark, instance, SNAPSHOTS, MONDAY, TUESDAY).success
    drop(flex_dir / "late.xml", [TUESDAY], quantity=10, made="220000", accounts=[SECOND])
    run(went_dark, instance, (*FLEX_ASSETS, *SNAPSHOTS), TUESDAY, TUESDAY)

    assert accounts_of(went_dark, TUESDAY) == {FIRST, SECOND}
    assert complete(went_dark, instance).passed


def test_a_flat_account_is_known_by_its_downloads(pipeline: ClockedPipeline, instance: dg.DagsterInstance) -> None:
    """As a refresh leaves it: each position of the second account was closed on Tuesday."""
    observe(pipeline.lake(), [MONDAY], accounts=[FIRST], flat=[SECOND])
    observe(pipeline.lake(), [TUESDAY, WEDNESDAY], accounts=[FIRST], flat=[SECOND])

    result = run(pipeline, instance, SNAPSHOTS, MONDAY, WEDNESDAY)

    assert result.success
    for day in (TUESDAY, WEDNESDAY):
        assert made(result, "position_snapshots")[f"{day}"]["accounts_refused"] == 0
    assert complete(pipeline, instance).passed


def test_the_final_rows_of_an_account_whose_source_is_lost_are_kept(
    pipeline: ClockedPipeline, instance: dg.DagsterInstance, flex_dir: Path
) -> None:
    drop(flex_dir / "both.xml", [MONDAY, TUESDAY], quantity=10, made="210000")
    assert run(pipeline, instance, (*FLEX_ASSETS, *SNAPSHOTS), MONDAY, TUESDAY).success
    before = stored(pipeline, POSITION_SNAPSHOTS).filter((pl.col("date") == TUESDAY) & (pl.col("account") == SECOND))
    for table in ("flex_statements", "flex_positions"):
        handle = pipeline.lake().table(next(spec for spec in TABLES if spec.name == table)).load()
        assert handle is not None
        handle.delete(f"date = '{TUESDAY}' and account = '{SECOND}'")

    assert run(pipeline, instance, SNAPSHOTS, TUESDAY, TUESDAY).success

    after = stored(pipeline, POSITION_SNAPSHOTS).filter((pl.col("date") == TUESDAY) & (pl.col("account") == SECOND))
    assert after.height == POSITIONS
    assert after.sort("conid").equals(before.sort("conid"))
