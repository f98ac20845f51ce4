"""One connection to the gateway: how it is made, watched and made again.

``IBConnectionManager`` owns the ib_async client and its error stream. It knows nothing of positions or slots; those
ask it for requests that always end. A new ``ReadOnlyIB`` is built for each attempt, because ib_async keeps half of its
state over a reconnect and wipes the other half.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from eventkit import Event
from ib_async.wrapper import RequestError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from v6_pipeline.errors import (
    ClientIdInUseError,
    GatewayError,
    GatewayTooOldError,
    GatewayUnreachableError,
    RequestTimeoutError,
)
from v6_pipeline.ib.allowance import LocalAllowance
from v6_pipeline.ib.breaker import CircuitBreaker, loop_time
from v6_pipeline.ib.client import ReadOnlyIB
from v6_pipeline.ib.codes import Reaction, is_healthy_notice, new_port, reaction_to
from v6_pipeline.ib.pacing import MessagePacer
from v6_pipeline.ib.probe import PROBE_SECONDS, ProbeAnswer, explain, probe
from v6_pipeline.ib.resets import ExpectedOutage

log = logging.getLogger(__name__)

T = TypeVar("T")

RATE_EXCEEDED = 100
UNKNOWN_TICKER = 300
PORT_CHANGED = 1300
NO_REQUEST = -1
_OF_THE_LINK = {Reaction.LINK_LOST, Reaction.VERIFY, Reaction.RESUBSCRIBE}

ErrorListener = Callable[[int, int, str], None]
"""Called with IB's request id (-1: none), code and text."""


class ConnectionState(enum.StrEnum):
    """Where the connection stands."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    LINK_LOST = "link_lost"
    """The socket is up, but the gateway has lost IB's servers."""
    BREAKER_OPEN = "breaker_open"
    """Too many attempts failed in a row: no further one before the pause is over."""


@dataclass(frozen=True, slots=True)
class ConnectionPolicy:
    """How patient a connection is; seconds, unless named otherwise."""

    connect_timeout: float = 15
    request_timeout: float = 30
    download_timeout: float = 120
    """For all of an answer in many messages, which may be of thousands of positions."""
    silence_timeout: float = 10
    """Between two messages of such an answer: one that was cut off is not waited for."""
    heartbeat_interval: float = 15
    heartbeat_timeout: float = 10
    backoff_initial: float = 1
    backoff_max: float = 15
    breaker_failures: int = 8
    breaker_pause: float = 30
    outage_pause: float = 20
    """Between attempts while the broker is expected to be away, such as in its nightly reset."""
    messages_per_second: int = 45


class IBConnectionManager:
    """A read-only connection with a deadline on everything.

    Args:
        host: the gateway's host.
        port: the gateway's port.
        client_id: unique among the gateway's clients.
        policy: time-outs and backoff.
        clock: monotonic seconds.
        sleep: how to wait between attempts.
        pacer: when messages may leave; by default an allowance of this connection alone, at the policy's rate.
        expected_outage: whether the broker is expected to be away now: then nobody is alarmed, and attempts are rare.
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
        self.host = host
        self.port = self._configured_port = port
        self.client_id = client_id
        self.policy = policy or ConnectionPolicy()
        self._sleep = sleep
        self._pacer = pacer or MessagePacer(LocalAllowance(self.policy.messages_per_second))
        self._expected_outage = expected_outage
        self._breaker = CircuitBreaker(self.policy.breaker_failures, self.policy.breaker_pause, clock)
        self._ib: ReadOnlyIB | None = None
        self._state = ConnectionState.DISCONNECTED
        self._listeners: list[ErrorListener] = []
        self._lost = asyncio.Event()
        self._lost_reason = ""
        self.was_closed_by_gateway = False
        """Whether the gateway itself ended the last session, and with it all that was subscribed."""
        self.connects = 0
        self.error_counts: dict[int, int] = {}

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        if self._state is ConnectionState.DISCONNECTED and self._breaker.seconds_open() > 0:
            return ConnectionState.BREAKER_OPEN
        return self._state

    @property
    def ib(self) -> ReadOnlyIB:
        """The connected client.

        Raises:
            GatewayUnreachableError: there is none now.
        """
        if self._ib is None or not self._ib.isConnected():
            raise GatewayUnreachableError(f"not connected to the gateway at {self.address}")
        return self._ib

    @property
    def is_connected(self) -> bool:
        """Whether there is a session; a silent peer is found out by the heartbeat alone."""
        return self._ib is not None and self._ib.isConnected()

    @property
    def accounts(self) -> tuple[str, ...]:
        """Accounts that the login manages, as the gateway listed them at connect."""
        return tuple(self.ib.managedAccounts())

    def add_error_listener(self, listener: ErrorListener) -> None:
        """Have ``listener`` called for each message code; it survives reconnects."""
        self._listeners.append(listener)

    async def connect(self) -> None:
        """Connect once, with a new client; one that is connected already is disconnected first.

        Raises:
            ClientIdInUseError: another client holds the id.
            GatewayUnreachableError: nothing listens, or it is no IB gateway.
            GatewayTooOldError: it must be updated.
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
        self.connects += 1
        log.info("connected to %s as client %d, accounts %s", self.address, self.client_id, ",".join(self.accounts))
        for code, text in notices:
            if reaction_to(code, text) in _OF_THE_LINK:
                self._on_error(NO_REQUEST, code, text, None)

    async def connect_persistently(self) -> None:
        """Connect, however long it takes: backoff with jitter, more of it in the broker's resets and by the breaker."""
        policy = self.policy
        backoff = wait_random_exponential(multiplier=policy.backoff_initial, max=policy.backoff_max)

        def wait(attempt: RetryCallState) -> float:
            pause = max(float(backoff(attempt)), self._breaker.seconds_open())
            return pause if self._expected_outage() is None else max(pause, policy.outage_pause)

        def say(attempt: RetryCallState) -> None:
            error = attempt.outcome.exception() if attempt.outcome else None
            pause = attempt.next_action.sleep if attempt.next_action else 0
            outage = self._expected_outage()
            level, why = (logging.WARNING, "") if outage is None else (logging.INFO, f"; {outage}")
            log.log(level, "%s (attempt %d; next in %.1f s%s)", error, attempt.attempt_number, pause, why)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(GatewayError), wait=wait, before_sleep=say, sleep=self._sleep, reraise=True
        )
        await retrying(self.connect)

    async def close(self, reason: str = "closed") -> None:
        """Disconnect; harmless when already so. Requests under way end at once.

        Args:
            reason: what ``wait_lost`` answers.
        """
        self._drop_client()
        self._mark_lost(reason)
        # asyncio closes the socket with the loop's next turn.
        await asyncio.sleep(0)

    async def request(self, answer: Awaitable[T], what: str, *, timeout: float | None = None) -> T:  # noqa: ASYNC109
        """Await an answer of the gateway, with a deadline.

        Args:
            answer: what ib_async returns for the request.
            what: names it in errors, such as "positions".
            timeout: seconds from when the request has left; the policy's by default.

        Raises:
            RequestTimeoutError: no answer in time.
            GatewayError: the gateway refused it, or the connection closed.
        """
        return await self._answer(answer, what, timeout)

    async def download(self, answer: Awaitable[T], what: str, rows: Event) -> T:
        """As ``request``, for an answer in many messages: its deadline is of silence, and a late one of the whole.

        Args:
            answer: what ib_async returns for the request.
            what: names it in errors, such as "positions".
            rows: emitted by ib_async with each of the messages.

        Raises:
            RequestTimeoutError: silence, or no end.
            GatewayError: as ``request``.
        """
        seconds = self.policy.silence_timeout
        try:
            async with self.deadline(seconds) as extend:

                def heard(*_row: object) -> None:
                    extend()

                rows.connect(heard)
                try:
                    return await self._answer(answer, what, self.policy.download_timeout)
                finally:
                    rows.disconnect(heard)
        except TimeoutError:
            raise RequestTimeoutError(
                f"the gateway at {self.address} fell silent for {seconds:g} s before the end of the {what}"
            ) from None

    async def _answer(self, answer: Awaitable[T], what: str, timeout: float | None, *, urgent: bool = False) -> T:  # noqa: ASYNC109
        seconds = self.policy.request_timeout if timeout is None else timeout
        try:
            async with self.deadline(seconds, urgent=urgent):
                return await answer
        except TimeoutError:
            raise RequestTimeoutError(
                f"the gateway at {self.address} did not answer the request for {what} within {seconds:g} s"
            ) from None
        except RequestError as error:
            raise GatewayError(f"the gateway refused the request for {what}: {error.code} {error.message}") from error
        except ConnectionError as error:
            raise GatewayUnreachableError(
                f"connection to {self.address} closed during the request for {what}"
            ) from error

    @contextlib.asynccontextmanager
    async def deadline(self, seconds: float, *, urgent: bool = False) -> AsyncIterator[Callable[[], None]]:
        """``asyncio.timeout`` that begins once all messages given so far have left: they wait for the message rate.

        Yields a function that, once it has begun, begins it anew.

        Args:
            seconds: from then on.
            urgent: only urgent messages count.
        """
        loop = asyncio.get_running_loop()
        # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes together with the answer.
        async with asyncio.timeout(None) as timeout:

            def begin() -> None:
                timeout.reschedule(loop.time() + seconds)

            def begin_anew() -> None:
                if timeout.when() is not None:
                    begin()

            if self._ib is None:
                begin()
                yield begin_anew
                return
            forget = self._ib.outbox.when_left(begin, urgent=urgent)
            try:
                yield begin_anew
            finally:
                forget()

    async def round_trip(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until the gateway has taken in all that was sent before: it reads, and answers this, in order.

        Messages are held back to keep the rate, so a line is free at the gateway only some time after its cancel.

        Raises:
            GatewayError: as ``request``.
        """
        await self._answer(self.ib.ask_time(), "its time", timeout)

    async def heartbeat(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until the gateway has answered a message that overtook all others: it says nothing of those.

        Raises:
            GatewayError: as ``request``.
        """
        await self._answer(self.ib.ask_time(urgent=True), "its time", timeout, urgent=True)

    async def gateway_time(self) -> datetime:
        """The gateway's clock, UTC, in whole seconds.

        Raises:
            GatewayError: as ``request``.
        """
        seconds = await self._answer(self.ib.ask_time(urgent=True), "its time", None, urgent=True)
        return datetime.fromtimestamp(seconds, UTC)

    async def run_heartbeat(self) -> None:
        """Ask the gateway for its time again and again; return, with the connection closed, once it does not answer.

        ``isConnected`` stays true while the peer is silent, so only an answer in time proves a connection.
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
        """Wait until the connection is gone, and return why."""
        await self._lost.wait()
        return self._lost_reason

    async def _connect_once(self, notices: list[tuple[int, str]]) -> ReadOnlyIB:
        """A new session; ``notices`` receives what the gateway said meanwhile."""
        await self._pacer.turn()  # for the greeting, which does not pass the queue
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
            # ib_async waits on after a close that comes before the handshake, and after a version that is too old for
            # it. 326 arrives before its close.
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
            if not connecting.done():
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)

    def _drop_client(self) -> None:
        """Disconnect from this side and end what waits for an answer."""
        ib, self._ib = self._ib, None
        if ib is None:
            return
        ib.errorEvent -= self._on_error
        ib.disconnectedEvent -= self._on_socket_closed
        if ib.isConnected():
            transport: Any = ib.client.conn.transport
            try:
                ib.client.disconnect()
            except OSError:  # the peer has reset the connection, and the loop has not come to see it
                transport.abort()
            # ib_async does these two only when the peer closes; else requests would wait out their deadlines.
            ib.wrapper.connectionClosed()
            ib.disconnectedEvent.emit()

    async def _diagnose(self) -> GatewayError:
        """Why no session came about, found out by one bare handshake."""
        await self._pacer.turn()
        found = await probe(self.host, self.port, PROBE_SECONDS)
        reason = explain(found, self.address)
        if reason is not None:
            return (GatewayTooOldError if found.answer is ProbeAnswer.TOO_OLD else GatewayUnreachableError)(reason)
        return GatewayUnreachableError(
            f"the gateway at {self.address} started no session for client {self.client_id}: allow this host under "
            "API > Settings > Trusted IPs and confirm the gateway's dialog, or choose another V6_IB_CLIENT_ID"
        )

    def _on_error(self, req_id: int, code: int, text: str, _contract: object) -> None:
        if code == UNKNOWN_TICKER and self._ib is not None and self._ib.has_cancelled(req_id):
            log.info("gateway: %d %s (request %d) -> it had ended before it was cancelled", code, text, req_id)
            return
        self.error_counts[code] = self.error_counts.get(code, 0) + 1
        reaction = reaction_to(code, text)
        log.log(self._loudness(code, reaction), "gateway: %d %s (request %d) -> %s", code, text, req_id, reaction)
        self._slow_down_on(code, text)
        if reaction is Reaction.LINK_LOST:
            self._state = ConnectionState.LINK_LOST
        elif reaction in {Reaction.RESUBSCRIBE, Reaction.VERIFY}:
            self._state = ConnectionState.CONNECTED
        for listener in self._listeners:
            listener(req_id, code, text)
        if reaction is Reaction.TOO_OLD:
            self._breaker.open()
        # Error 100 names no request: which subscribe or cancel was dropped is not known, and a new session forgets all.
        if reaction in {Reaction.RECONNECT, Reaction.TOO_OLD} or code == RATE_EXCEEDED:
            # Code 1300 names the port to come back on; should that one not answer, the configured one is tried again.
            self.port = new_port(text) or self.port if code == PORT_CHANGED else self.port
            self._drop_client()
            self._mark_lost(f"{code} {text}")

    def _slow_down_on(self, code: int, text: str) -> None:
        if reaction_to(code, text) is Reaction.BACK_OFF:
            self._pacer.back_off(code, text)

    def _loudness(self, code: int, reaction: Reaction) -> int:
        """The log level: what an expected outage brings alarms nobody, nor what is said again and again."""
        if is_healthy_notice(code):
            return logging.DEBUG
        repeated = reaction is Reaction.LINK_LOST and self._state is ConnectionState.LINK_LOST
        # The streamer says it once in a quarter of an hour; IB says it of every request.
        told_elsewhere = reaction is Reaction.COMPETING_SESSION
        # Lines are counted wrongly somewhere: worth one warning, and the count that the status shows.
        repeated |= code == UNKNOWN_TICKER and self.error_counts[code] > 1
        if repeated or told_elsewhere or self._expected_outage() is not None:
            return logging.INFO
        return logging.WARNING

    def link_proven(self) -> None:
        """Data flows although the link to IB was said to be lost: its notice of return went missing."""
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
