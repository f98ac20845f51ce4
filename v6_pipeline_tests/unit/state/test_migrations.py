"""The migrations lead to exactly the tables that a new database gets and the code uses."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from v6_pipeline.errors import StateError
from v6_pipeline.state import migrations, schema
from v6_pipeline.state.database import StateDatabase, copy_path
from v6_pipeline.state.schema import REVISIONS, VERSION_TABLE, metadata


def test_the_listed_revisions_are_the_migrations_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))

    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]

    assert tuple(reversed(found)) == REVISIONS


@contextmanager
def migrated(url: str) -> Iterator[Connection]:
    """An empty database, brought to the newest revision by all migrations."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            migrations.upgrade(connection)
            yield connection
    finally:
        engine.dispose()


@pytest.fixture
def empty_postgres(postgres_server: Any) -> Iterator[str]:
    postgres_server.psql("CREATE DATABASE empty")
    yield str(postgres_server.get_uri("empty")).replace("postgresql://", "postgresql+psycopg://")
    postgres_server.psql("DROP DATABASE empty")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgres"))


def test_a_migrated_database_has_the_tables_of_the_metadata(empty: str) -> None:
    with migrated(empty) as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE},
        )
        assert compare_metadata(context, metadata) == []


def test_a_migrated_sqlite_file_has_the_very_definitions_of_a_new_one(
    tmp_path: Path, sqlite_database: StateDatabase
) -> None:
    """``compare_metadata`` looks neither at partial indexes nor at primary keys."""
    with sqlite_database.read() as connection:
        created = _definitions(connection)
    with migrated(f"sqlite:///{tmp_path / 'migrated.db'}") as connection:
        assert _definitions(connection) == created


def _definitions(connection: Connection) -> dict[str, list[str]]:
    """Return definitions by name, each as its sorted clauses: the order of constraints does not matter."""
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    return {row.name: sorted(clause.strip(" ,\t") for clause in row.sql.splitlines() if clause.strip()) for row in rows}


def test_a_migrated_postgresql_database_has_the_indexes_of_a_new_one(
    empty_postgres: str, postgres_database: StateDatabase
) -> None:
    with postgres_database.read() as connection:
        created = _indexes(connection)
    with migrated(empty_postgres) as connection:
        assert _indexes(connection) == created


def make_old(url: str) -> None:
    """Leave a database of schema 0005 with one strategy in it."""
    with migrated(url) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0005'"))
        connection.execute(text("CREATE TABLE small_bar_requests (id TEXT PRIMARY KEY)"))
        connection.execute(text("INSERT INTO small_bar_requests VALUES ('kept')"))
        connection.execute(text("DROP TABLE account_downloads"))
        connection.execute(text("DROP TABLE slot_samples"))
        connection.execute(text("DROP TABLE contract_units"))


def revision_of(url: str) -> str:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    engine.dispose()
    return str(found)


def test_an_older_database_is_refused_with_the_remedy_and_stays_as_it_is(empty: str) -> None:
    """A reader that migrated a shared database would lock out the hosts that still run the version before."""
    make_old(empty)

    with pytest.raises(StateError, match=r"^the state database old has schema 0005, .*run 'v6 init' once"):
        StateDatabase.open(empty, name_for_messages="old")

    assert revision_of(empty) == "0005"


def test_an_older_database_is_migrated_on_request(empty: str) -> None:
    make_old(empty)

    opened = contextlib.closing(StateDatabase.open(empty, name_for_messages="old", migrate=True))
    with opened as database, database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM slot_samples")) == 0

    assert revision_of(empty) == REVISIONS[-1]


def test_a_sqlite_file_is_copied_before_its_migration(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    make_old(f"sqlite:///{file}")

    StateDatabase.open(f"sqlite:///{file}", name_for_messages="old", migrate=True).close()

    copy = copy_path(file, "0005")
    assert copy.stat().st_mode & 0o077 == 0
    with contextlib.closing(sqlite3.connect(copy)) as raw:
        assert raw.execute("SELECT id FROM small_bar_requests").fetchall() == [("kept",)]
        assert raw.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() == [("0005",)]
    assert sorted(path.name for path in tmp_path.iterdir() if "schema" in path.name) == [copy.name]


def test_a_sqlite_file_that_cannot_be_copied_is_not_migrated(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    make_old(f"sqlite:///{file}")
    copy_path(file, "0005").mkdir()

    with pytest.raises(StateError, match=r"is not migrated: its copy .* cannot be written"):
        StateDatabase.open(f"sqlite:///{file}", name_for_messages="old", migrate=True)

    assert revision_of(f"sqlite:///{file}") == "0005"
    assert not list(tmp_path.glob("*.part"))


def _indexes(connection: Connection) -> set[str]:
    return set(connection.scalars(text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")))


def test_a_shared_server_database_may_have_other_tables(postgres_server: Any) -> None:
    """Dagster's tables, its own alembic_version among them, may live in the same database."""
    postgres_server.psql(
        "CREATE DATABASE shared; \\c shared \\\\ CREATE TABLE alembic_version (version_num text); "
        "INSERT INTO alembic_version VALUES ('7e2f3204cf8e');"
    )
    url = str(postgres_server.get_uri("shared")).replace("postgresql://", "postgresql+psycopg://")

    StateDatabase.open(url, name_for_messages="shared").close()
    StateDatabase.open(url, name_for_messages="shared").close()


def test_tables_of_the_same_names_that_are_not_ours_are_refused(postgres_server: Any) -> None:
    postgres_server.psql("CREATE DATABASE foreign_slots")
    url = str(postgres_server.get_uri("foreign_slots")).replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE slots (machine text)"))
    engine.dispose()

    with pytest.raises(StateError, match=re.escape("foreign_slots holds other tables")):
        StateDatabase.open(url, name_for_messages="foreign_slots")


def test_a_creation_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-made database would be refused as someone else's for ever."""
    path = tmp_path / "state.db"

    def break_off(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half_made (id INTEGER)"))
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "create", break_off)
        with pytest.raises(RuntimeError):
            StateDatabase.open(f"sqlite:///{path}", name_for_messages=str(path))

    StateDatabase.open(f"sqlite:///{path}", name_for_messages=str(path)).close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    shutil.copy(sqlite_template, path)
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{REVISIONS[-2]}'")

    def break_off(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half_made (id INTEGER)"))
        raise RuntimeError("power cut")

    monkeypatch.setattr(migrations, "upgrade", break_off)
    with pytest.raises(RuntimeError):
        StateDatabase.open(f"sqlite:///{path}", name_for_messages=str(path), migrate=True)

    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT name FROM sqlite_master WHERE name = 'half_made'").fetchall() == []
