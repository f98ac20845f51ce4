"""The checks of history as Dagster shows them: when they pass and fail, how seriously, and with which numbers."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from v6_pipeline.checks.registry import CHECKS, When
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.recovery.durability import log_file
from v6_pipeline.lake.tables import POSITION_SNAPSHOTS
from v6_pipeline_tests.history_days import ALL_ACTIVITY, CALENDAR, drop, observe
from v6_pipeline_tests.history_runs import FLEX_ASSETS, SNAPSHOTS, evaluated, failure, numbers, run, run_check, stored
from v6_pipeline_tests.unit.defs.conftest import ClockedPipeline

WEEK = CALENDAR.sessions_between(date(2026, 11, 9), date(2026, 11, 13))
MONDAY, TUESDAY = WEEK[:2]
ALL = (*FLEX_ASSETS, *SNAPSHOTS)


class Checked:
    """A lake, and what a check says of it when a user executes it."""

    def __init__(self, pipeline: ClockedPipeline, instance: dg.DagsterInstance, flex_dir: Path) -> None:
        self.pipeline, self.instance, self.flex_dir = pipeline, instance, flex_dir

    def drop(self, *days: date, quantity: int, made: str = "210000", activity: str = ALL_ACTIVITY) -> None:
        path = self.flex_dir / f"{days[0]}-{made}.xml"
        drop(path, days, quantity=quantity, made=made, activity=activity)

    def make(self, *days: date, assets: tuple[str, ...] = ALL) -> None:
        assert run(self.pipeline, self.instance, assets, days[0], days[-1]).success

    def says(self, name: str) -> dg.AssetCheckEvaluation:
        [asset] = [check.asset for check in CHECKS if check.name == name and check.when is When.HISTORY]
        result = run_check(self.pipeline, self.instance, asset, name)
        assert result.success
        return evaluated(result)[name]


@pytest.fixture
def checked(pipeline: ClockedPipeline, instance: dg.DagsterInstance, flex_dir: Path) -> Checked:
    return Checked(pipeline, instance, flex_dir)


def test_no_trading_day_missing(checked: Checked) -> None:
    checked.drop(MONDAY, TUESDAY, *WEEK[3:], quantity=10)
    checked.make(MONDAY, TUESDAY)

    passed = checked.says("no_trading_day_missing")
    assert passed.passed
    assert numbers(passed) == {"days": 2, "missing": 0, "first": "2026-11-09", "last": "2026-11-10"}

    checked.make(*WEEK[3:])

    failed = checked.says("no_trading_day_missing")
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert failed.description == "1 of 5 trading days have no snapshot: 2026-11-11; backfill them"
    assert numbers(failed) == {
        "days": 4,
        "missing": 1,
        "first": "2026-11-09",
        "last": "2026-11-13",
        "sample": "2026-11-11",
    }


def test_a_day_on_which_nothing_was_held_is_not_missing(checked: Checked) -> None:
    """Its snapshot has no rows: it was named as missing for ever, and a backfill could not help."""
    checked.drop(MONDAY, *WEEK[3:], quantity=10)
    checked.drop(TUESDAY, quantity=0)
    checked.make(MONDAY, TUESDAY)
    checked.make(*WEEK[3:])

    unknown = checked.says("no_trading_day_missing")
    checked.drop(WEEK[2], quantity=0)
    checked.make(WEEK[2])
    flat = checked.says("no_trading_day_missing")
    checked.drop(WEEK[2], quantity=10, made="220000")
    checked.make(WEEK[2], assets=FLEX_ASSETS)
    unmade = checked.says("no_trading_day_missing")

    assert unknown.description == "1 of 5 trading days have no snapshot: 2026-11-11; backfill them"
    assert flat.passed
    assert numbers(flat) == {"days": 3, "missing": 0, "first": "2026-11-09", "last": "2026-11-13"}
    assert unmade.description == unknown.description


def test_a_lake_without_snapshots_is_a_warning(checked: Checked) -> None:
    said = checked.says("no_trading_day_missing")

    assert (said.passed, said.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert said.description == "no snapshot from 2026-10-01 to 2026-11-19"


def test_snapshot_complete(checked: Checked) -> None:
    checked.drop(MONDAY, TUESDAY, quantity=10)
    checked.make(MONDAY, TUESDAY)

    passed = checked.says("snapshot_complete")
    assert passed.passed
    assert numbers(passed) == {
        "positions": 6,
        "of_source": 6,
        "missing": 0,
        "not_in_source": 0,
        "unequal": 0,
        "carried_forward": 0,
        "without_price": 0,
        "days": 2,
        "days_failed": 0,
    }

    checked.drop(TUESDAY, quantity=20, made="220000")
    checked.make(TUESDAY, assets=FLEX_ASSETS)  # and not the snapshot that is made from them

    failed = checked.says("snapshot_complete")
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert failed.description is not None
    assert "2026-11-10: 0 positions are missing, 0 are not in the source, 6 differ in quantity" in failed.description
    assert "SIM0000001/1" in numbers(failed)["sample"]
    assert (numbers(failed)["unequal"], numbers(failed)["days"], numbers(failed)["days_failed"]) == (6, 2, 1)


def test_positions_that_are_gone_from_the_source_and_new_in_it(checked: Checked) -> None:
    checked.drop(MONDAY, quantity=10)
    checked.make(MONDAY)
    checked.drop(MONDAY, quantity=0, made="220000")
    checked.make(MONDAY, assets=FLEX_ASSETS)

    failed = checked.says("snapshot_complete")
    assert not failed.passed
    assert numbers(failed)["not_in_source"] == 6


def test_one_row_per_key_of_a_snapshot(checked: Checked) -> None:
    checked.drop(MONDAY, quantity=10)
    checked.make(MONDAY)

    passed = checked.says("one_row_per_key")
    assert passed.passed
    assert numbers(passed) == {"rows": 6, "repeated": 0, "days": 1, "days_failed": 0}

    first = stored(checked.pipeline, POSITION_SNAPSHOTS).sort("account", "conid").head(1)
    again = CommitLineage(asset=POSITION_SNAPSHOTS.name, source="flex", code_version="0", run_id="again")
    checked.pipeline.lake().table(POSITION_SNAPSHOTS).append(first, again)

    failed = checked.says("one_row_per_key")
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert failed.description == "2026-11-09: 1 positions occur more than once: SIM0000001/1"
    assert numbers(failed) == {"rows": 7, "repeated": 1, "sample": "SIM0000001/1", "days": 1, "days_failed": 1}


def test_values_agree_with_flex(checked: Checked) -> None:
    observe(checked.pipeline.lake(), [MONDAY, TUESDAY])
    checked.drop(MONDAY, quantity=7)
    checked.make(MONDAY)

    passed = checked.says("values_agree_with_flex")
    assert passed.passed
    found = numbers(passed)
    assert (found["compared"], found["accounts"], found["only_one_side"]) == (6, 2, 0)
    assert found["largest_difference_percent"] == pytest.approx(0)

    checked.drop(TUESDAY, quantity=10)
    checked.make(TUESDAY)

    failed = checked.says("values_agree_with_flex")
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.WARN)
    found = numbers(failed)
    assert found["largest_difference_percent"] == pytest.approx(30)
    assert found["sample"].startswith(
        "SIM0000001 420.00 against 600.00, SIM0000002 420.00 against 600.00, SIM0000001/3 S3 210.00 against 300.00"
    )
    assert found["positions_that_differ"] == 6
    assert (found["days"], found["days_failed"]) == (2, 1)


def test_values_are_not_compared_where_only_one_side_has_the_day(checked: Checked) -> None:
    checked.drop(MONDAY, quantity=7)
    checked.make(MONDAY)

    said = checked.says("values_agree_with_flex")
    assert said.passed
    assert said.description == "2026-11-09: not compared: the day has no Flex positions or no own observations"


def test_quantities_explained(checked: Checked) -> None:
    checked.drop(MONDAY, TUESDAY, quantity=10)
    checked.make(MONDAY, TUESDAY)

    passed = checked.says("quantities_explained")
    assert passed.passed
    assert numbers(passed) == {
        "accounts": 2,
        "booked": 0,
        "unexplained": 0,
        "cannot_tell": 0,
        "days": 2,
        "days_failed": 0,
    }

    checked.drop(TUESDAY, quantity=20, made="220000")
    checked.make(TUESDAY)

    failed = checked.says("quantities_explained")
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert failed.description is not None
    assert failed.description.startswith("2026-11-10: 6 quantities did not change as Flex booked: ")
    assert "SIM0000001/2 20 to 40 with +0 booked" in numbers(failed)["sample"]
    assert (numbers(failed)["unexplained"], numbers(failed)["days_failed"]) == (6, 1)


def test_quantities_are_not_judged_without_all_sections(checked: Checked) -> None:
    checked.drop(MONDAY, quantity=10)
    checked.drop(TUESDAY, quantity=20, activity="<Trades />")
    checked.make(MONDAY, TUESDAY)

    said = checked.says("quantities_explained")
    assert said.passed
    assert said.description is not None
    assert (
        "6 quantities are not judged: the statement has no CorporateActions, OptionEAE, Transfers" in said.description
    )


def test_a_damaged_table_is_a_failed_run_and_no_verdict(checked: Checked) -> None:
    checked.drop(MONDAY, quantity=10)
    checked.make(MONDAY)
    lake = checked.pipeline.settings().home / "lake"
    log_file(lake / "position_snapshots", 1).write_text("{")

    result = run_check(checked.pipeline, checked.instance, "position_snapshots", "snapshot_complete")

    assert not result.success
    assert "v6 lake repair" in failure(result).description
    assert not evaluated(result)
