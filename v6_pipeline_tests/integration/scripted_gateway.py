"""A gateway that sends exactly what a test scripts, including messages that the paper gateway never sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

START_API = 71
Line = Sequence[object]


class ScriptedGateway:
    """Answers the handshake and the login, then each message by its id; what is not in the script gets no answer.

    Args:
        answers: message id to the messages that answer it; ``REQ_ID`` in one stands for the request's own.
        logs_in: whether the login is answered.
        version: of IB's protocol.
        hangs_up_on: closes the connection when a message of this id comes.
    """

    REQ_ID = object()

    def __init__(
        self,
        answers: Mapping[int, Sequence[Line]] | None = None,
        *,
        logs_in: bool = True,
        version: int = 176,
        hangs_up_on: int | None = None,
    ) -> None:
        self._answers = dict(answers or {})
        if logs_in:
            self._answers[START_API] = [(15, 1, "SIM0000001,"), (9, 1, 1)]
        self._version = version
        self._hangs_up_on = hangs_up_on
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.received: list[list[str]] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def count(self, message_id: int) -> int:
        """Return the number of messages received with an id."""
        return sum(fields[0] == str(message_id) for fields in self.received)

    def say(self, *fields: object) -> None:
        """Send a message to all clients."""
        payload = "".join(f"{field}\0" for field in fields).encode()
        for writer in self._writers:
            writer.write(len(payload).to_bytes(4, "big") + payload)

    def error(self, request_id: int, code: int, text: str) -> None:
        """Send an error, warning or notice."""
        self.say(4, 2, request_id, code, text, "")

    def hang_up(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            await reader.readexactly(4)  # API\0
            await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            self.say(self._version, "20260302 09:30:00 EST")
            while True:
                payload = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                self._take(payload.decode().split("\0"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went, or was sent away
        finally:
            writer.close()

    def _take(self, fields: list[str]) -> None:
        self.received.append(fields)
        message_id = int(fields[0])
        for line in self._answers.get(message_id, ()):
            self.say(*(fields[2] if field is self.REQ_ID else field for field in line))
        if message_id == self._hangs_up_on:
            self.hang_up()
