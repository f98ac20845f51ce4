"""kill -9 in the middle of a flush, and an owner that stalls while another takes over: real processes, real Delta.

Each owner appends without a pause and says what was acknowledged; what the table holds is read afterwards.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from v6_pipeline.lake.commits import read_commits
from v6_pipeline.lake.lineage import CommitKind
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline_tests.unit.lake.builders import flush

KILLS = 10
FLUSHES = 3
"""Acknowledged before the kill."""
_OWNER = """
import sys
from pathlib import Path
from v6_pipeline.errors import FencedError
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline_tests.unit.lake.builders import by_epoch, flush, store
from v6_pipeline.lake.recovery.durability import fsync_path
from v6_pipeline.lake.tables import STREAMED_POSITIONS
epoch = int(sys.argv[2])
table = store(Path(sys.argv[1]), STREAMED_POSITIONS, fsync=fsync_path)
appender = FencedAppender(table, application_id="v6", epoch=epoch, lineage=by_epoch(epoch), compact_every=5)
try:
    print("fence", appender.open(), flush=True)
    for number in range(100_000):
        done = appender.append(flush(epoch * 1000 + number, epoch=epoch), by_epoch(epoch))
        print("landed", epoch * 1000 + number, done.version, flush=True)
except FencedError:
    print("fenced", flush=True)
    sys.exit(3)
"""


class Owner:
    """A process that flushes as fast as it can."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(folder), str(epoch)], stdout=subprocess.PIPE, text=True
        )
        self.landed: dict[int, int] = {}
        """Flush to the version that it was acknowledged with."""
        self.fence = -1

    def read(self) -> str:
        """The next line; empty once it has ended, be it within a line: with PYTHONUNBUFFERED each word is a write."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            return ""
        words = line.split()
        if words[:1] == ["landed"]:
            self.landed[int(words[1])] = int(words[2])
        elif words[:1] == ["fence"]:
            self.fence = int(words[1])
        return line.strip()

    def read_until_landed(self, flushes: int) -> None:
        while len(self.landed) < flushes:
            assert self.read(), "it ended"

    def drain(self) -> int:
        """Return the process's output and its exit code."""
        while self.read():
            pass
        return self.process.wait(30)


@pytest.fixture
def owners() -> Iterator[list[Owner]]:
    started: list[Owner] = []
    yield started
    for owner in started:
        owner.process.kill()
        owner.process.wait()
        assert owner.process.stdout is not None
        owner.process.stdout.close()


def table(folder: Path) -> DeltaTableStore:
    return DeltaTableStore(STREAMED_POSITIONS, str(folder / STREAMED_POSITIONS.name))


def stored(folder: Path) -> pl.DataFrame:
    handle = table(folder).load()
    assert handle is not None
    return pl.scan_delta(handle).select("account", "conid", "timestamp", "epoch").collect()


@pytest.mark.timeout(240)
def test_ten_kills_in_the_middle_of_a_flush_lose_nothing_acknowledged_and_double_nothing(
    tmp_path: Path, owners: list[Owner]
) -> None:
    draw = random.Random(1)
    acknowledged: set[int] = set()
    for epoch in range(1, KILLS + 1):
        owner = Owner(tmp_path, epoch)
        owners.append(owner)
        owner.read_until_landed(FLUSHES)
        time.sleep(draw.uniform(0, 0.05))  # where in its flush it is hit: a flush takes about 30 ms, and none pauses
        owner.process.send_signal(signal.SIGKILL)
        owner.drain()
        acknowledged |= owner.landed.keys()

    rows = stored(tmp_path)

    assert rows.select("account", "conid", "timestamp").is_unique().all(), "no row twice"
    expected = pl.concat(flush(number, epoch=number // 1000) for number in sorted(acknowledged))
    missing = expected.join(rows, on=["account", "conid", "timestamp"], how="anti")
    assert missing.is_empty(), "nothing acknowledged is missing"
    assert rows.height - expected.height <= 3 * KILLS, "at most the flush that was under way landed unacknowledged"


def test_an_owner_that_wakes_after_another_took_over_writes_nothing(tmp_path: Path, owners: list[Owner]) -> None:
    stalled = Owner(tmp_path, 1)
    owners.append(stalled)
    stalled.read_until_landed(FLUSHES)
    stalled.process.send_signal(signal.SIGSTOP)
    successor = Owner(tmp_path, 2)
    owners.append(successor)
    successor.read_until_landed(FLUSHES)

    stalled.process.send_signal(signal.SIGCONT)
    code = stalled.drain()
    successor.process.kill()
    successor.drain()

    assert code == 3, "it was told that it is fenced"
    of_old = [
        commit.version
        for commit in read_commits(table(tmp_path), -1, 100_000)
        if commit.kind is CommitKind.DATA and commit.epoch == 1
    ]
    assert max(of_old) < successor.fence
