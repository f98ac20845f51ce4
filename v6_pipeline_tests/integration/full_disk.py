"""A program on a full disk: a streamer's writer, which prints ``landed`` if nothing was lost, or the state database.

``python -m v6_pipeline_tests.integration.full_disk FOLDER (tmpfs|limit|state|opening)``: the folder is a small file
system of its own, or the system limits the size of files. Either would harm other tests in the same process. ``state``
and ``opening`` print the error of a database that grows, and of one that is opened, once the disk is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from v6_pipeline.errors import LakeError, StateError
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.streaming.writer import DeltaLakePositionWriter
from v6_pipeline_tests.unit.lake.builders import NOON, store, stored_rows, trading_day, update

SMALL_FILE = 2_000
"""Bytes: a data file is larger."""


@contextlib.contextmanager
def no_room_on(folder: Path) -> Iterator[None]:
    """Fill the file system."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def no_room_in_files() -> Iterator[None]:
    """Let no file grow; Python ignores the signal that comes with it, so that a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def main(folder: Path, how: str) -> None:
    table = store(folder, STREAMED_POSITIONS)
    writer = DeltaLakePositionWriter(
        table, epoch=1, gateway="127.0.0.1:1", trading_day=trading_day, clock=lambda: NOON, flush_seconds=3
    )
    await writer.open()
    await writer.on_position_update(update(1, position=1.0))
    await writer.flush()
    with no_room_on(folder) if how == "tmpfs" else no_room_in_files():
        for number in range(2, 6):
            at = NOON + timedelta(seconds=number)
            await writer.on_position_update(update(1, position=float(number), timestamp=at))
            await fail_to_flush(writer)
    await writer.close()
    assert writer.status().buffered == 0
    # The rows of the flush that failed first, then the newest.
    assert stored_rows(table)["position"].to_list() == [1.0, 2.0, 5.0]
    sys.stdout.write("landed\n")


async def fail_to_flush(writer: DeltaLakePositionWriter) -> None:
    with pytest.raises(LakeError, match="cannot be written"):
        await writer.flush()
    assert writer.status().buffered <= 2
    assert writer.status().failing_since == NOON


def fill_with_state(folder: Path) -> None:
    database = StateDatabase.open(f"sqlite:///{folder}/state.db", name_for_messages="state.db")
    queue = PositionQueue(database)
    with no_room_on(folder):
        try:
            for conid in range(1, 10_000):
                queue.insert(conid, "S" * 100, account="DU1")
        except StateError as error:
            sys.stdout.write(str(error))


def open_on_a_full_disk(folder: Path) -> None:
    url = f"sqlite:///{folder}/state.db"
    StateDatabase.open(url, name_for_messages="state.db").close()
    with no_room_on(folder), pytest.raises(StateError) as caught:
        PositionQueue(StateDatabase.open(url, name_for_messages="state.db")).insert(1, "S1", account="DU1")
    sys.stdout.write(str(caught.value))


if __name__ == "__main__":
    match sys.argv[2]:
        case "state":
            fill_with_state(Path(sys.argv[1]))
        case "opening":
            open_on_a_full_disk(Path(sys.argv[1]))
        case how:
            asyncio.run(main(Path(sys.argv[1]), how))
