"""Faults of the simulated Flex Web Service.

Belongs here: ordering and cancelling a fault. `flex_server` applies it to a reply. `flex_fault` is an action; see
`actions`.
"""

import threading
from dataclasses import dataclass
from enum import StrEnum

from v6_pipeline.paper.fields import Code, Count, Seconds


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
