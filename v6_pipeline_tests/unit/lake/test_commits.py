"""Commits of the log: read back in order by the sensor, and searched by bisection for the commit that wrote a row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from v6_pipeline.errors import LakeError
from v6_pipeline.lake import commits
from v6_pipeline.lake.commits import CommitLog, _from_history, oldest_version, read_commits
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.lineage import CommitKind
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.recovery.durability import added_files, log_file, read_log
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline_tests.unit.lake.builders import (
    CODE,
    DAY,
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
    """Version n has the flush of second n, handed over in that second and committed one second later."""
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

    monkeypatch.setattr(commits, "read_log", counted)
    for number, row in enumerate(rows_of(flushed), start=1):
        read.clear()
        found = CommitLog(flushed).writer_of(row, up_to=FLUSHES)
        assert found.commit is not None
        assert (found.commit.version, found.confirmed) == (number, True)
        assert len(read) <= 14  # five for the bisection, the rest for the five seconds that clocks may differ


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
    assert found.note == "no commit of streamed_positions among those searched wrote this row"


def test_an_expired_log_names_its_first_version(flushed: DeltaTableStore) -> None:
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


def test_files_decide_between_commits_with_equal_metadata(tmp_path: Path) -> None:
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
    # The first may have written the row, but its files are gone; the files of the second hold it.
    again = CommitLog(table).writer_of({"conid": 3, **_row_of(table, 2)}, up_to=2)
    assert again.commit is not None
    assert (again.commit.version, again.confirmed) == (2, True)


def _row_of(table: DeltaTableStore, version: int) -> dict[str, Any]:
    [path] = added_files(Path(table.uri), version)
    row = pl.read_parquet(path, hive_partitioning=False).row(0, named=True)
    return {**row, "date": NOON.date()}


def test_a_row_of_another_epoch_has_no_commit(tmp_path: Path) -> None:
    table = store(tmp_path, STREAMED_POSITIONS)
    table.append(streamed([update()], epoch=1), by_epoch(1))
    row = {**rows_of(table)[0], "epoch": 2}
    assert CommitLog(table).writer_of(row, up_to=1).commit is None


def test_in_an_object_store_metadata_alone_names_the_commit(
    flushed: DeltaTableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "local_path", lambda _uri: None)
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


def test_a_missing_table_has_no_commit_log(tmp_path: Path) -> None:
    log = CommitLog(store(tmp_path))
    assert log.newest == -1
    assert log.of_run("one") == []


def test_a_damaged_table_is_an_error(flushed: DeltaTableStore) -> None:
    log_file(Path(flushed.uri), FLUSHES).write_text("")
    with pytest.raises(LakeError, match="is damaged"):
        CommitLog(flushed)


# --- reading them in order ---


def test_a_commit_reads_back_as_it_was_written(tmp_path: Path) -> None:
    table = store(tmp_path)
    later = NOON + timedelta(days=1)
    commit = by_run("run-7", gateway="192.0.2.7:4001")
    table.append(queued([update(1), update(2), update(1, timestamp=later)]), commit)
    [info] = read_commits(table, 0, 10)
    assert (info.version, info.kind, info.rows, info.contracts) == (1, CommitKind.DATA, 3, 2)
    assert info.rows_by_date == {DAY: 2, date(2026, 3, 5): 1}
    assert (info.asset, info.source, info.run_id, info.epoch) == ("queued_positions", "queue", "run-7", None)
    assert (info.first_timestamp, info.last_timestamp) == (NOON, later)
    assert (info.code_version, info.commit_id) == (CODE, commit.commit_id)
    assert info.gateway == "192.0.2.7:4001"
    assert info.committed_at > datetime(2026, 1, 1, tzinfo=UTC)


def test_a_commit_names_its_partition(tmp_path: Path) -> None:
    table = store(tmp_path)
    table.append(queued([update()]), by_run(partition=DAY.isoformat()))
    assert read_commits(table, 0, 1)[0].partition == "2026-03-04"


def test_a_commit_that_names_no_gateway_has_none(tmp_path: Path) -> None:
    table = store(tmp_path)
    table.append(queued([update()]), by_run())
    assert read_commits(table, 0, 1)[0].gateway is None


def test_commits_come_oldest_first_and_no_more_than_asked(tmp_path: Path) -> None:
    """A sensor that fell behind must continue at its position, not at the newest commit."""
    table = store(tmp_path)
    for number in range(8):
        table.append(queued([update(number)]), by_run(f"run-{number + 1}"))
    assert [(info.version, info.run_id) for info in read_commits(table, 2, 2)] == [(3, "run-3"), (4, "run-4")]
    assert [(info.version, info.run_id) for info in read_commits(table, 6, 30)] == [(7, "run-7"), (8, "run-8")]
    assert read_commits(table, 8, 30) == []
    assert read_commits(table, 2, 0) == []


class CommitsDuringRead:
    """A handle on an object store's table, to which a commit is added while its history is read."""

    def __init__(self, handle: DeltaTable, commit: Callable[[], object]) -> None:
        self._handle = handle
        self._pending: list[Callable[[], object]] = [commit]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def history(self, limit: int) -> list[dict[str, Any]]:
        if self._pending:
            self._pending.pop()()
        return self._handle.history(limit)


def test_a_commit_that_lands_while_the_log_is_read_does_not_shift_the_versions(tmp_path: Path) -> None:
    """delta-rs's history numbers the newest commits down from the handle's version, whatever that is by then."""
    table = store(tmp_path)
    for number in (1, 2, 3):
        table.append(queued([update(number)]), by_run(f"run-{number}"))
    handle = CommitsDuringRead(table.open(), lambda: table.append(queued([update(4)]), by_run("run-4")))
    entries = _from_history(handle, 2, 10)  # type: ignore[arg-type]
    assert [(entry["version"], entry["v6.run_id"]) for entry in entries] == [(2, "run-2"), (3, "run-3"), (4, "run-4")]
    assert [entry["version"] for entry in _from_history(table.open(), 2, 2)] == [2, 3]
    assert _from_history(table.open(), 9, 2) == []


def test_a_missing_table_has_no_commits(tmp_path: Path) -> None:
    assert read_commits(store(tmp_path), -1, 10) == []


def test_commits_without_observations_have_kinds_of_their_own(tmp_path: Path) -> None:
    table = store(tmp_path, STREAMED_POSITIONS)
    fence = by_epoch(kind=CommitKind.FENCE)
    appender = FencedAppender(table, application_id="s", epoch=1, lineage=fence, compact_every=0)
    appender.open()
    for number in range(2):
        appender.append(flush(number), by_epoch())
    compact(table)
    handle = table.open()
    handle.alter.set_table_properties({"v6.x": "1"}, raise_if_not_exists=False)
    foreign = flush(9)
    foreign.write_delta(table.uri, mode="append")
    found = read_commits(table, -1, 100)
    assert [info.kind for info in found] == [
        CommitKind.SCHEMA,
        CommitKind.FENCE,
        CommitKind.DATA,
        CommitKind.DATA,
        CommitKind.MAINTENANCE,
        CommitKind.SCHEMA,
        CommitKind.FOREIGN,
    ]
    assert [info.rows for info in found] == [0, 0, 3, 3, 0, 0, 0]


def test_an_expired_log_gives_the_oldest_commits_left(tmp_path: Path) -> None:
    table = store(tmp_path)
    for number in range(25):
        table.append(queued([update(number)]), by_run())
    for version in range(15):
        (Path(table.uri) / "_delta_log" / f"{version:020}.json").unlink()
    found = [info.version for info in read_commits(table, 2, 5)]
    assert found == [15, 16, 17, 18, 19]


def test_expired_versions_are_skipped_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sensor that began with a year-old table tried each of a million versions."""
    table = store(tmp_path)
    for number in range(25):
        table.append(queued([update(number)]), by_run())
    table.open().create_checkpoint()
    for version in (*range(15), 17):
        log_file(Path(table.uri), version).unlink()
    tried: list[int] = []

    def counted(folder: Path, version: int) -> list[dict[str, Any]]:
        tried.append(version)
        return read_log(folder, version)

    monkeypatch.setattr(commits, "read_log", counted)
    found = [info.version for info in read_commits(table, 2, 5)]

    assert found == [15, 16, 18, 19, 20]
    assert tried == [3, 15, 16, 17, 18, 19, 20]


def test_a_log_without_files_begins_at_the_newest_version(tmp_path: Path) -> None:
    table = store(tmp_path)
    for number in range(3):
        table.append(queued([update(number)]), by_run())
    folder = Path(table.uri)
    table.open().create_checkpoint()
    assert oldest_version(folder, 3) == 0
    for version in range(4):
        log_file(folder, version).unlink()
    assert oldest_version(folder, 3) == 3
    assert read_commits(table, -1, 10) == []


def test_reading_a_long_table_stays_far_below_a_second(tmp_path: Path) -> None:
    """A sensor reads every 10 s; at 2,000 commits it takes about 20 ms."""
    table = store(tmp_path)
    handle = table.open()
    rows = table.prepare(queued([update()]), by_run())
    for _ in range(100):
        table.write(handle, rows, by_run(), None)
    newest = DeltaTable(table.uri).version()
    taken = []
    for _ in range(3):
        started = perf_counter()
        assert len(read_commits(table, newest - 20, 100)) == 20
        taken.append(perf_counter() - started)
    assert min(taken) < 0.5
    assert pl.scan_delta(table.uri).select(pl.len()).collect().item() == 100
