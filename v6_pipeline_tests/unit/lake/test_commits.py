"""Which commit wrote a row: found by halving, confirmed by the commit's own files, and none where it has expired."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from v6_pipeline.errors import LakeError
from v6_pipeline.lake import commit_log
from v6_pipeline.lake import commits as commit_search
from v6_pipeline.lake.commits import CommitLog
from v6_pipeline.lake.recovery.durability import added_files, log_file, read_log
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline_tests.unit.lake.builders import (
    NOON,
    by_epoch,
    by_run,
    flush,
    queued,
    store,
    stored_rows,
    streamed,
    update,
)

FLUSHES = 24


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version n holds the flush of second n, handed over in that second and committed a second later."""
    folder = tmp_path_factory.mktemp("flushed")
    table = store(folder, STREAMED_POSITIONS)
    for number in range(1, FLUSHES + 1):
        at = NOON + timedelta(seconds=number)
        rows = flush(number, rows=1).with_columns(
            pl.lit(at, dtype=STREAMED_POSITIONS.schema["timestamp"]).alias("ingested_at")
        )
        table.append(rows, by_epoch())
    for version in range(FLUSHES + 1):
        _commit_at(table, version, seconds=version + 1)
    return folder


@pytest.fixture
def flushed(template: Path, tmp_path: Path) -> DeltaTableStore:
    shutil.copytree(template, tmp_path / "lake")
    return store(tmp_path / "lake", STREAMED_POSITIONS)


def _commit_at(table: DeltaTableStore, version: int, *, seconds: float) -> None:
    actions = read_log(Path(table.uri), version)
    for action in actions:
        if "commitInfo" in action:
            action["commitInfo"]["timestamp"] = int((NOON + timedelta(seconds=seconds)).timestamp() * 1000)
    log_file(Path(table.uri), version).write_text("\n".join(json.dumps(action) for action in actions))


def rows_of(table: DeltaTableStore) -> list[dict[str, Any]]:
    return stored_rows(table).sort("timestamp").to_dicts()


def test_each_row_is_found_by_few_of_the_log_files(flushed: DeltaTableStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(folder: Path, version: int) -> list[dict[str, Any]]:
        read.append(version)
        return read_log(folder, version)

    monkeypatch.setattr(commit_search, "read_log", counted)
    for number, row in enumerate(rows_of(flushed), start=1):
        read.clear()
        found = CommitLog(flushed).writer_of(row, up_to=FLUSHES)
        assert found.commit is not None
        assert (found.commit.version, found.confirmed) == (number, True)
        assert len(read) <= 14  # five to halve them, and those of the five seconds that clocks may be apart


def test_a_clock_that_was_set_back_only_makes_the_search_longer(flushed: DeltaTableStore) -> None:
    for version in range(12, FLUSHES + 1):
        _commit_at(flushed, version, seconds=version - 3_600)
    log = CommitLog(flushed)
    versions = [found.version for row in rows_of(flushed) if (found := log.writer_of(row, up_to=FLUSHES).commit)]
    assert versions == list(range(1, FLUSHES + 1))


def test_a_row_that_is_not_of_the_versions_looked_at_has_no_commit(flushed: DeltaTableStore) -> None:
    last = rows_of(flushed)[-1]
    found = CommitLog(flushed).writer_of(last, up_to=FLUSHES - 1)
    assert found.commit is None
    assert found.note == "no commit of streamed_positions among those looked at wrote this row"


def test_where_the_log_has_expired_it_says_where_it_begins(flushed: DeltaTableStore) -> None:
    handle = flushed.load()
    assert handle is not None
    handle.create_checkpoint()
    first, last = rows_of(flushed)[0], rows_of(flushed)[-1]
    for version in range(10):
        log_file(Path(flushed.uri), version).unlink()

    log = CommitLog(flushed)
    found = log.writer_of(first, up_to=FLUSHES)

    assert found.commit is None
    assert found.note == "the log of streamed_positions begins at version 10 now: the commit of this row has expired"
    assert log.get(3) is None
    kept = log.writer_of(last, up_to=FLUSHES).commit
    assert kept is not None
    assert kept.version == FLUSHES


def test_of_commits_that_look_alike_the_one_whose_files_hold_the_row(tmp_path: Path) -> None:
    """Two batches of one run, whose observations overlap in time."""
    table = store(tmp_path)
    late = NOON + timedelta(minutes=1)
    table.append(queued([update(1), update(2, timestamp=late)]), by_run())
    table.append(queued([update(3), update(4, timestamp=late)]), by_run())
    log = CommitLog(table)

    found = {row["conid"]: log.writer_of(row, up_to=2) for row in rows_of(table)}

    assert all(writer.confirmed for writer in found.values())
    assert {conid: writer.commit and writer.commit.version for conid, writer in found.items()} == {
        1: 1,
        2: 1,
        3: 2,
        4: 2,
    }
    for path in added_files(Path(table.uri), 1):
        path.unlink()
    # The first may have written the row and cannot be asked; the second did, as its files show.
    again = CommitLog(table).writer_of({"conid": 3, **_row_of(table, 2)}, up_to=2)
    assert again.commit is not None
    assert (again.commit.version, again.confirmed) == (2, True)


def _row_of(table: DeltaTableStore, version: int) -> dict[str, Any]:
    [path] = added_files(Path(table.uri), version)
    row = pl.read_parquet(path, hive_partitioning=False).row(0, named=True)
    return {**row, "date": NOON.date()}


def test_a_row_of_another_epoch_is_not_ascribed(tmp_path: Path) -> None:
    table = store(tmp_path, STREAMED_POSITIONS)
    table.append(streamed([update()], epoch=1), by_epoch(1))
    row = {**rows_of(table)[0], "epoch": 2}
    assert CommitLog(table).writer_of(row, up_to=1).commit is None


def test_an_object_store_is_told_by_metadata_of_its_newest_commits(
    flushed: DeltaTableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (commit_search, commit_log):
        monkeypatch.setattr(module, "local_path", lambda _uri: None)
    log = CommitLog(flushed)
    assert (log.oldest, log.newest) == (0, FLUSHES)
    for number, row in enumerate(rows_of(flushed), start=1):
        found = log.writer_of(row, up_to=FLUSHES)
        assert found.commit is not None
        assert (found.commit.version, found.confirmed) == (number, False)


def test_the_commits_of_a_run(tmp_path: Path) -> None:
    table = store(tmp_path)
    for number, run_id in enumerate(("one", "two", "one"), start=1):
        table.append(queued([update(number)], run_id=run_id), by_run(run_id))
    log = CommitLog(table)
    assert [commit.version for commit in log.of_run("one")] == [1, 3]
    # "on" is in the text of each, and is the id of none.
    assert log.of_run("on") == []
    assert [commit.version for commit in log.of_run("on", prefix=True)] == [1, 3]
    assert log.of_run("ne", prefix=True) == []


def test_of_a_table_that_does_not_exist_nothing_is_known(tmp_path: Path) -> None:
    log = CommitLog(store(tmp_path))
    assert log.newest == -1
    assert log.of_run("one") == []


def test_a_damaged_table_is_an_error(flushed: DeltaTableStore) -> None:
    log_file(Path(flushed.uri), FLUSHES).write_text("")
    with pytest.raises(LakeError, match="is damaged"):
        CommitLog(flushed)
