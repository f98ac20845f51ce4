"""The lake under a worker and a streamer's writer: what is acknowledged is on the disk, a full disk loses nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import LakeError
from v6_pipeline.ib.connection import ConnectionPolicy
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import QUEUED_POSITIONS
from v6_pipeline.refresh.worker import QueueWorker, RefreshScope
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline_tests.integration import full_disk
from v6_pipeline_tests.unit.lake.recovery.power_cut import Disk, Loss
from v6_pipeline_tests.unit.state.databases import ManualClock

Key = tuple[str, int]


@pytest.fixture
def lake_folder(settings: Settings) -> Path:
    folder = Path(settings.lake_root)
    folder.mkdir(parents=True)
    return folder


def worker(settings: Settings, database: StateDatabase, lake: Lake, clock: ManualClock) -> QueueWorker:
    return QueueWorker(
        settings.model_copy(update={"queue_batch": 20}),
        database,
        lake,
        run_id="run-1",
        trading_day=TradingCalendar().trading_day,
        clock=clock,
        policy=ConnectionPolicy(messages_per_second=1_000, connect_timeout=5, request_timeout=5),
    )


def keys_in(lake: Path) -> set[Key]:
    table = Lake(str(lake)).table(QUEUED_POSITIONS).load()
    return set() if table is None else set(pl.scan_delta(table).select("account", "conid").collect().iter_rows())


async def test_an_item_is_acknowledged_only_once_a_power_cut_cannot_take_its_row(
    settings: Settings,
    database: StateDatabase,
    clock: ManualClock,
    lake_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk is rebuilt at every acknowledgement from what had been flushed by then."""
    disk = Disk(lake_folder)
    acknowledged: list[int] = []
    mark_success = PositionQueue.mark_success

    def then_the_power_goes(queue: PositionQueue, token: str, keys: Iterable[Key], refreshed_at: datetime) -> Any:
        done = list(keys)
        left = disk.after_power_cut(tmp_path / f"left-{len(acknowledged)}", Loss.VANISHED)
        assert keys_in(left) >= set(done)
        acknowledged.append(len(done))
        return mark_success(queue, token, done, refreshed_at)

    monkeypatch.setattr(PositionQueue, "mark_success", then_the_power_goes)

    await worker(settings, database, Lake(settings.lake_root, fsync=disk), clock).run(RefreshScope(everything=True))

    assert acknowledged == [20, 20, 20]


async def test_what_is_not_committed_is_not_acknowledged(
    settings: Settings, database: StateDatabase, clock: ManualClock
) -> None:
    """The disk fails at the second batch: its items are served again, and nothing is in the lake twice."""
    flushes = 0
    failing_from: int | None = None

    def fsync(path: Path) -> None:
        nonlocal flushes
        flushes += path.suffix == ".parquet" and path.parent.name.startswith("date=")
        if failing_from is not None and flushes > failing_from:
            raise OSError(28, "No space left on device")

    failing_from = 2  # the account's row, the first batch; then no more
    lake = Lake(settings.lake_root, fsync=fsync)
    queue = PositionQueue(database, clock)
    with pytest.raises(LakeError, match="No space left on device"):
        await worker(settings, database, lake, clock).run(RefreshScope(everything=True))
    committed = keys_in(Path(settings.lake_root))
    open_keys = {item.key for item in queue.items()}
    assert len(open_keys) >= 40
    assert {key for key in committed if key not in open_keys} | open_keys >= committed

    failing_from = None
    clock.advance(3_600)
    await worker(settings, database, lake, clock).run(RefreshScope(everything=True))

    assert queue.stats().pending == 0
    table = lake.table(QUEUED_POSITIONS).load()
    assert table is not None
    rows = pl.scan_delta(table).collect()
    assert rows.select("account", "conid").unique().height == 60
    assert not rows.select("account", "conid", "timestamp").is_duplicated().any()


def _run(tmp_path: Path, how: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [*prefix, sys.executable, "-m", full_disk.__name__, str(folder), how]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=root)


def test_a_full_disk_delays_rows_and_loses_none(tmp_path: Path) -> None:
    """The system refuses to let files grow, which needs no rights; the process is one of its own for that."""
    done = _run(tmp_path, "limit")
    assert done.stdout.strip() == "landed", done.stderr


def _on_a_small_file_system(tmp_path: Path, how: str, options: str = "size=1m") -> str:
    """Run the program on a file system in a namespace of its own; the output is stripped."""
    mount = f"mount -t tmpfs -o {options} tmpfs {tmp_path}/disk"
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mount} || exit 77; exec "$@"', "sh")
    try:
        done = _run(tmp_path, how, *prefix)
    except FileNotFoundError:
        pytest.skip("this system has no unshare(1); the limit on file sizes is tested instead")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"this system mounts nothing for a user ({done.stderr.strip()}); the limit is tested instead")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_full_file_system_delays_rows_and_loses_none(tmp_path: Path) -> None:
    """A file system of one megabyte, in a namespace of the test's own."""
    assert _on_a_small_file_system(tmp_path, "tmpfs") == "landed"


@pytest.mark.parametrize("how", ["state", "opening"])
def test_the_state_database_names_a_full_disk(tmp_path: Path, how: str) -> None:
    """SQLite reports it as an I/O error or as a file that cannot be opened where its journal cannot grow."""
    said = _on_a_small_file_system(tmp_path, how)
    assert said == "the state database state.db cannot grow: the disk is full; free some space"


def test_the_state_database_names_a_disk_without_inodes(tmp_path: Path) -> None:
    said = _on_a_small_file_system(tmp_path, "opening", "size=1m,nr_inodes=4")
    assert said == "the state database state.db cannot grow: the disk is full; free some space"
