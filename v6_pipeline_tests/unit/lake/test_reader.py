"""The newest position of each contract, over both logs, from the partitions that matter."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.reader import LATEST_SCHEMA, PinnedTable, last_rows, latest_positions, row_count
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.model import PositionUpdate
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.lake.builders import DAY, NOON, by_epoch, by_run, queued, store, streamed, update


def tables(folder: Path) -> tuple[DeltaTableStore, DeltaTableStore]:
    return store(folder, STREAMED_POSITIONS), store(folder)


def at(days: int = 0, seconds: int = 0, conid: int = 1, **changes: Any) -> PositionUpdate:
    return update(conid, timestamp=NOON + timedelta(days=days, seconds=seconds), **changes)


def write(
    folder: Path, *, stream: list[PositionUpdate] | None = None, queue: list[PositionUpdate] | None = None
) -> None:
    stream_table, queue_table = tables(folder)
    for one in stream or []:
        stream_table.append(streamed([one]), by_epoch())
    queue_table.append(queued(queue or []), by_run())


def test_the_newest_row_wins_over_both_logs_and_names_its_source(tmp_path: Path) -> None:
    write(
        tmp_path,
        stream=[at(seconds=5, position=5.0), at(seconds=1, conid=2, position=1.0)],
        queue=[at(seconds=3, position=3.0), at(seconds=4, conid=2, position=4.0)],
    )
    found = latest_positions(tables(tmp_path))
    assert found.select("conid", "position", "source").rows() == [(1, 5.0, "stream"), (2, 4.0, "queue")]
    assert found.select("epoch", "run_id").rows() == [(1, None), (None, "run-1")]
    assert found.schema == LATEST_SCHEMA


def test_an_open_position_not_refreshed_for_days_is_found(tmp_path: Path) -> None:
    write(tmp_path, queue=[at(days=-6, conid=1), *[at(days=day, conid=2) for day in range(-5, 1)]])
    assert latest_positions(tables(tmp_path))["conid"].to_list() == [1, 2]
    assert latest_positions(tables(tmp_path), lookback_days=6)["conid"].to_list() == [2]


def test_a_closed_position_is_dropped_and_does_not_come_back_from_an_older_day(tmp_path: Path) -> None:
    write(tmp_path, queue=[at(days=-1, position=4.0), at(position=0.0)])
    assert latest_positions(tables(tmp_path)).is_empty()
    closed = latest_positions(tables(tmp_path), include_closed=True)
    assert closed["position"].to_list() == [0.0]


def test_as_of_a_day_newer_rows_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, queue=[at(days=-1, position=4.0), at(position=7.0)])
    assert latest_positions(tables(tmp_path), as_of_day=DAY - timedelta(days=1))["position"].to_list() == [4.0]
    assert latest_positions(tables(tmp_path), as_of_day=date(2020, 1, 1)).is_empty()


def test_days_older_than_needed_are_not_read(tmp_path: Path) -> None:
    """Old partitions may be missing on the disk, and must not be read unless they are needed."""
    write(tmp_path, queue=[at(days=-3, conid=1), at(conid=1), at(conid=2)])
    old_day = (DAY - timedelta(days=3)).isoformat()
    for file in (tmp_path / "queued_positions" / f"date={old_day}").glob("*.parquet"):
        file.unlink()
    found = latest_positions(tables(tmp_path), lookback_days=1)
    assert found["conid"].to_list() == [1, 2]
    with pytest.raises(LakeError):
        latest_positions(tables(tmp_path))


def test_accounts_are_kept_apart(tmp_path: Path) -> None:
    write(tmp_path, queue=[at(position=1.0), at(position=2.0, account="DU2")])
    assert latest_positions(tables(tmp_path)).select("account", "position").rows() == [("DU1", 1.0), ("DU2", 2.0)]


ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(["A", "B"]),
        st.integers(1, 2),
        st.integers(-3, 0),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    max_size=15,
)


@settings(max_examples=examples(15), deadline=None)
@given(ROWS)
def test_latest_positions_equal_a_search_of_every_row(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[bool, str, int, int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    stream = [at(d, s, c, account=a, position=float(p)) for is_stream, a, c, d, s, p in seen if is_stream]
    queue = [at(d, s, c, account=a, position=float(p)) for is_stream, a, c, d, s, p in seen if not is_stream]
    write(folder, stream=stream, queue=queue)
    newest: dict[tuple[str, int], PositionUpdate] = {}
    for one in [*queue, *stream]:  # at equal times the stream, given first, wins
        if one.key not in newest or one.timestamp >= newest[one.key].timestamp:
            newest[one.key] = one
    found = latest_positions(tables(folder), include_closed=True)
    stamps = {(r["account"], r["conid"]): r["timestamp"] for r in found.iter_rows(named=True)}
    assert stamps == {key: one.timestamp for key, one in newest.items()}


def test_a_row_is_taken_whole(tmp_path: Path) -> None:
    """Columns come from one and the same row, also where the newest row has nulls."""
    write(tmp_path, queue=[at(seconds=1, bid=1.0, ask=2.0), at(seconds=2, bid=None, ask=3.0)])
    assert latest_positions(tables(tmp_path)).select("bid", "ask").rows() == [(None, 3.0)]


def test_last_rows_are_the_newest_first(tmp_path: Path) -> None:
    write(tmp_path, queue=[at(days=-1), at(seconds=1, conid=2), at(seconds=2, conid=3), at(seconds=3, conid=4)])
    _, queue = tables(tmp_path)
    assert last_rows(queue, rows=2)["conid"].to_list() == [4, 3]
    assert last_rows(queue, day=DAY - timedelta(days=1))["conid"].to_list() == [1]


def test_rows_are_counted_by_day(tmp_path: Path) -> None:
    write(tmp_path, queue=[at(days=-1), at(), at(conid=2)])
    _, queue = tables(tmp_path)
    assert (row_count(queue, DAY), row_count(queue, DAY - timedelta(days=1)), row_count(queue)) == (2, 1, 3)
    assert row_count(queue, date(2020, 1, 1)) == 0


def test_tables_that_do_not_exist_are_empty(tmp_path: Path) -> None:
    stream, queue = tables(tmp_path)
    assert latest_positions([stream, queue]).schema == LATEST_SCHEMA
    assert last_rows(queue).schema == queue.spec.schema
    assert row_count(queue, DAY) == 0


def test_a_pinned_table_does_not_see_later_commits(tmp_path: Path) -> None:
    _, queue = tables(tmp_path)
    missing = PinnedTable(queue)
    queue.append(queued([update(1)]), by_run())
    pinned = PinnedTable(queue)
    queue.append(queued([update(2, timestamp=NOON + timedelta(days=1))]), by_run())

    assert (missing.version, missing.days, missing.rows(DAY).schema) == (None, frozenset(), queue.spec.schema)
    assert missing.newest_positions(DAY).schema == LATEST_SCHEMA
    assert (pinned.version, pinned.days) == (1, frozenset({DAY}))
    assert pinned.rows(DAY, lambda rows: rows.select("conid"))["conid"].to_list() == [1]
    assert pinned.rows(DAY + timedelta(days=1)).is_empty()
    assert pinned.newest_positions(DAY)["conid"].to_list() == [1]
