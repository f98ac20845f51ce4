"""The statement that counts for an account on a day: an index of each file, and the newest statement of all files.

The index keeps only what the choice needs; the positions of a chosen statement are read again.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO, cast

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import CalendarError, FlexError
from v6_pipeline.flex.model import FlexStatement, RefusedStatement, covered_day
from v6_pipeline.flex.statement import is_part_of

ReadStatements = Callable[[BinaryIO, str], Iterator[FlexStatement | RefusedStatement]]
"""A reader of the statements of an open file, whose name is for messages; raises ``FlexError``."""
_GZIP = b"\x1f\x8b"
Key = tuple[str, date]
"""(account, day)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedStatement:
    """A statement that covers ``day``, and its place: ``ordinal`` counts a file's statements from 0.

    ``belongs_to`` is set if ``day`` is the last of a period without a session: the next session, to which the
    statement's ``changes`` of quantities belong.
    """

    account: str
    day: date
    generated_at: datetime
    sha256: str
    file: Path
    ordinal: int
    belongs_to: date | None = None
    changes: int = 0

    @property
    def key(self) -> Key:
        """(account, day)."""
        return self.account, self.day

    @property
    def rank(self) -> tuple[datetime, str, str, int]:
        """Sort key; the greatest is chosen: the newest, then the later file name, then the later place in the file."""
        return self.generated_at, self.file.name, str(self.file), self.ordinal


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedRefusal:
    """A statement that cannot be read. ``last`` is the last session of its period, or its last day without one.

    ``day`` is the trading day that it matters to; both are None if the period is unknown.
    """

    account: str | None
    last: date | None
    day: date | None
    file: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFile:
    """The statements of a file that cover a trading day, those of closed days, those that cannot be read, and notes.

    ``notes`` has a line for each statement that covers no trading day.
    """

    file: Path
    statements: tuple[IndexedStatement, ...] = ()
    closed: tuple[IndexedStatement, ...] = ()
    refused: tuple[IndexedRefusal, ...] = ()
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
    found: dict[bool, list[IndexedStatement]] = {True: [], False: []}
    refused: list[IndexedRefusal] = []
    notes: list[str] = []
    for ordinal, statement in enumerate(read_file(file, read)):
        account = statement.account
        if accounts and account and account not in accounts and not any(is_part_of(account, one) for one in accounts):
            continue
        day, next_session, reason = _day_of(statement, calendar)
        if isinstance(statement, RefusedStatement):
            last, of_day = day or statement.to_date, day or next_session
            refused.append(IndexedRefusal(account=account, last=last, day=of_day, file=file, reason=statement.reason))
            continue
        if day is None:
            notes.append(_covers_no_day(file, statement, next_session, reason))
        if (of := day or next_session) is None:
            continue
        found[day is not None].append(
            IndexedStatement(
                account=statement.account,
                day=day or statement.to_date,
                generated_at=statement.generated_at,
                sha256=statement.sha256,
                file=file,
                ordinal=ordinal,
                belongs_to=None if day else of,
                changes=0 if day else len(statement.activities),
            )
        )
    return IndexedFile(
        file=file,
        statements=tuple(found[True]),
        closed=tuple(found[False]),
        refused=tuple(refused),
        notes=tuple(notes),
    )


def _day_of(
    statement: FlexStatement | RefusedStatement, calendar: TradingCalendar
) -> tuple[date | None, date | None, str]:
    """Return the day that a statement covers, or else the next session, or else why there is neither."""
    if statement.from_date is None or statement.to_date is None:
        return None, None, "its period is unknown"
    try:
        day = covered_day(statement.from_date, statement.to_date, calendar)
        return day, None if day else calendar.next_session(statement.to_date), ""
    except CalendarError as error:
        return None, None, str(error)


def _covers_no_day(file: Path, statement: FlexStatement, next_session: date | None, reason: str) -> str:
    changes = len(statement.activities)
    of = f"{file.name}: the statement of {statement.account} for {statement.from_date} to {statement.to_date}"
    if next_session and changes:
        return f"{of} has no session of the exchange: its changes ({changes}) belong to {next_session}"
    return f"{of} covers no trading day: {reason or 'no session of the exchange lies in its period'}"


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


def parts_of(
    chosen: Mapping[Key, IndexedStatement], accounts: Collection[str]
) -> tuple[dict[Key, tuple[IndexedStatement, ...]], tuple[str, ...]]:
    """Return the statements that are a part of another one, by the account and day of that one.

    These are statements of closed days, and of an account's futures (U1F) where account U1 is among the statements or
    `accounts`. The second answer has a line for each statement of futures whose account has none for the day.
    """
    known = {account for account, _ in chosen} | set(accounts)
    parts: dict[Key, list[IndexedStatement]] = {}
    alone: list[str] = []
    for _, one in sorted(chosen.items()):
        base = one.account[:-1]
        is_of_futures = base in known and is_part_of(one.account, base)
        if not is_of_futures and one.belongs_to is None:
            continue
        main = (base if is_of_futures else one.account, one.belongs_to or one.day)
        ones = parts.setdefault(main, [])
        if one.belongs_to is None or one.changes:
            ones.append(one)
        if is_of_futures and main not in chosen:
            alone.append(
                f"{one.file.name}: the statement of {one.account} for {one.day} is a part of account {base}, of which "
                f"there is no statement for {main[1]}"
            )
    return {main: tuple(ones) for main, ones in parts.items()}, tuple(alone)


def unreplaced(
    files: Iterable[IndexedFile], chosen: Mapping[Key, IndexedStatement]
) -> tuple[list[IndexedRefusal], tuple[str, ...]]:
    """Return the refused statements whose account and day no other statement has, and a line for each other one."""
    left: list[IndexedRefusal] = []
    notes: list[str] = []
    for one in (one for file in files for one in file.refused):
        other = chosen.get((one.account, one.last)) if one.account and one.last else None
        if other is None:
            left.append(one)
        else:
            notes.append(f"{one.reason}; that of {_place(other)} is used")
    return left, tuple(notes)


def refused_days(refused: Iterable[IndexedRefusal]) -> dict[date, tuple[IndexedRefusal, ...]]:
    """Group refused statements by the trading day that they matter to; those of an unknown day are left out."""
    days: dict[date, list[IndexedRefusal]] = {}
    for one in refused:
        if one.day is not None:
            days.setdefault(one.day, []).append(one)
    return {day: tuple(ones) for day, ones in sorted(days.items())}


def read_file(file: Path, read: ReadStatements) -> Iterator[FlexStatement | RefusedStatement]:
    """Yield the statements of a file, which may be compressed with gzip, whatever its name.

    Raises:
        FlexError: the file cannot be opened or read, or is not a Flex statement.
    """
    try:
        with file.open("rb") as opened:
            if opened.peek(2)[:2] != _GZIP:
                yield from read(opened, file.name)
                return
            with gzip.GzipFile(fileobj=opened) as unpacked:
                yield from read(cast("BinaryIO", unpacked), file.name)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FlexError(f"{file.name}: is not a complete gzip file ({error}): fetch it again") from None
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
