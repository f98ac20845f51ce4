"""Opening the state database, and its transactions; a failure becomes one line that names the place."""

from __future__ import annotations

import functools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, column, inspect, select, table
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from v6_pipeline.errors import StateError, has_no_space
from v6_pipeline.state import engines, schema
from v6_pipeline.state.instants import Clock, DatabaseClock, utc_now
from v6_pipeline.state.schema import REVISIONS, VERSION_TABLE, metadata

P = ParamSpec("P")
R = TypeVar("R")

_BUSY_ATTEMPTS = 3
_POSTGRES_BUSY = {"55P03", "40001", "40P01"}  # lock not available, serialization failure, deadlock
_POSTGRES_DISK_FULL = "53100"
_ANY_DISK_FAULT = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}

_SQLITE_PRIMARY_CODE = 0xFF  # the rest of an extended result code says where it happened

_SQLITE_REMEDIES = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite file: restore it from a backup, or move it away and run 'v6 init'",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a backup, or move it away and run 'v6 init'",
    sqlite3.SQLITE_READONLY: "cannot be written: give this user the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that the folder exists and that this user may write to it",
    sqlite3.SQLITE_PERM: "cannot be opened: give this user the right to write the file and its folder",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk fails; check it, and that it is not a network share",
    sqlite3.SQLITE_BUSY: "stays locked by another process: see which one holds it ('fuser' names it) and try again",
    sqlite3.SQLITE_LOCKED: "stays locked by another process: see which one holds it ('fuser' names it) and try again",
}


@dataclass(frozen=True, slots=True)
class SchemaRevision:
    """Schema revision of a database (None before the first) and of this version, and the clocks."""

    stored: str | None
    current: str
    clock_difference: timedelta = timedelta()
    """The database's clock minus this host's, as far as the time of the round trip lets it be known."""

    @property
    def is_current(self) -> bool:
        """True if there is nothing to migrate."""
        return self.stored == self.current


class StateDatabase:
    """The state database of one process; usable from several threads, not across a fork.

    There is one writer at a time: in SQLite by design, in PostgreSQL by an advisory lock per write transaction. So what
    a write transaction has read stays true until it commits, and writers cannot deadlock; they are short and few.
    """

    def __init__(self, engine: Engine, *, name_for_messages: str, clock: DatabaseClock) -> None:
        self._engine = engine
        self._clock = clock
        self._name = name_for_messages
        self._in_write = threading.local()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        name_for_messages: str,
        busy_seconds: float = 5.0,
        migrate: bool = False,
        host_clock: Clock = utc_now,
    ) -> StateDatabase:
        """Open the database; an empty one gets its tables.

        ``name_for_messages`` has no password. Each of three attempts waits ``busy_seconds`` for another writer. Hosts
        may share the database, and a migration locks out those that still run the version before: only ``migrate``
        changes an older schema. A SQLite file is copied first, see ``copy_path``. ``now`` is computed from
        ``host_clock``, this host's.

        Raises:
            StateError: it cannot be reached, read or written, is of a newer version, or of an older one without
                ``migrate``; or it cannot be copied or migrated. A file of another program is not changed.
        """
        parsed = engines.parse(url, name_for_messages)
        if parsed.get_backend_name() == "sqlite":
            engines.make_parent(Path(parsed.database or ""), name_for_messages)
        clock = DatabaseClock(host_clock)
        engine = engines.engine_for(parsed, name_for_messages, busy_seconds, clock)
        database = cls(engine, name_for_messages=name_for_messages, clock=clock)
        try:
            database._prepare(migrate=migrate)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def examine(cls, url: str, *, name_for_messages: str, busy_seconds: float = 5.0) -> SchemaRevision:
        """Read the schema revision of a database, which is neither created nor changed; arguments as for ``open``.

        Raises:
            StateError: it cannot be reached, read or written, or is of a newer version or another program's.
        """
        parsed = engines.parse(url, name_for_messages)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
            return SchemaRevision(None, REVISIONS[-1])
        clock = DatabaseClock()
        engine = engines.engine_for(parsed, name_for_messages, busy_seconds, clock)
        database = cls(engine, name_for_messages=name_for_messages, clock=clock)
        try:
            with database.write() as connection:  # fails without the right to write
                return SchemaRevision(database._revision(connection), REVISIONS[-1], database.clock_difference)
        finally:
            database.close()

    def now(self) -> datetime:
        """Return the time by the database's clock, UTC: for every instant that processes compare."""
        return self._clock()

    @property
    def clock_difference(self) -> timedelta:
        """The database's clock minus this host's."""
        return self._clock.difference

    def close(self) -> None:
        """Close all connections; the object opens new ones if it is used again."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Begin a transaction that only reads; on SQLite it sees one state throughout and waits for no writer.

        Raises:
            StateError: the database failed.
        """
        with self._translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Begin a transaction that is the only writer; it commits at the end, and rolls back on any exception.

        Raises:
            StateError: the database failed, or other writers kept it locked during all attempts.
            RuntimeError: this thread has begun one already, and would wait for itself.
        """
        if getattr(self._in_write, "here", False):
            raise RuntimeError("a write transaction within another one of the same thread")
        with self._translated():
            connection = self._begin_write()
            self._in_write.here = True
            try:
                with connection.get_transaction() or connection.begin():
                    yield connection
            finally:
                self._in_write.here = False
                connection.close()

    def _begin_write(self) -> Connection:
        for attempt in range(1, _BUSY_ATTEMPTS + 1):
            connection = self._engine.connect().execution_options(**{engines.WRITE: True})
            try:
                connection.begin()
            except DBAPIError as error:
                connection.close()
                if attempt == _BUSY_ATTEMPTS or not _is_busy(error):
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise AssertionError("unreachable")

    def _prepare(self, *, migrate: bool) -> None:
        with self._translated():
            if self._engine.dialect.name == "sqlite":
                self._enter_wal_mode()
            with self._engine.connect() as connection, connection.begin():
                revision = self._revision(connection)
        if revision == REVISIONS[-1]:
            return
        if revision is not None and not migrate:
            raise StateError(
                f"the state database {self._name} has schema {revision}, and this version needs {REVISIONS[-1]}: stop "
                "what runs on it, on every host that shares it, and run 'v6 init' once with this version"
            )
        with self.write() as connection:  # another process may have done it since: read again, as the only writer
            revision = self._revision(connection)
            if revision is None:
                schema.create(connection)
            elif revision != REVISIONS[-1]:
                from v6_pipeline.state.migrations import upgrade

                self._copy(revision)
                upgrade(connection)

    def _copy(self, revision: str) -> None:
        """Copy a SQLite file as it is before its migration; the caller is its only writer.

        Raises:
            StateError: the copy cannot be written.
        """
        if self._engine.dialect.name != "sqlite":
            return
        path = Path(self._engine.url.database or "")
        copy = copy_path(path, revision)
        part = copy.with_name(copy.name + ".part")
        try:
            part.touch(mode=0o600)
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
                source.backup(target)
            part.replace(copy)
        except (sqlite3.Error, OSError) as error:
            part.unlink(missing_ok=True)
            raise StateError(
                f"the state database {self._name} is not migrated: its copy {copy} cannot be written ({error}); free "
                "some space, and give this user the right to write its folder"
            ) from error

    def _enter_wal_mode(self) -> None:
        """Switch to WAL mode, in which readers never wait for the writer; SQLite does not wait for exclusive access."""
        deadline = time.monotonic() + 10
        while True:
            raw = self._engine.raw_connection()
            try:
                cursor = raw.cursor()
                if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    # Checked first: a file of another program must not be changed, not even its header.
                    self._refuse_foreign({row[0] for row in cursor.execute("SELECT name FROM sqlite_master")})
                    cursor.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                threading.Event().wait(0.05)
            else:
                return
            finally:
                raw.close()

    def _refuse_foreign(self, tables: set[str]) -> None:
        if self._engine.dialect.name != "sqlite":
            tables &= set(metadata.tables)  # a server's database may be shared, a file may not
        if tables and VERSION_TABLE not in tables:
            raise StateError(
                f"{self._name} holds other tables than the state database's: set V6_STATE_URL to a place of its own"
            )

    def _revision(self, connection: Connection) -> str | None:
        """Read the schema's revision; ``None`` for an empty database."""
        if not inspect(connection).has_table(VERSION_TABLE):
            self._refuse_foreign(set(inspect(connection).get_table_names()))
            return None
        revision: str | None = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
        if revision is not None and revision not in REVISIONS:
            raise StateError(
                f"the state database {self._name} has schema {revision}, newer than {REVISIONS[-1]} of this version: "
                "upgrade v6_pipeline"
            )
        return revision

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise failures of the database as ``StateError``; violated constraints and bad SQL are bugs and pass."""
        try:
            yield
        except (IntegrityError, ProgrammingError):
            raise
        except (DBAPIError, sqlite3.DatabaseError, PoolTimeoutError) as error:
            raise StateError(explain(error, self._name, self._engine.url.password, self._folder)) from error

    @property
    def _folder(self) -> Path | None:
        """The folder of a SQLite file; None for a server."""
        return Path(self._engine.url.database or "").parent if self._engine.dialect.name == "sqlite" else None


def copy_path(file: Path, revision: str) -> Path:
    """Return the path of the copy that a migration from schema ``revision`` leaves next to a SQLite file."""
    return file.with_name(f"{file.name}.schema-{revision}")


def reads(function: Callable[Concatenate[Connection, P], R]) -> Callable[Concatenate[StateDatabase | Connection, P], R]:
    """Open a read transaction around a query called with the database; called with a connection, it uses that.

    So every query of this package has one definition: other packages pass the ``StateDatabase``, and a method that
    combines several queries in one transaction passes its ``Connection``.
    """
    return _in_transaction(function, StateDatabase.read)


def writes(
    function: Callable[Concatenate[Connection, P], R],
) -> Callable[Concatenate[StateDatabase | Connection, P], R]:
    """Open a write transaction around a change called with the database; see ``reads``."""
    return _in_transaction(function, StateDatabase.write)


def _in_transaction(
    function: Callable[Concatenate[Connection, P], R],
    begin: Callable[[StateDatabase], AbstractContextManager[Connection]],
) -> Callable[Concatenate[StateDatabase | Connection, P], R]:
    @functools.wraps(function)
    def run(place: StateDatabase | Connection, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if isinstance(place, Connection):
            return function(place, *args, **kwargs)
        with begin(place) as connection:
            return function(connection, *args, **kwargs)

    return run


def _is_busy(error: BaseException) -> bool:
    """Return whether another connection holds the lock, so that trying again may help."""
    cause = _driver_error(error)
    if isinstance(cause, sqlite3.Error):
        return _sqlite_code(cause) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return getattr(cause, "sqlstate", None) in _POSTGRES_BUSY


def explain(error: BaseException, name: str, password: str | None = None, folder: Path | None = None) -> str:
    """Write one line: the database called ``name``, what happened, what to do; never ``password``.

    ``folder`` contains a SQLite file: SQLite reports a full disk as such only where a data file grows, and as an I/O
    error or a file that cannot be opened where its journal or shared memory does.
    """
    cause = _driver_error(error)
    if isinstance(cause, sqlite3.Error):
        code = _sqlite_code(cause)
        if code in _ANY_DISK_FAULT and folder is not None and has_no_space(folder):
            code = sqlite3.SQLITE_FULL
        remedy = _SQLITE_REMEDIES.get(code)
        if remedy is not None:
            return f"the state database {name} {remedy}"
    elif getattr(cause, "sqlstate", None) == _POSTGRES_DISK_FULL:
        return f"the state database {name} cannot grow: the disk of its server is full; free some space there"
    elif _is_busy(error):
        return f"the state database {name} stays locked by another process: see pg_stat_activity and try again"
    elif isinstance(cause, SQLAlchemyError):
        return f"the state database {name} has no free connection: use fewer threads at a time"
    reason = " ".join(str(cause).split())
    if password:
        reason = reason.replace(password, "***")
    return f"the state database {name} failed: {reason or type(cause).__name__}; check V6_STATE_URL and that it runs"


def _driver_error(error: BaseException) -> BaseException:
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


def _sqlite_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & _SQLITE_PRIMARY_CODE
