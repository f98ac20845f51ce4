"""The simulated Flex Web Service: version 3 of IB's protocol over HTTP, on loopback only.

Belongs here: the protocol and its rules (token, version, User-Agent, days, 1 request a second and 10 a minute), and the
faults of the service. `flex_statements` writes the statements.
"""

import itertools
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.config import LOOPBACK, utcnow
from v6_pipeline.paper.fields import Code, Count, Seconds
from v6_pipeline.paper.flex_statements import FlexQuery, Section, statements
from v6_pipeline.paper.past import Past

PATH = "/AccountManagement/FlexWebService"
"""Path of IB's service."""
TOKEN = "SIM0TOKEN0000000000000000"  # noqa: S105 - of a simulation
QUERY_ID = "1000001"
_NEW_YORK = ZoneInfo("America/New_York")
_MOST_DAYS = 365
_WINDOWS = ((1, 1.0), (10, 60.0))
_TEXTS = {
    1003: "Statement is not available.",
    1014: "Query is invalid.",
    1015: "Token is invalid.",
    1017: "Reference code is invalid.",
    1018: "Too many requests have been made from this token. Please try again shortly.",
    1019: "Statement generation in progress. Please try again shortly.",
    1020: "Invalid request or unable to validate request.",
}
_WEB_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>System maintenance</title></head><body>We will be back.</body></html>\n"
)


class FlexFault(StrEnum):
    """Kinds of faults of a request."""

    REQUEST_ERROR = "request_error"
    """SendRequest is answered with an error code."""
    STATEMENT_ERROR = "statement_error"
    """GetStatement is answered with an error code: 1019 for ever, 1018, ..."""
    FOREIGN_URL = "foreign_url"
    """The reply names another address for the statement."""
    REDIRECT = "redirect"
    """GetStatement is redirected to another address."""
    HALF_DOCUMENT = "half_document"
    """Half a document, with a Content-Length that fits."""
    CUT_CONNECTION = "cut_connection"
    """A connection that ends in the middle of the document."""
    OTHER_DATES = "other_dates"
    """Statements of the days before the requested ones."""
    COLLAPSED = "collapsed"
    """Only the last day's statements, reported as a success."""
    NO_STATEMENTS = "no_statements"
    """A document without any statement."""
    EMPTY_POSITIONS = "empty_positions"
    """An empty section OpenPositions, as of a flat account."""
    NO_POSITIONS = "no_positions"
    """The section OpenPositions is missing."""
    WEB_PAGE = "web_page"
    """HTML with status 200, as in a maintenance window."""
    HTTP_ERROR = "http_error"
    """An HTTP status instead of an answer."""
    SILENCE = "silence"
    """A pause in the middle of the document."""


@dataclass(slots=True)
class ArmedFault:
    """An ordered fault; `left` is the number of times that it still happens, `None` until it is healed."""

    fault: FlexFault
    code: int
    url: str
    seconds: float
    left: int | None


class FlexFaults:
    """The faults of one service; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[ArmedFault] = []

    def flex_fault(
        self,
        fault: FlexFault,
        code: Code = 1019,
        url: str = "https://example.invalid/GetStatement",
        seconds: Seconds = 60.0,
        count: Count | None = None,
    ) -> None:
        """Let the Flex Web Service fail in some way, for the next `count` requests or until healed."""
        with self._lock:
            self._armed.append(ArmedFault(fault, code, url, seconds, count))

    def heal(self) -> None:
        """Cancel all ordered faults."""
        with self._lock:
            self._armed.clear()

    def take(self, fault: FlexFault) -> ArmedFault | None:
        """Return the fault if it is to happen now, and count it."""
        with self._lock:
            for armed in self._armed:
                if armed.fault == fault:
                    if armed.left is not None:
                        armed.left -= 1
                        if not armed.left:
                            self._armed.remove(armed)
                    return armed
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexConfig:
    """Settings of one simulated service; port 0 picks a free one.

    `in_progress` is the number of replies "in progress" before a statement is ready, `clock` monotonic seconds. With
    `opened_on` a range that begins before this day is refused as a whole (a guess at what IB does with an account that
    was opened later).
    """

    port: int = 0
    token: str = TOKEN
    query_id: str = QUERY_ID
    query: FlexQuery = FlexQuery()  # noqa: RUF009 - it is frozen
    in_progress: int = 1
    opened_on: date | None = None
    clock: Callable[[], float] = time.monotonic
    utcnow: Callable[[], datetime] = utcnow


@dataclass(slots=True)
class _Order:
    """Statements that were requested."""

    first: date
    last: date
    polls_left: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; `body` may end before `length`, and may pause after its first half."""

    body: bytes
    status: int = 200
    location: str = ""
    length: int | None = None
    silent_seconds: float = 0.0


class FlexServer:
    """Serves the statements of a past in a thread of its own; a context manager.

    `requests` counts answers by name (``SendRequest``, ``GetStatement``), and those ``refused`` for the rate.

    Raises:
        GatewayError: the port is taken.
    """

    def __init__(self, past: Callable[[], Past], config: FlexConfig | None = None) -> None:
        self.config = config or FlexConfig()
        self.faults = FlexFaults()
        self.requests: Counter[str] = Counter()
        self._past = past
        self._lock = threading.Lock()
        self._orders: dict[str, _Order] = {}
        self._references = itertools.count(5_000_000_001)
        self._sent: deque[float] = deque(maxlen=max(count for count, _ in _WINDOWS))
        self._stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen."""
        try:
            self._server = _Server((LOOPBACK, self.config.port), _handler_of(self))
        except OSError as problem:
            raise GatewayError(f"cannot listen on {LOOPBACK}:{self.config.port} (--flex-port): {problem}") from problem
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="flex", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; a second call does nothing.

        Raises:
            Exception: the first failure of an answer, so that it is not lost.
        """
        self._stopping.set()
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()
            if server.failures:
                raise server.failures[0]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        if self._server is None:
            raise GatewayError("the simulated Flex Web Service does not run")
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        """The value for V6_FLEX_URL."""
        return f"http://{LOOPBACK}:{self.port}{PATH}"

    def wait(self, seconds: float) -> None:
        """Pause for `seconds`, or until the server stops."""
        self._stopping.wait(seconds)

    def answer(self, address: str, user_agent: str) -> Answer:
        """Return the answer to a GET request."""
        parts = urlsplit(address)
        question = parts.path.removeprefix(f"{PATH}/")
        given = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if not parts.path.startswith(f"{PATH}/") or question not in {"SendRequest", "GetStatement"}:
            return Answer(b"not found\n", 404)
        if not user_agent:
            return Answer(b"forbidden\n", 403)
        if armed := self.faults.take(FlexFault.HTTP_ERROR):
            return Answer(b"error\n", armed.code if 400 <= armed.code < 600 else 500)
        if self.faults.take(FlexFault.WEB_PAGE):
            return Answer(_WEB_PAGE)
        with self._lock:
            if given.get("v") != "3":
                return _refusal(1020)
            if given.get("t") != self.config.token:
                return _refusal(1015)
            if not self._is_within_rate():
                self.requests["refused"] += 1
                return _refusal(1018)
            self.requests[question] += 1
            return self._send_request(given) if question == "SendRequest" else self._get_statement(given)

    def _is_within_rate(self) -> bool:
        """Count a request that keeps to the rate; return False for one that does not."""
        now = self.config.clock()
        for count, seconds in _WINDOWS:
            if len(self._sent) >= count and now - self._sent[-count] < seconds:
                return False
        self._sent.append(now)
        return True

    def _send_request(self, given: dict[str, str]) -> Answer:
        if armed := self.faults.take(FlexFault.REQUEST_ERROR):
            return _refusal(armed.code)
        if given.get("q") != self.config.query_id:
            return _refusal(1014)
        first, last = _day(given.get("fd", "")), _day(given.get("td", ""))
        if first is None or last is None or not 0 <= (last - first).days < _MOST_DAYS:
            return _refusal(1020)
        # A day's statement is ready on the next day; later days are left out without notice, as IB does.
        last = min(last, self.config.utcnow().astimezone(_NEW_YORK).date() - timedelta(days=1))
        is_too_early = self.config.opened_on is not None and first < self.config.opened_on
        if is_too_early or not self._past().between(first, last):
            return _refusal(1003)
        reference = str(next(self._references))
        self._orders[reference] = _Order(first, last, self.config.in_progress)
        armed = self.faults.take(FlexFault.FOREIGN_URL)
        url = armed.url if armed else f"{self.url}/GetStatement"
        return _envelope(f"<Status>Success</Status><ReferenceCode>{reference}</ReferenceCode><Url>{escape(url)}</Url>")

    def _get_statement(self, given: dict[str, str]) -> Answer:
        if armed := self.faults.take(FlexFault.REDIRECT):
            return Answer(b"", 302, location=armed.url)
        if armed := self.faults.take(FlexFault.STATEMENT_ERROR):
            return _refusal(armed.code)
        order = self._orders.get(given.get("q", ""))
        if order is None:
            return _refusal(1017)
        if order.polls_left:
            order.polls_left -= 1
            return _refusal(1019)
        return self._spoilt(self._document(order))

    def _document(self, order: _Order) -> bytes:
        first, last, query = order.first, order.last, self.config.query
        if self.faults.take(FlexFault.COLLAPSED):
            first = self._past().between(first, last)[-1].day
        if self.faults.take(FlexFault.OTHER_DATES):
            first, last = first - timedelta(days=7), first - timedelta(days=1)
        if self.faults.take(FlexFault.NO_STATEMENTS):
            first, last = date.max - timedelta(days=1), date.max
        if self.faults.take(FlexFault.EMPTY_POSITIONS):
            query = replace(query, empty=query.empty | {Section.POSITIONS})
        if self.faults.take(FlexFault.NO_POSITIONS):
            query = replace(query, sections=query.sections - {Section.POSITIONS})
        generated = self.config.utcnow().astimezone(_NEW_YORK)
        pieces = statements(self._past(), first, last, query, generated=generated)
        return "".join(pieces).encode()

    def _spoilt(self, document: bytes) -> Answer:
        if self.faults.take(FlexFault.HALF_DOCUMENT):
            return Answer(document[: len(document) // 2])
        if self.faults.take(FlexFault.CUT_CONNECTION):
            return Answer(document[: len(document) // 2], length=len(document))
        armed = self.faults.take(FlexFault.SILENCE)
        return Answer(document, silent_seconds=armed.seconds if armed else 0.0)


class _Server(ThreadingHTTPServer):
    """Daemon threads, because a client may never finish its request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.failures: list[BaseException] = []

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  (socketserver's signature)
        """Keep a defect for `FlexServer.stop`; a client that closes its connection early is not one."""
        problem = sys.exception()
        if problem is not None and not isinstance(problem, ConnectionError):
            self.failures.append(problem)


def _handler_of(service: FlexServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = service.answer(self.path, self.headers.get("User-Agent", ""))
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            if answer.location:
                self.send_header("Location", answer.location)
            self.end_headers()
            half = len(answer.body) // 2 if answer.silent_seconds else len(answer.body)
            self.wfile.write(answer.body[:half])
            if answer.silent_seconds:
                self.wfile.flush()
                service.wait(answer.silent_seconds)
                self.wfile.write(answer.body[half:])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Log nothing: addresses contain the token."""

    return Handler


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a date
    except ValueError:
        return None


def _envelope(content: str) -> Answer:
    return Answer(
        f"<FlexStatementResponse timestamp='28 August, 2012 10:37 AM EDT'>{content}</FlexStatementResponse>\n".encode()
    )


def _refusal(code: int) -> Answer:
    status = "Warn" if code in {1018, 1019} else "Fail"
    text = _TEXTS.get(code, f"Error {code}.")
    return _envelope(
        f"<Status>{status}</Status><ErrorCode>{code}</ErrorCode><ErrorMessage>{escape(text)}</ErrorMessage>"
    )
