"""The Flex Web Service, version 3: ask for statements of a range of days, fetch them once they are made.

Two steps: ``SendRequest`` with the query and the days gives a reference and an address; that address is asked until the
statements come. The days are always named (``fd``, ``td``): without them the service may shorten a query's own period
to a single day and call it a success (csingley/ibflex#109), and so may it with them; what came back is compared with
what was asked.
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
from typing import Protocol

from pydantic import SecretStr

from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.exchange import Exchange, FlexLimits, Monotonic, check_address
from v6_pipeline.flex.replies import Envelope, Period, Statements
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.pacing import web as request_rates
from v6_pipeline.state.pacing.web import Window

MOST_DAYS = 365
"""Days that one request may span."""
_SLOWEST = 120.0
_STALE_SECONDS = 86_400

log = logging.getLogger(__name__)

THROTTLED = 1018
"""Too many requests with this token: everyone pauses, and every wait of this download is doubled from then on."""
IN_PROGRESS = 1019
"""The statement is being made: ask for it again."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What is done about an error code.

    ``retry_after`` is in seconds, ``None`` if asking again is of no use; ``remedy`` is what a person can do.
    """

    code: int
    meaning: str
    retry_after: float | None
    remedy: str

    @property
    def is_fatal(self) -> bool:
        """Whether asking again is of no use."""
        return self.retry_after is None


_LATER = "try again later; IB completes a day's statement by about 05:00 New York time"
_RENEW = "make a new token in Client Portal (Performance & Reports, Flex Queries, Flex Web Service), set V6_FLEX_TOKEN"
_QUERY = "set V6_FLEX_QUERY_ID to the id that Client Portal shows for an Activity Flex query"

REACTIONS = {
    reaction.code: reaction
    for reaction in (
        Reaction(1001, "statement could not be generated at this time", 15, _LATER),
        Reaction(1003, "statement is not available", None, "ask for days that are over and since the account opened"),
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
        Reaction(1017, "reference code is invalid", None, "ask again: the statement was dropped before it was fetched"),
        Reaction(THROTTLED, "too many requests with this token", 10, "let nothing else use this token meanwhile"),
        Reaction(IN_PROGRESS, "statement generation is in progress", 5, "try again later, or ask for fewer days"),
        Reaction(1020, "request is invalid or not validated", None, "check V6_FLEX_TOKEN and V6_FLEX_QUERY_ID"),
        Reaction(1021, "statement could not be retrieved at this time", 15, _LATER),
    )
}
"""Every code that IB documents."""


def reaction_to(code: int) -> Reaction:
    """The reaction to a code; one that IB does not document is fatal, for nobody knows what repeating it does."""
    return REACTIONS.get(code) or Reaction(
        code, "unknown error code", None, "look it up in IB's Flex Web Service documentation"
    )


WINDOWS = (Window(1, timedelta(seconds=1.25)), Window(10, timedelta(seconds=61)))
"""IB allows one request a second and ten a minute (the text of error 1018). It counts them as they arrive: one may be
under way a quarter of a second longer than the next."""


class Pace(Protocol):
    """Who says when the next request may be sent."""

    def take(self) -> float:
        """Seconds to wait before asking here again; 0: send one request now."""

    def pause(self, seconds: float) -> None:
        """The service said that we are too fast: nobody sends anything for so long."""


class SharedPace:
    """The rate of one token, in the state database.

    Args:
        database: shared by all processes.
        token: only a hash of it is stored.
        clock: UTC.
    """

    def __init__(self, database: StateDatabase, token: SecretStr, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._name = f"flex {hashlib.sha256(token.get_secret_value().encode()).hexdigest()[:32]}"
        self._clock = clock

    def take(self) -> float:
        """See ``Pace``."""
        return request_rates.take(self._database, self._name, WINDOWS, clock=self._clock).total_seconds()

    def pause(self, seconds: float) -> None:
        """See ``Pace``."""
        request_rates.pause(self._database, self._name, timedelta(seconds=seconds), clock=self._clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file of statements, as it lies in its folder."""

    file: Path
    periods: tuple[Period, ...]


class FlexService:
    """Downloads statements of one query.

    Args:
        url: the service's address, without a trailing slash; ``SendRequest`` is asked there.
        token: of the Flex Web Service.
        query_id: of an Activity Flex query.
        pace: says when a request may be sent.
        limits: time and size.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        *,
        url: str,
        token: SecretStr,
        query_id: str,
        pace: Pace,
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

    def download(self, first: date, last: date, file: Path) -> Download:
        """Fetch the statements of ``first`` to ``last`` into ``file``, which appears whole or not at all.

        Raises:
            FlexServiceError: refused, not in time, or not what was asked for. Days may still be missing from a download
                that succeeds: see its periods.
        """
        if not 0 <= (last - first).days < MOST_DAYS:
            raise FlexServiceError(f"{first} to {last}: one Flex request spans 1 to {MOST_DAYS} days")
        with _part_of(file) as part:
            periods = self._fetch(first, last, part)
            part.replace(file)
        return Download(file=file, periods=periods)

    def _fetch(self, first: date, last: date, part: Path) -> tuple[Period, ...]:
        until = self._clock() + self._limits.deadline
        asked = f"Flex statements of {first} to {last}"
        days = {"fd": f"{first:%Y%m%d}", "td": f"{last:%Y%m%d}"}
        log.info("asking for %s", asked)
        reply = self._ask(asked, f"{self._url}/SendRequest", {"q": self._query_id, **days}, part, until=until)
        if not isinstance(reply, Envelope):
            raise FlexServiceError(f"{asked}: the service sent statements where it should have sent a reference")
        if not (reply.reference and reply.url):
            raise FlexServiceError(f"{asked}: the service sent neither an error nor a reference and an address")
        address = check_address(reply.url, configured=self._url)
        reply = self._ask(asked, address, {"q": reply.reference}, part, until=until)
        if not isinstance(reply, Statements):
            raise FlexServiceError(f"{asked}: the service sent a reference where it should have sent statements")
        check_periods(reply.periods, first, last)
        log.info("%s: %d statements", asked, len(reply.periods))
        return reply.periods

    def _ask(
        self, asked: str, url: str, parameters: Mapping[str, str], part: Path, *, until: float
    ) -> Envelope | Statements:
        """Ask until the answer is no request to come again."""
        throttled, reason = 0, "our rate of requests is used up; let fewer runs use this token"
        while True:
            self._wait_for_turn(asked, reason, until=until)
            reply = self._exchange.ask(url, parameters, part, until=until)
            if isinstance(reply, Statements) or (reply.status == "Success" and reply.code is None):
                return reply
            wait, reason = self._react(asked, reply)
            # Slower from then on, whatever is waited for: who else uses this token is not under our control.
            throttled += reply.code == THROTTLED
            wait = min(wait * 2**throttled, _SLOWEST)
            if reply.code == THROTTLED:
                self._pace.pause(wait)
            self._wait(asked, reason, wait, until=until)

    def _react(self, asked: str, refusal: Envelope) -> tuple[float, str]:
        """How long to wait before asking again, and what to say if there is no time for it."""
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
            raise FlexServiceError(f"{asked}: given up after {self._limits.deadline:g} s: {reason}")
        self._sleep(seconds)

    def _shown(self, text: str) -> str:
        """What the service said, in case it repeats the token."""
        return text.replace(self._token.get_secret_value(), "***")[:200]


def check_periods(periods: tuple[Period, ...], first: date, last: date) -> None:
    """Refuse statements that cannot answer what was asked: kept, they would count as fetched.

    Raises:
        FlexServiceError: there is none, one reaches beyond ``first`` to ``last``, or one lacks its positions.
    """
    if not periods:
        raise FlexServiceError(
            f"Flex statements of {first} to {last}: the service sent none at all, which says nothing about positions: "
            "check the accounts of the query"
        )
    for period in periods:
        if period.first < first or period.last > last:
            raise FlexServiceError(
                f"Flex statements of {first} to {last}: the service sent {period.first} to {period.last} of account "
                f"{period.account} instead; nothing of it was kept, ask again"
            )
        if not period.has_positions:
            raise FlexServiceError(
                f"Flex statements of {first} to {last}: that of account {period.account} lacks the section "
                "OpenPositions, which says nothing about positions: add Open Positions to the Flex query; nothing "
                "of it was kept"
            )


@contextmanager
def _part_of(file: Path) -> Iterator[Path]:
    """Where to write what is to become ``file``; removed if it did not."""
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
    """Remove what a killed process left half written; a day old, so that no other process still writes it."""
    for part in folder.glob(".*.part"):
        if time.time() - part.stat().st_mtime > _STALE_SECONDS:
            part.unlink(missing_ok=True)


def spans(first: date, last: date) -> list[tuple[date, date]]:
    """``first`` to ``last`` in pieces that one request may span, oldest first."""
    pieces = []
    while first <= last:
        end = min(last, first + timedelta(days=MOST_DAYS - 1))
        pieces.append((first, end))
        first = end + timedelta(days=1)
    return pieces
