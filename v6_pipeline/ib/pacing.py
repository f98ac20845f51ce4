"""The queue in front of the socket: each message leaves at an instant of the allowance, first in, first out.

``MessagePacer`` lives as long as its connection manager, an ``Outbox`` as long as one socket. Urgent messages, which
are heartbeats only, overtake the others: the check that the gateway lives must not wait behind five hundred requests.
Everything runs on one event loop and by its timers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from v6_pipeline.errors import GatewayError, GatewayUnreachableError
from v6_pipeline.ib.allowance import SLOW_SECONDS, Allowance
from v6_pipeline.state.pacing.messages import GRANT_SECONDS, TOLERANCE

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Limit of waiting messages per connection: minutes of the allowance, and about two megabytes."""
_TOLERANCE = TOLERANCE.total_seconds()


class MessagePacer:
    """Spends an allowance for one connection manager."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._instants: deque[float] = deque()
        self._sent_at: deque[float] = deque()
        self._reporting: set[asyncio.Task[None]] = set()
        self.sent = 0
        """Messages sent."""
        self.asked = 0
        """Grants requested; each is a transaction where the allowance is shared."""
        self.wasted = 0
        """Instants that had passed before they could be used."""

    def open(self, write: Callable[[bytes], None]) -> Outbox:
        """Create the queue of a new socket; ``write`` puts one message on it."""
        return Outbox(self, write)

    async def wait_to_send(self, waiting: int = 1) -> None:
        """Wait until one of ``waiting`` messages may be sent. It must be sent before anything else is awaited."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._instants:
                if self._reporting:  # else the next grant could still be at the old rate
                    await asyncio.wait(self._reporting, timeout=SLOW_SECONDS)
                self.asked += 1
                # A sender of one message after another will send more: take as many as it sent in a grant's time.
                self._instants.extend(await self._allowance.take(max(waiting, self._sent_lately(loop.time()))))
            instant = self._instants.popleft()
            if loop.time() < instant:
                await asyncio.sleep(instant - loop.time())
            if loop.time() <= instant + _TOLERANCE:
                self._sent_at.append(loop.time())
                self.sent += 1
                return
            self.wasted += 1

    def back_off(self, code: int, text: str) -> None:
        """Slow all processes down, because messages came too fast (100, or a pacing 162 or 420)."""
        self._instants.clear()
        report = asyncio.get_running_loop().create_task(self._allowance.back_off(f"{code} {text}"), name="back off")
        self._reporting.add(report)
        report.add_done_callback(self._reporting.discard)

    def _sent_lately(self, now: float) -> int:
        while self._sent_at and self._sent_at[0] < now - GRANT_SECONDS:
            self._sent_at.popleft()
        return len(self._sent_at)


class _Message:
    """A waiting message, and the callbacks for when it has left."""

    __slots__ = ("payload", "when_left")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.when_left: list[Callable[[], None]] = []


class Outbox:
    """Waiting messages of one socket: first in, first out, urgent ones before the others."""

    def __init__(self, pacer: MessagePacer, write: Callable[[bytes], None]) -> None:
        self._pacer = pacer
        self._write = write
        self._queue: deque[_Message] = deque()
        self._urgent: deque[_Message] = deque()
        self._pump: asyncio.Task[None] | None = None
        self.is_closed = False
        """Nothing more will be sent."""

    def __len__(self) -> int:
        return len(self._urgent) + len(self._queue)

    def send(self, payload: bytes, *, urgent: bool = False) -> None:
        """Queue a message.

        Raises:
            GatewayUnreachableError: the socket is closed.
            GatewayError: far more messages wait than the allowance lets pass.
        """
        if self.is_closed:
            raise GatewayUnreachableError("the connection to the gateway is closed")
        if len(self) >= MOST_WAITING:
            raise GatewayError(
                f"{MOST_WAITING} messages wait for the gateway, more than V6_MESSAGES_PER_SECOND allows in minutes"
            )
        (self._urgent if urgent else self._queue).append(_Message(payload))
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="outbox")
            self._pump.add_done_callback(self._ended)

    def when_left(self, callback: Callable[[], None], *, urgent: bool = False) -> Callable[[], None]:
        """Call back once all messages now queued in the lane have left, or never will; return how to cancel this."""
        lane = self._urgent if urgent else self._queue
        if not lane:
            callback()
            return lambda: None
        listeners = lane[-1].when_left
        listeners.append(callback)
        return lambda: listeners.remove(callback) if callback in listeners else None

    def close(self) -> None:
        """Drop waiting messages, call their callbacks and send no more; harmless when already closed."""
        self.is_closed = True
        if self._pump is not None:
            self._pump.cancel()
        dropped = [*self._urgent, *self._queue]
        self._urgent.clear()
        self._queue.clear()
        for message in dropped:
            _notify(message)

    async def _run(self) -> None:
        try:
            while len(self):
                await self._pacer.wait_to_send(len(self))
                message = (self._urgent or self._queue).popleft()
                self._write(message.payload)
                _notify(message)
        finally:
            self._pump = None

    def _ended(self, pump: asyncio.Task[None]) -> None:
        """Close after a defect, so that each waiting request meets its deadline instead of waiting for ever."""
        if not pump.cancelled() and (error := pump.exception()) is not None:
            log.error("sending to the gateway failed", exc_info=error)
            self.close()


def _notify(message: _Message) -> None:
    listeners, message.when_left = message.when_left, []
    for callback in listeners:
        callback()
