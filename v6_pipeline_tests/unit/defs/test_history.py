"""The step ``history``: each day is reported once it is made, and failed days at the end."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from v6_pipeline.definitions import build_defs
from v6_pipeline.defs import history
from v6_pipeline.defs.metadata import LINEAGE
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import FLEX_POSITIONS, PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS, TABLES
from v6_pipeline.lake.tables.sources import BROKER_FIELDS, FLEX_ATTRIBUTES
from v6_pipeline.settings import Settings
from v6_pipeline_tests.history_days import CALENDAR, POSITIONS, drop, observe
from v6_pipeline_tests.history_runs import (
    FLEX_ASSETS,
    SNAPSHOTS,
    evaluated,
    failure,
    made,
    numbers,
    run,
    stored,
)
from v6_pipeline_tests.unit.defs.conftest import Clock, ClockedPipeline

WEEK = CALENDAR.sessions_between(date(2026, 11, 9), date(2026, 11, 13))
FLEX_DAYS, NEITHER, OWN_DAYS = WEEK[:2], WEEK[2], WEEK[3:]


@pytest.fixture
def week(flex_dir: Path, pipeline: ClockedPipeline) -> ClockedPipeline:
    drop(flex_dir / "statements.xml", FLEX_DAYS, quantity=10, made="210000")
    observe(pipeline.lake(), OWN_DAYS)
    return pipeline


def test_days_are_made_from_flex_or_own_logs_and_one_with_neither_holds_up_no_other(
    week: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    result = run(week, instance, (*FLEX_ASSETS, *SNAPSHOTS), WEEK[0], WEEK[-1])

    assert not result.success
    good = [*FLEX_DAYS, *OWN_DAYS]
    assert sorted(made(result, "flex_positions")) == [day.isoformat() for day in FLEX_DAYS]
    for asset in SNAPSHOTS:
        assert sorted(made(result, asset)) == [day.isoformat() for day in good]
    snapshots = made(result, "position_snapshots")
    for day in FLEX_DAYS:
        assert snapshots[f"{day}"]["positions_from_flex"] == 2 * POSITIONS
    for day in OWN_DAYS:
        assert snapshots[f"{day}"]["positions_from_queue"] == 2 * POSITIONS
    said = failure(result)
    assert (
        f"position_snapshots of {NEITHER}: {NEITHER}: no source has the positions of SIM0000001, SIM0000002"
        in said.description
    )
    assert "drop a Flex statement of that day into V6_FLEX_DIR" in said.description
    listed = {(record.data["table"], record.data["day"]) for record in said.metadata["not_made"].records}
    assert listed == {
        *(("flex_statements", f"{day}") for day in (NEITHER, *OWN_DAYS)),
        ("position_snapshots", f"{NEITHER}"),
        ("portfolio_exposure", f"{NEITHER}"),
    }
    assert set(stored(week, POSITION_SNAPSHOTS).get_column("date")) == set(good)


def test_each_day_reports_its_own_rows_version_address_and_lineage(
    week: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    result = run(week, instance, (*FLEX_ASSETS, *SNAPSHOTS), FLEX_DAYS[0], FLEX_DAYS[1])

    assert result.success
    first, second = (made(result, "position_snapshots")[f"{day}"] for day in FLEX_DAYS)
    assert (first["dagster/partition_row_count"], first["rows_added"], first["changed"]) == (6, 6, True)
    assert second["delta_version"] == first["delta_version"] + 1
    assert first["dagster/table_name"] == "position_snapshots"
    assert first["dagster/uri"].endswith("/lake/position_snapshots")
    assert first["market_value"] == 2 * sum(10 * conid * FLEX_DAYS[0].day for conid in (1, 2, 3))
    rows = stored(week, POSITION_SNAPSHOTS).filter(pl.col("date") == FLEX_DAYS[0])
    assert rows.height == first["dagster/partition_row_count"]
    assert set(rows.get_column("run_id")) == {result.run_id}
    assert set(rows.get_column("final")) == {True}
    exposures = made(result, "portfolio_exposure")
    assert "exposure_by_underlying" not in exposures[f"{FLEX_DAYS[0]}"], "drawn of the newest day alone"
    assert exposures[f"{FLEX_DAYS[1]}"]["exposure_by_underlying"].startswith("![Exposure by underlying, ")
    assert "sample" not in first
    assert len(second["sample"].records) == 3


def test_a_picture_that_cannot_be_drawn_keeps_no_day_from_being_reported(
    week: ClockedPipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> bytes:
        raise ValueError("no fonts")

    monkeypatch.setattr(history, "exposure_by_underlying", broken)

    result = run(week, instance, (*FLEX_ASSETS, *SNAPSHOTS), FLEX_DAYS[0], FLEX_DAYS[0])

    assert result.success
    metadata = made(result, "portfolio_exposure")[f"{FLEX_DAYS[0]}"]
    assert metadata["dagster/partition_row_count"] > 0
    assert "exposure_by_underlying" not in metadata


@pytest.mark.parametrize("is_first", [True, False])
def test_a_day_that_is_not_over_shows_more_four_times_an_hour(
    week: ClockedPipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    monkeypatch.setattr(history, "is_first_of_quarter", lambda *_: is_first)
    today = OWN_DAYS[-1]
    monkeypatch.setattr(Clock, "instant", datetime(today.year, today.month, today.day, 20, tzinfo=UTC))

    result = run(week, instance, SNAPSHOTS, today, today)

    assert result.success
    assert ("sample" in made(result, "position_snapshots")[f"{today}"]) is is_first
    assert ("exposure_by_underlying" in made(result, "portfolio_exposure")[f"{today}"]) is is_first


def test_a_second_run_commits_nothing_and_reports_the_version_that_holds_the_day(
    week: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    first = run(week, instance, (*FLEX_ASSETS, *SNAPSHOTS), WEEK[0], WEEK[-1])
    second = run(week, instance, (*FLEX_ASSETS, *SNAPSHOTS), WEEK[0], WEEK[-1])

    for asset in ("flex_positions", "flex_statements", *SNAPSHOTS):
        before, after = made(first, asset), made(second, asset)
        assert {key: item["changed"] for key, item in after.items()} == dict.fromkeys(after, False)
        assert {key: item["delta_version"] for key, item in after.items()} == {
            key: item["delta_version"] for key, item in before.items()
        }
    assert set(stored(week, PORTFOLIO_EXPOSURE).get_column("run_id")) == {first.run_id}


def test_a_newer_statement_replaces_the_day_and_an_older_one_does_not(
    week: ClockedPipeline, instance: dg.DagsterInstance, flex_dir: Path
) -> None:
    run(week, instance, FLEX_ASSETS, *FLEX_DAYS)
    drop(flex_dir / "corrected.xml", FLEX_DAYS, quantity=20, made="220000")
    run(week, instance, FLEX_ASSETS, *FLEX_DAYS)
    corrected = stored(week, FLEX_POSITIONS).sort("date", "account", "conid")
    (flex_dir / "corrected.xml").unlink()

    again = run(week, instance, FLEX_ASSETS, *FLEX_DAYS)

    assert again.success
    assert set((corrected["position"] / corrected["conid"]).to_list()) == {20.0}
    assert stored(week, FLEX_POSITIONS).sort("date", "account", "conid").equals(corrected)


def test_a_file_that_cannot_be_read_is_named_where_a_day_is_missing(
    flex_dir: Path, pipeline: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    (flex_dir / "torn.xml").write_text('<FlexQueryResponse><FlexStatements count="1">')
    said = failure(run(pipeline, instance, FLEX_ASSETS, *FLEX_DAYS)).description
    assert said.startswith(
        f"flex_statements of {FLEX_DAYS[0]}, {FLEX_DAYS[1]}: no Flex statement covers {FLEX_DAYS[0]}"
    )
    assert "torn.xml: ends early at line 1" in said
    assert stored(pipeline, FLEX_POSITIONS).is_empty()


def test_without_any_source_of_statements_it_says_what_to_set(
    pipeline: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    said = failure(run(pipeline, instance, FLEX_ASSETS, *FLEX_DAYS)).description
    assert "set V6_FLEX_DIR to a folder of statements, or V6_FLEX_TOKEN and V6_FLEX_QUERY_ID" in said


def test_exposure_alone_needs_a_snapshot(week: ClockedPipeline, instance: dg.DagsterInstance) -> None:
    said = failure(run(week, instance, ("portfolio_exposure",), OWN_DAYS[0], OWN_DAYS[0])).description
    assert "the exposure needs the snapshot of the day: materialize position_snapshots for it" in said


def test_the_current_day_is_provisional_until_its_cut_off(
    pipeline: ClockedPipeline, instance: dg.DagsterInstance, flex_dir: Path
) -> None:
    friday = date(2026, 11, 20)
    observe(pipeline.lake(), [friday])
    result = run(pipeline, instance, SNAPSHOTS, friday, friday)
    assert result.success
    assert made(result, "position_snapshots")["2026-11-20"]["final"] == 0
    rows = stored(pipeline, POSITION_SNAPSHOTS)
    assert max(rows.get_column("timestamp")) <= datetime(2026, 11, 20, 17, tzinfo=UTC)


def test_a_day_that_has_not_begun_is_refused(pipeline: ClockedPipeline, instance: dg.DagsterInstance) -> None:
    monday = date(2026, 11, 23)
    result = run(pipeline, instance, SNAPSHOTS, monday, monday)
    assert not result.success


def test_checks_are_evaluated_for_the_days_of_the_run(week: ClockedPipeline, instance: dg.DagsterInstance) -> None:
    result = run(week, instance, (*FLEX_ASSETS, *SNAPSHOTS), WEEK[0], WEEK[-1])
    found = evaluated(result)
    assert set(found) == {
        "no_trading_day_missing",
        "snapshot_complete",
        "one_row_per_key",
        "values_agree_with_flex",
        "quantities_explained",
    }
    missing = found["no_trading_day_missing"]
    assert not missing.passed
    assert numbers(missing)["sample"] == f"{NEITHER}"
    assert found["snapshot_complete"].passed
    assert numbers(found["snapshot_complete"])["days"] == 4


def test_every_column_of_the_lineage_is_one_that_its_origin_has(settings: Settings, pipeline: ClockedPipeline) -> None:
    specs = {spec.key: spec for spec in build_defs(settings, pipeline=pipeline).resolve_all_asset_specs()}
    columns = {
        key: {column.name for column in spec.metadata["dagster/column_schema"].columns} for key, spec in specs.items()
    }
    for table in TABLES:
        asset = specs[dg.AssetKey(table.name)]
        upstream = {dep.asset_key for dep in asset.deps}
        for column, deps in LINEAGE[table.name].deps_by_column.items():
            assert column in columns[asset.key], f"{table.name}.{column}"
            assert len(set(deps)) == len(deps), f"{table.name}.{column} names a column twice"
            for dep in deps:
                origin = dep.asset_key.to_user_string()
                assert dep.asset_key in upstream, f"{table.name}.{column} from {origin}"
                assert dep.column_name in columns[dep.asset_key], f"{table.name}.{column}: {origin}.{dep.column_name}"


@pytest.mark.parametrize(
    ("asset", "fields"), [("ib_account", BROKER_FIELDS), ("ib_flex", FLEX_ATTRIBUTES)], ids=["ib_account", "ib_flex"]
)
def test_every_field_of_the_broker_that_is_listed_is_used(asset: str, fields: dict[str, str]) -> None:
    used = {
        dep.column_name
        for lineage in LINEAGE.values()
        for deps in lineage.deps_by_column.values()
        for dep in deps
        if dep.asset_key == dg.AssetKey(asset)
    }
    assert used == set(fields)


@pytest.mark.parametrize(
    ("column", "origins"),
    [
        ("portfolio_exposure.daily_pnl", {"flex_activity.realized_pnl", "flex_activity.fx_rate_to_base"}),
        ("portfolio_exposure.daily_pnl_coverage", {"flex_activity.realized_pnl"}),
        ("portfolio_exposure.vega", {"strategy_registry.quantity", "position_snapshots.position"}),
        (
            "position_snapshots.market_value",
            {
                *("queued_positions.position", "streamed_positions.market_price", "flex_positions.multiplier"),
                "historical_closes.close",
            },
        ),
        ("position_snapshots.unrealized_pnl", {"streamed_positions.average_cost", "historical_closes.close"}),
        ("position_snapshots.base_currency", {"flex_statements.base_currency"}),
        ("position_snapshots.fx_rate_to_base", {"flex_statements.base_currency"}),
    ],
)
def test_what_is_computed_names_every_column_that_goes_into_it(column: str, origins: set[str]) -> None:
    table, _, name = column.partition(".")
    deps = LINEAGE[table].deps_by_column[name]
    assert origins <= {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps}


OWN_COLUMNS = {
    # When, by what and from which version of the lake a row was made.
    *("date", "timestamp", "source", "epoch", "run_id", "ingested_at", "final", "snapshot_version"),
    *(f"{table}_version" for table in ("streamed", "queued", "accounts", "flex", "flex_activity", "closes")),
    # What we make of a statement as a whole, or say of a row.
    *("activities", "sections", "not_in_query", "sha256", "origin", "attributes", "ordinal", "kind", "reason"),
    *("position_source", "carried_forward"),
    *(f"{part}_table" for part in ("price", "quote", "greeks", "fx", "realized")),
}
EMPTY_COLUMNS = {
    # The logs have the same columns, whether or not their source has them.
    "streamed_positions": {"realized_pnl"},
    "flex_positions": {
        *("trading_class", "realized_pnl", "bid", "ask", "last", "close", "market_data_type", "strategy_ids"),
        *("implied_vol", "delta", "gamma", "vega", "theta", "underlying_price"),
        *("price_magnifier", "unit_value"),
    },
}


@pytest.mark.parametrize("spec", TABLES, ids=lambda spec: spec.name)
def test_every_column_that_is_derived_has_its_lineage(spec: TableSpec) -> None:
    without = set(spec.column_names) - set(LINEAGE[spec.name].deps_by_column) - OWN_COLUMNS
    assert without == EMPTY_COLUMNS.get(spec.name, set())


def test_a_day_on_which_nothing_was_held_is_made_of_no_rows_and_is_no_gap(
    flex_dir: Path, pipeline: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    drop(flex_dir / "held.xml", FLEX_DAYS[:1], quantity=10, made="210000")
    drop(flex_dir / "flat.xml", FLEX_DAYS[1:], quantity=0, made="210000")

    result = run(pipeline, instance, (*FLEX_ASSETS, *SNAPSHOTS), *FLEX_DAYS)

    assert result.success
    flat = f"{FLEX_DAYS[1]}"
    for asset, rows in (("flex_statements", 2), ("flex_positions", 0), ("position_snapshots", 0)):
        assert made(result, asset)[flat]["dagster/partition_row_count"] == rows, asset
    assert flat in made(result, "portfolio_exposure")
    assert set(stored(pipeline, POSITION_SNAPSHOTS).get_column("date")) == {FLEX_DAYS[0]}


def test_a_day_that_turns_out_flat_loses_the_rows_it_had(
    flex_dir: Path, pipeline: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    drop(flex_dir / "held.xml", FLEX_DAYS, quantity=10, made="210000")
    run(pipeline, instance, (*FLEX_ASSETS, *SNAPSHOTS), *FLEX_DAYS)
    drop(flex_dir / "flat.xml", FLEX_DAYS[1:], quantity=0, made="220000")

    result = run(pipeline, instance, (*FLEX_ASSETS, *SNAPSHOTS), *FLEX_DAYS)

    assert result.success
    for spec in (FLEX_POSITIONS, POSITION_SNAPSHOTS):
        assert set(stored(pipeline, spec).get_column("date")) == {FLEX_DAYS[0]}
