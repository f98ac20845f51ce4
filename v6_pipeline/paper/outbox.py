"""Bytes on their way to one client, and the faults that hold them back.

Belongs here: delay and blackhole on the way out. Which client is concerned, and for how long, is in
`connection_faults`.
"""

import asyncio
from collections import deque


class Outbox:
    """Writes to a client in order: at once, `hold_seconds` later, or not before a blackhole ends."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.hold_seconds = 0.0
        self.is_frozen = False
        self._writer = writer
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unsent_bytes(self) -> int:
        """What the client has not been sent yet, here and in the socket's buffer."""
        return self._held_bytes + self._writer.transport.get_write_buffer_size()

    def put(self, data: bytes) -> None:
        """Send, or hold back behind what is held already."""
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
        """Send what is due by now, in order, and go on."""
        self.is_frozen = False
        self._send_due(asyncio.get_running_loop().time())

    def finish(self) -> None:
        """Send everything at once, for the connection ends; what a blackhole holds is lost."""
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
