"""Bytes on the socket: frames, fields and the handshake.

The format is that of IBKR's TWS API socket protocol, versions 100 and later: after the bytes ``API`` and a NUL each
side sends frames of a big-endian unsigned length and that many bytes of fields, every field ended by a NUL.
"""

import re
import struct

SERVER_VERSION = 178
"""The protocol version that the outgoing encoders speak, and the newest one that ib_async 2.1 accepts."""

OLDEST_SERVER_VERSION = 176
"""Below this the encoders' field lists would be wrong, so an older client is refused."""

MAX_FRAME_BYTES = 1 << 20
"""Largest frame accepted from a client; the longest real request, an order, is a few kilobytes."""

HANDSHAKE_PREFIX = b"API\0"

_LENGTH = struct.Struct(">I")
_VERSIONS = re.compile(r"v(\d{1,6})\.\.(\d{1,6})(?: .*)?", re.DOTALL)

Field = str | int | float | bool | None
Message = tuple[Field, ...]
"""One message before encoding: its id first, then its fields in wire order."""


class WireError(Exception):
    """A peer sent bytes that are not IB's protocol, or fields that do not fit their message."""


def encode_field(value: Field) -> str:
    """Encode one field: booleans as 1 and 0, None as empty, floats in full so that they read back unchanged."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return repr(value)
    return str(value).replace("\0", " ")


def encode_payload(message: Message) -> bytes:
    """Encode a message without its length prefix."""
    return "".join(f"{encode_field(value)}\0" for value in message).encode()


def frame(payload: bytes) -> bytes:
    """Return a payload with its length prefix."""
    return _LENGTH.pack(len(payload)) + payload


def negotiate(payload: bytes) -> int:
    """Return the server version for a client that sent this ``v<oldest>..<newest>`` payload.

    Raises:
        WireError: the payload is not a version range, or the range does not include a version of this server.
    """
    match = _VERSIONS.fullmatch(payload.decode(errors="backslashreplace"))
    if match is None:
        raise WireError("the handshake is not a version range")
    oldest, newest = int(match[1]), int(match[2])
    if oldest > SERVER_VERSION or newest < OLDEST_SERVER_VERSION:
        raise WireError(f"client versions {oldest}..{newest} do not meet {OLDEST_SERVER_VERSION}..{SERVER_VERSION}")
    return min(newest, SERVER_VERSION)


class Framer:
    """Cuts a client's byte stream into payloads; the leading ``API`` and a NUL are checked and dropped."""

    __slots__ = ("_buffer", "_greeted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes, in order.

        Raises:
            WireError: the stream does not begin with ``API`` and a NUL, or a length prefix is above `MAX_FRAME_BYTES`.
        """
        self._buffer += data
        if not self._greeted:
            if not HANDSHAKE_PREFIX.startswith(self._buffer[:4]):
                raise WireError("the first bytes are not IB's handshake")
            if len(self._buffer) < len(HANDSHAKE_PREFIX):
                return []
            del self._buffer[:4]
            self._greeted = True
        payloads: list[bytes] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise WireError(f"a frame of {length} bytes was announced, above {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            payloads.append(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return payloads


class Fields:
    """Reads the fields of one incoming message in order, each with its type.

    All methods but `peek_integer` raise `WireError` if the message is too short or the text does not fit.
    """

    __slots__ = ("_position", "_values")

    def __init__(self, payload: bytes) -> None:
        self._values = payload.decode(errors="backslashreplace").split("\0")
        if self._values[-1] == "":
            self._values.pop()
        self._position = 0

    def text(self) -> str:
        """Return the next field as text."""
        if self._position >= len(self._values):
            raise WireError(f"the message ends after {len(self._values)} fields")
        value = self._values[self._position]
        self._position += 1
        return value

    def integer(self) -> int:
        """Return the next field as an integer; empty is 0."""
        value = self.text()
        if value == "":
            return 0
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value, re.ASCII):
            raise WireError(f"{value[:40]!r} is no integer")
        return int(value)

    def number(self) -> float:
        """Return the next field as a float; empty is 0."""
        value = self.text()
        try:
            return float(value) if value else 0.0
        except ValueError:
            raise WireError(f"{value[:40]!r} is no number") from None

    def flag(self) -> bool:
        """Return the next field as a boolean: 1 or 0."""
        return self.integer() != 0

    def skip(self, count: int) -> None:
        """Skip `count` fields."""
        for _ in range(count):
            self.text()

    def peek_integer(self, index: int, default: int) -> int:
        """Return the field at an absolute index as an integer, or `default` if it is missing or not an integer."""
        if 0 <= index < len(self._values) and re.fullmatch(r"-?[0-9]{1,18}", self._values[index], re.ASCII):
            return int(self._values[index])
        return default
