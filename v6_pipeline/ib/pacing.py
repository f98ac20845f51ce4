"""The queue in front of the wire: each message leaves at an instant of the allowance, in the order it was given.

``MessagePacer`` lives as long as its connection manager, an ``Outbox`` as long as one socket. Urgent messages, which
are heartbeats only, overtake the others: whether the gateway lives must not wait behind five hundred requests.
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
"""Messages that one connection may have waiting: minutes of the allowance, and about two megabytes."""
_TOLERANCE = TOLERANCE.total_seconds()


class MessagePacer:
    """Spends an allowance for one connection manager.

    Args:
        allowance: where instants come from.
    """

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._instants: deque[float] = deque()
        self._sent_at: deque[float] = deque()
        self._telling: set[asyncio.Task[None]] = set()
        self.sent = 0
        """Messages sent."""
        self.asked = 0
        """Grants asked for; each is a transaction where the allowance is shared."""
        self.wasted = 0
        """Instants that had passed before they could be used."""

    def open(self, write: Callable[[bytes], None]) -> Outbox:
        """The queue of a new socket; ``write`` puts one message on it."""
        return Outbox(self, write)

    async def turn(self, waiting: int = 1) -> None:
        """Wait until a message may be sent. It must be sent before anything else is awaited.

        Args:
            waiting: messages that wait, this one included.
        """
        loop = asyncio.get_running_loop()
        while True:
            while not self._instants:
                if self._telling:  # else we would be granted a little more at the old rate
                    await asyncio.wait(self._telling, timeout=SLOW_SECONDS)
                self.asked += 1
                # Who asks for one thing after the other will ask again: as many as it sent in a grant's time.
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
        """The gateway said that messages came too fast (100, or a pacing 162 or 420): slow all processes down."""
        self._instants.clear()
        telling = asyncio.get_running_loop().create_task(self._allowance.back_off(f"{code} {text}"), name="back off")
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    def _sent_lately(self, now: float) -> int:
        while self._sent_at and self._sent_at[0] < now - GRANT_SECONDS:
            self._sent_at.popleft()
        return len(self._sent_at)


class _Message:
    """A message that waits, and who wants to know when it has left."""

    __slots__ = ("payload", "when_left")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.when_left: list[Callable[[], None]] = []


class Outbox:
    """Messages of one socket that wait for their turn: first in, first out, urgent ones before the others."""

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
                f"{MOST_WAITING} messages wait for the gateway, more than V6_MESSAGES_PER_SECOND lets pass in minutes"
            )
        (self._urgent if urgent else self._queue).append(_Message(payload))
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="outbox")
            self._pump.add_done_callback(self._ended)

    def when_left(self, callback: Callable[[], None], *, urgent: bool = False) -> Callable[[], None]:
        """Call back, once, when all that is queued in the lane now has left, or will never leave.

        At once if nothing waits. Returns a function that calls this off.
        """
        lane = self._urgent if urgent else self._queue
        if not lane:
            callback()
            return lambda: None
        listeners = lane[-1].when_left
        listeners.append(callback)
        return lambda: listeners.remove(callback) if callback in listeners else None

    def close(self) -> None:
        """Send nothing more; harmless when already closed. What waits is dropped, and who waits for it is told."""
        self.is_closed = True
        if self._pump is not None:
            self._pump.cancel()
        dropped = [*self._urgent, *self._queue]
        self._urgent.clear()
        self._queue.clear()
        for message in dropped:
            _tell(message)

    async def _run(self) -> None:
        try:
            while len(self):
                await self._pacer.turn(len(self))
                message = (self._urgent or self._queue).popleft()
                self._write(message.payload)
                _tell(message)
        finally:
            self._pump = None

    def _ended(self, pump: asyncio.Task[None]) -> None:
        """A defect must not leave requests waiting for ever: closed, each meets its deadline."""
        if not pump.cancelled() and (error := pump.exception()) is not None:
            log.error("sending to the gateway failed", exc_info=error)
            self.close()


def _tell(message: _Message) -> None:
    listeners, message.when_left = message.when_left, []
    for callback in listeners:
        callback()
