"""The migrations lead to exactly the tables that the code uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from v6_pipeline.errors import StateError
from v6_pipeline.state import migrations
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.schema import REVISIONS, VERSION_TABLE, metadata


def test_the_listed_revisions_are_the_migrations_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))

    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]

    assert tuple(reversed(found)) == REVISIONS


def test_a_migrated_database_has_the_tables_of_the_metadata(database: StateDatabase) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE},
        )
        assert compare_metadata(context, metadata) == []


def test_a_migrated_sqlite_file_has_the_very_definitions_of_the_metadata(
    tmp_path: Path, sqlite_database: StateDatabase
) -> None:
    """``compare_metadata`` looks neither at partial indexes nor at primary keys."""
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    with engine.begin() as connection:
        metadata.create_all(connection)
        created = _definitions(connection)
    engine.dispose()
    with sqlite_database.read() as connection:
        migrated = _definitions(connection)
    del migrated[VERSION_TABLE]

    assert migrated == created


def _definitions(connection: Connection) -> dict[str, list[str]]:
    """By name, each definition as its sorted clauses: the order of constraints means nothing."""
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    return {row.name: sorted(clause.strip(" ,\t") for clause in row.sql.splitlines() if clause.strip()) for row in rows}


def test_a_migrated_postgresql_database_has_the_indexes_of_the_metadata(
    postgres_server: Any, postgres_database: StateDatabase
) -> None:
    postgres_server.psql("CREATE DATABASE created")
    url = str(postgres_server.get_uri("created")).replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        metadata.create_all(connection)
        created = _indexes(connection)
    engine.dispose()
    with postgres_database.read() as connection:
        migrated = _indexes(connection)

    assert {line for line in migrated if VERSION_TABLE not in line} == created


def _indexes(connection: Connection) -> set[str]:
    return set(connection.scalars(text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")))


def test_a_shared_server_database_is_used_beside_other_tables(postgres_server: Any) -> None:
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


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-made database would be refused as someone else's for ever."""
    path = tmp_path / "state.db"

    def break_off(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half_made (id INTEGER)"))
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(migrations, "upgrade", break_off)
        with pytest.raises(RuntimeError):
            StateDatabase.open(f"sqlite:///{path}", name_for_messages=str(path))

    StateDatabase.open(f"sqlite:///{path}", name_for_messages=str(path)).close()
