"""Opening the state database and its transactions: what goes wrong says so in one line, and nothing is half done."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from v6_pipeline.errors import StateError
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.schema import VERSION_TABLE
from v6_pipeline_tests.unit.state.databases import sqlite_url

_NEVER_SEEN = "s3cret-word"


def _open(path: Path, busy_seconds: float = 5.0) -> StateDatabase:
    return StateDatabase.open(sqlite_url(path), name_for_messages=str(path), busy_seconds=busy_seconds)


def _refusal(path: Path) -> str:
    with pytest.raises(StateError) as caught:
        _open(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def _open_at_once(path: Path, barrier: threading.Barrier) -> None:
    barrier.wait(timeout=30)
    _open(path).close()


_OPEN_WHEN_TOLD = """
import sys
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state import migrations
print("ready", flush=True)
sys.stdin.readline()
StateDatabase.open(sys.argv[1], name_for_messages="state.db").close()
"""


def test_open_creates_the_folder_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "state.db"

    _open(path).close()

    assert path.is_file()


def test_sqlite_is_durable_and_lets_readers_work_during_a_write(sqlite_database: StateDatabase) -> None:
    with sqlite_database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_opening_a_current_database_does_not_import_alembic(sqlite_template: Path) -> None:
    """The streamer must be up in two seconds, and every command opens the database."""
    code = (
        "import sys; from v6_pipeline.state.database import StateDatabase; "
        f"StateDatabase.open({sqlite_url(sqlite_template)!r}, name_for_messages='x').close(); "
        "print('alembic' in sys.modules)"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "False"


def test_processes_that_open_a_new_database_at_once_all_get_it(tmp_path: Path) -> None:
    """Without the lock around the migration the second one fails on a table that exists."""
    command = [sys.executable, "-c", _OPEN_WHEN_TOLD, sqlite_url(tmp_path / "state.db")]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()

    assert [child.communicate(timeout=60)[1] for child in children] == ["", "", ""]
    assert [child.returncode for child in children] == [0, 0, 0]


def test_threads_that_open_a_new_database_at_once_all_get_it(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    barrier = threading.Barrier(6)

    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(_open_at_once, path, barrier) for _ in range(6)]

    assert [answer.result() for answer in answers] == [None] * 6


def test_a_newer_schema_is_refused(tmp_path: Path, sqlite_database: StateDatabase) -> None:
    with sqlite_database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    sqlite_database.close()

    message = _refusal(tmp_path / "state.db")

    assert "9999, newer than" in message
    assert "upgrade v6_pipeline" in message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"this is no database at all " * 400, id="text"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 8000, id="a broken header"),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)

    message = _refusal(path)

    assert "backup" in message
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["state.db"]


def test_a_damaged_database_is_refused_and_left_as_it_is(tmp_path: Path, sqlite_template: Path) -> None:
    """The header is good, the pages after it are not."""
    path = tmp_path / "state.db"
    good = sqlite_template.read_bytes()
    content = good[:100] + b"\xa5" * 3996 + good[4096:]
    path.write_bytes(content)

    assert "is damaged: restore it from a backup, or move it away and run 'v6 init'" in _refusal(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE runs (id INTEGER)")
    other.commit()
    other.close()
    content = path.read_bytes()

    assert "other tables" in _refusal(path)
    assert path.read_bytes() == content


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.mkdir()

    assert "is a folder" in _refusal(path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")

    assert "V6_HOME" in _refusal(tmp_path / "home" / "state.db")


def test_a_folder_that_may_not_be_entered_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name, _as_nobody():
        assert "Permission denied; set V6_HOME" in _refusal(Path(name) / "state.db")


def test_a_folder_that_may_not_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with _as_nobody():
            assert "cannot be opened: check that the folder" in _refusal(Path(name) / "state.db")


def test_a_file_that_may_not_be_written_is_refused(sqlite_template: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(shutil.copy(sqlite_template, name))
        path.chmod(0o644)
        with _as_nobody():
            assert "this user" in _refusal(path)


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may write anywhere, so it becomes an unprivileged user for a while."""
    user = os.geteuid()
    if user != 0:
        pytest.skip("needs root, to take rights away")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    """Each process would have a database of its own, without any error."""
    with pytest.raises(StateError, match="must be a file"):
        StateDatabase.open(url, name_for_messages="memory")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(StateError, match="not the address of a state database"):
        StateDatabase.open("what is this", name_for_messages="V6_STATE_URL")


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(StateError, match="pip install"):
        StateDatabase.open("postgresql+nodriver://host/name", name_for_messages="host/name")


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with socket.socket() as listener:  # bound but not listening: refused at once, and the port stays taken
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(StateError) as caught:
            StateDatabase.open(
                f"postgresql+psycopg://me:{_NEVER_SEEN}@127.0.0.1:{port}/v6", name_for_messages="127.0.0.1/v6"
            )

    message = str(caught.value)
    assert message.startswith("the state database 127.0.0.1/v6 failed: ")
    assert "\n" not in message
    assert _NEVER_SEEN not in message
