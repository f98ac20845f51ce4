"""The control port: JSON lines in, JSON lines out, and a client for it.

Belongs here: lines of JSON and the commands that only read. A command that changes something is one of `actions`.

One request object per line, one reply object per line: ``{"command": "open", "account": ..., "conid": ..., "quantity":
...}`` is answered with ``{"ok": true, ...}``, or with ``{"ok": false, "error": "..."}`` and nothing changed.
"""

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.actions import Reply, holding_reply
from v6_pipeline.paper.contracts import Contract
from v6_pipeline.paper.fields import fields_of

if TYPE_CHECKING:
    from v6_pipeline.paper.gateway import PaperGateway

MAX_LINE_BYTES = 1 << 20
_HTTP = re.compile(rb"^[A-Z]+ \S+ HTTP/\d")
"""A web page can make a browser send a request to this port, with commands in its body: none of them is executed."""


class ControlServer:
    """Answers control connections for one gateway."""

    def __init__(self, gateway: "PaperGateway") -> None:
        self._gateway = gateway
        self._writers: set[asyncio.StreamWriter] = set()
        self._queries = {
            "ping": self._ping,
            "positions": self._positions,
            "contracts": self._contracts,
            "statistics": self._statistics,
            "stop": self._stop,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends or a line is longer than a megabyte."""
        self._writers.add(writer)
        buffer = bytearray()
        try:
            while data := await reader.read(1 << 16):
                buffer += data
                *lines, rest = bytes(buffer).split(b"\n")
                buffer = bytearray(rest)
                if len(rest) > MAX_LINE_BYTES:
                    writer.write(_encode({"ok": False, "error": f"a line is longer than {MAX_LINE_BYTES} bytes"}))
                    break
                if any(map(_HTTP.search, lines)):
                    writer.write(_encode({"ok": False, "error": "this port takes JSON lines, not HTTP"}))
                    break
                for line in lines:
                    writer.write(_encode(self.answer(line)))
                await writer.drain()
        except ConnectionError:
            pass  # the client is gone
        finally:
            self._writers.discard(writer)
            writer.close()

    def close(self) -> None:
        """End all control connections."""
        for writer in list(self._writers):
            writer.close()

    def answer(self, line: bytes) -> Reply:
        """Return the reply to one request line; errors in the line become a reply."""
        try:
            return {"ok": True, **self._run(_parse(line))}
        except GatewayError as problem:
            return {"ok": False, "error": str(problem)}

    def _run(self, request: dict[str, object]) -> Reply:
        name = request.pop("command", None)
        actions = self._gateway.actions
        if not isinstance(name, str) or name not in {*self._queries, *actions.names}:
            raise GatewayError(f"unknown command {name!r}: one of {', '.join((*self._queries, *actions.names))}")
        if name in actions.names:
            return actions.perform(name, request)
        query = self._queries[name]
        specs = fields_of(query)
        unknown = sorted(request.keys() - specs.keys())
        if unknown:
            raise GatewayError(f"unknown field {', '.join(unknown)}")
        return query(**{key: specs[key].read(value) for key, value in request.items()})

    def _ping(self) -> Reply:
        return {"port": self._gateway.port, "accounts": list(self._gateway.universe.accounts)}

    def _positions(self, account: str | None = None) -> Reply:
        return {"positions": [holding_reply(holding) for holding in self._gateway.book.held(account)]}

    def _contracts(self, symbol: str | None = None, sec_type: str | None = None) -> Reply:
        found = [
            contract
            for contract in self._gateway.universe.contracts.values()
            if symbol in {None, contract.symbol} and sec_type in {None, contract.sec_type}
        ]
        return {"contracts": [_contract(contract) for contract in found]}

    def _statistics(self) -> Reply:
        return {"statistics": {**self._gateway.statistics.snapshot(), "line_limit": self._gateway.market.lines}}

    def _stop(self) -> Reply:
        self._gateway.request_stop()
        return {}


class ControlClient:
    """A blocking client of the control port, for the command line and for tests.

    Raises:
        GatewayError: nothing listens there, no answer within `timeout` seconds, or the gateway refused the command.
    """

    def __init__(self, host: str, port: int, timeout: float = 5.0) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except OSError as problem:
            raise GatewayError(f'no paper gateway at {host}:{port}: start one with "v6 gateway"') from problem
        self._file = self._socket.makefile("rb")

    def request(self, command: str, **arguments: object) -> Reply:
        """Send one command and return its reply."""
        try:
            self._socket.sendall(_encode({"command": command, **arguments}))
            line = self._file.readline()
        except OSError as problem:
            raise GatewayError(f"the paper gateway did not answer {command!r}: {problem}") from problem
        if not line:
            raise GatewayError(f"the paper gateway closed the connection at {command!r}")
        reply: Reply = json.loads(line)
        if reply.get("ok") is not True:
            raise GatewayError(f"the paper gateway refused {command!r}: {reply.get('error')}")
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(line: bytes) -> dict[str, object]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise GatewayError("the line is not JSON") from None
    if not isinstance(request, dict):
        raise GatewayError("a request is a JSON object")
    return request


def _encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _contract(contract: Contract) -> Reply:
    names = (
        *("conid", "symbol", "sec_type", "expiry", "strike", "right", "multiplier", "price_magnifier", "currency"),
        "local_symbol",
    )
    return {name: getattr(contract, name) for name in names}
