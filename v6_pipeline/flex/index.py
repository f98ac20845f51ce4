"""Which statement speaks for an account on a day: what each file holds, and the newest of all files.

Of a statement only as much is kept as the choice needs; its positions are read again once it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import CalendarError, FlexError
from v6_pipeline.flex.model import FlexStatement

ReadStatements = Callable[[BinaryIO, str], Iterator[FlexStatement]]
"""The statements of an open file, whose name is for messages; raises ``FlexError``."""
Key = tuple[str, date]
"""(account, trading day)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedStatement:
    """A statement that covers ``day``, and where it stands: ``ordinal`` counts a file's statements from 0."""

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
        """The greatest is chosen: the newest, then the later file name, then the later place."""
        return self.generated_at, self.file.name, str(self.file), self.ordinal


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFile:
    """What a file holds: the statements that cover a trading day, and a line for each that covers none."""

    file: Path
    statements: tuple[IndexedStatement, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def days(self) -> list[date]:
        """The trading days that its statements cover, sorted."""
        return sorted({statement.day for statement in self.statements})


def covered_day(from_date: date, to_date: date, calendar: TradingCalendar) -> date | None:
    """The trading day at whose end a statement's positions stand; None if its period ends with no session.

    That is its last day, or the session before where the exchange was closed on that day.

    Raises:
        CalendarError: a day outside the calendar.
    """
    day = to_date if calendar.is_session(to_date) else calendar.previous_session(to_date)
    return day if day >= from_date else None


def index_file(
    file: Path, calendar: TradingCalendar, read: ReadStatements, accounts: Collection[str] = ()
) -> IndexedFile:
    """Read a file once, keeping only what its statements are for.

    Args:
        file: a file of Flex XML.
        calendar: says what a trading day is.
        read: the reader.
        accounts: keep only these; empty keeps all.

    Raises:
        FlexError: the file cannot be read to its end; nothing of it counts then.
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
    """The newest statement of each (account, day), whatever their order, and a line for each choice that was a guess.

    Of several that IB generated at the same instant the one of the later file name is taken; it is a guess where their
    content differs.
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
    return chosen, tuple(_guess(chosen[key], rival) for key, rival in sorted(rivals.items()))


def read_file(file: Path, read: ReadStatements) -> Iterator[FlexStatement]:
    """The statements of a file, one after another.

    Raises:
        FlexError: the file cannot be opened or read, or is no Flex statement.
    """
    try:
        with file.open("rb") as opened:
            yield from read(opened, file.name)
    except OSError as error:
        raise FlexError(f"{file.name}: cannot be read from {file.parent}: {error.strerror or error}") from None


def by_day(chosen: Mapping[Key, IndexedStatement]) -> dict[date, tuple[IndexedStatement, ...]]:
    """Chosen statements by day, ascending, of each day by account."""
    days: dict[date, list[IndexedStatement]] = {}
    for statement in sorted(chosen.values(), key=lambda statement: (statement.day, statement.account)):
        days.setdefault(statement.day, []).append(statement)
    return {day: tuple(statements) for day, statements in days.items()}


def _guess(taken: IndexedStatement, other: IndexedStatement) -> str:
    return (
        f"{taken.account} on {taken.day}: statements of different content were generated at the same time "
        f"({taken.generated_at:%Y-%m-%d %H:%M:%S} UTC); that of {_place(taken)} is taken, not that of {_place(other)}"
    )


def _place(statement: IndexedStatement) -> str:
    return f"{statement.file.name} (statement {statement.ordinal + 1})"
