"""Server sockets on loopback, which can refuse connections for a while."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.config import LOOPBACK
from v6_pipeline.paper.timers import Timers

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_ATTEMPTS = 40
_ATTEMPT_SECONDS = 0.25


class Listener:
    """Ports with the same service; the first one is the gateway's, more can follow."""

    def __init__(self, serve: Serve, timers: Timers) -> None:
        self._serve = serve
        self._timers = timers
        self._servers: dict[int, asyncio.Server | None] = {}
        self._placeholders: dict[int, socket.socket] = {}
        self._is_refusing = False

    @property
    def port(self) -> int:
        """The first port, also while connections are refused.

        Raises:
            GatewayError: no port is open.
        """
        if not self._servers:
            raise GatewayError("the paper gateway does not listen there")
        return next(iter(self._servers))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses of the open ports."""
        servers = [server for server in self._servers.values() if server is not None]
        return [listener.getsockname() for server in servers for listener in server.sockets]

    async def open(self, port: int, option: str) -> None:
        """Listen on one more port; 0 picks a free one.

        Raises:
            GatewayError: the port is taken; the message names `option`.
        """
        try:
            server = await asyncio.start_server(self._serve, LOOPBACK, port)
        except OSError as problem:
            reason = problem.strerror or str(problem)
            raise GatewayError(
                f"cannot listen on {LOOPBACK}:{port}: {reason.splitlines()[0]}; choose another {option}"
            ) from problem
        self._servers[server.sockets[0].getsockname()[1]] = server

    def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        self._is_refusing = True
        for port, server in self._servers.items():
            if server is not None:
                server.close()
                self._servers[port] = None
            if port not in self._placeholders:
                self._hold(port)

    def accept(self) -> None:
        """Listen again."""
        self._is_refusing = False
        self._timers.spawn(self._reopen())

    def close(self) -> None:
        """Stop listening for good."""
        self.refuse()
        for placeholder in self._placeholders.values():
            placeholder.close()
        self._placeholders.clear()
        self._servers.clear()

    def _hold(self, port: int) -> None:
        """Reserve the port: a socket that is bound and does not listen refuses connections.

        Best effort: in a loop with a simulated network the port does not exist for the operating system.
        """
        placeholder = socket.socket()
        with contextlib.suppress(OSError):
            if os.name == "posix":  # on Windows the option would let another process take the port
                placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            placeholder.bind((LOOPBACK, port))
        self._placeholders[port] = placeholder

    async def _reopen(self) -> None:
        for port in [port for port, server in self._servers.items() if server is None]:
            for attempt in range(_ATTEMPTS):
                if self._is_refusing or self._servers.get(port) is not None:
                    return
                if port in self._placeholders:
                    self._placeholders.pop(port).close()
                try:
                    await self.open(port, "port")
                except GatewayError:
                    # A connection of another process can have taken the port while it was not reserved.
                    if attempt == _ATTEMPTS - 1:
                        raise
                    await asyncio.sleep(_ATTEMPT_SECONDS)
                else:
                    break
            if self._is_refusing:
                self.refuse()
