"""The network of a simulation: streams in memory between processes of one loop, with drawn delays.

Not loopback sockets: whether a byte sent is readable at the next look, and where a long answer is cut into pieces, is
the kernel's mood of the moment. Here both come from the seed.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import zlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from v6_pipeline_tests.simulation.loop import KERNEL, PROCESS, VirtualLoop

_LATENCY_SECONDS = (0.001, 0.02, 0.1, 0.4)
"""One way, one of them for each connection: the slower, the more happens between a question and its answer."""
_CUT_IN_TWO = 0.05


class SimulatedLoop(VirtualLoop):
    """The virtual loop with a network; only what is listened to on it can be reached."""

    def __init__(self, rng: random.Random, begin: datetime) -> None:
        super().__init__(rng, begin)
        self._listeners: dict[int, MemoryServer] = {}
        self._ports = 40_000

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """Listen in memory; port 0 picks a free one."""
        if not port:
            self._ports += 1
            port = self._ports
        if port in self._listeners:
            raise OSError(98, "Address already in use")
        server = MemoryServer(self, protocol_factory, host, port)
        self._listeners[port] = server
        return server

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """Connect in memory."""
        latency = self._rng.choice(_LATENCY_SECONDS)
        await asyncio.sleep(2 * latency)
        server = self._listeners.get(port)
        if server is None:
            raise ConnectionRefusedError(111, f"Connect call failed ({host!r}, {port})")
        here = MemoryTransport(self, contextvars.copy_context(), latency)
        there = MemoryTransport(self, server.context, latency)
        here.peer, there.peer = there, here
        process = PROCESS.get()
        if process is not None:
            process.files.append(here)
        there.begin(server.protocol_factory())
        protocol = protocol_factory()
        here.begin(protocol, now=True)
        return here, protocol

    def vary(self, seconds: float) -> float:
        """About so many seconds."""
        return seconds * self._rng.uniform(0.5, 1.5)

    def forget_listener(self, port: int) -> None:
        self._listeners.pop(port, None)


class MemoryServer:
    """The server that ``create_server`` returns: the part of ``asyncio.Server`` that is used."""

    def __init__(self, loop: SimulatedLoop, protocol_factory: Callable[[], Any], host: str, port: int) -> None:
        self._loop = loop
        self.protocol_factory = protocol_factory
        self.context = contextvars.copy_context()
        self._address = host, port
        self.sockets: tuple[MemoryServer, ...] = (self,)

    def getsockname(self) -> tuple[str, int]:
        return self._address

    def is_serving(self) -> bool:
        return bool(self.sockets)

    def close(self) -> None:
        self.sockets = ()
        self._loop.forget_listener(self._address[1])

    async def wait_closed(self) -> None:
        return


class _Socket:
    """For code that sets options on the socket below a transport."""

    def setsockopt(self, *_: object) -> None:
        return


class MemoryTransport(asyncio.Transport):
    """One end of a stream."""

    def __init__(self, loop: SimulatedLoop, context: contextvars.Context, latency: float) -> None:
        super().__init__({"socket": _Socket(), "peername": ("127.0.0.1", 0), "sockname": ("127.0.0.1", 0)})
        self._loop = loop
        self._context = context
        self._latency = latency
        self._protocol: Any = None
        self.peer: MemoryTransport
        self._outgoing: list[bytes] = []
        self._outgoing_size = 0
        self._sending = False
        self._ends = False
        self._closing = False
        self._lost = False
        self._paused = False
        self._incoming: list[bytes | None] = []

    def begin(self, protocol: Any, *, now: bool = False) -> None:
        """Give the stream its protocol; at once where the caller is the owner, else in the owner's turn."""
        self._protocol = protocol
        if now:
            protocol.connection_made(self)
        else:
            self._in_context(protocol.connection_made, self)

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ends or self._lost or not data:
            return
        self._outgoing.append(bytes(data))
        self._outgoing_size += len(data)
        self._send_later()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._ends:
            self._ends = True
            self._send_later()

    def get_write_buffer_size(self) -> int:
        return self._outgoing_size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:  # noqa: ARG002
        return

    def _send_later(self) -> None:
        if not self._sending:
            self._sending = True
            # The kernel sends, whether the process is stopped or dead by then.
            self._loop.call_later(self._loop.vary(self._latency), self._send, context=KERNEL)

    def _send(self) -> None:
        self._sending = False
        data = b"".join(self._outgoing)
        if data and self._loop._rng.random() < _CUT_IN_TWO:
            cut = self._loop._rng.randrange(len(data))
            data, rest = data[:cut], data[cut:]
            self._outgoing = [rest]
            self._outgoing_size = len(rest)
        else:
            self._outgoing = []
            self._outgoing_size = 0
        if data:
            self._loop.trace.add(round(self._loop.time(), 6), len(data), zlib.crc32(data))
            self.peer.receive(data)
        if self._outgoing:
            self._send_later()
        elif self._ends:
            self.peer.receive(None)

    # Reading

    def receive(self, data: bytes | None) -> None:
        """Bytes or, as None, the end have arrived."""
        if self._lost:
            return
        self._incoming.append(data)
        if not self._paused:
            self._in_context(self._read)

    def _read(self) -> None:
        while self._incoming and not self._paused and not self._closing and not self._lost:
            data = self._incoming.pop(0)
            if data is not None:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._in_context(self._read)

    def is_reading(self) -> bool:
        return not self._paused

    # The end

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.write_eof()
            self._in_context(self._lose, None)

    def abort(self) -> None:
        """Drop what is not sent; the peer receives a reset."""
        if self._lost:
            return
        self._closing = self._ends = True
        self._outgoing.clear()
        self._outgoing_size = 0
        self._in_context(self._lose, None)
        self._loop.call_later(self._loop.vary(self._latency), self.peer.reset, context=KERNEL)

    def reset(self) -> None:
        """The peer is gone."""
        if not self._lost:
            self._closing = self._ends = True
            self._in_context(self._lose, ConnectionResetError(104, "Connection reset by peer"))

    def close_as_kernel(self) -> None:
        """The process is dead: what it wrote is still sent, then the end; it hears nothing more."""
        self._lost = self._closing = True
        if not self._ends:
            self._ends = True
            self._send_later()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(error)

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def _in_context(self, callback: Callable[..., object], *args: object) -> None:
        self._loop.call_soon(callback, *args, context=self._context)
