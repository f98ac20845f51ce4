"""Making a commit outlive a power cut on a local disk.

delta-rs calls no fsync (none in a trace of an append): after a power cut the newest log file may be empty, and the
table then opens as if nothing were missing. Whatever acknowledges work after a commit makes the commit durable first.
Object stores are durable when they answer.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Fsync = Callable[[Path], None]
"""Flushes a file or a folder to the disk."""

LOG_FOLDER = "_delta_log"
POINTER = "_last_checkpoint"
MARK = "_v6_flushed"
"""File of a table that holds the newest version known to be on the disk; Delta ignores names that begin with ``_``."""
UNMARKED_VERSIONS = 20
"""Versions before the first flush of a table without a mark that are flushed as well: more than writers at once."""


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and journals their entries itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def local_path(uri: str) -> Path | None:
    """The folder of a table on a local disk, or None for an object store."""
    if uri.startswith("file://"):
        return Path(unquote(uri.removeprefix("file://")))
    return None if "://" in uri else Path(uri)


def log_file(table: Path, version: int) -> Path:
    """The log file of a version."""
    return table / LOG_FOLDER / f"{version:020}.json"


def checkpoint_file(table: Path, version: int) -> Path:
    """The checkpoint of a version, in the one form that delta-rs writes."""
    return table / LOG_FOLDER / f"{version:020}.checkpoint.parquet"


def read_log(table: Path, version: int) -> list[dict[str, Any]]:
    """The actions of a version: one object per line, as the Delta protocol has them."""
    return [
        json.loads(line) for line in log_file(table, version).read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def added_files(table: Path, version: int) -> list[Path]:
    """The data files that a version added."""
    return [table / unquote(action["add"]["path"]) for action in read_log(table, version) if "add" in action]


def make_durable(table: Path, version: int, fsync: Fsync) -> None:
    """Flush a version and every one before it that may not be flushed yet, then note that in the table's mark.

    The order matters: a log file that survives must not name a data file that does not. Earlier versions count too:
    another process may be between its commit and its flush, and a version that survives behind one that does not
    cannot be read.
    """
    earlier = [number for number in _unflushed(table, version) if log_file(table, number).exists()]
    data = [path for number in earlier for path in _still_there(table, number)] + added_files(table, version)
    for path in data:
        fsync(path)
    for folder in sorted({path.parent for path in data}):
        fsync(folder)
    fsync(table)
    if version == 0:
        fsync(table.parent)
    for number in (*earlier, version):
        fsync(log_file(table, number))
        if checkpoint_file(table, number).exists():
            fsync(checkpoint_file(table, number))
    pointer = table / LOG_FOLDER / POINTER
    if pointer.exists():
        fsync(pointer)
    fsync(table / LOG_FOLDER)
    _mark_flushed(table, version)


def flushed_version(table: Path) -> int | None:
    """A version that was on the disk when this was noted, and every one before it; None if nothing is noted.

    Never ahead of the truth, for the note is made last; it is itself not flushed, so that a power cut may set it back.
    """
    try:
        text = (table / MARK).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _still_there(table: Path, version: int) -> list[Path]:
    """What an earlier version added: some may be vacuumed by now, and a log file before the checkpoint unreadable."""
    try:
        return [path for path in added_files(table, version) if path.exists()]
    except ValueError:
        return []


def _unflushed(table: Path, version: int) -> Iterator[int]:
    flushed = flushed_version(table)
    first = version - UNMARKED_VERSIONS if flushed is None else flushed + 1
    yield from range(max(first, 0), version)


def _mark_flushed(table: Path, version: int) -> None:
    # Without it more is flushed than needed, and a repair knows less; neither is worth failing a durable commit.
    with contextlib.suppress(OSError):
        descriptor = os.open(table / MARK, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{version:020}\n".encode())  # of one length, so that it is replaced in place
        finally:
            os.close(descriptor)
