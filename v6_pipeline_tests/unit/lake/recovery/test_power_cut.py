"""After a power cut at any moment and a repair, acknowledged rows are readable and the table accepts rows."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.lineage import CommitKind
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.recovery.repair import plan_repair, repair
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline_tests.unit.lake.builders import (
    NOON,
    by_epoch,
    by_run,
    flush,
    no_fsync,
    queued,
    store,
    stored_rows,
    update,
)
from v6_pipeline_tests.unit.lake.recovery.power_cut import Disk, Loss


def mend(copy: Path, name: str = QUEUED_POSITIONS.name) -> bool:
    """Run ``v6 lake repair`` in ``copy``, which must lose nothing; return whether anything was damaged."""
    uri = str(copy / name)
    plan = plan_repair(name, uri)
    assert plan.refused is None, plan
    repair(plan, uri, now=NOON, fsync=no_fsync)
    return bool(plan.findings)


def conids(table: DeltaTableStore) -> set[int]:
    return set(stored_rows(table)["conid"]) if table.load() is not None else set()


@pytest.mark.parametrize("loss", list(Loss), ids=lambda loss: loss.name)
def test_no_acknowledged_row_is_lost_by_a_power_cut_at_any_flush(tmp_path: Path, loss: Loss) -> None:
    """The cuts range from the table's creation over commits, a checkpoint (version 19) and a compaction."""
    lake = tmp_path / "lake"
    lake.mkdir()
    disk = Disk(lake)
    acknowledged: set[int] = set()
    cuts = itertools.count()
    damaged = 0
    table = store(lake, fsync=disk)

    def cut() -> None:
        nonlocal damaged
        copy = disk.after_power_cut(tmp_path / f"cut-{next(cuts)}", loss)
        damaged += mend(copy)
        again = store(copy)
        again.append(queued([update(1000)]), by_run())
        assert conids(again) >= acknowledged | {1000}
        shutil.rmtree(copy)

    for number in range(1, 20):
        disk.on_flush = cut if number in {1, 19} else lambda: None
        table.append(queued([update(number)]), by_run())
        acknowledged.add(number)
    compact(table)
    cut()

    assert next(cuts) > 15
    # A disk that keeps nothing unflushed leaves nothing to repair: the entries of the log come last.
    assert bool(damaged) == (loss is not Loss.VANISHED)


@pytest.mark.parametrize("loss", list(Loss), ids=lambda loss: loss.name)
def test_a_streamer_takes_over_after_a_power_cut_within_a_flush(tmp_path: Path, loss: Loss) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    disk = Disk(lake)
    owner = FencedAppender(
        store(lake, STREAMED_POSITIONS, fsync=disk),
        application_id="streamer",
        epoch=1,
        lineage=by_epoch(kind=CommitKind.FENCE),
    )
    owner.open()
    owner.append(flush(1), by_epoch())
    copies = itertools.count()
    disk.on_flush = lambda: void(disk.after_power_cut(tmp_path / f"cut-{next(copies)}", loss))
    owner.append(flush(2), by_epoch())

    for number in range(next(copies)):
        copy = tmp_path / f"cut-{number}"
        mend(copy, STREAMED_POSITIONS.name)
        table = store(copy, STREAMED_POSITIONS)
        successor = FencedAppender(
            table, application_id="streamer", epoch=2, lineage=by_epoch(2, kind=CommitKind.FENCE)
        )
        successor.open()
        successor.append(flush(3, epoch=2), by_epoch(2))
        assert stored_rows(table).height in {6, 9}


def void(_: object) -> None:
    """Call and discard the result."""


def test_an_acknowledgement_covers_what_other_processes_had_not_flushed_yet(tmp_path: Path) -> None:
    """Otherwise the own commit would survive after a lost one, and could not be read."""
    lake = tmp_path / "lake"
    lake.mkdir()
    disk = Disk(lake)
    first, second = store(lake, fsync=disk), store(lake, fsync=disk)
    first.open()
    second.open()

    def killed() -> None:
        raise OSError(4, "killed before its flush")

    disk.on_flush = killed
    with pytest.raises(LakeError):
        first.append(queued([update(1)]), by_run())
    disk.on_flush = lambda: None

    second.append(queued([update(2)]), by_run())

    copy = disk.after_power_cut(tmp_path / "cut", Loss.VANISHED)
    assert conids(store(copy)) == {1, 2}


def test_log_files_are_dropped_only_once_the_checkpoint_that_replaces_them_is_flushed(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    disk = Disk(lake)
    spec = replace(QUEUED_POSITIONS, log_retention="interval 0 days")
    table = store(lake, spec, fsync=disk)
    for number in range(38):
        table.append(queued([update(number)]), by_run())
    log = Path(table.uri) / "_delta_log"
    seen: list[int] = []
    disk.on_flush = lambda: seen.append(sum(1 for _ in log.glob("*.json")))

    compact(table)

    assert set(seen) == {40}
    assert sum(1 for _ in log.glob("*.json")) < 40
