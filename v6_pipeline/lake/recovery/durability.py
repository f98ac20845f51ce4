"""Making commits survive a power cut on a local disk.

delta-rs calls no fsync (none in a trace of an append): after a power cut the newest log file may be empty, and the
table then opens as if nothing were missing. Code that acknowledges work after a commit makes the commit durable first.
Object stores are durable when they answer.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Fsync = Callable[[Path], None]
"""Flushes a file or a folder to the disk."""

LOG_FOLDER = "_delta_log"
POINTER = "_last_checkpoint"
MARK = "_v6_flushed"
"""File of a table with the newest version known to be on the disk; Delta ignores names that begin with ``_``."""
UNMARKED_VERSIONS = 20
"""Earlier versions to flush in a table that has no mark: more than there are writers at the same time."""


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
    """Return the folder of a table on a local disk, or None for an object store."""
    if uri.startswith("file://"):
        return Path(unquote(uri.removeprefix("file://")))
    return None if "://" in uri else Path(uri)


def log_file(table: Path, version: int) -> Path:
    """Return the path of a version's log file."""
    return table / LOG_FOLDER / f"{version:020}.json"


def checkpoint_file(table: Path, version: int) -> Path:
    """Return the path of a version's checkpoint, in the single-file form that delta-rs writes."""
    return table / LOG_FOLDER / f"{version:020}.checkpoint.parquet"


def read_log(table: Path, version: int) -> list[dict[str, Any]]:
    """Return the actions of a version: one object per line, by the Delta protocol."""
    return [
        json.loads(line) for line in log_file(table, version).read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def added_files(table: Path, version: int) -> list[Path]:
    """Return the data files that a version added."""
    return [table / unquote(action["add"]["path"]) for action in read_log(table, version) if "add" in action]


def make_durable(table: Path, version: int, fsync: Fsync) -> None:
    """Flush a version and every earlier one that may not be flushed yet, then record that in the table's mark.

    Data files come before log files: a log file that survives must not name a data file that does not. Earlier versions
    are included because another process may be between its commit and its flush, and a surviving version after a lost
    one cannot be read.
    """
    flushed = flushed_version(table)
    first = max(version - UNMARKED_VERSIONS, 0) if flushed is None else flushed + 1
    earlier = [number for number in range(first, version) if log_file(table, number).exists()]
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
    """Return a version that is on the disk with every one before it, from the table's mark; None without a mark.

    The mark is written after the flush, so it is never too high. It is not flushed itself: a power cut may set it back.
    """
    try:
        text = (table / MARK).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _still_there(table: Path, version: int) -> list[Path]:
    """Return the added files that exist: some may be vacuumed, and a log file before the checkpoint unreadable."""
    try:
        return [path for path in added_files(table, version) if path.exists()]
    except ValueError:
        return []


def _mark_flushed(table: Path, version: int) -> None:
    # Without a mark the next flush takes more files than needed, and a repair knows less; the commit need not fail.
    with contextlib.suppress(OSError):
        descriptor = os.open(table / MARK, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{version:020}\n".encode())  # always of the same length, to overwrite it in place
        finally:
            os.close(descriptor)
