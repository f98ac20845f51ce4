"""Replies of the Flex Web Service: a short envelope, or statements, whose content `reader` parses later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from xml.parsers import expat

from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.values import day
from v6_pipeline.foreign_text import visible, visible_values

_ENVELOPE = "FlexStatementResponse"
_STATEMENTS = "FlexQueryResponse"
_POSITIONS = "OpenPositions"
_LONGEST_TEXT = 200
MOST_DEPTH = 32
"""Nesting of elements; statements have five levels."""
MOST_ELEMENT_BYTES = 4 << 20
"""One element with its attributes, which expat holds as a whole; real ones have some kilobytes."""
_LONGEST_ENVELOPE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Account, first and last day of one statement, and whether it has the section of positions."""

    account: str
    first: date
    last: date
    has_positions: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A short reply: the address of a statement to come, or the reason why there is none."""

    status: str
    reference: str = ""
    url: str = ""
    code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Statements:
    """A complete document of statements."""

    periods: tuple[Period, ...]


class ReplyScanner:
    """Parses a reply piece by piece and keeps only its kind, its envelope and its periods.

    Every error is a ``FlexServiceError`` of one line that shows neither addresses nor the reply's text.
    """

    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._root = ""
        self._open: list[str] = []
        self._fields: dict[str, str] = {}
        self._periods: list[Period] = []
        self._bytes = 0
        self._event_at = 0

    def feed(self, piece: bytes) -> None:
        """Parse the next bytes.

        Raises:
            FlexServiceError: the bytes so far cannot begin a reply of the service.
        """
        self._bytes += len(piece)
        self._parse(piece, final=False)
        if self._bytes - self._event_at > MOST_ELEMENT_BYTES:
            raise FlexServiceError("the Flex Web Service answered with an endless element instead of a statement")
        if self._root == _ENVELOPE and self._bytes > _LONGEST_ENVELOPE:
            raise FlexServiceError("the Flex Web Service answered with an endless message instead of a statement")

    def close(self) -> Envelope | Statements:
        """Return the reply once all bytes are parsed.

        Raises:
            FlexServiceError: the reply is incomplete, or an envelope without a status.
        """
        self._parse(b"", final=True)
        return Statements(tuple(self._periods)) if self._root == _STATEMENTS else _envelope(self._fields)

    def _parse(self, piece: bytes, *, final: bool) -> None:
        problem = ""
        try:
            self._parser.Parse(piece, final)
        except expat.ExpatError as error:
            problem = self._explain(error)
        if problem:  # raised outside of the except, so that its context does not hold the reply's text
            raise FlexServiceError(problem)

    def _explain(self, error: expat.ExpatError) -> str:
        if not self._bytes:
            return "the Flex Web Service answered with nothing"
        if not self._root:
            return "the Flex Web Service answered with something that is not XML: it may be down for maintenance"
        return (
            f"the Flex Web Service's reply is incomplete: {expat.ErrorString(error.code)} at line {error.lineno} of a "
            f"{self._root}, after {self._bytes:,} bytes; nothing was kept, try again"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._event_at = self._bytes
        if len(self._open) >= MOST_DEPTH:
            raise FlexServiceError("the Flex Web Service answered with endlessly nested elements, no statement")
        if not self._root:
            if tag not in {_ENVELOPE, _STATEMENTS}:
                raise FlexServiceError(_no_reply(tag))
            self._root = tag
        elif tag == "FlexStatement" and self._root == _STATEMENTS:
            self._periods.append(_period(visible_values(attributes)))
        elif tag == _POSITIONS and self._open[-1] == "FlexStatement":
            self._periods[-1] = replace(self._periods[-1], has_positions=True)
        self._open.append(tag)

    def _end(self, tag: str) -> None:  # noqa: ARG002  (expat's signature)
        self._event_at = self._bytes
        self._open.pop()

    def _text(self, text: str) -> None:
        self._event_at = self._bytes
        if self._root == _ENVELOPE and len(self._open) == 2:
            self._fields[self._open[1]] = self._fields.get(self._open[1], "") + visible(text)

    def _doctype(self, name: str, *_: object) -> None:
        raise FlexServiceError(_no_reply(name))


def parse_date(text: str) -> date | None:
    """Parse a date as statements write it, such as ``20260318`` or ``2026-03-18``; ``None`` if it is none."""
    try:
        return day(text)
    except ValueError:
        return None


def _period(attributes: dict[str, str]) -> Period:
    account = attributes.get("accountId", "")
    days = [parse_date(attributes.get(name, "")) for name in ("fromDate", "toDate")]
    if not account or days[0] is None or days[1] is None or days[0] > days[1]:
        shown = ", ".join(f"{name} {attributes.get(name)!r:.40}" for name in ("accountId", "fromDate", "toDate"))
        raise FlexServiceError(
            f"the Flex Web Service sent a statement without a readable account and period ({shown}): set the query's "
            "date format to yyyyMMdd or yyyy-MM-dd"
        )
    return Period(account=account, first=days[0], last=days[1], has_positions=False)


def _envelope(fields: dict[str, str]) -> Envelope:
    words = {name: " ".join(text.split()) for name, text in fields.items()}
    status, code = words.get("Status", ""), words.get("ErrorCode", "")
    if not status or (code and not code.isdecimal()):
        raise FlexServiceError("the Flex Web Service answered with a message that has no status or no readable code")
    return Envelope(
        status=status,
        reference=words.get("ReferenceCode", ""),
        url=words.get("Url", ""),
        code=int(code) if code else None,
        message=words.get("ErrorMessage", "")[:_LONGEST_TEXT],
    )


def _no_reply(tag: str) -> str:
    kind = "a web page" if tag.lower() == "html" else f"a document of type {tag!r:.40}"
    return f"the Flex Web Service answered with {kind} instead of a statement: it may be down for maintenance"
