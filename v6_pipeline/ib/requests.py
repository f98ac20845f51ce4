"""Requests to the gateway, each with a deadline that begins once its message has left.

Belongs here: waiting for an answer, and turning silence, refusals and a lost socket into ``GatewayError``.
Does not belong here: how the connection is made and watched (``ib.connection``), and what is requested.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from eventkit import Event
from ib_async.wrapper import RequestError

from v6_pipeline.errors import GatewayUnreachableError, RequestRefusedError, RequestTimeoutError
from v6_pipeline.ib.client import ReadOnlyIB
from v6_pipeline.ib.codes import may_refuse

T = TypeVar("T")

NO_REQUEST = -1
"""IB's request id of a message that belongs to no request, or to one without an id."""


@dataclass(frozen=True, slots=True)
class RequestTimeouts:
    """Seconds to wait for an answer."""

    request_timeout: float = 30
    download_timeout: float = 120
    """For the whole of an answer in many messages, such as thousands of positions."""
    silence_timeout: float = 10
    """Between two messages of such an answer, so that one that was cut off fails early."""
    refusal_timeout: float = 2
    """The same after an error that names no request: it may be the answer, after which no other comes."""


class GatewayRequests:
    """The current client of a gateway, and requests over it; ``timeouts`` are for those that name none."""

    def __init__(self, host: str, port: int, timeouts: RequestTimeouts) -> None:
        self.host = host
        self.port = port
        self._timeouts = timeouts
        self._ib: ReadOnlyIB | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

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
    def latency_seconds(self) -> float:
        """Round trip to the gateway; 0 while it is not known."""
        return 0.0 if self._ib is None else self._ib.latency_seconds

    @property
    def is_connected(self) -> bool:
        """True while there is a session; only the heartbeat finds out that the peer is silent."""
        return self._ib is not None and self._ib.isConnected()

    @property
    def accounts(self) -> tuple[str, ...]:
        """Accounts that the login manages, as the gateway listed them at connect."""
        return tuple(self.ib.managedAccounts())

    async def request(self, answer: Awaitable[T], what: str, *, timeout: float | None = None) -> T:  # noqa: ASYNC109
        """Await an answer of the gateway, with a deadline.

        Args:
            answer: from ib_async, for the request.
            what: names the request in errors, such as "positions".
            timeout: seconds from when the request has left; the policy's by default.

        Raises:
            RequestTimeoutError: no answer in time.
            GatewayError: the gateway refused it, or the connection closed.
        """
        return await self._answer(answer, what, timeout)

    async def download(self, answer: Awaitable[T], what: str, rows: Event) -> T:
        """Await an answer in many messages, with a deadline for each silence and a late one for the whole.

        Args:
            answer: from ib_async, for the request.
            what: names the request in errors, such as "positions".
            rows: emitted by ib_async with each of the messages.

        Raises:
            RequestRefusedError: an error that names no request came, and then silence: it is the answer.
            RequestTimeoutError: silence, or no end.
            GatewayError: as ``request``.
        """
        ib, seconds = self.ib, self._timeouts.silence_timeout
        errors: list[str] = []
        try:
            async with self.deadline(seconds) as extend:

                def on_row(*_row: object) -> None:
                    errors.clear()  # they belong to another request
                    extend(seconds)

                def on_error(request_id: int, code: int, text: str, _contract: object) -> None:
                    if request_id == NO_REQUEST and may_refuse(code, text):
                        errors.append(f"{code} {text}")
                        extend(min(seconds, self._timeouts.refusal_timeout))

                rows.connect(on_row)
                ib.errorEvent.connect(on_error)
                try:
                    return await self._answer(answer, what, self._timeouts.download_timeout)
                finally:
                    rows.disconnect(on_row)
                    ib.errorEvent.disconnect(on_error)
        except TimeoutError:
            if errors:
                raise RequestRefusedError(f"the gateway refused the request for {what}: {'; '.join(errors)}") from None
            raise RequestTimeoutError(
                f"the gateway at {self.address} fell silent for {seconds:g} s before the end of the {what}"
            ) from None

    async def round_trip(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until the gateway has processed every message sent before: it reads and answers in order.

        Messages are held back to keep the rate, so a line is free at the gateway only some time after its cancel.

        Raises:
            GatewayError: as ``request``.
        """
        await self._answer(self.ib.ask_time(), "its time", timeout)

    async def heartbeat(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until the gateway answers a message that overtakes all others; this proves nothing about the others.

        Raises:
            GatewayError: as ``request``.
        """
        await self._answer(self.ib.ask_time(urgent=True), "its time", timeout, urgent=True)

    async def gateway_time(self) -> datetime:
        """Return the gateway's clock, UTC, in whole seconds.

        Raises:
            GatewayError: as ``request``.
        """
        seconds = await self._answer(self.ib.ask_time(urgent=True), "its time", None, urgent=True)
        return datetime.fromtimestamp(seconds, UTC)

    @contextlib.asynccontextmanager
    async def deadline(self, seconds: float, *, urgent: bool = False) -> AsyncIterator[Callable[[float], None]]:
        """``asyncio.timeout`` that begins once all messages queued so far have left: they wait for the message rate.

        Yields a function that restarts it with other seconds, once it has begun. With ``urgent``, only urgent messages
        count.
        """
        loop = asyncio.get_running_loop()
        # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes together with the answer.
        async with asyncio.timeout(None) as timeout:

            def begin() -> None:
                timeout.reschedule(loop.time() + seconds)

            def restart(after: float) -> None:
                if timeout.when() is not None:
                    timeout.reschedule(loop.time() + after)

            if self._ib is None:
                begin()
                yield restart
                return
            forget = self._ib.outbox.when_left(begin, urgent=urgent)
            try:
                yield restart
            finally:
                forget()

    async def _answer(self, answer: Awaitable[T], what: str, timeout: float | None, *, urgent: bool = False) -> T:  # noqa: ASYNC109
        seconds = self._timeouts.request_timeout if timeout is None else timeout
        try:
            async with self.deadline(seconds, urgent=urgent):
                return await answer
        except TimeoutError:
            raise RequestTimeoutError(
                f"the gateway at {self.address} did not answer the request for {what} within {seconds:g} s"
            ) from None
        except RequestError as error:
            raise RequestRefusedError(
                f"the gateway refused the request for {what}: {error.code} {error.message}"
            ) from error
        except ConnectionError as error:
            raise GatewayUnreachableError(
                f"connection to {self.address} closed during the request for {what}"
            ) from error
