"""One client's connection: bytes in, messages out, login, message rate, and the record of its subscriptions."""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from v6_pipeline.paper import messages
from v6_pipeline.paper.config import GatewayConfig
from v6_pipeline.paper.contracts import Contract
from v6_pipeline.paper.prices import Quote
from v6_pipeline.paper.requests import RequestId, parse_start_api
from v6_pipeline.paper.statistics import RollingCount, Statistics
from v6_pipeline.paper.ticks import MarketDataType, TickTypes
from v6_pipeline.paper.wire import Fields, Framer, Message, WireError, encode_payload, frame, negotiate

MAX_RATE_BREACHES = 3
"""IBKR ends the session at the third breach of the message rate (TWS API, "Pacing Behavior")."""

MAX_UNSENT_BYTES = 64 << 20
"""A client that leaves this much unread is disconnected."""

_LINGER_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Subscription:
    """One market data line in use by one client; a dead one keeps its line and its id, and receives nothing.

    `seen` is the newest quote that was sent; `is_announced` is set once the client knows the type of data.
    """

    ticker_id: int
    contract: Contract
    types: TickTypes
    kind: MarketDataType
    wants_mark: bool
    snapshot: bool
    seen: Quote | None = None
    is_announced: bool = False
    is_halted: bool = False
    is_dead: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class ValueFeed:
    """A subscription to an account summary or to reqAccountUpdatesMulti.

    `encode` makes the message of a row from request id, account and row; `sent` is the newest value sent by account,
    tag and currency.
    """

    accounts: tuple[str, ...]
    encode: Callable[[int, str, messages.AccountValue], Message]
    tags: tuple[str, ...] | None = None
    sent: dict[tuple[str, str, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class PnLFeed:
    """A subscription to the profit and loss of an account, or of one contract in it; `sent` is the newest message."""

    account: str
    conid: int | None
    sent: Message | None = None


@dataclass(slots=True)
class Subscriptions:
    """All subscriptions of one client; `positions_multi` has the account of each request by its id."""

    market_data: dict[int, Subscription] = field(default_factory=dict)
    positions: bool = False
    positions_multi: dict[int, str] = field(default_factory=dict)
    account: str | None = None
    summaries: dict[int, ValueFeed] = field(default_factory=dict)
    multis: dict[int, ValueFeed] = field(default_factory=dict)
    pnl: dict[int, PnLFeed] = field(default_factory=dict)


class Outbox:
    """Writes to a client in order: at once, `hold_seconds` later, or after the end of a blackhole."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.hold_seconds = 0.0
        self.is_frozen = False
        self._writer = writer
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait here and in the socket's buffer."""
        return self._held_bytes + self._writer.transport.get_write_buffer_size()

    def put(self, data: bytes) -> None:
        """Send, or hold back behind bytes that are already held."""
        if not (self._held or self.hold_seconds or self.is_frozen):
            self._writer.write(data)
            return
        due = asyncio.get_running_loop().time() + self.hold_seconds
        # A delay that got shorter must not let one message overtake another.
        self._held.append((max(due, self._held[-1][0]) if self._held else due, data))
        self._held_bytes += len(data)
        self._schedule()

    def freeze(self) -> None:
        """Send nothing until `thaw`."""
        self.is_frozen = True
        self._cancel()

    def thaw(self) -> None:
        """Send what is due by now, in order, and continue."""
        self.is_frozen = False
        self._send_due(asyncio.get_running_loop().time())

    def finish(self) -> None:
        """Send everything at the end of the connection; bytes that a blackhole holds are lost."""
        self._cancel()
        for _, data in () if self.is_frozen else self._held:
            self._writer.write(data)
        self._held.clear()
        self._held_bytes = 0

    def _schedule(self) -> None:
        if self._held and not self.is_frozen and self._timer is None:
            due = self._held[0][0]
            self._timer = asyncio.get_running_loop().call_at(due, self._send_due, due)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_due(self, until: float) -> None:
        self._cancel()
        while self._held and self._held[0][0] <= until:
            _, data = self._held.popleft()
            self._held_bytes -= len(data)
            self._writer.write(data)
        self._schedule()


class ClientSession:
    """A client from its first byte to its last.

    `dispatch` handles every message after the login; `claim` takes a client id for this session, or returns False if it
    is in use; `greet` sends the state of IB's servers once the login is accepted. The next `forced_breaches` messages
    count as breaches of the message rate; `has_ended` is True once the client has closed its end.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        config: GatewayConfig,
        statistics: Statistics,
        dispatch: Callable[["ClientSession", int, Fields], None],
        claim: Callable[["ClientSession"], bool],
        greet: Callable[["ClientSession"], None],
    ) -> None:
        self.client_id = -1
        self.subscriptions = Subscriptions()
        self.market_data_type = MarketDataType.LIVE
        self.is_ready = False
        self.outbox = Outbox(writer)
        self.forced_breaches = 0
        self._reader = reader
        self._writer = writer
        self._config = config
        self._statistics = statistics
        self._dispatch = dispatch
        self._claim = claim
        self._greet = greet
        self._framer = Framer()
        self._server_version = 0
        self._window = RollingCount()
        self._breaches = 0
        self._unread: list[bytes] = []
        self._is_closing = False
        self._served = asyncio.Event()
        self._served.set()
        self._reads = asyncio.Event()
        self._reads.set()
        self.has_ended = False
        self._reaper: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve the client until either side closes the connection."""
        try:
            while data := await self._reader.read(1 << 16):
                await self._reads.wait()
                self._guarded(self._received, data)
            await self._notice_end()
        except ConnectionError:
            await self._notice_end()  # a client may disconnect at any time
        finally:
            if self._reaper is not None:
                self._reaper.cancel()
            self._is_closing = True
            self.outbox.finish()
            self._writer.close()

    def freeze(self) -> None:
        """Answer and send nothing until `thaw`; incoming messages are kept, and counted on arrival."""
        self.outbox.freeze()
        self._served.clear()

    def thaw(self) -> None:
        """Send what was held back and serve what arrived in the meantime, in order."""
        self.outbox.thaw()
        self._served.set()
        unread, self._unread = self._unread, []
        for payload in unread:
            if not (self._is_closing or self.has_ended):
                self._guarded(self._handle, payload)

    def stall(self, *, reads: bool) -> None:
        """Read nothing from the socket, or read on: messages count when they are read, as with a busy program."""
        if reads or self._is_closing:
            self._reads.set()
        else:
            self._reads.clear()

    async def _notice_end(self) -> None:
        """Record that the client has closed its end; wait while the session is frozen."""
        self.has_ended = True
        await self._served.wait()

    def send(self, message: Message) -> None:
        """Send one message."""
        self.send_bytes(frame(encode_payload(message)))

    def send_bytes(self, data: bytes) -> None:
        """Send the bytes of one message unchanged. All bytes to a client pass through here."""
        if self._is_closing or self._writer.is_closing():
            return
        self._statistics.messages_sent += 1
        self.outbox.put(data)
        if self.outbox.unsent_bytes > MAX_UNSENT_BYTES:
            self.abort()

    def error(self, request_id: int, code: int, text: str) -> None:
        """Send an error, warning or notice, and count it."""
        self._statistics.error_sent(code)
        self.send(messages.error(request_id, code, text))

    def close(self) -> None:
        """End the connection once everything sent so far is delivered.

        The sending half is closed first, and what the client still sends is read and dropped: closing a socket with
        unread data resets it, and the client could lose the error that names the reason.
        """
        if self._is_closing:
            return
        self._is_closing = True
        self._served.set()
        self._reads.set()
        self.outbox.finish()
        if self._writer.can_write_eof():
            with contextlib.suppress(OSError):  # of a client that was killed a moment ago
                self._writer.write_eof()
        self._reaper = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """End the connection at once."""
        self._is_closing = True
        self._served.set()
        self._reads.set()
        self._writer.transport.abort()

    def reset(self) -> None:
        """End the connection at once; the client sees a reset (ECONNRESET), not an end."""
        connection = self._writer.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def _guarded(self, work: Callable[[bytes], None], data: bytes) -> None:
        """Process a client's bytes; bytes that are not the protocol end the connection."""
        try:
            work(data)
        except WireError:
            self._statistics.bad_clients += 1
            self.close()

    def _received(self, data: bytes) -> None:
        if self._is_closing:
            return
        for payload in self._framer.feed(data):
            if not self._is_closing:
                self._arrived(payload)

    def _arrived(self, payload: bytes) -> None:
        """Count a message on arrival, even in a blackhole, so that the messages kept there do not breach the rate."""
        if self.is_ready and not self._is_within_rate():
            return
        if self.outbox.is_frozen:
            self._unread.append(payload)
        else:
            self._handle(payload)

    def _handle(self, payload: bytes) -> None:
        if not self._server_version:
            self._server_version = negotiate(payload)
            self.send(messages.handshake(self._server_version, self._config.utcnow()))
            return
        fields = Fields(payload)
        message_id = fields.integer()
        if self.is_ready:
            self._dispatch(self, message_id, fields)
        elif message_id == RequestId.START_API:
            self._log_in(parse_start_api(fields))
        else:
            raise WireError(f"message {message_id} before the login")

    def _log_in(self, client_id: int) -> None:
        self.client_id = client_id
        self._statistics.message_received(client_id)
        self._window.add(self._config.clock())
        if not self._claim(self):
            self.error(-1, 326, "Unable to connect as the client id is already in use. Retry with a unique client id.")
            self.close()
            return
        self.is_ready = True
        self._statistics.connections[client_id] += 1
        self.send(messages.managed_accounts(self._config.accounts))
        self.send(messages.next_valid_id(1))
        self._greet(self)

    def _is_within_rate(self) -> bool:
        """Count a message; one above the rate is refused with error 100, and a new window begins."""
        self._statistics.message_received(self.client_id)
        received = self._window.add(self._config.clock())
        limit = self._config.message_rate
        if self.forced_breaches:
            self.forced_breaches -= 1
            received = limit + 1
        if received <= limit:
            return True
        self._breaches += 1
        self._window.clear()
        text = f"Max rate of messages per second has been exceeded:max={limit} rec={received} ({self._breaches})"
        self.error(-1, 100, text)
        if self._breaches >= MAX_RATE_BREACHES:
            self.close()
        return False


def streams(sessions: Iterable[ClientSession]) -> list[tuple[ClientSession, Subscription]]:
    """Return every market data subscription of these clients."""
    return [(session, each) for session in sessions for each in session.subscriptions.market_data.values()]
