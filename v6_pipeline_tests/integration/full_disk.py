"""A program: a streamer's writer on a disk that fills up and is freed again. Prints ``landed`` if nothing was lost.

``python -m v6_pipeline_tests.integration.full_disk FOLDER (tmpfs|limit)``: the folder is a small file system of its
own, or the system limits the size of files. Either would harm other tests in the same process.
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

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.tables import STREAMED_POSITIONS
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


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
