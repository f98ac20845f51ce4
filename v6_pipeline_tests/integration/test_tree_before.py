"""A home and a lake that the tree of commit b696a7f wrote open with today's code, without loss.

``fixtures/tree_before`` holds them, and the script that made them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tarfile
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from v6_pipeline.cli import main
from v6_pipeline.errors import FencedError
from v6_pipeline.history.trace import trace
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import POSITION_SNAPSHOTS, TABLES
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.streamer import StreamerLease
from v6_pipeline.state.schema import REVISIONS
from v6_pipeline_tests import traced_week as week
from v6_pipeline_tests.history_days import ACCOUNTS, CALENDAR, observe
from v6_pipeline_tests.unit.lake.builders import no_fsync

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "tree_before" / "home.tar.xz"
ROWS = {
    "streamed_positions": 18,
    "queued_positions": 10,
    "account_values": 6,
    "flex_positions": 12,
    "flex_activity": 16,
    "flex_statements": 4,
    "historical_closes": 1,
    "position_snapshots": 30,
    "portfolio_exposure": 39,
}
NEXT_DAY = date(2026, 11, 16)


@pytest.fixture
def settings(unpacked: Settings, capsys: pytest.CaptureFixture[str]) -> Settings:
    """The old home after ``v6 init``, which an upgrade needs once."""
    assert main(["init"]) == 0
    capsys.readouterr()
    return unpacked


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The old home, unpacked and not yet opened."""
    for name in os.environ:
        if name.startswith("V6_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
    return Settings(home=tmp_path / "home")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The document that a command of ``v6`` prints."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def stored(settings: Settings) -> dict[str, pl.DataFrame]:
    """Every table as delta-rs and polars read it, without our code."""
    return {name: pl.scan_delta(f"{settings.lake_root}/{name}").collect() for name in ROWS}


def rows_of_state(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Every table of the state database that has rows, as SQLite reads it."""
    with closing(sqlite3.connect(settings.home / "state.db")) as connection:
        connection.row_factory = sqlite3.Row
        names = [row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in names}
    return {name: rows for name, rows in found.items() if rows}


def test_every_table_keeps_its_rows_and_gains_null_columns_beside_a_new_day(settings: Settings) -> None:
    before = stored(settings)
    assert {name: rows.height for name, rows in before.items()} == ROWS
    lake = Lake(settings.lake_root, fsync=no_fsync)

    for spec in TABLES:
        lake.table(spec).open()
    observe(lake, [NEXT_DAY])
    week.make_days(settings, lake, [NEXT_DAY], run_id="today")

    after = stored(settings)
    for name, old in before.items():
        kept = after[name].filter(pl.col("date") < NEXT_DAY)
        assert_frame_equal(kept.select(old.columns), old, check_row_order=False)
        added = [column for column in kept.columns if column not in old.columns]
        assert all(kept[column].null_count() == kept.height for column in added), name
    new = after["position_snapshots"].filter(pl.col("date") == NEXT_DAY)
    assert set(new["price_table"]) == {"queued_positions"}
    assert set(new.columns) - set(before["position_snapshots"].columns) >= {"price_table", "fx_table", "fx_time"}
    assert after["position_snapshots"].height == ROWS["position_snapshots"] + len(ACCOUNTS) * 3


def test_a_day_made_again_from_the_same_rows_makes_no_commit(settings: Settings) -> None:
    lake = Lake(settings.lake_root, fsync=no_fsync)
    lake.table(POSITION_SNAPSHOTS).open()
    before = stored(settings)["position_snapshots"]

    week.make_days(settings, lake, week.WEEK, run_id="again")

    assert_frame_equal(stored(settings)["position_snapshots"], before, check_row_order=False)


def test_old_and_new_snapshots_are_traced(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake(settings.lake_root, fsync=no_fsync)
    old = stored(settings)["position_snapshots"]
    for row in old.iter_rows(named=True):
        [found] = trace(lake, CALENDAR, row["conid"], day=row["date"], account=row["account"])
        assert found.agrees, found
    observe(lake, [NEXT_DAY])
    week.make_days(settings, lake, [NEXT_DAY], run_id="today")

    for day, run_id in ((week.WEDNESDAY, "week"), (NEXT_DAY, "today")):
        [first, _] = shown(capsys, "trace", "1", "--date", day.isoformat())["traces"]
        assert first["agrees"]
        assert first["snapshot"]["commit"]["commit"]["run_id"] == run_id


def test_commands_do_not_migrate_the_state_and_name_the_remedy(
    unpacked: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other hosts may share it and still run the version before."""
    for command in (["strategies", "list"], ["queue", "list"], ["slots"], ["stream", "--seconds", "1"]):
        assert main(command) == 1
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        assert "has schema 0006, and this version needs" in said
        assert "run 'v6 init' once" in said
    assert rows_of_state(unpacked)["v6_schema_version"] == [{"version_num": "0006"}]


def test_the_state_migrates_with_its_content(unpacked: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings = unpacked
    before = rows_of_state(settings)
    assert {"memberships", "selectors", "holdings", "queue_items", "slots", "slot_limits", "streamer_lease"} <= set(
        before
    )

    assert main(["init"]) == 0

    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("migrated state"))
    assert f"from schema 0006 to {REVISIONS[-1]}: the file before it is {settings.home}/state.db.schema-0006" in line
    after = rows_of_state(settings)
    version = before.pop("v6_schema_version")
    assert version == [{"version_num": "0006"}]
    for table, rows in before.items():
        columns = rows[0].keys()
        assert [{name: row[name] for name in columns} for row in after[table]] == rows, table


def test_the_state_is_shown_as_before(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    account = ACCOUNTS[0]
    entries = shown(capsys, "strategies", "list")["entries"]
    assert [
        (item["strategy"], item["conid"], item["selector"], item["account"], item["quantity"]) for item in entries
    ] == [
        ("core", 1, None, account, 5.0),
        ("core", 2, None, account, 5.0),
        ("wheel", None, "symbol=S3", None, None),
    ]
    items = shown(capsys, "queue", "list")["items"]
    assert [(item["conid"], item["attempts"], item["last_error"]) for item in items] == [
        (2, 1, "no answer"),
        (3, 0, None),
    ]
    slots = shown(capsys, "slots")
    assert (slots["ceiling"], slots["learned"]["errors_101"]) == (2, 1)
    with closing(StateDatabase.open(settings.state_database_url, name_for_messages="state")) as database:
        lease = StreamerLease(database).read()
    assert (lease.epoch, lease.host, lease.pid) == (week.EPOCH, "a-host", 4711)
    assert lease.status["streamed_contracts"] == 6
    assert lease.status["writer"]["rows"] == 24


def test_an_old_snapshot_is_listed_as_positions(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    document = shown(capsys, "positions", "--as-of", week.THURSDAY.isoformat())
    assert document["total"] == len(ACCOUNTS) * 3
    assert {item["market_price"] for item in document["positions"]} == {12.0}


def test_a_new_streamer_appends_to_the_old_log_and_an_older_one_is_fenced(settings: Settings) -> None:
    lake = Lake(settings.lake_root, fsync=no_fsync)
    with pytest.raises(FencedError):
        asyncio.run(week.stream(lake, NEXT_DAY, epoch=week.EPOCH - 1))

    asyncio.run(week.stream(lake, NEXT_DAY, epoch=week.EPOCH + 1))

    rows = stored(settings)["streamed_positions"]
    assert rows.height == ROWS["streamed_positions"] * 2
    assert set(rows["epoch"]) == {week.EPOCH, week.EPOCH + 1}
