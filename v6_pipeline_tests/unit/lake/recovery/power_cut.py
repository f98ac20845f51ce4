"""A disk that can lose power: its content afterwards, built from the flushed files."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path


class Loss(enum.StrEnum):
    """Fate of writes that were not flushed; a real file system may choose any of them for each file."""

    VANISHED = "files are not there"
    EMPTY = "files are there, empty"
    HALF = "files are there, half written"
    DATA_ONLY = "data files are empty, the rest is whole"


class Disk:
    """Replaces the flush and records the flushed files; ``on_flush`` is called before each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.on_flush: Callable[[], None] = lambda: None
        self._content: dict[Path, bytes] = {}
        self._entries: dict[Path, set[str]] = {}

    def __call__(self, path: Path) -> None:
        self.on_flush()
        if path.is_dir():
            self._entries[path] = {child.name for child in path.iterdir()}
        else:
            self._content[path] = path.read_bytes()

    def after_power_cut(self, target: Path, loss: Loss) -> Path:
        """Copy the disk as it is after a restart to ``target``."""
        for path in sorted(self.root.rglob("*")):
            copy = target / path.relative_to(self.root)
            if loss is Loss.VANISHED and not self._is_entered(path):
                continue
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(self._left(path, loss))
        return target

    def _is_entered(self, path: Path) -> bool:
        if path == self.root:
            return True
        return path.name in self._entries.get(path.parent, ()) and self._is_entered(path.parent)

    def _left(self, path: Path, loss: Loss) -> bytes:
        if path in self._content:
            return self._content[path]
        written = path.read_bytes()
        if loss is Loss.HALF:
            return written[: len(written) // 2]
        if loss is Loss.DATA_ONLY and path.parent.name.startswith("_"):
            return written
        return b""
