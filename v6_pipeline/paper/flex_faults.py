"""What may be wrong with the simulated Flex Web Service.

Belongs here: ordering a fault, and forgetting it. What each does to a reply is in `flex_server`. The public methods are
actions; see `actions`.
"""

import threading
from dataclasses import dataclass
from enum import StrEnum

from v6_pipeline.paper.fields import Code, Count, Seconds


class FlexFault(StrEnum):
    """One thing that goes wrong with a request."""

    REQUEST_ERROR = "request_error"
    """SendRequest is answered with an error code."""
    STATEMENT_ERROR = "statement_error"
    """GetStatement is answered with an error code: 1019 for ever, 1018, ..."""
    FOREIGN_URL = "foreign_url"
    """The statement is said to be at another address."""
    REDIRECT = "redirect"
    """GetStatement is redirected to another address."""
    HALF_DOCUMENT = "half_document"
    """A document that ends in its middle, with a length that fits."""
    CUT_CONNECTION = "cut_connection"
    """A connection that ends in the document's middle."""
    OTHER_DATES = "other_dates"
    """Statements of the days before those that were asked for."""
    COLLAPSED = "collapsed"
    """Only the last day's statements, as a success."""
    NO_STATEMENTS = "no_statements"
    """A document without any statement."""
    EMPTY_POSITIONS = "empty_positions"
    """OpenPositions are there and empty, as of a flat account."""
    NO_POSITIONS = "no_positions"
    """The section OpenPositions is missing."""
    WEB_PAGE = "web_page"
    """HTML with status 200, as in a maintenance window."""
    HTTP_ERROR = "http_error"
    """An HTTP status instead of an answer."""
    SILENCE = "silence"
    """Nothing for a while, in the middle of the document."""


@dataclass(slots=True)
class ArmedFault:
    """A fault that is still to come; `left` is how many more times, `None` until it is healed."""

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
        """Let the Flex Web Service fail in some way, the next times or until healed."""
        with self._lock:
            self._armed.append(ArmedFault(fault, code, url, seconds, count))

    def heal(self) -> None:
        """Forget what is still to come."""
        with self._lock:
            self._armed.clear()

    def take(self, fault: FlexFault) -> ArmedFault | None:
        """The fault if it is to happen now, counted."""
        with self._lock:
            for armed in self._armed:
                if armed.fault == fault:
                    if armed.left is not None:
                        armed.left -= 1
                        if not armed.left:
                            self._armed.remove(armed)
                    return armed
        return None
