"""Compaction of days with many small files, and the daily maintenance of all tables."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from v6_pipeline.errors import LakeConflictError
from v6_pipeline.lake import compaction_lease
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.maintenance import compact, compact_if_fragmented, compacting, maintain
from v6_pipeline.lake.reader import row_count
from v6_pipeline.lake.recovery.durability import log_file
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.settings import load_settings
from v6_pipeline_tests.unit.lake.builders import (
    NOON,
    by_epoch,
    by_run,
    flush,
    no_fsync,
    queued,
    store,
    stored_rows,
    update,
)


def filled(folder: Path, days: list[int]) -> DeltaTableStore:
    table = store(folder)
    for number, day in enumerate(days):
        table.append(queued([update(conid=number + 1, timestamp=NOON + timedelta(days=day))]), by_run())
    return table


def test_a_day_with_many_little_files_is_compacted_and_keeps_its_rows(tmp_path: Path) -> None:
    table = filled(tmp_path, [0, 0, 0])

    done = compact_if_fragmented(table, small_files=3)

    assert (done.files_removed, done.files_added) == (3, 1)
    assert row_count(table) == 3


def test_as_many_files_over_several_days_are_left_alone(tmp_path: Path) -> None:
    table = filled(tmp_path, [0, 1, 2])

    assert compact_if_fragmented(table, small_files=3).version is None


def test_a_table_that_does_not_exist_has_nothing_to_compact(tmp_path: Path) -> None:
    assert compact_if_fragmented(store(tmp_path)).version is None
    assert list(tmp_path.iterdir()) == []


def test_of_two_compactions_of_the_same_files_the_second_changes_nothing(tmp_path: Path) -> None:
    """Without the lock delta-rs lets both add their merged copy, and every row is doubled."""
    table = filled(tmp_path, [0, 0, 0])
    early, late = table.open(), table.open()
    compact(table, early)

    with pytest.raises(LakeConflictError):
        compact(table, late)

    assert row_count(table) == 3


def test_a_compaction_that_started_before_another_ended_changes_nothing(tmp_path: Path) -> None:
    table = filled(tmp_path, [0, 0, 0])
    with compacting(table):
        with pytest.raises(LakeConflictError, match="another compaction is under way"):
            compact(store(tmp_path))
        assert compact_if_fragmented(store(tmp_path), small_files=3).version is None

    assert compact_if_fragmented(table, small_files=3).files_removed == 3
    assert row_count(table) == 3


def test_appends_go_on_during_a_compaction(tmp_path: Path) -> None:
    table = filled(tmp_path, [0, 0, 0])
    with compacting(table):
        table.append(queued([update(conid=9, timestamp=NOON)]), by_run())

    assert row_count(table) == 4


def compact_again_and_again(folder: Path, begin: Barrier) -> None:
    table = store(folder)
    begin.wait(60)
    for number in range(10):
        table.append(queued([update(conid=number, timestamp=NOON, account=f"SIM{os.getpid()}")]), by_run())
        compact_if_fragmented(table, small_files=2)


def test_processes_that_compact_at_once_double_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(3)
    workers = [context.Process(target=compact_again_and_again, args=(tmp_path, begin)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert row_count(store(tmp_path)) == 30


# --- daily maintenance of all tables ---

SPECS = (QUEUED_POSITIONS, STREAMED_POSITIONS, ACCOUNT_VALUES)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two commits of ``queued_positions``, one of ``streamed_positions``."""
    made = Lake(str(tmp_path), fsync=no_fsync)
    for number in (1, 2):
        made.table(QUEUED_POSITIONS).append(queued([update(number)]), by_run())
    made.table(STREAMED_POSITIONS).append(flush(1), by_epoch())
    return made


def test_small_files_are_merged_and_what_no_version_of_a_week_needs_is_deleted(lake: Lake, tmp_path: Path) -> None:
    left = tmp_path / "queued_positions" / "date=2026-03-04" / "part-00000-left.parquet"
    left.write_bytes(b"half")
    past = left.stat().st_mtime - 8 * 24 * 3600
    os.utime(left, (past, past))

    queue, stream = maintain(lake, SPECS)

    assert (queue.table, queue.files_merged, queue.files_deleted, queue.bytes_deleted) == ("queued_positions", 2, 1, 4)
    assert (stream.table, stream.files_merged, stream.files_deleted) == ("streamed_positions", 0, 0)
    assert not left.exists()
    assert stored_rows(lake.table(QUEUED_POSITIONS)).height == 2


def test_a_damaged_table_is_reported_and_the_others_are_maintained(lake: Lake, tmp_path: Path) -> None:
    log_file(tmp_path / "streamed_positions", 2).write_text('{"commitInfo":{"time')

    queue, stream = maintain(lake, SPECS)

    assert (queue.failed, queue.files_merged) == (False, 2)
    assert stream.failed
    assert "v6 lake repair" in stream.note


def test_a_compaction_of_another_process_is_no_failure(lake: Lake) -> None:
    with compacting(lake.table(QUEUED_POSITIONS)):
        queue, _ = maintain(lake, SPECS)
    assert (queue.failed, queue.files_merged) == (False, 0)
    assert "another compaction is under way" in queue.note


# --- an object store, where no file can be locked ---


@pytest.fixture
def in_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], DeltaTableStore]:
    """Opens a table with three small files, as in an object store: delta-rs is real, only the file lock is away."""
    monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    made = Lake.from_settings(load_settings())
    for number in (1, 2, 3):
        made.table(QUEUED_POSITIONS).append(queued([update(number)]), by_run())

    def open_table() -> DeltaTableStore:
        table = Lake.from_settings(load_settings()).table(QUEUED_POSITIONS)
        table.folder = None
        return table

    return open_table


Open = Callable[[], DeltaTableStore]


def test_of_two_compactions_of_an_object_store_at_once_the_second_is_refused(in_object_store: Open) -> None:
    """566 rows became 1,132."""
    with compacting(in_object_store()):
        with pytest.raises(LakeConflictError, match="table queued_positions: another compaction is under way"):
            compact(in_object_store())
        assert compact_if_fragmented(in_object_store(), small_files=2).version is None

    assert compact(in_object_store()).files_removed == 3
    assert row_count(in_object_store()) == 3


def test_two_compactions_of_an_object_store_that_began_at_one_version_double_no_row(in_object_store: Open) -> None:
    early, late = in_object_store(), in_object_store()
    handles = early.open(), late.open()
    compact(early, handles[0])
    with pytest.raises(LakeConflictError):
        compact(late, handles[1])
    assert row_count(in_object_store()) == 3


def test_the_days_own_compaction_works_in_an_object_store(in_object_store: Open) -> None:
    assert compact_if_fragmented(in_object_store(), small_files=3).files_removed == 3
    assert row_count(in_object_store()) == 3


def test_the_streamers_own_compaction_waits_for_that_of_the_maintenance(in_object_store: Open) -> None:
    table = in_object_store()
    appender = FencedAppender(table, application_id="a", epoch=1, lineage=by_run(), compact_every=1)
    appender.open()
    with compacting(in_object_store()):
        appender.append(queued([update(9)]), by_run())
    assert row_count(in_object_store()) == 4
    appender.append(queued([update(10)]), by_run())
    assert row_count(in_object_store()) == 5


def test_the_lease_of_a_compaction_that_died_ends(in_object_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction_lease, "LEASE_SECONDS", 0.0)
    with compacting(in_object_store()):
        assert compact(in_object_store()).files_removed == 3


def test_without_the_state_database_nothing_is_compacted_and_nothing_fails(
    in_object_store: Open, tmp_path: Path
) -> None:
    (tmp_path / "home" / "state.db").mkdir()

    with pytest.raises(LakeConflictError, match=r"not compacted now, because its lease cannot be had: .* is a folder"):
        compact(in_object_store())
    assert compact_if_fragmented(in_object_store(), small_files=2).version is None


def test_a_table_of_an_object_store_without_a_lease_is_never_compacted(lake: Lake) -> None:
    table = lake.table(QUEUED_POSITIONS)
    table.folder = None
    with pytest.raises(LakeConflictError, match="is compacted only with a lease"):
        compact(table)
