"""One client's connection: bytes in, messages out, login and message rate.

Belongs here: what concerns the socket of a single client, and the record of what that client subscribed to. What is
done about a message is in `handlers` and the desks behind it (`market_data`, `account_feeds`).
"""

import asyncio
from collections.abc import Callable
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
"""A client that leaves this much unread is cut off."""

_LINGER_SECONDS = 1.0
_FARM_NOTICES = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefil"),
)


@dataclass(slots=True, eq=False)
class Subscription:
    """One market data line in use by one client."""

    ticker_id: int
    contract: Contract
    types: TickTypes
    wants_mark: bool
    snapshot: bool
    seen: Quote | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class ValueFeed:
    """An account summary or multi-account subscription, and what it has been told."""

    accounts: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    told: dict[tuple[str, str, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class PnLFeed:
    """A profit-and-loss subscription: of an account, or of one contract in it."""

    account: str
    conid: int | None
    told: Message | None = None


@dataclass(slots=True)
class Subscriptions:
    """Everything that one client is subscribed to."""

    market_data: dict[int, Subscription] = field(default_factory=dict)
    positions: bool = False
    account: str | None = None
    summaries: dict[int, ValueFeed] = field(default_factory=dict)
    multis: dict[int, ValueFeed] = field(default_factory=dict)
    pnl: dict[int, PnLFeed] = field(default_factory=dict)


class ClientSession:
    """A client from its first byte to its last.

    `dispatch` handles every message after the login; `claim` takes a client id for this session, or says that it is in
    use.
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
    ) -> None:
        self.client_id = -1
        self.subscriptions = Subscriptions()
        self.market_data_type = MarketDataType.LIVE
        self.is_ready = False
        self._reader = reader
        self._writer = writer
        self._config = config
        self._statistics = statistics
        self._dispatch = dispatch
        self._claim = claim
        self._framer = Framer()
        self._server_version = 0
        self._window = RollingCount()
        self._breaches = 0
        self._is_closing = False
        self._reaper: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve the client until either side closes the connection."""
        try:
            while data := await self._reader.read(1 << 16):
                self._received(data)
        except ConnectionError:
            pass  # the client went away, which is its right
        finally:
            if self._reaper is not None:
                self._reaper.cancel()
            self._is_closing = True
            self._writer.close()

    def send(self, message: Message) -> None:
        """Send one message. Every byte that a client gets passes here, so this is where faults can be injected."""
        if self._is_closing or self._writer.is_closing():
            return
        self._statistics.messages_sent += 1
        self._writer.write(frame(encode_payload(message)))
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.abort()

    def error(self, request_id: int, code: int, text: str) -> None:
        """Send an error, warning or notice, and count it."""
        self._statistics.errors[code] += 1
        self.send(messages.error(request_id, code, text))

    def close(self) -> None:
        """End the connection once everything sent so far is delivered.

        The sending half is closed first and what the client still sends is read and dropped: closing a socket with
        unread data resets it, and the client could lose the error that tells it why.
        """
        if self._is_closing:
            return
        self._is_closing = True
        if self._writer.can_write_eof():
            self._writer.write_eof()
        self._reaper = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """End the connection at once."""
        self._is_closing = True
        self._writer.transport.abort()

    def _received(self, data: bytes) -> None:
        if self._is_closing:
            return
        try:
            for payload in self._framer.feed(data):
                if not self._is_closing:
                    self._frame(payload)
        except WireError:
            self._statistics.bad_clients += 1
            self.close()

    def _frame(self, payload: bytes) -> None:
        if not self._server_version:
            self._server_version = negotiate(payload)
            self.send(messages.handshake(self._server_version, self._config.utcnow()))
            return
        fields = Fields(payload)
        message_id = fields.integer()
        if not self.is_ready:
            if message_id != RequestId.START_API:
                raise WireError(f"message {message_id} before the login")
            self._log_in(parse_start_api(fields))
        elif self._is_within_rate():
            self._dispatch(self, message_id, fields)

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
        for code, text in _FARM_NOTICES:
            self.error(-1, code, text)

    def _is_within_rate(self) -> bool:
        """Count a message; one above the rate is a breach: refused with error 100, and a new window begins."""
        self._statistics.message_received(self.client_id)
        received = self._window.add(self._config.clock())
        limit = self._config.message_rate
        if received <= limit:
            return True
        self._breaches += 1
        self._window.clear()
        text = f"Max rate of messages per second has been exceeded:max={limit} rec={received} ({self._breaches})"
        self.error(-1, 100, text)
        if self._breaches >= MAX_RATE_BREACHES:
            self.close()
        return False
