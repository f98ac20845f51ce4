"""Which files of the Flex folders are to be read: what lies there, and what of it is new and complete.

``scan`` looks, ``changed`` decides; the decision is a pure function of two looks and the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from v6_pipeline.errors import FlexError

SETTLE_SECONDS = 5.0
"""A file that was written to more recently may still be being written."""
_TEMPORARY = frozenset({".tmp", ".part"})


@dataclass(frozen=True, slots=True)
class FileState:
    """By what a file's change is noticed, without reading it."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFiles:
    """What to do with the files: read ``new`` (or changed) ones, come back for ``waiting``, forget ``gone``; sorted."""

    new: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def known_after(self, known: Mapping[str, FileState], found: Mapping[str, FileState]) -> dict[str, FileState]:
        """What is known once ``new`` is read: what was found, and of files that wait what was known before."""
        waiting = {name: known[name] for name in self.waiting if name in known}
        return {name: state for name, state in found.items() if name not in self.waiting} | waiting


def scan(folders: Iterable[Path]) -> dict[str, FileState]:
    """The XML files that lie in folders, by their path; hidden and temporary names and subfolders do not count.

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
    """What differs between the files that were read and those that lie there.

    Args:
        known: the state in which each file was read last.
        found: the state of each file now.
        now: aware.
        settle_seconds: a file that was written to more recently than that waits.
    """
    differing = [name for name in sorted(found) if known.get(name) != found[name]]
    settled = {name for name in differing if _age(found[name], now) >= settle_seconds}
    return ChangedFiles(
        new=tuple(name for name in differing if name in settled),
        waiting=tuple(name for name in differing if name not in settled),
        gone=tuple(sorted(known.keys() - found.keys())),
    )


def _age(state: FileState, now: datetime) -> float:
    """Seconds between the last write and now, either way round.

    A file from a clock that is ahead would wait for hours otherwise. Read too early it does no harm: half a document is
    refused, and read again as soon as it has changed.
    """
    return abs(now.timestamp() - state.mtime_ns / 1e9)


def _is_statement_name(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return not path.name.startswith(".") and suffixes[-1:] == [".xml"] and _TEMPORARY.isdisjoint(suffixes)


def _state(path: Path) -> FileState | None:
    """The file's state through links; None for what is no file, or is gone since it was listed."""
    try:
        if not path.is_file():
            return None
        stat = path.stat()
    except OSError:
        return None
    return FileState(stat.st_size, stat.st_mtime_ns)
