"""The Flex files of several folders: the days that they cover, and the statements of those days, day by day.

A file may hold a year of many accounts in any order, and the statements of one day may be spread over many files. So a
first pass keeps one index entry per statement, and a second pass writes the chosen statements to a temporary folder and
returns them a day at a time: memory holds one day, whatever the size of the files.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import FlexError
from v6_pipeline.flex.index import (
    IndexedFile,
    IndexedRefusal,
    IndexedStatement,
    Key,
    ReadStatements,
    by_day,
    choose_newest,
    index_file,
    parts_of,
    read_file,
    refused_days,
    unreplaced,
)
from v6_pipeline.flex.model import FlexStatement, RefusedStatement
from v6_pipeline.flex.parts import whole
from v6_pipeline.flex.reader import read_statements

SETTLE_SECONDS = 5.0
"""A file whose last write is more recent may be incomplete."""
_TEMPORARY = frozenset({".tmp", ".part"})
_REPORTS = frozenset(
    {".csv", ".txt", ".zip", ".htm", ".html", ".pdf", ".xls", ".xlsx", ".json", ".7z", ".bz2", ".xz", ".zst"}
)
"""Forms in which reports and downloads come, and that are not read."""


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
    """List the files of statements in folders, by path: XML, also compressed with gzip.

    Hidden and temporary names and subfolders are ignored.

    Raises:
        FlexError: a folder is missing or cannot be listed.
    """
    found: dict[str, FileState] = {}
    for folder in folders:
        for path in _listed(folder):
            if _is_statement_name(path) and (state := _state(path)) is not None:
                found[str(path)] = state
    return found


def passed_over(folder: Path) -> str | None:
    """Return a line that names the files of a folder that are not read though they look like reports, if any.

    Raises:
        FlexError: the folder is missing or cannot be listed.
    """
    names = [path.name for path in _listed(folder) if path.suffix.lower() in _REPORTS and not path.name.startswith(".")]
    if not names:
        return None
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"not read in {folder}: {listed}: set the format XML in the Flex query's delivery settings, unpack archives"


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise FlexError(
            f"cannot list the folder of Flex statements {folder} ({error.strerror}): create it, or set V6_FLEX_DIR "
            "to the folder that has them"
        ) from None


def changed(
    known: Mapping[str, FileState],
    found: Mapping[str, FileState],
    now: datetime,
    settle_seconds: float = SETTLE_SECONDS,
) -> ChangedFiles:
    """Compare the files as they were last read (`known`) with those in the folders; recently written ones wait."""
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
    is_read = suffixes[-1:] in ([".xml"], [".gz"])
    return not path.name.startswith(".") and is_read and _TEMPORARY.isdisjoint(suffixes)


def _state(path: Path) -> FileState | None:
    """Return the file's state through links; None if it is not a file, or is gone since it was listed."""
    try:
        if not path.is_file():
            return None
        stat = path.stat()
    except OSError:
        return None
    return FileState(stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexIndex:
    """Index of all files: the chosen statements of each covered day, days and accounts ascending.

    ``notes`` has a line for each statement that covers no day and for each ambiguous choice, ``unreadable`` a line for
    each file or statement that is ignored because it cannot be read. ``parts`` are the other statements that belong to
    a chosen one, by its account and day; ``refused`` has the statements of each day that cannot be read, of accounts
    without one that can.
    """

    days: dict[date, tuple[IndexedStatement, ...]] = field(default_factory=dict)
    parts: dict[Key, tuple[IndexedStatement, ...]] = field(default_factory=dict)
    refused: dict[date, tuple[IndexedRefusal, ...]] = field(default_factory=dict)
    files: tuple[IndexedFile, ...] = ()
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def origins(self, day: date) -> dict[str, str]:
        """Return the name of the file that holds each account's statement of a day."""
        return {statement.account: statement.file.name for statement in self.days.get(day, ())}


class FlexFiles:
    """The statements in several folders, all of which must exist; of `accounts` only, or of all if it is empty."""

    def __init__(
        self,
        folders: Iterable[Path],
        calendar: TradingCalendar,
        accounts: Collection[str] = (),
        *,
        read: ReadStatements = read_statements,
    ) -> None:
        self._folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self._calendar = calendar
        self._accounts = frozenset(accounts)
        self._read = read
        self._index: FlexIndex | None = None

    def index(self) -> FlexIndex:
        """Read each file once, at the first call; later calls return the same index.

        Raises:
            FlexError: a folder is missing. A file that cannot be read is listed in the index and affects no other.
        """
        if self._index is None:
            self._index = self._read_all()
        return self._index

    def days(self) -> list[date]:
        """Return the trading days that statements cover, ascending."""
        return list(self.index().days)

    def statements(self, days: Iterable[date]) -> Iterator[tuple[date, list[FlexStatement]]]:
        """Yield the chosen statements of each of ``days``, ascending, each day's by account.

        A day that no statement covers is left out: its positions are unknown, which is not the same as a flat account.

        Raises:
            FlexError: a file changed after it was indexed.
        """
        index = self.index().days
        wanted = {day: index[day] for day in sorted(set(days)) if day in index}
        with TemporaryDirectory(prefix="v6-flex-") as folder:  # made with mode 0700
            spool = _Spool(Path(folder))
            parts = self.index().parts
            every = [(one, *parts.get(one.key, ())) for chosen in wanted.values() for one in chosen]
            for file, places in _places(every).items():
                self._spool(file, places, spool)
            for day, chosen in wanted.items():
                yield day, [whole(spool.take(one), map(spool.take, parts.get(one.key, ()))) for one in chosen]

    def _read_all(self) -> FlexIndex:
        files: list[IndexedFile] = []
        unreadable: list[str] = []
        for name in scan(self._folders):
            try:
                files.append(index_file(Path(name), self._calendar, self._read, self._accounts))
            except FlexError as error:
                unreadable.append(str(error))
        chosen, guesses = choose_newest(one for file in files for one in (*file.statements, *file.closed))
        parts, alone = parts_of(chosen, self._accounts)
        of_parts = {one.key for ones in parts.values() for one in ones}
        refused, replaced = unreplaced(files, chosen)
        return FlexIndex(
            days=by_day({key: one for key, one in chosen.items() if key not in of_parts}),
            parts=parts,
            refused=refused_days(refused),
            files=tuple(files),
            notes=(
                *(note for file in files for note in file.notes),
                *guesses,
                *replaced,
                *(line for folder in self._folders if (line := passed_over(folder))),
            ),
            unreadable=(*unreadable, *alone, *(one.reason for one in refused)),
        )

    def _spool(self, file: Path, chosen: dict[int, IndexedStatement], spool: _Spool) -> None:
        """Put the chosen statements of one file, given by their ordinal, into the spool."""
        missing = dict(chosen)
        for ordinal, statement in enumerate(self._read_again(file)):
            expected = missing.pop(ordinal, None)
            if expected is None:
                continue
            found = None if isinstance(statement, RefusedStatement) else (statement.account, statement.sha256)
            if found != (expected.account, expected.sha256):
                raise _changed(file, f"its statement {ordinal + 1} was replaced")
            spool.put(expected, cast("FlexStatement", statement))
        if missing:
            raise _changed(file, f"its statement {min(missing) + 1} is missing")

    def _read_again(self, file: Path) -> Iterator[FlexStatement | RefusedStatement]:
        try:
            yield from read_file(file, self._read)
        except FlexError as error:
            raise _changed(file, str(error)) from None


class _Spool:
    """Statements on disk, one file each, in a folder that only this user can enter; each is taken once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[tuple[str, date], Path] = {}

    def put(self, indexed: IndexedStatement, statement: FlexStatement) -> None:
        path = self._folder / str(len(self._names))
        path.write_bytes(pickle.dumps(statement, pickle.HIGHEST_PROTOCOL))
        self._names[indexed.key] = path

    def take(self, indexed: IndexedStatement) -> FlexStatement:
        path = self._names[indexed.key]
        statement: FlexStatement = pickle.loads(path.read_bytes())  # noqa: S301  (we wrote it, into our own folder)
        path.unlink()
        return statement


def _places(days: Iterable[Sequence[IndexedStatement]]) -> dict[Path, dict[int, IndexedStatement]]:
    """Group statements by file and ordinal."""
    places: dict[Path, dict[int, IndexedStatement]] = {}
    for statement in (statement for statements in days for statement in statements):
        places.setdefault(statement.file, {})[statement.ordinal] = statement
    return places


def _changed(file: Path, how: str) -> FlexError:
    return FlexError(f"{file.name} changed while it was being read ({how}): start again once it is complete")
