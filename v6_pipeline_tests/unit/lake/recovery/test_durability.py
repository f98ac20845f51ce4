"""A commit is on the disk before it is acknowledged; delta-rs itself flushes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.commits import durable_commits
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.recovery.durability import fsync_path, local_path
from v6_pipeline.lake.tables import QUEUED_POSITIONS
from v6_pipeline_tests.unit.lake.builders import by_run, queued, store, stored_rows, update


class Disk:
    """Records flushes in order; fails on demand."""

    def __init__(self) -> None:
        self.flushed: list[Path] = []
        self.failing = False

    def __call__(self, path: Path) -> None:
        if self.failing:
            raise OSError(5, "Input/output error")
        fsync_path(path)
        self.flushed.append(path)


def test_an_append_flushes_data_then_folders_then_log(tmp_path: Path) -> None:
    disk = Disk()
    table = store(tmp_path, fsync=disk)
    table.open()
    disk.flushed.clear()
    made = table.append(queued([update()]), by_run())
    root = Path(table.uri)
    partition = root / "date=2026-03-04"
    [data] = partition.glob("*.parquet")
    log = root / "_delta_log"
    assert disk.flushed == [data, partition, root, log / f"{made.version:020}.json", log]


def test_a_new_table_is_flushed_up_to_its_parent(tmp_path: Path) -> None:
    disk = Disk()
    table = store(tmp_path, fsync=disk)
    table.open()
    root = Path(table.uri)
    assert {root, root.parent, root / "_delta_log", root / "_delta_log" / f"{0:020}.json"} <= set(disk.flushed)


def test_a_checkpoint_is_flushed_with_the_commit_that_caused_it(tmp_path: Path) -> None:
    disk = Disk()
    table = store(tmp_path, fsync=disk)
    for number in range(20):
        table.append(queued([update(number)]), by_run())
    names = {path.name for path in disk.flushed}
    assert "_last_checkpoint" in names
    assert any(name.endswith(".checkpoint.parquet") for name in names)


def test_a_compaction_is_flushed_before_anyone_may_drop_the_old_files(tmp_path: Path) -> None:
    disk = Disk()
    table = store(tmp_path, fsync=disk)
    for number in range(3):
        table.append(queued([update(number)]), by_run())
    disk.flushed.clear()
    done = compact(table)
    assert sum(path.suffix == ".parquet" for path in disk.flushed) == done.files_added == 1
    assert Path(table.uri) / "_delta_log" / f"{done.version:020}.json" in disk.flushed


def test_a_commit_that_cannot_be_flushed_is_not_acknowledged_and_not_repeated(tmp_path: Path) -> None:
    disk = Disk()
    table = store(tmp_path, fsync=disk)
    table.open()
    disk.failing = True
    commit = by_run()
    with pytest.raises(LakeError, match="Input/output error"):
        table.append(queued([update()]), commit)
    disk.failing = False
    made = table.append(queued([update()]), commit)
    assert made.version == 1
    assert Path(table.uri) / "_delta_log" / f"{1:020}.json" in disk.flushed
    assert stored_rows(table).height == 1


def test_the_lakes_marker_is_flushed(tmp_path: Path) -> None:
    disk = Disk()
    Lake(str(tmp_path), fsync=disk).table(QUEUED_POSITIONS).append(queued([update()]), by_run())
    assert tmp_path / "v6_lake" / "_delta_log" / f"{0:020}.json" in disk.flushed


def test_a_commit_is_flushed_before_it_can_be_reported_even_if_its_writer_died(tmp_path: Path) -> None:
    disk = Disk()
    table = store(tmp_path, fsync=disk)
    table.open()
    disk.failing = True
    with pytest.raises(LakeError):
        table.append(queued([update()]), by_run())
    disk.failing = False
    disk.flushed.clear()

    reported = durable_commits(table, 0, 10)

    assert [commit.version for commit in reported] == [1]
    assert Path(table.uri) / "_delta_log" / f"{1:020}.json" in disk.flushed
    disk.failing = True  # a flushed version needs no second flush
    assert durable_commits(table, 0, 10) == reported


def test_a_disk_that_fails_reports_nothing(tmp_path: Path) -> None:
    disk = Disk()
    table = store(tmp_path, fsync=disk)
    table.open()
    disk.failing = True
    with pytest.raises(LakeError, match="check the disk"):
        table.append(queued([update()]), by_run())
    with pytest.raises(LakeError, match="check the disk"):
        durable_commits(table, 0, 10)


def test_object_stores_have_no_local_folder() -> None:
    assert local_path("s3://bucket/lake") is None
    assert local_path("file:///a%20b") == Path("/a b")
    assert local_path("/a/b") == Path("/a/b")
