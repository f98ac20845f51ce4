"""Downloads statements of a range of days from the Flex Web Service into the archive, each day once.

The archive (``$V6_HOME/flex``) holds the files that the service sent; days that it covers are not requested again.
`files` reads the statements, those of the archive and those of ``V6_FLEX_DIR``.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.exchange import FlexLimits, Monotonic
from v6_pipeline.flex.model import covered_day
from v6_pipeline.flex.replies import Period, ReplyScanner, Statements, parse_date
from v6_pipeline.flex.service import NOT_AVAILABLE, FlexService, SharedPace, spans
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now

log = logging.getLogger(__name__)

_NAME = re.compile(r"flex-(?P<query>[0-9]+)-(?P<first>[0-9]{8})-(?P<last>[0-9]{8})-[0-9]{8}T[0-9]{12}Z\.xml", re.ASCII)
_PIECE = 1 << 20

Range = tuple[date, date]
"""First and last day, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexFetch:
    """Result of a fetch: new files of the archive, and the requested ranges.

    ``not_covered`` are wanted trading days without a statement, or without one of each named account; ``refused`` those
    of which IB has none (error 1003) and ``refusal`` its answer.
    """

    files: tuple[Path, ...]
    asked: tuple[Range, ...]
    not_covered: tuple[date, ...]
    refused: tuple[date, ...] = ()
    refusal: str = ""

    @property
    def shortfall(self) -> str | None:
        """One line that names the missing days, ``None`` if no day is missing."""
        if not self.not_covered:
            return None
        days = ", ".join(map(str, self.not_covered[:3])) + (", ..." if len(self.not_covered) > 3 else "")
        return (
            f"the Flex Web Service sent no statement of {len(self.not_covered)} trading days ({days}): set the query's "
            "'Breakout by Day' to Yes and choose all accounts"
        )


def fetch_range(
    settings: Settings,
    database: StateDatabase,
    first: date,
    last: date,
    accounts: Collection[str] | None = None,
    *,
    covered: Collection[date] = (),
    refetch: bool = False,
    limits: FlexLimits | None = None,
    utcnow: Clock = utc_now,
    clock: Monotonic = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> FlexFetch:
    """Fetch statements of the trading days of a range, the last day included, that the archive does not cover yet.

    Each day needs a statement of each of `accounts`, by default of any, because one reply holds all accounts. Days in
    `covered`, which another folder has, are not requested. `refetch` requests the days of the archive too, because IB
    corrects statements. `clock` gives monotonic seconds.

    IB may refuse a range as a whole that begins before the account was opened (not proven): a refused range is halved.
    Closed days before the first day of a range are requested with it, because other exchanges may have traded.

    Raises:
        FlexServiceError: not configured, or a download failed; earlier downloads are in the archive.
    """
    token, query_id = settings.flex_token, settings.flex_query_id
    if token is None or query_id is None:
        raise FlexServiceError("no Flex Web Service is configured: set V6_FLEX_TOKEN and V6_FLEX_QUERY_ID")
    calendar = TradingCalendar(settings.timezone)
    wanted = calendar.sessions_between(first, last)
    folder = settings.flex_archive
    there = () if refetch else archived_periods(folder, query_id, first, last)
    service = FlexService(
        url=settings.flex_url,
        token=token,
        query_id=query_id,
        pace=SharedPace(database, token, clock=utcnow),
        limits=limits,
        clock=clock,
        sleep=sleep,
    )
    asked = missing_ranges(wanted, covered_days(there, wanted, calendar, accounts) | set(covered))
    requests = _Requests(service, folder, query_id, calendar, utcnow, periods=[*there])
    for days in asked:
        for periods in requests.fetch([day for day in wanted if days[0] <= day <= days[1]]):
            missing = days_in_between(periods, wanted)
            if missing:
                log.info("the query does not break out by day: %d days are fetched one by one", len(missing))
            for day in sorted(missing - covered_days(requests.periods, wanted, calendar, accounts)):
                requests.fetch([day])
    found = covered_days(requests.periods, wanted, calendar, accounts)
    fetched = FlexFetch(
        files=tuple(requests.files),
        asked=tuple(asked),
        not_covered=tuple(sorted(set(wanted) - set(covered) - found - requests.refused)),
        refused=tuple(sorted(requests.refused - found)),
        refusal=requests.refusal,
    )
    if fetched.shortfall:
        log.warning("%s", fetched.shortfall)
    return fetched


@dataclass(slots=True)
class _Requests:
    """The requests of one fetch: the files and periods that came, and the days that IB refused."""

    service: FlexService
    folder: Path
    query_id: str
    calendar: TradingCalendar
    utcnow: Clock
    periods: list[Period]
    files: list[Path] = field(default_factory=list)
    refused: set[date] = field(default_factory=set)
    refusal: str = ""

    def fetch(self, days: Sequence[date]) -> list[tuple[Period, ...]]:
        """Fetch an unbroken range of trading days, by halves where IB refuses it; return the periods of each reply.

        A refused range is given up if its last, first and middle day are refused alone: 40 requests find the first day
        of an account in a year, and 4 show that it has none of the year.
        """
        if not days:
            return []
        periods = self._request(days[0], days[-1])
        if periods is not None:
            return [periods]
        if len(days) == 1:
            self.refused.add(days[0])
            return []
        log.info("IB refuses the statements of %s to %s together: asking for parts of them", days[0], days[-1])
        found: list[tuple[Period, ...]] = []
        left = list(days)
        for probe in dict.fromkeys((days[-1], days[0], days[len(days) // 2])):
            found += self.fetch([probe])
            left.remove(probe)
            if found:
                break
        if not found:
            self.refused.update(left)
            return []
        middle = len(left) // 2
        return [*self.fetch(left[middle:]), *self.fetch(left[:middle]), *found]

    def _request(self, first: date, last: date) -> tuple[Period, ...] | None:
        """Fetch a range, with the closed days before it if IB has them; return None if it has no statement of it."""
        closed = self.calendar.closed_weekdays(self.calendar.previous_session(first), first)
        pieces = spans(min([*closed, first]), last)
        periods = [self._download(*piece) for piece in pieces]
        if closed and periods[0] is None:
            return self._download(first, last)
        return None if periods[0] is None else tuple(period for piece in periods for period in piece or ())

    def _download(self, first: date, last: date) -> tuple[Period, ...] | None:
        file = self.folder / _file_name(self.query_id, (first, last), self.utcnow())
        try:
            downloaded = self.service.download(first, last, file)
        except FlexServiceError as error:
            if error.code != NOT_AVAILABLE:
                raise
            self.refusal = str(error)
            return None
        self.files.append(file)
        self.periods.extend(downloaded)
        return downloaded


def days_in_between(periods: Iterable[Period], wanted: Iterable[date]) -> set[date]:
    """Return the days of a statement before its last one: it has positions of the last day only."""
    return {day for period in periods for day in wanted if period.first <= day < period.last}


def missing_ranges(wanted: Sequence[date], covered: Collection[date]) -> list[Range]:
    """Return the ranges to request: runs of wanted days, in order, that are not covered, in spans of one request."""
    ranges: list[Range] = []
    run: list[date] = []
    for day in [*wanted, None]:
        if day is not None and day not in covered:
            run.append(day)
        elif run:
            ranges += spans(run[0], run[-1])
            run = []
    return ranges


def covered_days(
    periods: Iterable[Period],
    wanted: Iterable[date],
    calendar: TradingCalendar,
    accounts: Collection[str] | None = None,
) -> set[date]:
    """Return the wanted trading days that a statement covers; with ``accounts``, a statement of each of them."""
    found: dict[date, set[str]] = {}
    for period in periods:
        if day := covered_day(period.first, period.last, calendar):
            found.setdefault(day, set()).add(period.account)
    return {day for day in wanted if day in found and (accounts is None or found[day] >= set(accounts))}


def archived_periods(folder: Path, query_id: str, first: date, last: date) -> tuple[Period, ...]:
    """Return the periods of a query's statements in the archive, from files that overlap a range of days.

    Raises:
        FlexServiceError: a file of the archive is damaged.
    """
    periods: list[Period] = []
    for file in sorted(folder.glob("flex-*.xml")) if folder.is_dir() else ():
        name = _NAME.fullmatch(file.name)
        if name is None or name["query"] != query_id:
            continue
        begins, ends = parse_date(name["first"]), parse_date(name["last"])
        if begins is not None and ends is not None and begins <= last and ends >= first:
            periods += _scan(file)
    return tuple(periods)


def _scan(file: Path) -> tuple[Period, ...]:
    scanner, problem = ReplyScanner(), ""
    try:
        with file.open("rb") as source:
            while piece := source.read(_PIECE):
                scanner.feed(piece)
        reply = scanner.close()
    except FlexServiceError:
        problem = "is not a complete Flex statement"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        if isinstance(reply, Statements):
            return reply.periods
        problem = "is not a Flex statement"
    raise FlexServiceError(f"{file} {problem}: remove it, its days are then fetched again")


def _file_name(query_id: str, days: Range, now: datetime) -> str:
    """Return a name that sorts by days and then by time of download, and that no other download has."""
    return f"flex-{query_id}-{days[0]:%Y%m%d}-{days[1]:%Y%m%d}-{now:%Y%m%dT%H%M%S%f}Z.xml"
