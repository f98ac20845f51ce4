"""Damage to a table's files: named at a start, repaired if it was never acknowledged, refused otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.commits import read_commits
from v6_pipeline.lake.lineage import CommitKind
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.recovery.durability import (
    MARK,
    POINTER,
    added_files,
    checkpoint_file,
    flushed_version,
    log_file,
    read_log,
)
from v6_pipeline.lake.recovery.inspection import inspect, tail_damage
from v6_pipeline.lake.recovery.repair import QUARANTINE, RepairPlan, plan_repair, repair
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import QUEUED_POSITIONS
from v6_pipeline_tests.unit.lake.builders import NOON, by_run, no_fsync, queued, store, stored_rows, update

NAME = QUEUED_POSITIONS.name
COMMITS = 24
"""Versions 1 to 24, each one row of the conid of that number; the checkpoint is at 19."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    table = store(folder)
    for number in range(1, COMMITS + 1):
        table.append(queued([update(number)]), by_run())
    return Path(table.uri)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy, last flushed at version 22."""
    copy = tmp_path / NAME
    for path in whole.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (copy / MARK).write_text(f"{22:020}\n")
    return copy


def data_file(folder: Path, version: int) -> Path:
    return next(iter(added_files(folder, version)))


def table_in(folder: Path) -> DeltaTableStore:
    return store(folder.parent)


def plan(folder: Path, *, accept_loss: bool = False) -> RepairPlan:
    return plan_repair(NAME, str(folder), accept_loss=accept_loss)


def mend(folder: Path, *, accept_loss: bool = False) -> Path | None:
    return repair(plan(folder, accept_loss=accept_loss), str(folder), now=NOON, fsync=no_fsync)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_behind_first_line(path: Path) -> None:
    path.write_text(path.read_text().splitlines()[0])


def scramble(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(len(whole) - 8) + whole[-4:])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def rows(folder: Path) -> set[int]:
    return set(stored_rows(table_in(folder))["conid"])


# Recognised at the start

LogBreaker = Callable[[Path], None]
HARMS: dict[str, LogBreaker] = {"empty": empty, "half": halve, "first line": cut_behind_first_line, "zeros": zero}


@pytest.mark.parametrize("version", [24, 22])
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_an_unusable_log_file_is_named_at_the_start(folder: Path, harm: LogBreaker, version: int) -> None:
    harm(log_file(folder, version))
    with pytest.raises(LakeError) as caught:
        table_in(folder).open()
    text = str(caught.value)
    assert f"log file _delta_log/{version:020}.json; run 'v6 lake repair {NAME}'" in text
    assert "\n" not in text


def test_a_hole_in_the_log_is_named_at_the_start(folder: Path) -> None:
    log_file(folder, 22).unlink()
    with pytest.raises(LakeError, match=r"missing log file _delta_log/0+22\.json; run 'v6 lake repair"):
        table_in(folder).open()


@pytest.mark.parametrize("harm", [empty, halve, zero, Path.unlink])
def test_the_newest_commits_data_is_inspected_at_a_start(folder: Path, harm: LogBreaker) -> None:
    lost = data_file(folder, 24)
    harm(lost)
    with pytest.raises(LakeError, match=f"data file date=2026-03-04/{lost.name}; run 'v6 lake repair"):
        table_in(folder).open()


@pytest.mark.parametrize("harm", [empty, halve, zero, scramble])
@pytest.mark.parametrize("name", [f"{19:020}.checkpoint.parquet", POINTER])
def test_a_damaged_checkpoint_or_pointer_is_named_and_repaired(folder: Path, name: str, harm: LogBreaker) -> None:
    """The earlier log still exists and has the same content."""
    harm(folder / "_delta_log" / name)
    with pytest.raises(LakeError, match=f"{name}; run 'v6 lake repair"):
        table_in(folder).open()

    mend(folder)

    assert table_in(folder).open().version() == COMMITS
    assert rows(folder) == set(range(1, COMMITS + 1))
    assert tail_damage(folder, COMMITS) is None


def test_a_pointer_to_a_checkpoint_that_is_not_there(folder: Path) -> None:
    (folder / "_delta_log" / POINTER).write_text(json.dumps({"version": 22, "size": 1}))
    with pytest.raises(LakeError, match=f"damaged checkpoint pointer _delta_log/{POINTER}; run 'v6 lake repair"):
        table_in(folder).open()
    mend(folder)
    assert table_in(folder).open().version() == COMMITS


def test_acknowledged_commits_that_are_gone_without_a_trace_are_missed(folder: Path) -> None:
    """A partial restore causes it: delta-rs opens an older version as if it were the newest."""
    for version in (21, 22, 23, 24):
        log_file(folder, version).unlink()
    with pytest.raises(LakeError, match=r"missing log file _delta_log/0+22\.json; run 'v6 lake repair"):
        table_in(folder).open()
    assert plan(folder).refused is not None

    mend(folder, accept_loss=True)

    assert rows(folder) == set(range(1, 21))
    assert table_in(folder).append(queued([update(100)]), by_run()).version == 23


def test_a_log_that_is_gone_altogether_is_not_taken_for_a_new_table(folder: Path) -> None:
    for path in (folder / "_delta_log").iterdir():
        path.unlink()
    with pytest.raises(LakeError, match="missing log file"):
        table_in(folder).open()
    assert "restore it from a backup" in (plan(folder, accept_loss=True).refused or "")


def test_the_inspection_at_a_start_does_not_read_the_history(folder: Path) -> None:
    for version in range(10):
        log_file(folder, version).write_text("{")  # before the checkpoint, so not needed
    (folder / MARK).unlink()
    assert tail_damage(folder, COMMITS) is None
    assert inspect(folder).damage == []
    assert table_in(folder).append(queued([update(100)]), by_run()).version == COMMITS + 1
    assert [commit.version for commit in read_commits(table_in(folder), -1, 100)] == [*range(10, COMMITS + 2)]


def test_a_whole_table_has_nothing_wrong_and_is_not_touched(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert plan(folder).findings == []
    assert mend(folder) is None
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_table_that_does_not_exist_has_nothing_wrong(tmp_path: Path) -> None:
    assert plan_repair(NAME, str(tmp_path / NAME)).findings == []
    assert plan_repair(NAME, "s3://bucket/lake/queued_positions").findings == []


# Repaired without consent: commits that were never flushed


@pytest.mark.parametrize("harm", [*HARMS.values(), Path.unlink], ids=[*HARMS, "missing"])
def test_unflushed_newest_commits_are_set_aside(folder: Path, harm: LogBreaker) -> None:
    for version in (23, 24):
        harm(log_file(folder, version))
    mend(folder)
    assert rows(folder) == set(range(1, 23))
    assert plan(folder).findings == []
    made = table_in(folder).append(queued([update(100)]), by_run())
    assert made.version == 23
    assert rows(folder) == {*range(1, 23), 100}


@pytest.mark.parametrize("harm", [empty, halve, Path.unlink])
def test_an_unflushed_newest_commit_without_its_data_is_set_aside(folder: Path, harm: LogBreaker) -> None:
    harm(data_file(folder, 24))
    aside = mend(folder)
    assert aside is not None
    assert (aside / "_delta_log" / f"{24:020}.json").exists()
    assert rows(folder) == set(range(1, 24))


def test_an_unflushed_compaction_without_its_file_gives_the_merged_files_back(folder: Path) -> None:
    made = compact(table_in(folder))
    assert made.version is not None
    (folder / MARK).write_text(f"{24:020}\n")
    data_file(folder, made.version).unlink()
    mend(folder)
    assert rows(folder) == set(range(1, COMMITS + 1))


def test_a_creation_that_was_never_flushed_is_undone(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    (folder / "_delta_log").mkdir(parents=True)
    log_file(folder, 0).write_text('{"commitInfo":{')
    with pytest.raises(LakeError, match="run 'v6 lake repair"):
        table_in(folder).open()
    mend(folder)
    assert table_in(folder).open().version() == 0


def test_what_was_set_aside_is_kept_where_vacuum_does_not_look(folder: Path) -> None:
    halve(log_file(folder, 24))
    aside = mend(folder)
    assert aside is not None
    assert aside.parent == folder / QUARANTINE
    DeltaTable(str(folder)).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    assert (aside / "_delta_log" / f"{24:020}.json").stat().st_size > 0


def test_a_log_file_whose_checkpoint_is_whole_is_repaired_without_loss(folder: Path) -> None:
    for version in range(20, COMMITS + 1):
        log_file(folder, version).unlink()
    (folder / MARK).unlink()
    empty(log_file(folder, 19))
    mend(folder)
    assert rows(folder) == set(range(1, 20))
    assert table_in(folder).open().version() == 19


# Refused unless the loss is accepted: acknowledged commits, or commits before intact ones


@pytest.mark.parametrize("harm", [empty, halve, Path.unlink])
def test_a_hole_with_good_commits_behind_it_is_refused_then_bridged(folder: Path, harm: LogBreaker) -> None:
    harm(log_file(folder, 21))
    refused = plan(folder).refused
    assert refused is not None
    assert "00000000000000000021.json" in refused
    assert "--accept-loss" in refused
    with pytest.raises(LakeError, match="was not repaired"):
        mend(folder)
    assert not (folder / QUARANTINE).exists()

    mend(folder, accept_loss=True)

    assert rows(folder) == {*range(1, COMMITS + 1)} - {21}
    [bridged] = [commit for commit in read_commits(table_in(folder), 20, 1) if commit.version == 21]
    assert (bridged.kind, bridged.operation) == (CommitKind.MAINTENANCE, "V6 REPAIR")


def test_an_acknowledged_newest_commit_keeps_its_version(folder: Path) -> None:
    """A reported version must not get other rows later."""
    (folder / MARK).write_text(f"{24:020}\n")
    empty(log_file(folder, 24))
    assert "it was flushed to the disk" in (plan(folder).refused or "")
    mend(folder, accept_loss=True)
    assert table_in(folder).append(queued([update(100)]), by_run()).version == 25


@pytest.mark.parametrize("harm", [halve, Path.unlink])
@pytest.mark.parametrize("versions", [(5, 6, 21), (24,)])
def test_a_lost_file_of_acknowledged_rows_is_taken_out_only_with_consent(
    folder: Path, harm: LogBreaker, versions: tuple[int, ...]
) -> None:
    (folder / MARK).write_text(f"{24:020}\n")
    for version in versions:
        harm(data_file(folder, version))
    refused = plan(folder)
    assert refused.lost_rows == {"2026-03-04": len(versions)}
    assert f"{len(versions)} rows of 2026-03-04" in (refused.refused or "")

    mend(folder, accept_loss=True)

    assert rows(folder) == {*range(1, COMMITS + 1)}.difference(versions)
    handle = DeltaTable(str(folder))
    info = next(action["commitInfo"] for action in read_log(folder, handle.version()) if "commitInfo" in action)
    assert info["v6.lost_rows"] == {"2026-03-04": len(versions)}
    assert plan(folder).findings == []


def test_a_log_without_a_beginning_is_for_a_backup(folder: Path) -> None:
    for version in range(10):
        log_file(folder, version).unlink()
    empty(checkpoint_file(folder, 19))
    refused = plan(folder, accept_loss=True).refused
    assert refused is not None
    assert "restore it from a backup" in refused
    with pytest.raises(LakeError, match="v6 lake repair"):
        table_in(folder).open()


# The mark


def test_the_mark_follows_what_was_flushed_and_survives_being_torn(folder: Path) -> None:
    table = table_in(folder)
    table.append(queued([update(100)]), by_run())
    assert flushed_version(folder) == 25
    (folder / MARK).write_text("0000")
    table.append(queued([update(101)]), by_run())
    assert flushed_version(folder) == 26
    (folder / MARK).write_bytes(b"\x00" * 21)
    assert flushed_version(folder) is None


def test_a_mark_that_cannot_be_written_fails_no_commit(folder: Path) -> None:
    (folder / MARK).unlink()
    (folder / MARK).mkdir()
    assert table_in(folder).append(queued([update(100)]), by_run()).version == 25
