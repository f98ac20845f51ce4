"""What a failure of the database means and what to do about it, as one line."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

_POSTGRES_BUSY = {"55P03", "40001", "40P01"}  # lock not available, serialization failure, deadlock

_SQLITE_PRIMARY_CODE = 0xFF  # the rest of an extended result code says where it happened

_SQLITE_REMEDIES = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite file: restore it from a backup, or move it away and run 'v6 init'",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a backup, or move it away and run 'v6 init'",
    sqlite3.SQLITE_READONLY: "cannot be written: give this user the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that the folder exists and that this user may write to it",
    sqlite3.SQLITE_PERM: "cannot be opened: give this user the right to write the file and its folder",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk fails; check it, and that it is no network share",
    sqlite3.SQLITE_BUSY: "stays locked by another process: see which one holds it ('fuser' names it) and try again",
    sqlite3.SQLITE_LOCKED: "stays locked by another process: see which one holds it ('fuser' names it) and try again",
}


def is_busy(error: BaseException) -> bool:
    """Whether trying again may help, since another connection was in the way."""
    cause = _driver_error(error)
    if isinstance(cause, sqlite3.Error):
        return _sqlite_code(cause) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return getattr(cause, "sqlstate", None) in _POSTGRES_BUSY


def explain(error: BaseException, name: str, password: str | None = None) -> str:
    """One line: the database called ``name``, what happened, what to do; never ``password``."""
    cause = _driver_error(error)
    if isinstance(cause, sqlite3.Error):
        remedy = _SQLITE_REMEDIES.get(_sqlite_code(cause))
        if remedy is not None:
            return f"the state database {name} {remedy}"
    elif is_busy(error):
        return f"the state database {name} stays locked by another process: see pg_stat_activity and try again"
    elif isinstance(cause, SQLAlchemyError):
        return f"the state database {name} has no free connection: fewer threads at a time"
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
