"""The streamer's writer, on a real Delta table: what is flushed when, and what becomes of rows that would not land."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import polars as pl
import pytest

from v6_pipeline.errors import FencedError, LakeError
from v6_pipeline.lake.commits import read_commits
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.lineage import CommitKind
from v6_pipeline.lake.recovery.durability import Fsync
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.streaming import writer as writer_module
from v6_pipeline.streaming.handlers import PositionUpdateHandler
from v6_pipeline.streaming.writer import DeltaLakePositionWriter
from v6_pipeline_tests.unit.lake.builders import NOON, no_fsync, store, stored_rows, trading_day, update
from v6_pipeline_tests.unit.lake.recovery.power_cut import Disk as PowerCutDisk
from v6_pipeline_tests.unit.lake.recovery.power_cut import Loss
from v6_pipeline_tests.unit.state.databases import ManualClock

GATEWAY = "192.0.2.7:4001"
LATER = NOON + timedelta(seconds=3)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


MakeWriter = Callable[..., DeltaLakePositionWriter]


@pytest.fixture
def make_writer(tmp_path: Path, clock: ManualClock) -> MakeWriter:
    def make(
        epoch: int = 1, *, fsync: Fsync = no_fsync, sleep: Callable[[float], Awaitable[None]] | None = None
    ) -> DeltaLakePositionWriter:
        async def once(_seconds: float) -> None:
            await asyncio.sleep(0)

        return DeltaLakePositionWriter(
            store(tmp_path, STREAMED_POSITIONS, fsync=fsync),
            epoch=epoch,
            gateway=GATEWAY,
            trading_day=trading_day,
            clock=clock,
            flush_seconds=3,
            sleep=sleep or once,
        )

    return make


@pytest.fixture
async def writer(make_writer: MakeWriter) -> DeltaLakePositionWriter:
    made = make_writer()
    await made.open()
    return made


@pytest.fixture
def table(tmp_path: Path) -> DeltaTableStore:
    return store(tmp_path, STREAMED_POSITIONS)


class BrokenLake:
    """Puts a file in the place of the table's folder, or nothing, and the folder back."""

    def __init__(self, folder: Path) -> None:
        self._table = folder / STREAMED_POSITIONS.name
        self._aside = folder / "aside"

    def break_(self) -> None:
        self._table.rename(self._aside)
        self._table.write_text("no folder")

    def mend(self) -> None:
        self._table.unlink()
        self._aside.rename(self._table)

    def unmount(self) -> None:
        self._table.rename(self._aside)

    def mount(self) -> None:
        assert not self._table.exists()
        self._aside.rename(self._table)


@pytest.fixture
def lake_folder(tmp_path: Path) -> BrokenLake:
    return BrokenLake(tmp_path)


def data_commits(table: DeltaTableStore) -> list[int]:
    """Rows of each data commit, oldest first."""
    return [commit.rows for commit in read_commits(table, -1, 1000) if commit.kind is CommitKind.DATA]


def positions(table: DeltaTableStore) -> list[tuple[int, float]]:
    rows = stored_rows(table)
    return list(zip(rows["conid"].to_list(), rows["position"].to_list(), strict=True))


# What is flushed


async def test_a_flush_holds_the_newest_update_of_each_holding(
    writer: DeltaLakePositionWriter, table: DeltaTableStore
) -> None:
    for position in (1.0, 2.0, 3.0):
        await writer.on_position_update(update(1, position=position))
        await writer.on_position_update(update(2, position=-position))
    await writer.on_position_update(update(1, "DU2", position=9.0))

    commit = await writer.flush()

    assert commit is not None
    assert commit.rows == 3
    assert positions(table) == [(1, 3.0), (2, -3.0), (1, 9.0)]
    assert data_commits(table) == [3]
    rows = stored_rows(table)
    assert set(rows["epoch"]) == {1}
    assert set(rows["source"]) == {"stream"}


async def test_every_commit_names_the_gateway(writer: DeltaLakePositionWriter, table: DeltaTableStore) -> None:
    await writer.on_position_update(update(1))
    await writer.flush()
    assert read_commits(table, -1, 1000)[-1].gateway == GATEWAY


async def test_with_nothing_to_flush_nothing_is_committed(
    writer: DeltaLakePositionWriter, table: DeltaTableStore
) -> None:
    assert await writer.flush() is None

    await writer.on_position_update(update(1))
    await writer.flush()
    assert await writer.flush() is None
    assert data_commits(table) == [1]


async def test_the_figures_count_commits_and_rows(writer: DeltaLakePositionWriter, clock: ManualClock) -> None:
    await writer.on_position_update(update(1))
    assert writer.status().buffered == 1

    clock.now = LATER
    commit = await writer.flush()

    assert commit is not None
    found = writer.status()
    assert (found.epoch, found.commits, found.rows, found.buffered) == (1, 1, 1, 0)
    assert (found.last_version, found.last_commit_at) == (commit.version, LATER)
    assert (found.failing_since, found.last_error) == (None, None)


async def test_a_failed_compaction_is_reported_until_one_succeeds(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("v6_pipeline.streaming.writer.FencedAppender", partial(FencedAppender, compact_every=1))
    writer = make_writer()
    await writer.open()

    with monkeypatch.context() as broken:
        broken.setattr("v6_pipeline.lake.fencing.compact", Mock(side_effect=LakeError("no space left")))
        await writer.on_position_update(update(1))
        await writer.flush()
    assert writer.status().last_compaction_error == "no space left"
    assert "compaction failed, retrying after 1 commits: no space left" in caplog.text

    await writer.on_position_update(update(1))
    await writer.flush()
    assert writer.status().last_compaction_error is None


async def test_it_is_a_handler(writer: DeltaLakePositionWriter) -> None:
    assert isinstance(writer, PositionUpdateHandler)


# A lake that cannot be written


async def test_rows_stay_until_the_lake_is_back(
    writer: DeltaLakePositionWriter, table: DeltaTableStore, lake_folder: BrokenLake, clock: ManualClock
) -> None:
    await writer.on_position_update(update(1, position=1.0))
    lake_folder.break_()
    for _ in range(2):
        with pytest.raises(LakeError, match="cannot be written"):
            await writer.flush()
        clock.advance(3)
    found = writer.status()
    assert (found.buffered, found.commits, found.failing_since) == (1, 0, NOON)
    assert found.last_error is not None
    assert "streamed_positions" in found.last_error

    lake_folder.mend()
    await writer.flush()

    assert positions(table) == [(1, 1.0)]
    assert writer.status().failing_since is None
    assert writer.status().buffered == 0


async def test_updates_during_an_outage_land_after_the_rows_that_failed(
    writer: DeltaLakePositionWriter, table: DeltaTableStore, lake_folder: BrokenLake
) -> None:
    await writer.on_position_update(update(1, position=1.0, timestamp=NOON))
    lake_folder.break_()
    with pytest.raises(LakeError):
        await writer.flush()
    await writer.on_position_update(update(1, position=2.0, timestamp=LATER))
    assert writer.status().buffered == 2

    lake_folder.mend()
    await writer.flush()
    assert positions(table) == [(1, 1.0)]
    await writer.flush()
    assert positions(table) == [(1, 1.0), (1, 2.0)]


async def test_rows_that_landed_though_the_flush_failed_are_not_written_twice(
    make_writer: MakeWriter, table: DeltaTableStore
) -> None:
    """The disk failed after the commit: whether it is there is only known by looking."""
    failing = False

    def fsync(_path: Path) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    writer = make_writer(fsync=fsync)
    await writer.open()
    await writer.on_position_update(update(1))
    failing = True
    with pytest.raises(LakeError):
        await writer.flush()
    failing = False

    commit = await writer.flush()

    assert commit is not None
    assert data_commits(table) == [1]
    assert writer.status().rows == 1


async def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends(
    writer: DeltaLakePositionWriter,
    lake_folder: BrokenLake,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "v6_pipeline.streaming.writer")
    await writer.on_position_update(update(1))
    await writer.on_position_update(update(2))
    lake_folder.break_()
    for _ in range(5):
        with pytest.raises(LakeError):
            await writer.flush()
        clock.advance(3)
    lake_folder.mend()
    await writer.flush()

    begun, ended = [record.getMessage() for record in caplog.records if record.name == "v6_pipeline.streaming.writer"]
    assert "since 2026-03-04 17:00:00Z, 2 wait" in begun
    assert "Not a directory" in begun  # what the system said
    assert "again after 15 s: 2 written, 0 follow" in ended
    assert writer.status().last_error is None


async def test_a_lake_that_is_unmounted_gets_nothing_written_in_its_place(
    writer: DeltaLakePositionWriter, table: DeltaTableStore, lake_folder: BrokenLake
) -> None:
    """delta-rs would create the folder again and put a data file there."""
    await writer.on_position_update(update(1))
    lake_folder.unmount()
    with pytest.raises(LakeError, match="is gone"):
        await writer.flush()

    lake_folder.mount()
    await writer.flush()
    assert data_commits(table) == [1]


async def test_a_long_outage_keeps_two_rows_per_holding_and_lands_the_newest(
    writer: DeltaLakePositionWriter, table: DeltaTableStore, lake_folder: BrokenLake
) -> None:
    """A trading day of updates; memory is bounded by the holdings."""
    holdings, updates = 50, 20_000
    lake_folder.break_()
    for number in range(updates):
        at = NOON + timedelta(seconds=number // holdings)
        await writer.on_position_update(update(number % holdings, position=float(number), timestamp=at))
        if number % 5_000 == 0:
            with pytest.raises(LakeError):
                await writer.flush()
        assert writer.status().buffered <= 2 * holdings

    lake_folder.mend()
    await writer.close()

    rows = stored_rows(table)
    assert rows.height <= 2 * holdings
    assert rows.select("account", "conid", "timestamp").is_duplicated().sum() == 0
    newest = dict(rows.sort("timestamp").group_by("conid").agg(pl.col("position").last()).iter_rows())
    assert newest == {conid: float(updates - holdings + conid) for conid in range(holdings)}


async def test_the_rhythm_goes_on_though_flushes_fail(
    make_writer: MakeWriter, table: DeltaTableStore, lake_folder: BrokenLake
) -> None:
    waits: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            lake_folder.mend()
        if len(waits) == 4:
            enough.set()
        await asyncio.sleep(0)

    writer = make_writer(sleep=sleep)
    await writer.open()
    await writer.on_position_update(update(1))
    lake_folder.break_()
    running = asyncio.create_task(writer.run())
    await asyncio.wait_for(enough.wait(), 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert set(waits) == {3}
    assert data_commits(table) == [1]


# Ownership


async def test_a_writer_that_was_replaced_stops_for_ever(
    writer: DeltaLakePositionWriter, make_writer: MakeWriter, table: DeltaTableStore
) -> None:
    await writer.on_position_update(update(1))
    await make_writer(2).open()

    with pytest.raises(FencedError, match="belongs to epoch 2"):
        await writer.run()
    with pytest.raises(FencedError):
        await writer.flush()
    await writer.on_position_update(update(2))
    await writer.close()

    assert data_commits(table) == []


async def test_an_older_owner_cannot_open(make_writer: MakeWriter) -> None:
    await make_writer(2).open()

    with pytest.raises(FencedError):
        await make_writer(1).open()


# Cancellation and the end


class SlowDisk:
    """An fsync that waits until it is let go."""

    def __init__(self) -> None:
        self.is_slow = False
        self.entered = threading.Event()
        self.free = threading.Event()

    def __call__(self, _path: Path) -> None:
        if self.is_slow:
            self.entered.set()
            assert self.free.wait(20)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 20)


async def test_a_cancelled_flush_is_finished_before_the_next(make_writer: MakeWriter, table: DeltaTableStore) -> None:
    """Its thread cannot be stopped, and a second one would commit on the same handle at the same time."""
    disk = SlowDisk()
    writer = make_writer(fsync=disk)
    await writer.open()
    disk.is_slow = True
    await writer.on_position_update(update(1))
    flushing = asyncio.create_task(writer.flush())
    await disk.wait_entered()
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    await writer.on_position_update(update(2, timestamp=LATER))
    closing = asyncio.create_task(writer.close())
    await asyncio.sleep(0)
    assert not closing.done()

    disk.free.set()
    await asyncio.wait_for(closing, 20)

    assert data_commits(table) == [1, 1]
    assert writer.status().commits == 2


async def test_the_end_does_not_wait_for_a_lake_that_answers_nothing(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C took 67 s, and no line in the log said why."""
    monkeypatch.setattr(writer_module, "LAST_FLUSH_SECONDS", 0.05)
    disk = SlowDisk()
    writer = make_writer(fsync=disk)
    await writer.open()
    disk.is_slow = True
    await writer.on_position_update(update(1))

    await asyncio.wait_for(writer.close(), 5)

    assert "last flush: the lake has not answered for 0.05 s: 1 rows are lost" in caplog.text
    disk.free.set()


async def test_a_commit_that_takes_long_is_reported_while_it_lasts(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "SLOW_SECONDS", 0.05)
    caplog.set_level("INFO")
    disk = SlowDisk()
    writer = make_writer(fsync=disk)
    await writer.open()
    disk.is_slow = True
    await writer.on_position_update(update(1))
    flushing = asyncio.create_task(writer.flush())
    await disk.wait_entered()
    async with asyncio.timeout(20):
        while writer.status().failing_since is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert "has not answered for 0.05 s" in (writer.status().last_error or "")

    disk.free.set()
    await asyncio.wait_for(flushing, 20)
    assert writer.status().failing_since is None
    assert "the lake accepts rows again" in caplog.text


async def test_a_version_is_reported_only_when_a_power_cut_cannot_take_it(
    make_writer: MakeWriter, tmp_path: Path, table: DeltaTableStore
) -> None:
    """At every flush to the disk the figures still show the version before; once they show the new one, it is safe."""
    disk = PowerCutDisk(tmp_path)
    writer = make_writer(fsync=disk)
    await writer.open()
    fence = writer.status().last_version
    reported: list[int | None] = []
    disk.on_flush = lambda: reported.append(writer.status().last_version)
    await writer.on_position_update(update(1))

    commit = await writer.flush()

    assert commit is not None
    assert reported
    assert set(reported) == {fence}
    assert writer.status().last_version == commit.version
    left = disk.after_power_cut(tmp_path / "left", Loss.VANISHED)
    assert positions(store(left, STREAMED_POSITIONS)) == [(1, 2.0)]


async def test_the_end_flushes_all(
    writer: DeltaLakePositionWriter, table: DeltaTableStore, lake_folder: BrokenLake
) -> None:
    await writer.on_position_update(update(1, position=1.0))
    lake_folder.break_()
    with pytest.raises(LakeError):
        await writer.flush()
    lake_folder.mend()
    await writer.on_position_update(update(1, position=2.0, timestamp=LATER))

    await writer.close()
    await writer.close()

    assert positions(table) == [(1, 1.0), (1, 2.0)]
    assert writer.status().buffered == 0


async def test_the_end_does_not_wait_for_a_lake_that_is_away(
    writer: DeltaLakePositionWriter, lake_folder: BrokenLake, caplog: pytest.LogCaptureFixture
) -> None:
    await writer.on_position_update(update(1))
    lake_folder.break_()

    await writer.close()

    assert "1 rows are lost" in caplog.text
