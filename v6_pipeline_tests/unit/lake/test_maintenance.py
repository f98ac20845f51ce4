"""Compaction on demand: only where one day has gathered little files."""

from __future__ import annotations

import multiprocessing
import os
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from v6_pipeline.errors import LakeConflictError
from v6_pipeline.lake.maintenance import compact, compact_if_fragmented, compacting
from v6_pipeline.lake.reader import row_count
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline_tests.unit.lake.builders import NOON, by_run, queued, store, update


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
    """delta-rs by itself lets both add their merged copy, and every row is there twice."""
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
