"""Engines of the state database: how its connections are made, how transactions begin, and the end of their patience.

A server, or a pooler before it, that accepts a statement and never answers would hold a thread for ever. A watch per
engine shuts the socket of a connection that has waited ``ANSWER_SECONDS``: the statement then fails in its own thread.
A read or write of a local disk cannot be ended in that way; ``answers`` ends the wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, NoSuchModuleError

from v6_pipeline.errors import StateError
from v6_pipeline.state.answers import ANSWER_SECONDS
from v6_pipeline.state.instants import DatabaseClock, utc_now

log = logging.getLogger(__name__)

WRITE = "v6_write"
"""Execution option of a connection whose transaction is to be the only writer."""
_WRITERS_LOCK = 0x7636_7374  # any constant: PostgreSQL's advisory locks are numbers, of one database each
_WATCH_SECONDS = 1.0
CONNECT_SECONDS = 5
IDLE_TRANSACTION_SECONDS = 10
"""Transactions are a few statements without a pause. Half the time for which callers wait for an answer."""

_NOTICE_DEAD_LINKS = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Options of libpq. Without them the kernel waits a quarter of an hour for a server whose packets vanish, and the
streamer does not learn that its lease is over."""


def parse(url: str, name: str) -> URL:
    """Return the parts of an address; ``name`` is it without the password.

    Raises:
        StateError: it names no database, or one that processes cannot share.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StateError(
            f"{name} is not the address of a state database: use sqlite:///PATH or postgresql+psycopg://…"
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise StateError("the state database must be a file, since several processes share it: use sqlite:///PATH")
    return parsed


def make_parent(path: Path, name: str) -> None:
    """Create the folder of a SQLite file, closed to other users whatever the umask.

    Raises:
        StateError: it cannot be created, or the file is a folder.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_folder = path.is_dir()
    except OSError as error:
        raise StateError(
            f"cannot use the folder of the state database {name}: {error.strerror}; set V6_HOME or V6_STATE_URL to "
            "a place that can be written"
        ) from None
    if is_folder:
        raise StateError(f"the state database {name} is a folder: set V6_STATE_URL to a file, or move the folder away")


def engine_for(url: URL, name: str, busy_seconds: float, clock: DatabaseClock) -> Engine:
    """Return an engine; each attempt of a writer waits ``busy_seconds``, and ``clock`` is set at each transaction.

    Raises:
        StateError: there is no driver.
    """
    try:
        return _engine(url, busy_seconds, clock)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise StateError(f"no driver for the state database {name}: pip install 'v6_pipeline[postgres]'") from None


def _engine(url: URL, busy_seconds: float, clock: DatabaseClock) -> Engine:
    milliseconds = int(busy_seconds * 1000)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": busy_seconds}, pool_size=10, pool_timeout=ANSWER_SECONDS)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        # The file's processes share the clock of their machine.
        event.listen(engine, "begin", lambda _connection: clock.observe(utc_now))
        return engine
    # A writer that was stopped, or whose machine vanished, must not keep the lock: the server ends its transaction.
    idle = f"-c idle_in_transaction_session_timeout={IDLE_TRANSACTION_SECONDS * 1000}"
    options = f"-c lock_timeout={milliseconds} {idle}"
    arguments = {"connect_timeout": CONNECT_SECONDS, "options": options, **_NOTICE_DEAD_LINKS}
    engine = create_engine(url, connect_args=arguments, pool_size=10, pool_timeout=ANSWER_SECONDS)
    _Watch(engine)
    event.listen(engine, "begin", lambda connection: _begin_postgresql(connection, clock))
    return engine


def _configure_sqlite(raw: Any, _record: object) -> None:  # noqa: ANN401  (the driver's connection)
    raw.isolation_level = None  # otherwise the driver begins transactions by itself, and never IMMEDIATE ones
    cursor = raw.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    # In WAL mode the default of many builds, NORMAL, may lose the last commits in a power cut: an epoch would be issued
    # twice, and an acknowledgement or a release undone.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at once: a transaction that began by reading could not upgrade once another wrote.
    if connection.get_execution_options().get(WRITE, False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        raw: Any = connection.connection.driver_connection  # no failure here needs a translation
        raw.execute("BEGIN")


def _begin_postgresql(connection: Connection, clock: DatabaseClock) -> None:
    """Take the writers' lock, and read the server's clock once the lock is held, in one round trip."""
    if connection.get_execution_options().get(WRITE, False):
        query = f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK}), clock_timestamp()"
    elif clock.is_old:
        query = "SELECT NULL, clock_timestamp()"
    else:
        return
    clock.observe(lambda: connection.exec_driver_sql(query).one()[1])


class _Watch:
    """Ends the wait of connections to a server that does not answer.

    A connection is watched from its checkout to its return, and each statement, commit or rollback begins its time
    again. A connection that was idle is tried first, since the server may have restarted.
    """

    def __init__(self, engine: Engine) -> None:
        self._waiting: dict[int, tuple[float, int]] = {}
        """Monotonic deadline and socket of each connection in use, by the identity of the driver's connection."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dialect = engine.dialect
        self._name = engine.url.render_as_string(hide_password=True)
        event.listen(engine, "checkout", self._on_checkout)
        event.listen(engine, "checkin", self._on_checkin)
        event.listen(engine, "invalidate", self._on_checkin)
        event.listen(engine, "before_cursor_execute", self._on_execute)
        event.listen(engine, "commit", self._on_end)
        event.listen(engine, "rollback", self._on_end)

    def _on_checkout(self, raw: Any, record: Any, _proxy: object) -> None:  # noqa: ANN401  (of the pool)
        self._begin(raw)
        if not record.info.setdefault("v6_tried", False):
            record.info["v6_tried"] = True  # just connected
            return
        try:
            self._dialect.do_ping(raw)
        except Exception as error:
            self._on_checkin(raw)
            raise InvalidatePoolError from error  # the others were cut with it; one new connection is made

    def _on_checkin(self, raw: Any, *_: object) -> None:  # noqa: ANN401  (the driver's connection)
        with self._lock:
            self._waiting.pop(id(raw), None)

    def _on_execute(self, connection: Connection, *_: object) -> None:
        self._begin(connection.connection.driver_connection)

    def _on_end(self, connection: Connection) -> None:
        self._begin(connection.connection.driver_connection)

    def _begin(self, raw: Any) -> None:  # noqa: ANN401  (the driver's connection)
        with contextlib.suppress(Exception):  # a closed connection has no socket
            descriptor = raw.fileno()
            with self._lock:
                self._waiting[id(raw)] = (time.monotonic() + ANSWER_SECONDS, descriptor)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="state database watch", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                now = time.monotonic()
                late = [key for key, (deadline, _) in self._waiting.items() if deadline <= now]
                for key in late:
                    log.warning("%s has not answered for %g s: a connection is closed", self._name, ANSWER_SECONDS)
                    _shut(self._waiting.pop(key)[1])
                if not self._waiting:
                    self._thread = None
                    return


def _shut(descriptor: int) -> None:
    """Shut a socket for both directions, which ends a wait for it; its owner closes it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as peer:
        peer.shutdown(socket.SHUT_RDWR)
