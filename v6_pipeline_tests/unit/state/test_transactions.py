"""Transactions: one writer at a time, all or nothing, and failures that say so in one line."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from v6_pipeline.errors import StateError
from v6_pipeline.settings import Settings
from v6_pipeline.state import revisions
from v6_pipeline.state.database import StateDatabase, explain, reads, writes
from v6_pipeline.state.revisions import Revision
from v6_pipeline.state.schema import REVISIONS, VERSION_TABLE, contract_failures, holdings
from v6_pipeline_tests.unit.state.databases import sqlite_url


def _open(path: Path, busy_seconds: float = 5.0) -> StateDatabase:
    return StateDatabase.open(sqlite_url(path), name_for_messages=str(path), busy_seconds=busy_seconds)


def _count(database: StateDatabase) -> int:
    with database.read() as connection:
        return revisions.read(connection)[Revision.REGISTRY]


def _bump(database: StateDatabase) -> None:
    with database.write() as connection:
        revisions.bump(connection, Revision.REGISTRY)


def test_a_write_is_kept(database: StateDatabase) -> None:
    _bump(database)
    _bump(database)

    assert _count(database) == 2


def test_a_write_that_fails_leaves_nothing(database: StateDatabase) -> None:
    def fail_after_writing() -> None:
        with database.write() as connection:
            revisions.bump(connection, Revision.REGISTRY)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_writing()

    assert _count(database) == 0
    _bump(database)
    assert _count(database) == 1


def test_threads_do_not_lose_each_others_writes(database: StateDatabase) -> None:
    """Read, then write what was read plus one: without one writer at a time counts get lost."""

    def add_one(_: int) -> None:
        with database.write() as connection:
            seen = connection.execute(select(contract_failures.c.code)).scalar_one()
            connection.execute(contract_failures.update().values(code=seen + 1))

    with database.write() as connection:
        row = {"conid": 1, "code": 0, "failed_at": datetime.now(UTC)}
        connection.execute(insert(contract_failures).values(row))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add_one, range(60)))

    with database.read() as connection:
        assert connection.scalar(select(contract_failures.c.code)) == 60


def test_readers_do_not_wait_for_the_writer(database: StateDatabase) -> None:
    with database.write() as connection:
        revisions.bump(connection, Revision.REGISTRY)
        assert _count(database) == 0

    assert _count(database) == 1


def test_a_write_within_a_write_is_refused_at_once(database: StateDatabase) -> None:
    with database.write(), pytest.raises(RuntimeError, match="within another"), database.write():
        pass

    _bump(database)


def test_a_lock_that_does_not_end_is_an_error_that_says_so(tmp_path: Path, sqlite_database: StateDatabase) -> None:
    impatient = _open(tmp_path / "state.db", busy_seconds=0.02)

    with sqlite_database.write(), pytest.raises(StateError, match="stays locked by another process"):
        _bump(impatient)

    _bump(impatient)
    impatient.close()


def test_a_lock_that_does_not_end_is_an_error_on_postgresql(
    postgres_url: str, postgres_database: StateDatabase
) -> None:
    impatient = StateDatabase.open(postgres_url, name_for_messages="postgres", busy_seconds=0.02)

    with postgres_database.write(), pytest.raises(StateError, match="stays locked by another process"):
        _bump(impatient)

    _bump(impatient)
    impatient.close()


def test_a_lock_that_ends_in_time_is_waited_for(tmp_path: Path, sqlite_database: StateDatabase) -> None:
    other = _open(tmp_path / "state.db")
    is_waiting = threading.Event()

    def write() -> None:
        is_waiting.set()
        _bump(other)

    with ThreadPoolExecutor(1) as pool:
        with sqlite_database.write() as connection:
            answer = pool.submit(write)
            is_waiting.wait(timeout=10)
            revisions.bump(connection, Revision.REGISTRY)
        answer.result(timeout=30)

    assert _count(sqlite_database) == 2
    other.close()


def test_a_server_whose_packets_vanish_is_given_up_before_a_lease_ends(postgres_database: StateDatabase) -> None:
    with postgres_database.read() as connection:
        raw: Any = connection.connection.driver_connection
        chosen = raw.info.get_parameters()
    lease_seconds = Settings.model_fields["lease_seconds"].default
    idle, interval, count = (int(chosen[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
    assert 0 < idle + interval * count < lease_seconds
    assert 0 < int(chosen["tcp_user_timeout"]) / 1000 < lease_seconds


def test_connections_that_the_server_ended_are_replaced(postgres_database: StateDatabase) -> None:
    with postgres_database.read() as connection:
        mine = connection.scalar(text("SELECT pg_backend_pid()"))
        with postgres_database.read() as another:
            another.execute(text("SELECT 1"))
    with postgres_database.read() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :mine AND pid <> pg_backend_pid()"
            ),
            {"mine": mine},
        )

    _bump(postgres_database)
    _bump(postgres_database)

    assert _count(postgres_database) == 2


def test_a_database_that_breaks_later_is_a_state_error(tmp_path: Path, sqlite_database: StateDatabase) -> None:
    """Each use raises the one-line error, not only opening."""
    sqlite_database.close()
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    (tmp_path / "state.db").write_bytes(b"no database " * 1000)

    with pytest.raises(StateError, match="not a SQLite file"), sqlite_database.read():
        pass
    with pytest.raises(StateError, match="not a SQLite file"):
        _bump(sqlite_database)


def test_a_violated_constraint_is_a_bug_and_stays_one(database: StateDatabase) -> None:
    row = {"account": "A", "conid": 1, "position": 1.0, "observed_at": datetime.now(UTC)}

    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(holdings).values(row))


# Instants


def test_an_instant_comes_back_in_utc_whatever_its_zone_was(database: StateDatabase) -> None:
    moment = datetime(2026, 3, 2, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=-5)))
    with database.write() as connection:
        connection.execute(insert(contract_failures).values(conid=1, code=200, failed_at=moment))

    with database.read() as connection:
        stored = connection.scalar(select(contract_failures.c.failed_at))

    assert stored == moment
    assert stored is not None
    assert stored.tzinfo is UTC


def test_an_instant_without_zone_is_refused(database: StateDatabase) -> None:
    naive = datetime(2026, 3, 2, 9, 30)  # noqa: DTZ001

    with pytest.raises(StatementError, match="naive"), database.write() as connection:
        connection.execute(insert(contract_failures).values(conid=1, code=200, failed_at=naive))


def test_the_newest_revision_is_what_a_new_database_has(database: StateDatabase) -> None:
    with database.read() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == REVISIONS[-1]


def test_a_message_of_the_driver_is_one_line_without_the_password() -> None:
    message = explain(RuntimeError("cannot log in\n  with s3cret-word"), "host/v6", "s3cret-word")

    assert message == "the state database host/v6 failed: cannot log in with ***; check V6_STATE_URL and that it runs"


@writes
def _bump_twice(connection: Connection, *, fails: bool = False) -> None:
    revisions.bump(connection, Revision.REGISTRY)
    if fails:
        raise RuntimeError
    revisions.bump(connection, Revision.REGISTRY)


@reads
def _registry_revision(connection: Connection) -> int:
    return revisions.read(connection)[Revision.REGISTRY]


def test_a_change_given_the_database_is_one_transaction(database: StateDatabase) -> None:
    _bump_twice(database)
    with pytest.raises(RuntimeError):
        _bump_twice(database, fails=True)

    assert _registry_revision(database) == 2


def test_a_change_given_a_connection_joins_its_transaction(database: StateDatabase) -> None:
    with database.write() as connection:
        _bump_twice(connection)

        assert (_registry_revision(connection), _registry_revision(database)) == (2, 0), "not committed yet"

    assert _registry_revision(database) == 2
