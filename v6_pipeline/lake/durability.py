"""Making a commit outlive a power cut on a local disk.

delta-rs calls no fsync (none in a trace of an append): after a power cut the newest log file may be empty, and the
table then opens as if nothing were missing. Whatever acknowledges work after a commit makes the commit durable first.
Object stores are durable when they answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Fsync = Callable[[Path], None]
"""Flushes a file or a folder to the disk."""


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
    return table / "_delta_log" / f"{version:020}.json"


def read_log(table: Path, version: int) -> list[dict[str, Any]]:
    """The actions of a version: one object per line, as the Delta protocol has them."""
    return [
        json.loads(line) for line in log_file(table, version).read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def make_durable(table: Path, version: int, fsync: Fsync) -> None:
    """Flush what a version added: data files, their folders, the log, the checkpoint that it may have caused.

    The order matters: a log file that survives must not name a data file that does not.
    """
    added = [table / unquote(action["add"]["path"]) for action in read_log(table, version) if "add" in action]
    for path in added:
        fsync(path)
    for folder in sorted({path.parent for path in added}):
        fsync(folder)
    fsync(table)
    log = log_file(table, version)
    if version == 0:
        fsync(table.parent)
    fsync(log)
    for checkpoint in (log.with_name(f"{version:020}.checkpoint.parquet"), log.with_name("_last_checkpoint")):
        if checkpoint.exists():
            fsync(checkpoint)
    fsync(log.parent)
