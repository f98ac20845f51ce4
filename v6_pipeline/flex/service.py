"""The Flex Web Service, version 3: request the statements of a range of days and fetch them once they are ready.

``SendRequest`` with the query and the days returns a reference and an address; that address is polled until the
statements come. The days are always named (``fd``, ``td``): without them the service may shorten a query's own period
to a single day and report success (csingley/ibflex#109). It may do so with them too, so the periods that were received
are compared with those that were requested.

Source of the error codes: IB's table of Flex Web Service error codes, as `IB_FACTS.md` section 3 sums it up. IB
documents no 1002.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from pydantic import SecretStr

from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.exchange import Exchange, FlexLimits, Monotonic, check_address
from v6_pipeline.flex.replies import Envelope, Period, Statements
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.pacing import web as request_rates
from v6_pipeline.state.pacing.web import Window

MOST_DAYS = 365
"""Days that one request may span."""
_SLOWEST = 120.0
_STALE_SECONDS = 86_400

log = logging.getLogger(__name__)

NOT_AVAILABLE = 1003
"""IB has no statement of the range, for example because the account was opened within it."""
THROTTLED = 1018
"""Too many requests with this token: all processes pause, and each later wait of this download is doubled."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """Reaction to an error code; ``retry_after`` is in seconds, ``None`` if a repeated request cannot succeed."""

    code: int
    meaning: str
    retry_after: float | None
    remedy: str

    @property
    def is_fatal(self) -> bool:
        """True if a repeated request cannot succeed."""
        return self.retry_after is None


_LATER = "try again later; IB completes a day's statement by about 05:00 New York time"
_RENEW = "make a new token in Client Portal (Performance & Reports, Flex Queries, Flex Web Service), set V6_FLEX_TOKEN"
_QUERY = "set V6_FLEX_QUERY_ID to the id that Client Portal shows for an Activity Flex query"

REACTIONS = {
    reaction.code: reaction
    for reaction in (
        Reaction(1001, "statement could not be generated at this time", 15, _LATER),
        Reaction(NOT_AVAILABLE, "statement is not available", None, "request past days on which the account was open"),
        Reaction(1004, "statement is incomplete at this time", 30, _LATER),
        Reaction(1005, "settlement data is not ready", 30, _LATER),
        Reaction(1006, "FIFO profit and loss data is not ready", 30, _LATER),
        Reaction(1007, "mark-to-market profit and loss data is not ready", 30, _LATER),
        Reaction(1008, "profit and loss data is not ready", 30, _LATER),
        Reaction(1009, "server is under heavy load", 30, _LATER),
        Reaction(1010, "legacy Flex queries are not supported", None, "convert the query to an Activity Flex query"),
        Reaction(1011, "service account is inactive", None, "enable the Flex Web Service in Client Portal"),
        Reaction(1012, "token has expired", None, _RENEW),
        Reaction(1013, "address is not allowed (IP restriction)", None, "allow this machine's address for the token"),
        Reaction(1014, "query is invalid", None, _QUERY),
        Reaction(1015, "token is invalid", None, _RENEW),
        Reaction(1016, "account is invalid", None, "choose accounts in the query that the token's user may see"),
        Reaction(1017, "reference code is invalid", None, "retry: the statement was dropped before it was fetched"),
        Reaction(THROTTLED, "too many requests with this token", 10, "stop other programs that use this token"),
        Reaction(1019, "statement generation is in progress", 5, "try again later, or request fewer days"),
        Reaction(1020, "request is invalid or not validated", None, "check V6_FLEX_TOKEN and V6_FLEX_QUERY_ID"),
        Reaction(1021, "statement could not be retrieved at this time", 15, _LATER),
    )
}
"""All codes that IB documents."""


def reaction_to(code: int) -> Reaction:
    """Return the reaction to a code; an undocumented one is fatal, because the effect of a retry is unknown."""
    return REACTIONS.get(code) or Reaction(
        code, "unknown error code", None, "look it up in IB's Flex Web Service documentation"
    )


WINDOWS = (Window(1, timedelta(seconds=1.25)), Window(10, timedelta(seconds=61)))
"""IB allows one request a second and ten a minute (the text of error 1018). It counts requests as they arrive, and one
may be under way a quarter of a second longer than the next."""


class SharedPace:
    """Request rate of one token, kept in the state database by all processes that use it; only a hash is stored."""

    def __init__(self, database: StateDatabase, token: SecretStr, *, clock: Clock | None = None) -> None:
        self._database = database
        self._name = f"flex {hashlib.sha256(token.get_secret_value().encode()).hexdigest()[:32]}"
        self._clock = clock or database.now

    def take(self) -> float:
        """Return the seconds to wait before the next call; 0 permits one request now."""
        return request_rates.take(self._database, self._name, WINDOWS, clock=self._clock).total_seconds()

    def pause(self, seconds: float) -> None:
        """Pause all requests for that long, because the service reported too many."""
        request_rates.pause(self._database, self._name, timedelta(seconds=seconds), clock=self._clock)


class FlexService:
    """Downloads statements of one Activity Flex query; `url` is without ``/SendRequest``, `clock` is monotonic."""

    def __init__(
        self,
        *,
        url: str,
        token: SecretStr,
        query_id: str,
        pace: SharedPace,
        limits: FlexLimits | None = None,
        clock: Monotonic = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._query_id = query_id
        self._pace = pace
        self._limits = limits or FlexLimits()
        self._clock = clock
        self._sleep = sleep
        self._exchange = Exchange(token, limits=self._limits, clock=clock)

    def download(self, first: date, last: date, file: Path) -> tuple[Period, ...]:
        """Fetch the statements of ``first`` to ``last`` into ``file``, which appears complete or not at all.

        Return the periods of the statements, which may leave out some of the days.

        Raises:
            FlexServiceError: refused, too late, or not what was requested.
        """
        if not 0 <= (last - first).days < MOST_DAYS:
            raise FlexServiceError(f"{first} to {last}: one Flex request spans 1 to {MOST_DAYS} days")
        with _part_of(file) as part:
            periods = self._fetch(first, last, part)
            part.replace(file)
        return periods

    def _fetch(self, first: date, last: date, part: Path) -> tuple[Period, ...]:
        until = self._clock() + self._limits.deadline
        asked = f"Flex statements of {first} to {last}"
        days = {"fd": f"{first:%Y%m%d}", "td": f"{last:%Y%m%d}"}
        log.info("requesting %s", asked)
        reply = self._ask(asked, f"{self._url}/SendRequest", {"q": self._query_id, **days}, part, until=until)
        if not isinstance(reply, Envelope):
            raise FlexServiceError(f"{asked}: the service sent statements instead of a reference")
        if not (reply.reference and reply.url):
            raise FlexServiceError(f"{asked}: the service sent neither an error nor a reference and an address")
        address = check_address(reply.url, configured=self._url)
        reply = self._ask(asked, address, {"q": reply.reference}, part, until=until)
        if not isinstance(reply, Statements):
            raise FlexServiceError(f"{asked}: the service sent a reference instead of statements")
        check_periods(reply.periods, first, last)
        log.info("%s: %d statements", asked, len(reply.periods))
        return reply.periods

    def _ask(
        self, asked: str, url: str, parameters: Mapping[str, str], part: Path, *, until: float
    ) -> Envelope | Statements:
        """Repeat a request until the reply is something other than "try again"."""
        throttled, reason = 0, "our rate of requests is used up; let fewer runs use this token"
        while True:
            self._wait_for_turn(asked, reason, until=until)
            reply = self._exchange.ask(url, parameters, part, until=until)
            if isinstance(reply, Statements) or (reply.status == "Success" and reply.code is None):
                return reply
            wait, reason = self._react(asked, reply)
            # Later waits are longer too, whatever their reason: other users of this token are beyond our control.
            throttled += reply.code == THROTTLED
            wait = min(wait * 2**throttled, _SLOWEST)
            if reply.code == THROTTLED:
                self._pace.pause(wait)
            self._wait(asked, reason, wait, until=until)

    def _react(self, asked: str, refusal: Envelope) -> tuple[float, str]:
        """Return the seconds to wait before the next attempt, and the reason to report if the deadline is earlier."""
        if refusal.code is None:
            raise FlexServiceError(f"{asked}: the service answered {self._shown(refusal.status)} without an error code")
        reaction = reaction_to(refusal.code)
        said = self._shown(refusal.message)
        text = f"error {reaction.code}, {reaction.meaning}" + (f" ({said})" if said and reaction.is_fatal else "")
        if reaction.retry_after is None:
            raise FlexServiceError(f"{asked}: {text}: {reaction.remedy}", code=reaction.code)
        log.info("%s: %s", asked, text)
        return reaction.retry_after, f"{text}; {reaction.remedy}"

    def _wait_for_turn(self, asked: str, reason: str, *, until: float) -> None:
        while wait := self._pace.take():
            self._wait(asked, reason, wait, until=until)

    def _wait(self, asked: str, reason: str, seconds: float, *, until: float) -> None:
        if self._clock() + seconds >= until:
            raise FlexServiceError(f"{asked}: gave up after {self._limits.deadline:g} s: {reason}")
        self._sleep(seconds)

    def _shown(self, text: str) -> str:
        """Return a text of the service without the token, which it may repeat."""
        return text.replace(self._token.get_secret_value(), "***")[:200]


def check_periods(periods: tuple[Period, ...], first: date, last: date) -> None:
    """Refuse statements that do not match the request: kept, their days would count as fetched.

    Raises:
        FlexServiceError: no statement, one that reaches beyond ``first`` to ``last``, or one without positions.
    """
    if not periods:
        raise FlexServiceError(
            f"Flex statements of {first} to {last}: the service sent none, so positions are unknown: "
            "check the accounts of the query"
        )
    for period in periods:
        if period.first < first or period.last > last:
            raise FlexServiceError(
                f"Flex statements of {first} to {last}: the service sent {period.first} to {period.last} of account "
                f"{period.account} instead; nothing was kept, try again"
            )
        if not period.has_positions:
            raise FlexServiceError(
                f"Flex statements of {first} to {last}: the one of account {period.account} has no section "
                "OpenPositions, so its positions are unknown: add Open Positions to the Flex query; nothing was kept"
            )


@contextmanager
def _part_of(file: Path) -> Iterator[Path]:
    """Yield a temporary path for what becomes ``file``; it is removed if it did not."""
    folder = file.parent
    part = folder / f".{file.name}.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(folder)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise FlexServiceError(f"cannot write Flex statements to {folder}: {error.strerror}") from None


def _remove_stale(folder: Path) -> None:
    """Remove partial files that killed processes left; those of a day ago, which no other process still writes."""
    for part in folder.glob(".*.part"):
        if time.time() - part.stat().st_mtime > _STALE_SECONDS:
            part.unlink(missing_ok=True)


def spans(first: date, last: date) -> list[tuple[date, date]]:
    """Split ``first`` to ``last`` into spans that one request may have, oldest first."""
    pieces = []
    while first <= last:
        end = min(last, first + timedelta(days=MOST_DAYS - 1))
        pieces.append((first, end))
        first = end + timedelta(days=1)
    return pieces
