"""One connection to the gateway: connecting, the circuit breaker, the heartbeat, and the reaction to error codes.

Requests over the connection are in ``ib.requests``. A new ``ReadOnlyIB`` is built for each attempt, because ib_async
keeps half of its state over a reconnect and wipes the other half.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ib_async import Contract
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from v6_pipeline.errors import (
    ClientIdInUseError,
    GatewayError,
    GatewayTooOldError,
    GatewayUnreachableError,
)
from v6_pipeline.ib.allowance import LocalAllowance
from v6_pipeline.ib.client import ReadOnlyIB
from v6_pipeline.ib.codes import Reaction, is_healthy_notice, new_port, reaction_to
from v6_pipeline.ib.pacing import MessagePacer
from v6_pipeline.ib.probe import PROBE_SECONDS, ProbeAnswer, explain, probe
from v6_pipeline.ib.requests import NO_REQUEST, GatewayRequests, RequestTimeouts
from v6_pipeline.ib.resets import ExpectedOutage

log = logging.getLogger(__name__)

RATE_EXCEEDED = 100
UNKNOWN_TICKER = 300
PORT_CHANGED = 1300
_OF_THE_LINK = {Reaction.LINK_LOST, Reaction.VERIFY, Reaction.RESUBSCRIBE}

ErrorListener = Callable[[int, int, str], None]
"""Called with IB's request id (-1: none), code and text."""


class ConnectionState(enum.StrEnum):
    """State of the connection to the gateway and, behind it, to IB's servers."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    LINK_LOST = "link_lost"
    """The socket is up, but the gateway has lost IB's servers."""
    BREAKER_OPEN = "breaker_open"
    """Too many attempts failed in a row: the next one follows after a pause."""


def loop_time() -> float:
    """Return monotonic seconds, by the running loop."""
    return asyncio.get_running_loop().time()


class CircuitBreaker:
    """Stops attempts for a while after ``failures`` in a row, so that a dead gateway is not hammered all night.

    It stays open for ``pause_seconds``; then one attempt decides. ``clock`` gives monotonic seconds.
    """

    def __init__(self, failures: int, pause_seconds: float, clock: Callable[[], float] = loop_time) -> None:
        self._limit = failures
        self._pause = pause_seconds
        self._clock = clock
        self._failed = 0
        self._opened_at: float | None = None

    def seconds_open(self) -> float:
        """Return the seconds until the next attempt is allowed; 0 if it is allowed now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._pause - self._clock())

    def record_success(self) -> None:
        """Close it."""
        self._failed = 0
        self._opened_at = None

    def record_failure(self) -> None:
        """Count a failure; the one that reaches the limit, and each after it, opens the breaker (again)."""
        self._failed += 1
        if self._failed >= self._limit:
            self._opened_at = self._clock()

    def open(self) -> None:
        """Open it at once, because the next attempt is known to fail."""
        self._failed = self._limit
        self._opened_at = self._clock()


@dataclass(frozen=True, slots=True)
class ConnectionPolicy(RequestTimeouts):
    """Time-outs, pauses and limits of a connection; seconds, unless named otherwise."""

    connect_timeout: float = 15
    heartbeat_interval: float = 15
    heartbeat_timeout: float = 10
    backoff_initial: float = 1
    backoff_max: float = 15
    breaker_failures: int = 8
    breaker_pause: float = 30
    outage_pause: float = 20
    """Between attempts while the broker is expected to be away, such as in its nightly reset."""
    messages_per_second: int = 45


class IBConnectionManager(GatewayRequests):
    """A read-only connection with a deadline on everything.

    Args:
        client_id: unique among the gateway's clients.
        clock: monotonic seconds.
        pacer: by default an allowance of this connection alone, at the policy's rate.
        expected_outage: the broker's known outage at this moment, if any: then attempts are rare and log no warning.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: int,
        policy: ConnectionPolicy | None = None,
        clock: Callable[[], float] = loop_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        pacer: MessagePacer | None = None,
        expected_outage: Callable[[], ExpectedOutage | None] = lambda: None,
    ) -> None:
        self.policy = policy or ConnectionPolicy()
        super().__init__(host, port, self.policy)
        self._configured_port = port
        self.client_id = client_id
        self._sleep = sleep
        self._pacer = pacer or MessagePacer(LocalAllowance(self.policy.messages_per_second))
        self._expected_outage = expected_outage
        self._breaker = CircuitBreaker(self.policy.breaker_failures, self.policy.breaker_pause, clock)
        self._state = ConnectionState.DISCONNECTED
        self._listeners: list[ErrorListener] = []
        self._lost = asyncio.Event()
        self._lost_reason = ""
        self.was_closed_by_gateway = False
        """True if the gateway itself ended the last session, and with it every subscription."""
        self.connects = 0
        self._remarked: set[tuple[int, int]] = set()
        self.error_counts: dict[int, int] = {}

    @property
    def state(self) -> ConnectionState:
        """The state now; a disconnected one is ``BREAKER_OPEN`` while the breaker allows no attempt."""
        if self._state is ConnectionState.DISCONNECTED and self._breaker.seconds_open() > 0:
            return ConnectionState.BREAKER_OPEN
        return self._state

    def add_error_listener(self, listener: ErrorListener) -> None:
        """Call ``listener`` for each message code; it survives reconnects."""
        self._listeners.append(listener)

    async def connect(self) -> None:
        """Connect once, with a new client; disconnect the present one first, if any.

        Raises:
            ClientIdInUseError: another client holds the id.
            GatewayUnreachableError: no process listens, or it is no IB gateway.
            GatewayTooOldError: the gateway must be updated.
            GatewayError: the breaker is open, or the gateway refused in another way.
        """
        pause = self._breaker.seconds_open()
        if pause > 0:
            raise GatewayError(f"gateway at {self.address} failed too often: next attempt in {pause:.0f} s")
        self._drop_client()
        self._state = ConnectionState.CONNECTING
        notices: list[tuple[int, str]] = []
        try:
            ib = await self._connect_once(notices)
        except BaseException as error:
            self._state = ConnectionState.DISCONNECTED
            if isinstance(error, GatewayError):
                if isinstance(error, GatewayTooOldError):
                    self._breaker.open()
                else:
                    self._breaker.record_failure()
                self.port = self._configured_port
            raise
        ib.errorEvent += self._on_error
        ib.disconnectedEvent += self._on_socket_closed
        self._ib = ib
        self._breaker.record_success()
        self._state = ConnectionState.CONNECTED
        self._lost.clear()
        self.was_closed_by_gateway = False
        self._remarked.clear()
        self.connects += 1
        log.info("connected to %s as client %d, accounts %s", self.address, self.client_id, ",".join(self.accounts))
        for code, text in notices:
            if reaction_to(code, text) in _OF_THE_LINK:
                self._on_error(NO_REQUEST, code, text, None)

    async def connect_persistently(self) -> None:
        """Connect, however long it takes; the jittered backoff is longer in resets and while the breaker is open."""
        policy = self.policy
        backoff = wait_random_exponential(multiplier=policy.backoff_initial, max=policy.backoff_max)

        def wait(attempt: RetryCallState) -> float:
            pause = max(float(backoff(attempt)), self._breaker.seconds_open())
            return pause if self._expected_outage() is None else max(pause, policy.outage_pause)

        def log_failure(attempt: RetryCallState) -> None:
            error = attempt.outcome.exception() if attempt.outcome else None
            pause = attempt.next_action.sleep if attempt.next_action else 0
            outage = self._expected_outage()
            level, why = (logging.WARNING, "") if outage is None else (logging.INFO, f"; {outage}")
            log.log(level, "%s (attempt %d; next in %.1f s%s)", error, attempt.attempt_number, pause, why)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(GatewayError),
            wait=wait,
            before_sleep=log_failure,
            sleep=self._sleep,
            reraise=True,
        )
        await retrying(self.connect)

    async def close(self, reason: str = "closed") -> None:
        """Disconnect, and end requests under way; harmless if not connected. ``wait_lost`` returns ``reason``."""
        self._drop_client()
        self._mark_lost(reason)
        # asyncio closes the socket in the loop's next iteration.
        await asyncio.sleep(0)

    async def run_heartbeat(self) -> None:
        """Request the gateway's time at intervals; once it does not answer, close the connection and return.

        ``isConnected`` stays true while the peer is silent, so only a timely answer proves a connection.
        """
        policy = self.policy
        while not self._lost.is_set():
            await self._sleep(policy.heartbeat_interval)
            if self._lost.is_set():
                return
            try:
                await self.heartbeat(timeout=policy.heartbeat_timeout)
            except GatewayError as error:
                log.warning("heartbeat: %s", error)
                await self.close(f"heartbeat: {error}")
                return

    async def wait_lost(self) -> str:
        """Wait until the connection is lost, and return the reason."""
        await self._lost.wait()
        return self._lost_reason

    async def _connect_once(self, notices: list[tuple[int, str]]) -> ReadOnlyIB:
        """Start a session; ``notices`` receives the gateway's messages during the connect."""
        await self._pacer.wait_to_send()  # for the greeting, which does not pass the queue
        ib = ReadOnlyIB(self._pacer)
        ib.wrapper.clientId = self.client_id
        refusal: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

        def refuse(error: GatewayError | None) -> None:
            if not refusal.done():
                refusal.set_result(error)

        def on_error(_req_id: int, code: int, text: str, _contract: object) -> None:
            reaction = reaction_to(code, text)
            if reaction is Reaction.ID_IN_USE:
                refuse(
                    ClientIdInUseError(
                        f"the gateway at {self.address} already serves a client with id {self.client_id}: "
                        "end that client, or set V6_IB_CLIENT_ID to another id"
                    )
                )
            elif reaction is Reaction.TOO_OLD:
                refuse(
                    GatewayTooOldError(f"the gateway at {self.address} says {code} {text}: update IB Gateway or TWS")
                )
            elif not is_healthy_notice(code):
                notices.append((code, text))
                log.info("while connecting: %d %s", code, text)
            self._slow_down_on(code, text)

        def on_end(_text: str) -> None:
            # ib_async goes on waiting after a close before the handshake, and after a version too old for it. Code 326
            # arrives before its close.
            refuse(None)

        ib.errorEvent += on_error
        ib.client.conn.disconnected += on_end
        ib.client.apiError += on_end
        connecting = asyncio.ensure_future(
            ib.client.connectAsync(self.host, self.port, self.client_id, self.policy.connect_timeout)
        )
        try:
            await asyncio.wait({connecting, refusal}, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done() and connecting.exception() is None and ib.isConnected():
                ib.errorEvent -= on_error
                ib.client.conn.disconnected -= on_end
                ib.client.apiError -= on_end
                return ib
            raise (refusal.result() if refusal.done() else None) or await self._diagnose()
        finally:
            # It may have timed out during the diagnosis: its error is retrieved, so that asyncio does not log it.
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)

    def _drop_client(self) -> None:
        """Disconnect from this side, and end requests that wait for an answer."""
        ib, self._ib = self._ib, None
        if ib is None:
            return
        ib.errorEvent -= self._on_error
        ib.disconnectedEvent -= self._on_socket_closed
        if ib.isConnected():
            transport: Any = ib.client.conn.transport
            try:
                ib.client.disconnect()
            except OSError:  # the peer has reset the connection, and the loop has not processed that yet
                transport.abort()
            # ib_async does these two only when the peer closes; without them requests would wait for their deadlines.
            ib.wrapper.connectionClosed()
            ib.disconnectedEvent.emit()

    async def _diagnose(self) -> GatewayError:
        """Return the reason that no session started, found by one bare handshake."""
        await self._pacer.wait_to_send()
        found = await probe(self.host, self.port, PROBE_SECONDS)
        reason = explain(found, self.address)
        if reason is not None:
            return (GatewayTooOldError if found.answer is ProbeAnswer.TOO_OLD else GatewayUnreachableError)(reason)
        return GatewayUnreachableError(
            f"the gateway at {self.address} started no session for client {self.client_id}: allow this host under "
            "API > Settings > Trusted IPs and confirm the gateway's dialog, or choose another V6_IB_CLIENT_ID"
        )

    def _on_error(self, req_id: int, code: int, text: str, contract: Contract | None) -> None:
        if code == UNKNOWN_TICKER and self._ib is not None and self._ib.has_cancelled(req_id):
            log.info("gateway: %d %s (request %d) -> the request had ended before its cancel", code, text, req_id)
            return
        self.error_counts[code] = self.error_counts.get(code, 0) + 1
        reaction = reaction_to(code, text)
        about = "" if contract is None else f", contract {contract.conId} {contract.symbol}".rstrip()
        level = self._log_level(code, reaction, None if contract is None else contract.conId)
        log.log(level, "gateway: %d %s (request %d%s) -> %s", code, text, req_id, about, reaction)
        self._slow_down_on(code, text)
        if reaction is Reaction.LINK_LOST:
            self._state = ConnectionState.LINK_LOST
        elif reaction in {Reaction.RESUBSCRIBE, Reaction.VERIFY}:
            self._state = ConnectionState.CONNECTED
        for listener in self._listeners:
            listener(req_id, code, text)
        if reaction is Reaction.TOO_OLD:
            self._breaker.open()
        # Error 100 names no request, so the dropped subscribe or cancel is unknown; a new session starts from nothing.
        if reaction in {Reaction.RECONNECT, Reaction.TOO_OLD} or code == RATE_EXCEEDED:
            # Code 1300 names the port to reconnect to; if it does not answer, the configured one is tried again.
            self.port = new_port(text) or self.port if code == PORT_CHANGED else self.port
            self._drop_client()
            self._mark_lost(f"{code} {text}")

    def _slow_down_on(self, code: int, text: str) -> None:
        if reaction_to(code, text) is Reaction.BACK_OFF:
            self._pacer.back_off(code, text)

    def _log_level(self, code: int, reaction: Reaction, conid: int | None) -> int:
        """Return the log level: no warning for what an expected outage causes, nor for a repeated message.

        A remark on a contract is repeated with each request for it: one warning in a session is enough.
        """
        if is_healthy_notice(code):
            return logging.DEBUG
        repeated = reaction is Reaction.LINK_LOST and self._state is ConnectionState.LINK_LOST
        # IB sends it for every request; the streamer logs it once in a quarter of an hour.
        logged_by_streamer = reaction is Reaction.COMPETING_SESSION
        # A line was counted wrongly: worth one warning, and the status shows the count.
        repeated |= code == UNKNOWN_TICKER and self.error_counts[code] > 1
        if conid is not None and reaction is Reaction.INFORM:
            repeated |= (code, conid) in self._remarked
            self._remarked.add((code, conid))
        if repeated or logged_by_streamer or self._expected_outage() is not None:
            return logging.INFO
        return logging.WARNING

    def link_proven(self) -> None:
        """Mark a lost link to IB as back, because data flows: the notice of its return was missed."""
        if self._state is ConnectionState.LINK_LOST:
            self._state = ConnectionState.CONNECTED

    def _on_socket_closed(self) -> None:
        log.warning("connection to %s closed by the gateway", self.address)
        self.was_closed_by_gateway = True
        self._mark_lost("socket closed")

    def _mark_lost(self, reason: str) -> None:
        if not self._lost.is_set():
            self._lost_reason = reason
            self._lost.set()
        self._state = ConnectionState.DISCONNECTED
