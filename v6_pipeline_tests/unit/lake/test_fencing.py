"""One owner at a time: an owner that was replaced writes nothing, at any point where it stalled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import polars as pl
import pytest
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from hypothesis import given, settings
from hypothesis import strategies as st

from v6_pipeline.errors import FencedError, LakeConflictError, LakeError
from v6_pipeline.lake.commits import read_commits
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.lineage import CommitKind, CommitLineage
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.lake.builders import NOON, by_epoch, flush, no_fsync, store, stored_rows, streamed, update


def owner(folder: Path, epoch: int, *, table: DeltaTableStore | None = None, compact_every: int = 0) -> FencedAppender:
    return FencedAppender(
        table or store(folder, STREAMED_POSITIONS),
        application_id="streamer",
        epoch=epoch,
        lineage=by_epoch(epoch, kind=CommitKind.FENCE),
        compact_every=compact_every,
    )


def opened(folder: Path, epoch: int, **options: int) -> FencedAppender:
    appender = owner(folder, epoch, **options)  # type: ignore[arg-type]
    appender.open()
    return appender


def epochs(folder: Path) -> list[int]:
    return sorted(stored_rows(store(folder, STREAMED_POSITIONS))["epoch"].to_list())


def test_a_replaced_owner_writes_nothing(tmp_path: Path) -> None:
    old = opened(tmp_path, 1)
    old.append(flush(1, rows=1), by_epoch(1))
    opened(tmp_path, 2)
    with pytest.raises(FencedError, match="belongs to epoch 2 now: epoch 1 must stop"):
        old.append(flush(2, rows=1), by_epoch(1))
    assert epochs(tmp_path) == [1]


def test_once_fenced_always_fenced(tmp_path: Path) -> None:
    old = opened(tmp_path, 1)
    opened(tmp_path, 2)
    for _ in range(2):
        with pytest.raises(FencedError):
            old.append(flush(1), by_epoch(1))


class Stalling(DeltaTableStore):
    """A store that calls back between the owner's check and its commit."""

    meanwhile: Callable[[], object] | None = None

    def write(
        self, handle: DeltaTable, rows: pl.DataFrame, commit: CommitLineage, transaction: Transaction | None
    ) -> None:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        super().write(handle, rows, commit, transaction)


def stalling_owner(folder: Path) -> tuple[Stalling, FencedAppender]:
    table = Stalling(STREAMED_POSITIONS, str(folder / STREAMED_POSITIONS.name), fsync=no_fsync)
    appender = owner(folder, 1, table=table)
    appender.open()
    return table, appender


def test_a_conflict_is_tried_again_and_any_other_failure_surfaces(tmp_path: Path) -> None:
    """delta-rs raises the same class for both; the kept handle works after either."""
    table = Stalling(STREAMED_POSITIONS, str(tmp_path / STREAMED_POSITIONS.name), fsync=no_fsync)
    appender = owner(tmp_path, 1, table=table)
    appender.open()

    def fail(text: str) -> Callable[[], None]:
        def failing() -> None:
            raise CommitFailedError(text)

        return failing

    table.meanwhile = fail("Failed to commit transaction: Concurrent transaction failed")
    assert appender.append(flush(1, rows=1), by_epoch()).version == 2

    table.meanwhile = fail("writer feature timestampNtz is not supported")
    commit = by_epoch()
    with pytest.raises(LakeError, match="timestampNtz") as caught:
        appender.append(flush(2, rows=1), commit)
    assert not isinstance(caught.value, LakeConflictError)
    assert appender.append(flush(2, rows=1), commit).version == 3
    assert epochs(tmp_path) == [1, 1]


def test_an_owner_stalled_between_check_and_commit_writes_nothing(tmp_path: Path) -> None:
    table, old = stalling_owner(tmp_path)
    table.meanwhile = lambda: opened(tmp_path, 2).append(flush(5, rows=1, epoch=2), by_epoch(2))
    with pytest.raises(FencedError):
        old.append(flush(1), by_epoch(1))
    assert epochs(tmp_path) == [2]


def test_an_owner_stalled_over_many_commits_a_checkpoint_and_a_compaction_writes_nothing(tmp_path: Path) -> None:
    table, old = stalling_owner(tmp_path)

    def meanwhile() -> None:
        new = opened(tmp_path, 2, compact_every=10)
        for number in range(25):
            new.append(flush(number, rows=1, epoch=2), by_epoch(2))

    table.meanwhile = meanwhile
    with pytest.raises(FencedError):
        old.append(flush(100), by_epoch(1))
    assert epochs(tmp_path) == [2] * 25
    assert list((Path(table.uri) / "_delta_log").glob("*.checkpoint.parquet"))


def test_an_older_epoch_cannot_take_over(tmp_path: Path) -> None:
    opened(tmp_path, 5)
    with pytest.raises(FencedError, match="epoch 4 must stop"):
        owner(tmp_path, 4).open()


def test_an_older_epoch_cannot_take_over_after_a_checkpoint(tmp_path: Path) -> None:
    opened(tmp_path, 5)
    handle = store(tmp_path, STREAMED_POSITIONS).open()
    handle.create_checkpoint()
    with pytest.raises(FencedError):
        owner(tmp_path, 4).open()


def test_an_owner_that_opens_while_a_newer_one_does_is_refused(tmp_path: Path) -> None:
    table = Stalling(STREAMED_POSITIONS, str(tmp_path / STREAMED_POSITIONS.name), fsync=no_fsync)
    table.open()
    table.meanwhile = lambda: opened(tmp_path, 2)
    with pytest.raises(FencedError):
        owner(tmp_path, 1, table=table).open()


def test_the_same_owner_may_open_again_and_go_on(tmp_path: Path) -> None:
    first = opened(tmp_path, 1)
    first.append(flush(1, rows=1), by_epoch(1))
    again = opened(tmp_path, 1)
    again.append(flush(2, rows=1), by_epoch(1))
    assert epochs(tmp_path) == [1, 1]
    with pytest.raises(FencedError):
        first.append(flush(3), by_epoch(1))


@pytest.mark.parametrize("what", ["compaction", "append", "property"])
def test_harmless_commits_of_others_are_not_taken_for_fencing(what: str, tmp_path: Path) -> None:
    table, appender = stalling_owner(tmp_path)
    for number in range(3):
        appender.append(flush(number, rows=1), by_epoch(1))
    other = store(tmp_path, STREAMED_POSITIONS)
    actions: dict[str, Callable[[], object]] = {
        "compaction": lambda: compact(other),
        "append": lambda: other.append(streamed([update(9)]), by_epoch(1)),
        "property": lambda: other.open().alter.set_table_properties({"v6.x": "1"}, raise_if_not_exists=False),
    }
    table.meanwhile = actions[what]
    before = stored_rows(other).height
    made = appender.append(flush(10, rows=1), by_epoch(1))
    assert stored_rows(other).height == before + (2 if what == "append" else 1)
    assert made.version == table.open().version()
    appender.append(flush(11, rows=1), by_epoch(1))


def test_a_flush_that_landed_despite_an_error_is_not_written_twice(tmp_path: Path) -> None:
    class Failing(DeltaTableStore):
        failures = 0

        def make_durable(self, version: int) -> None:
            del version
            if self.failures:
                self.failures -= 1
                raise OSError(5, "Input/output error")

    table = Failing(STREAMED_POSITIONS, str(tmp_path / STREAMED_POSITIONS.name))
    appender = owner(tmp_path, 1, table=table)
    appender.open()
    table.failures = 1
    commit = by_epoch(1)
    with pytest.raises(LakeError, match="Input/output"):
        appender.append(flush(1), commit)
    assert appender.append(flush(1), commit).version == 2
    assert stored_rows(table).height == 3
    assert appender.append(flush(2), by_epoch(1)).version == 3


def test_the_next_flush_works_after_an_unknown_outcome(tmp_path: Path) -> None:
    """The caller may drop the failed flush: that must not look like another owner."""
    table, appender = stalling_owner(tmp_path)

    def fail() -> None:
        raise OSError("connection reset")

    table.meanwhile = fail
    with pytest.raises(LakeError, match="connection reset"):
        appender.append(flush(1), by_epoch(1))
    appender.append(flush(2), by_epoch(1))
    assert stored_rows(table).height == 3


def test_an_empty_flush_makes_no_commit_and_an_unopened_owner_none_either(tmp_path: Path) -> None:
    appender = opened(tmp_path, 1)
    assert appender.append(flush(1, rows=0), by_epoch(1)).version is None
    with pytest.raises(LakeError, match="call open"):
        owner(tmp_path, 1).append(flush(1), by_epoch(1))


def test_a_failed_compaction_does_not_fail_the_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LakeError("no space left")

    monkeypatch.setattr("v6_pipeline.lake.fencing.compact", broken)
    appender = opened(tmp_path, 1, compact_every=2)
    for number in range(3):
        appender.append(flush(number, rows=1), by_epoch(1))
    assert appender.last_compaction_error == "no space left"
    assert epochs(tmp_path) == [1, 1, 1]


STEPS = st.lists(st.tuples(st.sampled_from(["open", "append"]), st.integers(0, 2)), min_size=3, max_size=12)


@settings(max_examples=examples(12), deadline=None)
@given(STEPS)
def test_only_the_newest_owner_ever_writes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Three owners open and append in any order."""
    folder = tmp_path_factory.mktemp("lake")
    owners = [owner(folder, epoch) for epoch in (1, 2, 3)]
    newest, expected = 0, []
    is_open = [False, False, False]
    for number, (step, which) in enumerate(steps):
        epoch = which + 1
        if step == "open":
            if epoch < newest:
                with pytest.raises(FencedError):
                    owners[which].open()
            else:
                owners[which].open()
                newest, is_open[which] = epoch, True
        elif not is_open[which]:
            continue
        elif epoch < newest:
            with pytest.raises(FencedError):
                owners[which].append(flush(number, rows=1, epoch=epoch), by_epoch(epoch))
        else:
            owners[which].append(flush(number, rows=1, epoch=epoch), by_epoch(epoch))
            expected.append(epoch)
    if newest:
        assert epochs(folder) == sorted(expected)


def test_compaction_keeps_the_files_few_and_the_rows_all(tmp_path: Path) -> None:
    appender = opened(tmp_path, 1, compact_every=10)
    for number in range(25):
        appender.append(flush(number), by_epoch(1))
    table = store(tmp_path, STREAMED_POSITIONS)
    handle = table.load()
    assert handle is not None
    assert len(handle.file_uris()) <= 10
    assert stored_rows(table).height == 75
    kinds = [info.kind for info in read_commits(table, -1, 100)]
    assert kinds.count(CommitKind.MAINTENANCE) == 2
    assert (kinds.count(CommitKind.FENCE), kinds.count(CommitKind.DATA)) == (1, 25)


def test_the_cost_of_an_append_does_not_grow(tmp_path: Path) -> None:
    """A rough guard, for a busy machine: without compaction the ratio is above 3 at this length."""
    appender = opened(tmp_path, 1, compact_every=25)
    taken = []
    for number in range(140):
        rows = streamed([update(conid, timestamp=NOON + timedelta(seconds=number)) for conid in range(20)])
        started = perf_counter()
        appender.append(rows, by_epoch(1))
        taken.append(perf_counter() - started)
    # The shortest of each: other load adds to some of them, growth would add to all.
    assert min(taken[110:]) < 2.5 * min(taken[10:40])
