"""Replacing a group of rows: atomic, without change to other groups, and without a commit for equal content."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace as changed
from datetime import UTC, date, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake.exceptions import CommitFailedError

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake import commits
from v6_pipeline.lake import replace as replace_module
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.commits import read_commits
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.recovery.durability import Fsync, log_file, read_log
from v6_pipeline.lake.recovery.repair import plan_repair, repair
from v6_pipeline.lake.replace import REPLACE_ATTEMPTS, replace
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import (
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    HISTORY_TABLES,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
)
from v6_pipeline_tests.unit.lake.builders import CODE, NOON, no_fsync, queued, store
from v6_pipeline_tests.unit.lake.recovery.power_cut import Disk, Loss

FIRST, SECOND = date(2026, 1, 1), date(2026, 1, 2)
_SAMPLES: dict[pl.DataType, Any] = {
    pl.String(): "x",
    pl.Int64(): 1,
    pl.Int32(): 1,
    pl.Float64(): 1.5,
    pl.Boolean(): True,
    pl.Date(): FIRST,
    pl.Datetime("us", "UTC"): NOON,
    pl.List(pl.String()): ["x"],
}


def row(spec: TableSpec, **values: Any) -> dict[str, Any]:
    """A row of the table: required columns of some value, all others null."""
    filled = {column.name: _SAMPLES[column.dtype] if column.required else None for column in spec.columns}
    return filled | values


def rows(spec: TableSpec, *values: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([row(spec, **given) for given in values], schema=spec.schema)


def held(day: date, account: str = "DU1", *positions: float) -> pl.DataFrame:
    """Flex positions of contracts 1, 2, ..."""
    numbered = enumerate(positions, start=1)
    return rows(
        FLEX_POSITIONS,
        *({"date": day, "account": account, "conid": conid, "position": position} for conid, position in numbered),
    )


def lineage(**changes: Any) -> CommitLineage:
    return changed(CommitLineage(asset="flex_positions", source="flex", code_version=CODE, run_id="run-1"), **changes)


def content(table: DeltaTableStore, day: date | None = None) -> list[tuple[str, str, int, float]]:
    frame = pl.scan_delta(table.uri).collect()
    if day is not None:
        frame = frame.filter(pl.col("date") == day)
    found = frame.select(pl.col("date").cast(pl.String), "account", "conid", "position").sort(pl.all())
    return list(found.iter_rows())


def version(table: DeltaTableStore) -> int:
    handle = table.load()
    assert handle is not None
    return handle.version()


@pytest.fixture
def table(tmp_path: Path) -> DeltaTableStore:
    return store(tmp_path, FLEX_POSITIONS)


def test_a_day_written_again_takes_its_own_place_and_no_other(table: DeltaTableStore) -> None:
    """The three writes with which IO managers lost the rows of the other day."""
    replace(table, held(FIRST, "DU1", 1, 2), [(FIRST, "DU1")], lineage())
    replace(table, held(SECOND, "DU1", 3), [(SECOND, "DU1")], lineage())
    made = replace(table, held(FIRST, "DU1", 9), [(FIRST, "DU1")], lineage())

    assert (made.version, made.changed, made.rows) == (3, True, 1)
    assert content(table) == [("2026-01-01", "DU1", 1, 9.0), ("2026-01-02", "DU1", 1, 3.0)]


@pytest.mark.parametrize("spec", HISTORY_TABLES, ids=lambda spec: spec.name)
def test_every_table_of_history_takes_the_three_writes(spec: TableSpec, tmp_path: Path) -> None:
    table = store(tmp_path, spec)
    group = (*(("DU1",) if "account" in spec.replaced_by else ()),)
    accounts = {"account": "DU1"} if spec.has("account") else {}
    for day, stamp in ((FIRST, NOON), (SECOND, NOON), (FIRST, NOON + timedelta(seconds=1))):
        frame = rows(spec, {"date": day, "timestamp": stamp} | accounts)
        assert replace(table, frame, [(day, *group)], lineage(), accounts=["DU1"]).changed
        assert not replace(table, frame, [(day, *group)], lineage(), accounts=["DU1"]).changed

    left = pl.scan_delta(table.uri).select("date", "timestamp").sort("date").collect().rows()
    assert left == [(FIRST, NOON + timedelta(seconds=1)), (SECOND, NOON)]


def test_an_account_is_replaced_without_the_others_of_the_day(table: DeltaTableStore) -> None:
    both = pl.concat([held(FIRST, "DU1", 1), held(FIRST, "O'Neil", 2)])
    replace(table, both, [(FIRST, "DU1"), (FIRST, "O'Neil")], lineage())
    replace(table, held(FIRST, "O'Neil", 5), [(FIRST, "O'Neil")], lineage())
    assert content(table) == [("2026-01-01", "DU1", 1, 1.0), ("2026-01-01", "O'Neil", 1, 5.0)]


def test_an_empty_frame_empties_the_groups_that_are_named(table: DeltaTableStore) -> None:
    for account in ("DU1", "DU2"):
        replace(table, held(FIRST, account, 1), [(FIRST, account)], lineage())
    flat = replace(table, held(FIRST, "DU1"), [(FIRST, "DU1")], lineage())
    again = replace(table, held(FIRST, "DU1"), [(FIRST, "DU1")], lineage())

    assert (flat.version, flat.changed, flat.rows) == (3, True, 0)
    assert (again.version, again.changed, again.rows) == (3, False, 0)
    assert content(table) == [("2026-01-01", "DU2", 1, 1.0)]


def test_nothing_in_place_of_nothing_makes_no_table(table: DeltaTableStore) -> None:
    made = replace(table, held(FIRST), [(FIRST, "DU1")], lineage())
    assert (made.version, made.changed) == (None, False)
    assert table.load() is None


@pytest.mark.parametrize(
    "frame",
    [held(SECOND, "DU1", 1), held(FIRST, "DU2", 1), pl.concat([held(FIRST, "DU1", 1), held(SECOND, "DU1", 1)])],
    ids=["other day", "other account", "one inside, one outside"],
)
def test_rows_outside_the_groups_are_refused(table: DeltaTableStore, frame: pl.DataFrame) -> None:
    with pytest.raises(LakeError, match=r"flex_positions refused the rows: 1 lie outside the groups replaced, such as"):
        replace(table, frame, [(FIRST, "DU1")], lineage())
    assert table.load() is None


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [(FIRST,)],
        [("2026-01-01", "DU1")],
        [(datetime(2026, 1, 1, tzinfo=UTC), "DU1")],
        [(FIRST, FIRST)],
    ],
)
def test_groups_that_are_not_the_tables_own_are_refused(table: DeltaTableStore, groups: list[Any]) -> None:
    with pytest.raises(LakeError, match=r"group"):
        replace(table, held(FIRST), groups, lineage())


def test_a_log_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="queued_positions is a log: append to it"):
        replace(store(tmp_path, QUEUED_POSITIONS), queued([]), [(FIRST,)], lineage())


# --- equal content ---


def test_equal_content_makes_no_commit_and_names_the_version_that_brought_it(table: DeltaTableStore) -> None:
    replace(table, held(FIRST, "DU1", 1, 2), [(FIRST, "DU1")], lineage())
    replace(table, held(SECOND, "DU1", 3), [(SECOND, "DU1")], lineage())
    compact(table)
    upside_down = held(FIRST, "DU1", 1, 2).sort("conid", descending=True)

    made = replace(table, upside_down, [(FIRST, "DU1")], lineage())
    both = replace(
        table, pl.concat([upside_down, held(SECOND, "DU1", 3)]), [(FIRST, "DU1"), (SECOND, "DU1")], lineage()
    )

    assert (made.version, made.changed, made.rows) == (1, False, 2)
    assert (both.version, both.changed, both.rows) == (2, False, 3)
    assert version(table) == 2


def test_a_version_further_back_than_one_look_at_the_log_is_found(table: DeltaTableStore) -> None:
    replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    for number in range(55):
        replace(table, held(SECOND, "DU1", number), [(SECOND, "DU1")], lineage())
    assert replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage()).version == 1


def test_where_the_log_has_expired_the_current_version_holds_it(table: DeltaTableStore) -> None:
    replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    for number in range(22):
        replace(table, held(SECOND, "DU1", number), [(SECOND, "DU1")], lineage())
    for expired in range(5):
        log_file(Path(table.uri), expired).unlink()
    assert replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage()).version == version(table) == 23


def test_the_search_for_the_writer_ends_where_the_log_begins(
    table: DeltaTableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits of later windows were counted for expired ones, so that the search went on to version 0."""
    replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    for number in range(22):
        replace(table, held(SECOND, "DU1", number), [(SECOND, "DU1")], lineage())
    handle = table.load()
    assert handle is not None
    handle.create_checkpoint()
    for expired in range(12):
        log_file(Path(table.uri), expired).unlink()
    tried: list[int] = []

    def counted(folder: Path, version: int) -> list[dict[str, Any]]:
        tried.append(version)
        return read_log(folder, version)

    monkeypatch.setattr(replace_module, "_VERSIONS_AT_ONCE", 5)
    monkeypatch.setattr(commits, "read_log", counted)
    made = replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())

    assert (made.version, made.changed) == (23, False)
    # Windows of 19 to 23, 14 to 18 and 9 to 13, the last of which begins in what has expired.
    assert [version for version in tried if version < 12] == [9]


def test_columns_of_provenance_do_not_count(table: DeltaTableStore) -> None:
    frame = held(FIRST, "DU1", 1)
    replace(table, frame, [(FIRST, "DU1")], lineage())
    later = frame.with_columns(run_id=pl.lit("run-2"), ingested_at=pl.col("ingested_at") + timedelta(days=3))
    assert not replace(table, later, [(FIRST, "DU1")], lineage(run_id="run-2")).changed


_PAIRS = [{"name": "a", "value": "1"}, {"name": "b", "value": None}]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"market_price": None}, {"market_price": 0.0}),
        ({"market_price": 1.0}, {"market_price": None}),
        ({"market_price": 0.1 + 0.2}, {"market_price": 0.3}),
        ({"strategy_ids": None}, {"strategy_ids": []}),
        ({"strategy_ids": ["a"]}, {"strategy_ids": ["a", "b"]}),
        ({"strategy_ids": ["a"]}, {"strategy_ids": ["b"]}),
        ({"attributes": None}, {"attributes": []}),
        ({"attributes": _PAIRS}, {"attributes": _PAIRS[:1]}),
        ({"attributes": _PAIRS}, {"attributes": [_PAIRS[0], {"name": "b", "value": ""}]}),
        ({"expiry": None}, {"expiry": FIRST}),
        ({"price_time": NOON}, {"price_time": NOON + timedelta(microseconds=1)}),
    ],
)
def test_what_differs_is_seen(table: DeltaTableStore, before: dict[str, Any], after: dict[str, Any]) -> None:
    key = {"date": FIRST, "account": "DU1"}
    old, new = rows(FLEX_POSITIONS, key | before), rows(FLEX_POSITIONS, key | after)
    replace(table, old, [(FIRST, "DU1")], lineage())
    assert not replace(table, old, [(FIRST, "DU1")], lineage()).changed
    assert replace(table, new, [(FIRST, "DU1")], lineage()).changed
    assert not replace(table, new, [(FIRST, "DU1")], lineage()).changed


def test_nan_is_refused_and_not_compared(table: DeltaTableStore) -> None:
    with pytest.raises(LakeError, match="NaN"):
        replace(table, held(FIRST, "DU1", float("nan")), [(FIRST, "DU1")], lineage())


def test_a_null_in_the_key_compares(tmp_path: Path) -> None:
    table = store(tmp_path, PORTFOLIO_EXPOSURE)
    frame = rows(PORTFOLIO_EXPOSURE, *({"date": FIRST, "underlying_conid": conid} for conid in (None, 2, 1)))
    replace(table, frame, [(FIRST,)], lineage())
    assert not replace(table, frame.reverse(), [(FIRST,)], lineage()).changed


# --- what the commit says, and whose accounts ---


def test_the_commit_names_what_it_replaced(table: DeltaTableStore) -> None:
    replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1"), (FIRST, "DU2")], lineage(partition="2026-01-01"))
    [commit] = read_commits(table, 0, 5)
    assert commit.replaced == (
        {"date": "2026-01-01", "account": "DU1"},
        {"date": "2026-01-01", "account": "DU2"},
    )
    assert (commit.asset, commit.run_id, commit.partition, commit.rows) == ("flex_positions", "run-1", "2026-01-01", 1)


def test_simulated_and_real_accounts_do_not_mix(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path), fsync=no_fsync)
    replace(lake.table(FLEX_POSITIONS), held(FIRST, "SIM1", 1), [(FIRST, "SIM1")], lineage())
    closes = rows(HISTORICAL_CLOSES, {"date": FIRST})

    with pytest.raises(LakeError, match="DU1 is real"):
        replace(lake.table(FLEX_POSITIONS), held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    with pytest.raises(LakeError, match="DU1 is real"):
        replace(lake.table(HISTORICAL_CLOSES), closes, [(FIRST,)], lineage(), accounts=["DU1"])
    with pytest.raises(LakeError, match="name no account: pass their accounts"):
        replace(lake.table(HISTORICAL_CLOSES), closes, [(FIRST,)], lineage())
    assert replace(lake.table(HISTORICAL_CLOSES), closes, [(FIRST,)], lineage(), accounts=["SIM1"]).changed


def test_contracts_are_counted_where_rows_have_no_account(tmp_path: Path) -> None:
    table = store(tmp_path, HISTORICAL_CLOSES)
    replace(table, rows(HISTORICAL_CLOSES, *({"date": FIRST, "conid": n} for n in (1, 2))), [(FIRST,)], lineage())
    assert [commit.contracts for commit in read_commits(table, 0, 5)] == [2]


# --- other writers ---


class Interrupted(DeltaTableStore):
    """A store whose overwrites go as the script says: each step is given the real one to call or not."""

    script: list[Callable[[Callable[[], None]], None]]

    def overwrite(self, *args: Any) -> None:
        step = self.script.pop(0) if self.script else None
        if step is None:
            super().overwrite(*args)
        else:
            step(lambda: DeltaTableStore.overwrite(self, *args))


def interrupted(folder: Path, *script: Callable[[Callable[[], None]], None]) -> Interrupted:
    table = Interrupted(FLEX_POSITIONS, str(folder / FLEX_POSITIONS.name), fsync=no_fsync)
    table.script = list(script)
    return table


def test_a_lost_commit_is_compared_again_before_the_next(tmp_path: Path) -> None:
    """Another run has written the same content: its version is the answer."""

    def first_the_other(really: Callable[[], None]) -> None:
        replace(store(tmp_path, FLEX_POSITIONS), held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
        really()

    table = interrupted(tmp_path, first_the_other)
    made = replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    assert (made.version, made.changed) == (1, False)


def test_what_another_wrote_meanwhile_is_replaced_and_not_added_to(tmp_path: Path) -> None:
    def first_the_other(really: Callable[[], None]) -> None:
        replace(store(tmp_path, FLEX_POSITIONS), held(FIRST, "DU1", 7, 7, 7), [(FIRST, "DU1")], lineage())
        really()

    table = interrupted(tmp_path, first_the_other)
    made = replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    assert (made.version, made.changed) == (2, True)
    assert content(table) == [("2026-01-01", "DU1", 1, 1.0)]


def test_a_compaction_between_comparing_and_committing_loses_and_doubles_nothing(tmp_path: Path) -> None:
    for account in ("DU1", "DU2", "DU3"):
        replace(store(tmp_path, FLEX_POSITIONS), held(FIRST, account, 1), [(FIRST, account)], lineage())

    def first_a_compaction(really: Callable[[], None]) -> None:
        assert compact(store(tmp_path, FLEX_POSITIONS)).version == 4
        really()

    table = interrupted(tmp_path, first_a_compaction)
    assert replace(table, held(FIRST, "DU2", 5), [(FIRST, "DU2")], lineage()).version == 5
    assert [(found[1], found[3]) for found in content(table)] == [("DU1", 1.0), ("DU2", 5.0), ("DU3", 1.0)]


def test_a_compaction_that_a_replacement_overtook_changes_nothing(tmp_path: Path) -> None:
    table = store(tmp_path, FLEX_POSITIONS)
    for account in ("DU1", "DU2", "DU3"):
        replace(table, held(FIRST, account, 1), [(FIRST, account)], lineage())
    before = table.open()
    replace(table, held(FIRST, "DU2", 5), [(FIRST, "DU2")], lineage())
    with pytest.raises(LakeConflictError):
        compact(table, before)
    assert [(found[1], found[3]) for found in content(table)] == [("DU1", 1.0), ("DU2", 5.0), ("DU3", 1.0)]


def test_an_unknown_outcome_is_looked_up_and_nothing_written_twice(tmp_path: Path) -> None:
    def landed_without_an_answer(really: Callable[[], None]) -> None:
        really()
        raise OSError(5, "Input/output error")

    table = interrupted(tmp_path, landed_without_an_answer)
    made = replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    assert (made.version, made.changed) == (1, True)
    assert version(table) == 1


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    def full(really: Callable[[], None]) -> None:
        raise OSError(28, "No space left on device")

    replace(store(tmp_path, FLEX_POSITIONS), held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    table = interrupted(tmp_path, full)
    with pytest.raises(LakeError, match=r"cannot be written: the disk is full \(.*No space left.*\); free some space$"):
        replace(table, held(FIRST, "DU1", 2), [(FIRST, "DU1")], lineage())
    assert content(table) == [("2026-01-01", "DU1", 1, 1.0)]


def test_conflicts_without_end_are_given_up(tmp_path: Path) -> None:
    def conflict(really: Callable[[], None]) -> None:
        raise CommitFailedError("Failed to commit transaction: 0")

    table = interrupted(tmp_path, *[conflict] * REPLACE_ATTEMPTS)
    with pytest.raises(LakeConflictError, match=f"{REPLACE_ATTEMPTS} commits lost; try again"):
        replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    assert not table.script


def _replace_some(folder: str, begin: Barrier, day: date, account: str, seed: int) -> None:
    table = store(Path(folder), FLEX_POSITIONS)
    begin.wait(60)
    for number in range(6):
        replace(table, held(day, account, *[seed + number] * 4), [(day, account)], lineage())


def _compact_some(folder: str, begin: Barrier) -> None:
    table = store(Path(folder), FLEX_POSITIONS)
    begin.wait(60)
    for _ in range(3):
        try:
            compact(table)
        except LakeConflictError:
            continue


def test_processes_that_replace_and_compact_at_once_lose_and_double_no_row(tmp_path: Path) -> None:
    """Two of the same group, one of another account of the day, one of another day, and a compaction."""
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(5)
    folder = str(tmp_path)
    writers = [(FIRST, "DU1", 100), (FIRST, "DU1", 200), (FIRST, "DU2", 300), (SECOND, "DU1", 400)]
    workers = [context.Process(target=_replace_some, args=(folder, begin, *given)) for given in writers]
    workers.append(context.Process(target=_compact_some, args=(folder, begin)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)

    assert [worker.exitcode for worker in workers] == [0] * 5
    table = store(tmp_path, FLEX_POSITIONS)
    found = content(table)
    assert [row[:3] for row in found] == [
        (day, account, conid)
        for day, account in (("2026-01-01", "DU1"), ("2026-01-01", "DU2"), ("2026-01-02", "DU1"))
        for conid in (1, 2, 3, 4)
    ]
    assert {position for *_, position in found[:4]} in ({105.0}, {205.0})
    assert {position for *_, position in found[4:8]} == {305.0}
    assert {position for *_, position in found[8:]} == {405.0}


# --- crashes ---

_OLD, _NEW = [1.0] * 2_000, [2.0] * 2_000


def replace_for_ever(folder: str) -> None:
    """Old and new content in turn, a line for each that is acknowledged; for a process that is killed at it."""
    table = store(Path(folder), FLEX_POSITIONS)
    for content_of_turn in itertools.cycle((_NEW, _OLD)):
        replace(table, held(FIRST, "DU1", *content_of_turn), [(FIRST, "DU1")], lineage())
        sys.stdout.write(f"{content_of_turn[0]:.0f}\n")
        sys.stdout.flush()


def test_killed_at_any_moment_the_old_or_the_new_content_is_left(tmp_path: Path) -> None:
    """The process is killed 3 to 40 ms after an acknowledgement: within the comparison, the write or the commit."""
    table = store(tmp_path, FLEX_POSITIONS)
    replace(table, held(SECOND, "DU1", 7), [(SECOND, "DU1")], lineage())
    code = f"from {__name__} import replace_for_ever; replace_for_ever({str(tmp_path)!r})"
    for after_ms in (3, 11, 19, 28, 40):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
        ) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline() for _ in range(3)]
            assert all(acknowledged)
            threading.Timer(after_ms / 1000, os.kill, (process.pid, signal.SIGKILL)).start()
            process.wait(30)
        found = [position for *_, position in content(table, FIRST)]
        assert found in (_OLD, _NEW)
        assert replace(table, held(FIRST, "DU1", 5), [(FIRST, "DU1")], lineage()).changed
        assert len(content(table)) == 2
        replace(table, held(FIRST, "DU1", *_OLD), [(FIRST, "DU1")], lineage())


def mend(copy: Path) -> None:
    """Run ``v6 lake repair`` in ``copy``, which must not need to lose anything."""
    uri = str(copy / FLEX_POSITIONS.name)
    plan = plan_repair(FLEX_POSITIONS.name, uri)
    assert plan.refused is None, plan
    repair(plan, uri, now=NOON, fsync=no_fsync)


@pytest.mark.parametrize("loss", list(Loss), ids=lambda loss: loss.name)
def test_acknowledged_rows_survive_a_power_cut_at_any_flush(tmp_path: Path, loss: Loss) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    disk = Disk(lake)
    table = store(lake, FLEX_POSITIONS, fsync=disk)
    replace(
        table, pl.concat([held(FIRST, "DU1", 1), held(FIRST, "DU2", 1)]), [(FIRST, "DU1"), (FIRST, "DU2")], lineage()
    )
    cuts = itertools.count()
    acknowledged = 1.0

    def cut() -> None:
        copy = disk.after_power_cut(tmp_path / f"cut-{next(cuts)}", loss)
        mend(copy)
        left = store(copy, FLEX_POSITIONS)
        found = content(left)
        assert [found[0][:3], found[1]] == [("2026-01-01", "DU1", 1), ("2026-01-01", "DU2", 1, 1.0)]
        assert found[0][3] in {acknowledged, acknowledged + 1}
        assert replace(left, held(FIRST, "DU1", 99), [(FIRST, "DU1")], lineage()).changed
        assert len(content(left)) == 2
        shutil.rmtree(copy)

    disk.on_flush = cut
    for position in (2.0, 3.0):
        replace(table, held(FIRST, "DU1", position), [(FIRST, "DU1")], lineage())
        acknowledged = position
    disk.on_flush = lambda: None
    assert next(cuts) > 8


def test_a_disk_that_fails_is_no_acknowledgement(tmp_path: Path) -> None:
    failing: list[bool] = []

    def fsync(path: Path) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    flush: Fsync = fsync
    table = store(tmp_path, FLEX_POSITIONS, fsync=flush)
    replace(table, held(FIRST, "DU1", 1), [(FIRST, "DU1")], lineage())
    commit = lineage()
    failing.append(True)
    with pytest.raises(LakeError, match="check the disk"):
        replace(table, held(FIRST, "DU1", 2), [(FIRST, "DU1")], commit)
    failing.clear()

    again = replace(table, held(FIRST, "DU1", 2), [(FIRST, "DU1")], commit)
    assert (again.version, again.changed) == (2, True)
    assert version(table) == 2


def test_the_tables_of_history_say_what_is_replaced_together() -> None:
    by_account = {FLEX_STATEMENTS.name, FLEX_POSITIONS.name, FLEX_ACTIVITY.name}
    for spec in HISTORY_TABLES:
        assert spec.replaced_by == (("date", "account") if spec.name in by_account else ("date",))
        assert spec.replaced_by == spec.key[: len(spec.replaced_by)]
    assert {"run_id", "ingested_at"} <= set(POSITION_SNAPSHOTS.provenance)
