"""``v6 lake``: history, optimize, vacuum, repair."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from v6_pipeline.cli import INTERRUPTED, main
from v6_pipeline.lake import maintenance
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.recovery.durability import log_file
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.client_ids import ClientIds
from v6_pipeline.state.leases.streamer import GrantedBy, StreamerLease
from v6_pipeline_tests.unit.cli.conftest import Run
from v6_pipeline_tests.unit.lake.builders import by_epoch, by_run, flush, no_fsync, queued, stored_rows, update

UNACKNOWLEDGED = 3
"""Version that ``torn`` leaves half written."""


@pytest.fixture
def table(settings: Settings) -> DeltaTableStore:
    """``queued_positions`` with two commits of one row each."""
    made = Lake(settings.lake_root, fsync=no_fsync).table(QUEUED_POSITIONS)
    for number in (1, 2):
        made.append(queued([update(number, "SIM1")], run_id="r-1"), by_run("r-1", partition="2026-03-04"))
    return made


@pytest.fixture
def torn(table: DeltaTableStore) -> DeltaTableStore:
    log_file(Path(table.uri), UNACKNOWLEDGED).write_text('{"commitInfo":{"time')
    return table


@pytest.fixture
def database(settings: Settings) -> Iterator[StateDatabase]:
    opened = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    yield opened
    opened.close()


# History


def test_history_says_what_each_commit_did_and_who_made_it(v6: Run, table: DeltaTableStore) -> None:
    found = v6("lake", "history", "queued_positions", "--json").document
    assert [commit["version"] for commit in found["commits"]] == [2, 1, 0]
    newest = found["commits"][0]
    assert (newest["operation"], newest["kind"], newest["rows"]) == ("WRITE", "data", 1)
    assert (newest["asset"], newest["partition"], newest["run_id"]) == ("queued_positions", "2026-03-04", "r-1")
    shown = v6("lake", "history", "queued_positions", "--limit", 1).out
    assert "run r-1" in shown
    assert "CREATE TABLE" not in shown


def test_history_names_the_streamers_epoch_and_days(v6: Run, settings: Settings) -> None:
    Lake(settings.lake_root, fsync=no_fsync).table(STREAMED_POSITIONS).append(
        flush(1).with_columns(account=flush(1)["account"].str.replace("DU", "SIM")), by_epoch(7)
    )
    shown = v6("lake", "history", "streamed_positions").out
    assert "epoch 7" in shown
    assert "2026-03-04" in shown


def test_a_table_that_does_not_exist(v6: Run, settings: Settings) -> None:
    found = v6("lake", "history", "queued_positions")
    assert (found.code, found.error) == (1, "there is no table queued_positions yet: nothing has been written to it")
    assert v6("lake", "optimize", "queued_positions").code == 1
    assert v6("lake", "optimize").code == 0
    assert not Path(settings.lake_root, "queued_positions").exists()


@pytest.mark.parametrize("command", ["history", "optimize", "vacuum", "repair"])
def test_an_unknown_table_is_wrong_use(v6: Run, settings: Settings, command: str) -> None:
    found = v6("lake", command, "positions")
    assert found.code == 2
    assert "the lake has no table positions" in found.error
    assert "streamed_positions, queued_positions" in found.error


# Upkeep


def test_optimize_merges_and_vacuum_keeps_a_week(v6: Run, table: DeltaTableStore) -> None:
    assert "2 files merged into 1, Delta version 3" in v6("lake", "optimize", "queued_positions").out
    assert v6("lake", "optimize", "--json").document["tables"] == [
        {"table": "queued_positions", "version": None, "files_removed": 0, "files_added": 0}
    ]
    assert v6("lake", "vacuum", "--json").document["tables"][0]["files"] == []
    assert stored_rows(table).height == 2
    refused = v6("lake", "vacuum", "--retention-hours", 1)
    assert (refused.code, "below 168" in refused.error) == (2, True)


def test_vacuum_deletes_what_a_failed_commit_left_a_week_ago(v6: Run, table: DeltaTableStore) -> None:
    left = Path(table.uri) / "date=2026-03-04" / "part-00000-left.parquet"
    left.write_bytes(b"half")
    past = left.stat().st_mtime - 8 * 24 * 3600
    os.utime(left, (past, past))

    assert "1 file would be deleted" in v6("lake", "vacuum", "queued_positions", "--dry-run").out
    assert left.exists()
    assert "1 file deleted" in v6("lake", "vacuum", "queued_positions").out
    assert not left.exists()
    assert stored_rows(table).height == 2


@pytest.mark.parametrize("command", ["optimize", "vacuum"])
def test_a_damaged_table_fails_upkeep_after_the_others_were_done(
    v6: Run, torn: DeltaTableStore, settings: Settings, command: str
) -> None:
    """The damaged one is the second of three: one was done before it, one is after it."""
    lake = Lake(settings.lake_root, fsync=no_fsync)
    for spec in (STREAMED_POSITIONS, ACCOUNT_VALUES):
        lake.table(spec).open()

    found = v6("lake", command)
    assert found.code == 1
    assert "run 'v6 lake repair queued_positions'" in found.error
    assert [line.partition(":")[0] for line in found.out.splitlines()] == ["streamed_positions", "account_values"]

    log_file(Path(lake.table(STREAMED_POSITIONS).uri), 1).write_text("{")
    both = v6("lake", command, "--json")
    assert (both.code, both.document["error"]) == (1, both.error)
    assert all(f"'v6 lake repair {name}'" in both.error for name in ("streamed_positions", "queued_positions"))
    assert [entry["table"] for entry in both.document["tables"]] == ["account_values"]


def test_results_so_far_are_printed_if_the_work_ends_early(
    v6: Run, table: DeltaTableStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake(settings.lake_root, fsync=no_fsync).table(STREAMED_POSITIONS).open()

    def interrupted(store: DeltaTableStore) -> maintenance.Compaction:
        if store.spec is QUEUED_POSITIONS:
            raise KeyboardInterrupt
        return maintenance.Compaction(version=None)

    monkeypatch.setattr(maintenance, "compact", interrupted)
    found = v6("lake", "optimize")
    assert (found.code, found.out) == (INTERRUPTED, "streamed_positions: nothing to merge\n")


@pytest.mark.parametrize("command", ["history", "optimize", "vacuum", "repair"])
def test_the_name_of_a_table_is_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("_V6_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"v6 lake {command} flex_")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["flex_statements", "flex_positions", "flex_activity"]


# Repair


def test_with_nothing_wrong_nothing_is_done(v6: Run, table: DeltaTableStore) -> None:
    found = v6("lake", "repair")
    assert found.code == 0
    assert found.out.splitlines() == [
        "v6_lake: no damage",
        "streamed_positions: no damage",
        "queued_positions: no damage",
        "account_values: no damage",
        "flex_statements: no damage",
        "flex_positions: no damage",
        "flex_activity: no damage",
        "historical_closes: no damage",
        "position_snapshots: no damage",
        "portfolio_exposure: no damage",
    ]


def test_a_commit_that_a_power_cut_left_half_written_is_set_aside(v6: Run, torn: DeltaTableStore) -> None:
    positions = v6("positions")
    assert (positions.code, "run 'v6 lake repair queued_positions'" in positions.error) == (1, True)

    planned = v6("lake", "repair", "--dry-run")
    assert planned.code == 0
    assert "half-written log file _delta_log/00000000000000000003.json, set aside" in planned.out
    assert "queued_positions: would be repaired" in planned.out
    assert v6("positions").code == 1

    done = v6("lake", "repair", "queued_positions", "--json").document["tables"][0]
    assert (done["repaired"], done["error"], done["lost_rows"]) == (True, None, {})
    assert Path(done["quarantine"], "_delta_log", f"{UNACKNOWLEDGED:020}.json").read_text() == '{"commitInfo":{"time'
    assert v6("positions").code == 0
    assert "no damage" in v6("lake", "repair", "queued_positions").out


def test_a_loss_of_what_was_reported_needs_consent_and_is_counted(v6: Run, table: DeltaTableStore) -> None:
    [lost, *_] = sorted(Path(table.uri).glob("date=*/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    lost.unlink()

    refused = v6("lake", "repair")
    assert refused.code == 1
    assert "1 table not repaired: queued_positions" in refused.error
    assert "pass --accept-loss" in refused.out
    assert stored_history(v6) == [2, 1, 0]

    done = v6("lake", "repair", "queued_positions", "--accept-loss")
    assert done.code == 0
    assert "queued_positions: 1 row of 2026-03-04 lost" in done.out
    assert stored_rows(table)["conid"].to_list() == [2]


def stored_history(v6: Run) -> list[int]:
    found = v6("lake", "history", "queued_positions", "--json").document
    return [commit["version"] for commit in found["commits"]]


def test_a_live_run_is_not_repaired_under(v6: Run, torn: DeltaTableStore, database: StateDatabase) -> None:
    ids = ClientIds(database, range(61, 63))
    assert ids.acquire("host:1:x/run-9", ttl_seconds=60) == 61

    refused = v6("lake", "repair", "queued_positions")
    assert refused.code == 1
    assert "run host:1:x/run-9 (client id 61) may be writing" in refused.out

    ids.release(61, "host:1:x/run-9")
    assert v6("lake", "repair", "queued_positions").code == 0


def test_a_live_streamer_keeps_its_own_table_only(
    v6: Run, torn: DeltaTableStore, settings: Settings, database: StateDatabase
) -> None:
    streamed = Lake(settings.lake_root, fsync=no_fsync).table(STREAMED_POSITIONS)
    streamed.open()
    log_file(Path(streamed.uri), 1).write_text("")
    epoch = StreamerLease(database).claim("host:2:x", granted_by=GrantedBy.SELF, ttl_seconds=60)
    assert epoch is not None

    found = v6("lake", "repair", "--json")
    assert found.code == 1
    outcome = {entry["table"]: entry for entry in found.document["tables"]}
    assert "v6 stream --stop" in outcome["streamed_positions"]["error"]
    assert outcome["queued_positions"]["repaired"] is True

    StreamerLease(database).release(epoch)
    assert v6("lake", "repair").code == 0


@pytest.mark.parametrize("left", ["", '{"commitInfo":{'])
def test_a_marker_that_was_never_flushed_is_undone(v6: Run, settings: Settings, left: str) -> None:
    """The power went while the lake's very first write said whose accounts it holds; no row can have followed."""
    marker = Path(settings.lake_root, "v6_lake")
    (marker / "_delta_log").mkdir(parents=True)
    log_file(marker, 0).write_text(left)
    assert "run 'v6 lake repair v6_lake'" in v6("positions").error

    assert v6("lake", "repair").code == 0

    Lake(settings.lake_root, fsync=no_fsync).table(QUEUED_POSITIONS).append(queued([update(1, "SIM1")]), by_run())
    assert v6("positions").code == 0


def test_an_object_store_has_nothing_to_repair(v6: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V6_LAKE_URI", "s3://bucket/lake")
    found = v6("lake", "repair")
    assert (found.code, "object store" in found.out) == (0, True)
