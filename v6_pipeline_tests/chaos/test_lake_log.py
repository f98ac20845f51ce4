"""The second opinion on the Delta log, on real tables: it must see every row, and what no table may hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake

from v6_pipeline_tests.chaos.lake_log import PositionLog

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def append(folder: Path, seconds: list[int], *, epoch: int) -> None:
    """A commit of one row a second of the same holding."""
    rows = pl.DataFrame(
        {
            "date": [NOON.date()] * len(seconds),
            "account": ["SIM1"] * len(seconds),
            "conid": [7] * len(seconds),
            "timestamp": [NOON + timedelta(seconds=second) for second in seconds],
            "position": [float(second) for second in seconds],
            "epoch": [epoch] * len(seconds),
        }
    )
    properties = CommitProperties(custom_metadata={"v6.epoch": epoch, "v6.kind": "data"})
    write_deltalake(str(folder), rows, mode="append", partition_by=["date"], commit_properties=properties)


def position(row: dict[str, Any]) -> float:
    return float(row["position"])


def test_rows_come_once_and_the_newest_by_timestamp_is_kept(tmp_path: Path) -> None:
    log = PositionLog(tmp_path / "rows")
    assert log.read() == [], "no table yet"
    append(log._log.folder, [1, 3], epoch=1)
    assert [position(row) for row in log.read()] == [1, 3]
    append(log._log.folder, [2], epoch=1)
    DeltaTable(str(log._log.folder)).optimize.compact()
    append(log._log.folder, [4], epoch=2)
    assert [position(row) for row in log.read()] == [2, 4], "a compaction adds files, but no rows"
    assert log.read() == []
    assert position(log.newest["SIM1", 7]) == 4
    assert (log.rows, log.commits, log.epochs, log.faults) == (4, 3, {1, 2}, [])


def test_a_row_that_is_there_twice_is_found(tmp_path: Path) -> None:
    log = PositionLog(tmp_path / "rows")
    append(log._log.folder, [1], epoch=1)
    append(log._log.folder, [1], epoch=1)
    log.read()
    assert len(log.faults) == 1
    assert "is there already" in log.faults[0]


def test_an_older_streamer_that_writes_after_a_newer_one_is_found(tmp_path: Path) -> None:
    log = PositionLog(tmp_path / "rows")
    for second, epoch in ((1, 1), (2, 2), (3, 1)):
        append(log._log.folder, [second], epoch=epoch)
    log.read()
    assert log.faults == ["rows version 2: epoch 1 wrote after epoch 2"]


def test_a_lake_that_is_a_file_has_no_news(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    log = PositionLog(lake / "rows")
    append(log._log.folder, [1], epoch=1)
    log.read()
    lake.rename(tmp_path / "away")
    lake.touch()
    assert log.read() == []
    lake.unlink()
    (tmp_path / "away").rename(lake)
    append(log._log.folder, [2], epoch=1)
    assert [position(row) for row in log.read()] == [2]
