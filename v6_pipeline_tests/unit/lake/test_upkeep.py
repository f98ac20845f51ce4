"""The daily upkeep: small files merged, dead ones deleted, one damaged table does not keep the others from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.maintenance import compacting
from v6_pipeline.lake.recovery.durability import log_file
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.lake.upkeep import maintain
from v6_pipeline_tests.unit.lake.builders import by_epoch, by_run, flush, no_fsync, queued, stored_rows, update

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


def test_a_damaged_table_is_reported_and_the_others_are_kept_up(lake: Lake, tmp_path: Path) -> None:
    log_file(tmp_path / "streamed_positions", 2).write_text('{"commitInfo":{"time')

    queue, stream = maintain(lake, SPECS)

    assert (queue.failed, queue.files_merged) == (False, 2)
    assert stream.failed
    assert "v6 lake repair" in stream.note


def test_a_compaction_that_is_under_way_elsewhere_is_as_good(lake: Lake) -> None:
    with compacting(lake.table(QUEUED_POSITIONS)):
        queue, _ = maintain(lake, SPECS)
    assert (queue.failed, queue.files_merged) == (False, 0)
    assert "another compaction is under way" in queue.note


def test_on_a_disk_a_table_that_its_writer_compacts_is_merged_too(lake: Lake) -> None:
    queue, _ = maintain(lake, SPECS, compacted_elsewhere=["queued_positions"])
    assert queue.files_merged == 2
