"""The statement that counts for an account on a day: an index of each file, and the newest statement of all files.

The index keeps only what the choice needs; the positions of a chosen statement are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import CalendarError, FlexError
from v6_pipeline.flex.model import FlexStatement, covered_day

ReadStatements = Callable[[BinaryIO, str], Iterator[FlexStatement]]
"""A reader of the statements of an open file, whose name is for messages; raises ``FlexError``."""
Key = tuple[str, date]
"""(account, trading day)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedStatement:
    """A statement that covers ``day``, and its place: ``ordinal`` counts a file's statements from 0."""

    account: str
    day: date
    generated_at: datetime
    sha256: str
    file: Path
    ordinal: int

    @property
    def key(self) -> Key:
        """(account, day)."""
        return self.account, self.day

    @property
    def rank(self) -> tuple[datetime, str, str, int]:
        """Sort key; the greatest is chosen: the newest, then the later file name, then the later place in the file."""
        return self.generated_at, self.file.name, str(self.file), self.ordinal


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFile:
    """The statements of a file that cover a trading day, and a line for each that covers none."""

    file: Path
    statements: tuple[IndexedStatement, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def days(self) -> list[date]:
        """The trading days that its statements cover, sorted."""
        return sorted({statement.day for statement in self.statements})


def index_file(
    file: Path, calendar: TradingCalendar, read: ReadStatements, accounts: Collection[str] = ()
) -> IndexedFile:
    """Read a file once and index its statements, of `accounts` only, or of all if it is empty.

    Raises:
        FlexError: the file cannot be read to its end; none of its statements counts then.
    """
    statements: list[IndexedStatement] = []
    notes: list[str] = []
    for ordinal, statement in enumerate(read_file(file, read)):
        if accounts and statement.account not in accounts:
            continue
        try:
            day = covered_day(statement.from_date, statement.to_date, calendar)
            reason = "no session of the exchange lies in its period"
        except CalendarError as error:
            day, reason = None, str(error)
        if day is None:
            notes.append(
                f"{file.name}: the statement of {statement.account} for {statement.from_date} to {statement.to_date} "
                f"covers no trading day: {reason}"
            )
            continue
        statements.append(
            IndexedStatement(
                account=statement.account,
                day=day,
                generated_at=statement.generated_at,
                sha256=statement.sha256,
                file=file,
                ordinal=ordinal,
            )
        )
    return IndexedFile(file=file, statements=tuple(statements), notes=tuple(notes))


def choose_newest(statements: Iterable[IndexedStatement]) -> tuple[dict[Key, IndexedStatement], tuple[str, ...]]:
    """Return the newest statement of each (account, day), and a line for each ambiguous choice.

    Of several that IB generated at the same instant, the one with the later file name is taken; the choice is ambiguous
    if their content differs.
    """
    chosen: dict[Key, IndexedStatement] = {}
    rivals: dict[Key, IndexedStatement] = {}
    for statement in sorted(statements, key=lambda statement: statement.rank):
        before = chosen.get(statement.key)
        if before is None or before.generated_at != statement.generated_at:
            rivals.pop(statement.key, None)
        elif before.sha256 != statement.sha256:
            rivals[statement.key] = before
        chosen[statement.key] = statement
    return chosen, tuple(_ambiguity(chosen[key], rival) for key, rival in sorted(rivals.items()))


def read_file(file: Path, read: ReadStatements) -> Iterator[FlexStatement]:
    """Yield the statements of a file.

    Raises:
        FlexError: the file cannot be opened or read, or is not a Flex statement.
    """
    try:
        with file.open("rb") as opened:
            yield from read(opened, file.name)
    except OSError as error:
        raise FlexError(f"{file.name}: cannot be read from {file.parent}: {error.strerror or error}") from None


def by_day(chosen: Mapping[Key, IndexedStatement]) -> dict[date, tuple[IndexedStatement, ...]]:
    """Group chosen statements by day, ascending, each day's by account."""
    days: dict[date, list[IndexedStatement]] = {}
    for statement in sorted(chosen.values(), key=lambda statement: (statement.day, statement.account)):
        days.setdefault(statement.day, []).append(statement)
    return {day: tuple(statements) for day, statements in days.items()}


def _ambiguity(taken: IndexedStatement, other: IndexedStatement) -> str:
    return (
        f"{taken.account} on {taken.day}: statements of different content were generated at the same time "
        f"({taken.generated_at:%Y-%m-%d %H:%M:%S} UTC); that of {_place(taken)} is used, not that of {_place(other)}"
    )


def _place(statement: IndexedStatement) -> str:
    return f"{statement.file.name} (statement {statement.ordinal + 1})"
