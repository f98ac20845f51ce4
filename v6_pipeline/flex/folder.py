"""The files of the Flex folders: a listing, and the files of it that are new and complete.

``scan`` lists the files; ``changed`` is a pure function of two listings and the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from v6_pipeline.errors import FlexError

SETTLE_SECONDS = 5.0
"""A file whose last write is more recent may be incomplete."""
_TEMPORARY = frozenset({".tmp", ".part"})


@dataclass(frozen=True, slots=True)
class FileState:
    """Size and modification time, which reveal a change of a file without reading it."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFiles:
    """Files by action, sorted: read ``new`` (or changed) ones, check ``waiting`` ones later, forget ``gone`` ones."""

    new: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def known_after(self, known: Mapping[str, FileState], found: Mapping[str, FileState]) -> dict[str, FileState]:
        """Return the known states after ``new`` is read; files that wait keep the state that was known before."""
        waiting = {name: known[name] for name in self.waiting if name in known}
        return {name: state for name, state in found.items() if name not in self.waiting} | waiting


def scan(folders: Iterable[Path]) -> dict[str, FileState]:
    """List the XML files in folders, by path; hidden and temporary names and subfolders are ignored.

    Raises:
        FlexError: a folder is missing or cannot be listed.
    """
    found: dict[str, FileState] = {}
    for folder in folders:
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            raise FlexError(
                f"cannot list the folder of Flex statements {folder} ({error.strerror}): create it, or set V6_FLEX_DIR "
                "to the folder that has them"
            ) from None
        for path in paths:
            if _is_statement_name(path) and (state := _state(path)) is not None:
                found[str(path)] = state
    return found


def changed(
    known: Mapping[str, FileState],
    found: Mapping[str, FileState],
    now: datetime,
    settle_seconds: float = SETTLE_SECONDS,
) -> ChangedFiles:
    """Compare the files that were read with those in the folders.

    Args:
        known: the state of each file when it was last read.
        found: the state of each file now.
        now: aware.
        settle_seconds: a file whose last write is more recent waits.
    """
    differing = [name for name in sorted(found) if known.get(name) != found[name]]
    settled = {name for name in differing if _age(found[name], now) >= settle_seconds}
    return ChangedFiles(
        new=tuple(name for name in differing if name in settled),
        waiting=tuple(name for name in differing if name not in settled),
        gone=tuple(sorted(known.keys() - found.keys())),
    )


def _age(state: FileState, now: datetime) -> float:
    """Seconds between the last write and now, in either order.

    A file from a clock that is ahead would wait for hours otherwise. Reading too early is harmless: an incomplete
    document is refused, and read again as soon as it changes.
    """
    return abs(now.timestamp() - state.mtime_ns / 1e9)


def _is_statement_name(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return not path.name.startswith(".") and suffixes[-1:] == [".xml"] and _TEMPORARY.isdisjoint(suffixes)


def _state(path: Path) -> FileState | None:
    """Return the file's state through links; None if it is not a file, or is gone since it was listed."""
    try:
        if not path.is_file():
            return None
        stat = path.stat()
    except OSError:
        return None
    return FileState(stat.st_size, stat.st_mtime_ns)
