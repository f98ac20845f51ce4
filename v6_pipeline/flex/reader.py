"""A strict reader of Flex files that holds one statement in memory at a time.

The reader is our own, because a position that a lenient reader skips, or a document without statements, would look like
a flat account: a statement that cannot be read is refused in a line that names file, statement, row, field and value,
and costs no other statement of the file. A document that breaks off, or is none of statements, is refused as a whole.
Unknown elements are skipped and unknown attributes are kept, because IB adds new ones. Expat parses the bytes as they
come. A document with a DTD is refused: statements have none, and without a DTD no entity can be declared. What a
document can make expat or us hold in memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO
from xml.parsers import expat

from v6_pipeline.errors import FlexError
from v6_pipeline.flex.model import FlexStatement, RefusedStatement
from v6_pipeline.flex.replies import MOST_DEPTH, MOST_ELEMENT_BYTES
from v6_pipeline.flex.statement import ROWS, StatementParts
from v6_pipeline.flex.values import Row
from v6_pipeline.foreign_text import visible, visible_values

ROOT = "FlexQueryResponse"
REPLY = "FlexStatementResponse"
"""Root of a reply of the Flex Web Service without a statement: not ready, or an error."""
_LIST, _STATEMENT = "FlexStatements", "FlexStatement"
_CHUNK_BYTES = 1 << 16
_REPLY_FIELDS = ("Status", "ErrorCode", "ErrorMessage")
MOST_BYTES = 8 << 30
"""One document, so that a small compressed one does not go on for hours; a year of 1,000 positions has 0.1 GiB."""
MOST_STATEMENT_BYTES = 256 << 20
"""One account and day, whose rows are held in memory together."""


def read_statements(file: BinaryIO, name: str) -> Iterator[FlexStatement | RefusedStatement]:
    """Yield the statements of a file, in its order, those that cannot be read as refused ones.

    Use none of them before the iteration has ended without an error: a truncated file raises only at its end.

    Raises:
        FlexError: the file is truncated, too large to be held, or not one of Flex statements; one line.
    """
    reader = _Reader(name)
    while chunk := file.read(_CHUNK_BYTES):
        yield from reader.feed(chunk, is_last=False)
    yield from reader.feed(b"", is_last=True)


class _Reader:
    """Expat's handlers, and the statement under construction."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._path: list[str] = []
        self._query_name: str | None = None
        self._announced: int | None = None
        self._begun = 0
        self._parts: StatementParts | None = None
        self._done: list[StatementParts] = []
        self._reply: dict[str, str] = {}
        self._bytes = 0
        self._event_at = 0
        """Bytes that were fed when expat last reported anything."""
        self._statement_at = 0

    def feed(self, chunk: bytes, *, is_last: bool) -> list[FlexStatement | RefusedStatement]:
        if not self._bytes:
            self._check_beginning(chunk)
        self._bytes += len(chunk)
        try:
            self._parser.Parse(chunk, is_last)
        except expat.ExpatError as error:
            raise self._broken(error) from None
        self._check_size()
        done, self._done = self._done, []
        return [parts.build() for parts in done]

    def _check_beginning(self, chunk: bytes) -> None:
        """Refuse what is plainly no XML in better words than expat's."""
        text = chunk.lstrip(b"\xef\xbb\xbf \t\r\n")
        if text.startswith(b"PK\x03\x04"):
            raise FlexError(f"{self._name}: is a zip archive: unpack it")
        if text and text[:1] not in b"<\xff\xfe\x00":  # the last three begin UTF-16
            begins = text[:20].decode(errors="replace")
            raise FlexError(
                f"{self._name}: is not XML (it begins with {begins!r}): set the format XML in the Flex query's "
                "delivery settings"
            )

    def _check_size(self) -> None:
        if self._bytes - self._event_at > MOST_ELEMENT_BYTES:
            raise FlexError(
                f"{self._name}: an element at byte {self._event_at:,} or later is larger than "
                f"{MOST_ELEMENT_BYTES >> 20} MiB, which no Flex statement has: not read"
            )
        if self._bytes > MOST_BYTES:
            raise FlexError(f"{self._name}: is larger than {MOST_BYTES >> 30} GiB: not read; split it by days")
        if self._parts is not None and self._bytes - self._statement_at > MOST_STATEMENT_BYTES:
            raise FlexError(
                f"{self._parts.head.where}: is larger than {MOST_STATEMENT_BYTES >> 20} MiB: set 'Breakout by Day' to "
                "Yes in the Flex query, so that each account and day has its own statement"
            )

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        self._event_at = self._bytes
        attributes = visible_values(attributes)
        depth = len(self._path)
        if depth >= MOST_DEPTH:
            raise FlexError(
                f"{self._name}: has elements nested {MOST_DEPTH} deep, which no Flex statement has: not read"
            )
        self._path.append(element)
        if depth == 0:
            if element not in {ROOT, REPLY}:
                raise FlexError(f"{self._name}: begins with {element[:40]}: it is not a file of Flex statements")
            self._query_name = attributes.get("queryName") or None
        elif self._path[0] == REPLY:
            return
        elif depth == 1 and element == _LIST:
            self._announced = self._count(attributes)
        elif depth == 2 and element == _STATEMENT:
            self._begin(attributes)
        if self._parts is not None:
            self._parts.note(depth, element, attributes)
            if depth == 3:
                self._parts.sections.add(element)
            section = self._path[3] if depth > 3 else element
            # Rows are children of their section; AccountInformation may be a section and a row at once.
            if depth in {3, 4} and element in ROWS.get(section, ()) and (depth == 4 or attributes):
                self._parts.add(section, element, attributes)

    def _end(self, element: str) -> None:
        self._event_at = self._bytes
        self._path.pop()
        if self._parts is not None and len(self._path) == 2:
            self._done.append(self._parts)
            self._parts = None
        if not self._path:
            self._finish(element)

    def _text(self, text: str) -> None:
        self._event_at = self._bytes
        if self._path[:1] == [REPLY] and len(self._path) == 2 and self._path[1] in _REPLY_FIELDS:
            self._reply[self._path[1]] = self._reply.get(self._path[1], "") + visible(text.strip())

    def _begin(self, attributes: dict[str, str]) -> None:
        self._begun += 1
        self._statement_at = self._bytes
        named = [attributes.get("accountId", ""), attributes.get("fromDate", ""), attributes.get("toDate", "")]
        where = f"{self._name}, statement {self._begun} ({' '.join(part for part in named if part)})"
        self._parts = StatementParts(head=Row(where, attributes), query_name=self._query_name)

    def _finish(self, root: str) -> None:
        if root == REPLY:
            said = " ".join(self._reply[name] for name in _REPLY_FIELDS if self._reply.get(name))
            raise FlexError(
                f"{self._name}: a reply of the Flex Web Service without a statement: {said[:200] or 'it is empty'}"
            )
        if self._announced is None:
            raise FlexError(f"{self._name}: has no {_LIST}: it is not a file of Flex statements")
        if self._announced != self._begun:
            raise FlexError(f"{self._name}: announces {self._announced} statements and holds {self._begun}")

    def _count(self, attributes: Mapping[str, str]) -> int:
        text = attributes.get("count", "")
        if not text.isdecimal():
            raise FlexError(f"{self._name}: {_LIST} does not state the number of statements")
        return int(text)

    def _refuse_doctype(self, *_: object) -> None:
        raise FlexError(f"{self._name}: has a document type declaration, which no Flex statement has: not read")

    def _broken(self, error: expat.ExpatError) -> FlexError:
        where = f"line {error.lineno}, column {error.offset + 1}"
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS] and self._path:
            return FlexError(f"{self._name}: ends early at {where}: the file is incomplete; fetch it again")
        return FlexError(f"{self._name}: is not well-formed at {where}: {expat.errors.messages[error.code]}")
