"""One table: created with its schema, appended to atomically, errors of one line."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake import definition
from v6_pipeline.lake.columns import Column, TableSpec
from v6_pipeline.lake.faults import is_conflict
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.reader import latest_positions
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline_tests.unit.lake.builders import DAY, by_run, no_fsync, queued, store, stored_rows, update

NEWER = replace(
    QUEUED_POSITIONS,
    columns=(
        *QUEUED_POSITIONS.columns,
        Column(
            name="rho",
            dtype=pl.Float64(),
            meaning="price change per point of interest",
            since=QUEUED_POSITIONS.version + 1,
        ),
    ),
)


def stored_comments(table: DeltaTableStore) -> dict[str, str]:
    """Each column of the table on disk, with its comment."""
    return {field.name: str(field.metadata.get("comment", "")) for field in DeltaTable(table.uri).schema().fields}


@pytest.mark.parametrize("spec", [QUEUED_POSITIONS, STREAMED_POSITIONS, ACCOUNT_VALUES], ids=lambda spec: spec.name)
def test_a_table_is_created_with_its_schema_before_the_first_write(spec: TableSpec, tmp_path: Path) -> None:
    table = store(tmp_path, spec)
    handle = table.open()
    assert handle.metadata().partition_columns == ["date"]
    assert handle.metadata().configuration["delta.checkpointInterval"] == "20"
    assert pl.scan_delta(handle).collect_schema() == spec.schema
    assert stored_comments(table) == {column.name: column.description for column in spec.columns}
    assert handle.protocol().min_reader_version == 1  # anything above would keep other readers out


def test_an_append_is_one_commit_that_says_what_it_holds(tmp_path: Path) -> None:
    table = store(tmp_path)
    made = table.append(queued([update(1), update(2), update(1, "DU2")]), by_run())
    assert (made.version, made.rows, made.contracts, made.rows_by_date) == (1, 3, 3, {DAY: 3})
    assert stored_rows(table).equals(queued([update(1), update(2), update(1, "DU2")]))


def test_an_empty_frame_makes_no_commit_and_no_table(tmp_path: Path) -> None:
    table = store(tmp_path)
    made = table.append(queued([]), by_run())
    assert (made.version, made.rows) == (None, 0)
    assert table.load() is None


def test_the_loser_of_a_first_creation_opens_the_winners_table(tmp_path: Path) -> None:
    """delta-rs raises a plain DeltaError and no conflict."""
    table = store(tmp_path)
    table.append(queued([update()]), by_run())
    assert definition.create(table.spec, table.uri, {}).version() == 1


def test_reading_creates_nothing(tmp_path: Path) -> None:
    table = store(tmp_path)
    assert table.load() is None
    assert latest_positions([table]).is_empty()
    assert not any(tmp_path.iterdir())


# --- migration ---


def test_an_older_table_gets_the_new_columns_as_null(tmp_path: Path) -> None:
    store(tmp_path).append(queued([update(1)]), by_run())
    newer = store(tmp_path, NEWER)
    newer.append(queued([update(2)], spec=NEWER).with_columns(rho=pl.lit(0.5)), by_run())
    assert stored_rows(newer).select("conid", "rho").rows() == [(1, None), (2, 0.5)]
    assert list(stored_comments(newer).items())[-1] == ("rho", NEWER.columns[-1].description)


def test_reading_an_older_table_does_not_change_it(tmp_path: Path) -> None:
    old = store(tmp_path)
    old.append(queued([update(1)]), by_run())
    assert latest_positions([store(tmp_path, NEWER)]).height == 1
    assert len(stored_comments(old)) == len(QUEUED_POSITIONS.columns)


def test_a_migration_that_stopped_halfway_is_finished(tmp_path: Path) -> None:
    handle = store(tmp_path).open()
    store(tmp_path, NEWER).open()
    handle = DeltaTable(handle.table_uri)
    handle.alter.set_table_properties({"v6.schema_version": f"{QUEUED_POSITIONS.version}"}, raise_if_not_exists=False)
    assert store(tmp_path, NEWER).open().metadata().configuration["v6.schema_version"] == f"{NEWER.version}"


def test_a_table_newer_than_the_code_is_refused_in_one_line(tmp_path: Path) -> None:
    store(tmp_path, NEWER).open()
    with pytest.raises(
        LakeError, match=f"version {NEWER.version}, this v6_pipeline knows {QUEUED_POSITIONS.version}: upgrade"
    ):
        store(tmp_path).append(queued([update()]), by_run())


def test_a_writer_that_runs_through_a_migration_stops_instead_of_writing_old_rows(tmp_path: Path) -> None:
    old = store(tmp_path)
    old.append(queued([update(1)]), by_run())
    store(tmp_path, NEWER).open()
    with pytest.raises(LakeError, match="upgrade"):
        old.append(queued([update(2)]), by_run())
    assert stored_rows(old).height == 1


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    columns = tuple(
        replace(column, dtype=pl.String()) if column.name == "strike" else column for column in QUEUED_POSITIONS.columns
    )
    store(tmp_path, replace(QUEUED_POSITIONS, columns=columns)).open()
    with pytest.raises(LakeError, match="column strike is"):
        store(tmp_path).open()


def test_a_table_of_someone_else_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_delta(tmp_path / QUEUED_POSITIONS.name)
    with pytest.raises(LakeError, match="not a table of v6_pipeline"):
        store(tmp_path).open()


# --- failures ---


def _one_line(error: pytest.ExceptionInfo[LakeError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert all(part in text for part in parts), text


def test_a_half_written_log_file_names_the_repair(tmp_path: Path) -> None:
    table = store(tmp_path)
    table.append(queued([update()]), by_run())
    (Path(table.uri) / "_delta_log" / f"{2:020}.json").write_text('{"add":{"path":"da')
    with pytest.raises(LakeError) as caught:
        store(tmp_path).append(queued([update(2)]), by_run())
    _one_line(
        caught,
        "table queued_positions",
        table.uri,
        "is damaged",
        "half-written log file _delta_log/00000000000000000002.json",
        "v6 lake repair queued_positions",
    )
    with pytest.raises(LakeError, match="is damaged"):
        table.append(queued([update(2)]), by_run())  # with a kept handle as well


def test_an_empty_newest_log_file_is_not_taken_for_a_commit(tmp_path: Path) -> None:
    """A power cut leaves it, and delta-rs opens the table as if the rows had never existed."""
    table = store(tmp_path)
    table.append(queued([update()]), by_run())
    (Path(table.uri) / "_delta_log" / f"{1:020}.json").write_text("")
    with pytest.raises(LakeError) as caught:
        store(tmp_path).append(queued([update(2)]), by_run())
    _one_line(caught, "is damaged: empty log file _delta_log/00000000000000000001.json; run 'v6 lake repair")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("")
    with pytest.raises(LakeError) as caught:
        store(tmp_path / "lake").append(queued([update()]), by_run())
    _one_line(caught, "queued_positions", "cannot be written", "make it a folder")


def test_an_unreachable_store_names_the_settings_and_no_secret() -> None:
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "KEYID123",
        "AWS_SECRET_ACCESS_KEY": "hunter2hunter2",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "max_retries": "0",
    }
    table = DeltaTableStore(QUEUED_POSITIONS, "s3://bucket/lake/queued_positions", storage_options=options)
    with pytest.raises(LakeError) as caught:
        table.append(queued([update()]), by_run())
    _one_line(caught, "s3://bucket/lake/queued_positions", "cannot be reached", "V6_LAKE_OPTIONS")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(table)


def test_a_malformed_option_does_not_show_its_value() -> None:
    table = DeltaTableStore(QUEUED_POSITIONS, "s3://bucket/lake", storage_options={"timeout": "hunter2hunter2"})
    with pytest.raises(LakeError) as caught:
        table.open()
    _one_line(caught, "cannot be reached")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_scheme_is_an_error_not_a_missing_table() -> None:
    with pytest.raises(LakeError, match="Unknown scheme") as caught:
        DeltaTableStore(QUEUED_POSITIONS, "nonsense://x/y").load()
    assert str(caught.value) == (
        "table queued_positions at nonsense://x/y: Unknown scheme nonsense; set V6_LAKE_URI to a folder or to an "
        "address that begins with s3://, gs://, az:// or abfss://"
    )


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("nonsense://user:hunter2@host/lake", "nonsense://host/lake"),
        ("memory://user:hunter2@host/lake", "memory://host/lake"),
        ("abfss://container:hunter2@account.dfs.core.windows.net/lake", "abfss://container@account.dfs"),
        ("sftp://user:hunter2@host/lake", "sftp://host/lake"),
    ],
)
def test_no_scheme_shows_the_password_of_its_address(uri: str, shown: str) -> None:
    """Neither where the message names the table, nor where delta-rs repeats the address."""
    with pytest.raises(LakeError) as caught:
        DeltaTableStore(QUEUED_POSITIONS, uri).open()
    _one_line(caught, shown)
    assert "hunter2" not in str(caught.value)


# --- commits that fail after or during ---


class Interrupted(DeltaTableStore):
    """A store whose next writes act as the test says, and the later ones normally."""

    script: list[Callable[[Callable[[], None]], None]]

    def write(
        self, handle: DeltaTable, rows: pl.DataFrame, commit: CommitLineage, transaction: Transaction | None
    ) -> None:
        def really() -> None:
            DeltaTableStore.write(self, handle, rows, commit, transaction)

        if self.script:
            self.script.pop(0)(really)
        else:
            really()


def _interrupted(folder: Path, *script: Callable[[Callable[[], None]], None]) -> Interrupted:
    table = Interrupted(QUEUED_POSITIONS, str(folder / QUEUED_POSITIONS.name), fsync=no_fsync)
    table.script = list(script)
    return table


def _landed_then_lost(really: Callable[[], None]) -> None:
    really()
    raise OSError("connection reset")


def _lost_before(really: Callable[[], None]) -> None:
    raise OSError("connection reset")


def _conflict(really: Callable[[], None]) -> None:
    raise CommitFailedError("Failed to commit transaction: Metadata changed since last commit.")


def test_a_commit_that_landed_despite_an_error_is_found_not_repeated(tmp_path: Path) -> None:
    table = _interrupted(tmp_path, _landed_then_lost)
    made = table.append(queued([update()]), by_run())
    assert made.version == 1
    assert stored_rows(table).height == 1


def test_a_failed_commit_can_be_tried_again_with_the_same_lineage(tmp_path: Path) -> None:
    table = _interrupted(tmp_path, _lost_before)
    commit = by_run()
    with pytest.raises(LakeError, match="connection reset"):
        table.append(queued([update()]), commit)
    assert table.append(queued([update()]), commit).version == 1
    assert stored_rows(table).height == 1


def test_the_next_attempt_finds_an_unknown_outcome(tmp_path: Path) -> None:
    """The commit landed and reading the log failed: the caller must be able to look it up later."""
    table = _interrupted(tmp_path)
    log = Path(table.uri) / "_delta_log"

    def landed_then_gone(really: Callable[[], None]) -> None:
        really()
        (log / f"{2:020}.json").write_text("{")
        raise OSError("connection reset")

    table.open()
    table.script = [landed_then_gone]
    commit = by_run()
    with pytest.raises(LakeError, match="connection reset"):
        table.append(queued([update()]), commit)
    (log / f"{2:020}.json").unlink()
    assert table.append(queued([update()]), commit).version == 1
    assert stored_rows(table).height == 1


def test_a_conflict_is_retried_and_a_refusal_is_not(tmp_path: Path) -> None:
    table = _interrupted(tmp_path, _conflict, _conflict)
    assert table.append(queued([update()]), by_run()).version == 1

    def refused(really: Callable[[], None]) -> None:
        raise CommitFailedError("writer feature timestampNtz is not supported")

    table.script = [refused, _conflict]
    with pytest.raises(LakeError, match="timestampNtz"):
        table.append(queued([update(2)]), by_run())
    assert len(table.script) == 1


def test_conflicts_without_end_are_given_up(tmp_path: Path) -> None:
    table = _interrupted(tmp_path, *[_conflict] * 10)
    with pytest.raises(LakeConflictError, match="10 commits lost"):
        table.append(queued([update()]), by_run())
    assert not table.script


def test_real_conflicts_are_recognised(tmp_path: Path) -> None:
    """The wording is delta-rs's own: this fails if a new version changes it."""
    table = store(tmp_path)
    stale = table.open()
    DeltaTable(table.uri).alter.set_table_properties({"v6.x": "1"}, raise_if_not_exists=False)
    with pytest.raises(CommitFailedError) as caught:
        table.write(stale, table.prepare(queued([update()]), by_run()), by_run(), None)
    assert is_conflict(caught.value)


# --- several processes ---


def _append_some(folder: str, run: int) -> None:
    table = store(Path(folder))
    for number in range(8):
        table.append(queued([update(run * 100 + number)], run_id=f"run-{run}"), by_run(f"run-{run}"))


def test_two_processes_create_and_append_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_some, args=(str(tmp_path), run)) for run in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    table = store(tmp_path)
    assert set(stored_rows(table)["conid"]) == {run * 100 + number for run in (1, 2) for number in range(8)}
    handle = table.load()
    assert handle is not None
    assert handle.version() == 16
