"""Compaction on demand: only where one day has gathered little files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from v6_pipeline.lake.maintenance import compact_if_fragmented
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
