"""The control port: JSON lines in, JSON lines out, and a client for it.

Belongs here: reading and checking commands. What a command does is a method of `gateway.PaperGateway`.

One request object a line, one reply object a line: ``{"command": "open", "account": ..., "conid": ..., "quantity":
...}`` is answered with ``{"ok": true, ...}``, or with ``{"ok": false, "error": "..."}`` and nothing changed.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.config import AccountConflict
from v6_pipeline.paper.contracts import Contract, Holding

if TYPE_CHECKING:
    from v6_pipeline.paper.gateway import PaperGateway

MAX_LINE_BYTES = 1 << 20
MAX_NUMBER = 1e12

Reply = dict[str, object]


class Arguments:
    """The fields of one request, read with their types; each reader raises `GatewayError` naming the field."""

    def __init__(self, request: Mapping[str, object]) -> None:
        self._values = {name: value for name, value in request.items() if name != "command"}
        self._read: set[str] = set()

    def integer(self, name: str) -> int:
        """A required integer."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise GatewayError(f"{name} must be an integer")
        return value

    def number(self, name: str) -> float:
        """A required number, of a size that money and quantities can have."""
        value = self._take(name)
        # Written so that NaN fails too.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            raise GatewayError(f"{name} must be a number between -{MAX_NUMBER:g} and {MAX_NUMBER:g}")
        return float(value)

    def text(self, name: str) -> str:
        """A required text."""
        value = self._take(name)
        if not isinstance(value, str):
            raise GatewayError(f"{name} must be text")
        return value

    def conids(self) -> list[int]:
        """The required list `conids`."""
        value = self._take("conids")
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise GatewayError("conids must be a list of integers")
        return value

    def has(self, name: str) -> bool:
        """Whether a field is present and not null."""
        self._read.add(name)
        return self._values.get(name) is not None

    def finish(self) -> None:
        """Refuse fields that the command does not know."""
        unknown = sorted(self._values.keys() - self._read)
        if unknown:
            raise GatewayError(f"unknown field {', '.join(unknown)}")

    def _take(self, name: str) -> object:
        self._read.add(name)
        if name not in self._values:
            raise GatewayError(f"{name} is missing")
        return self._values[name]


class ControlServer:
    """Answers control connections for one gateway."""

    def __init__(self, gateway: "PaperGateway") -> None:
        self._gateway = gateway
        self._writers: set[asyncio.StreamWriter] = set()
        self._commands: dict[str, Callable[[Arguments], Reply]] = {
            "ping": self._ping,
            "open": self._open,
            "resize": self._resize,
            "close": self._close,
            "quiet": self._quiet,
            "resume": self._resume,
            "deny": self._deny,
            "allow": self._allow,
            "positions": self._positions,
            "contracts": self._contracts,
            "statistics": self._statistics,
            "lines": self._lines,
            "account_conflict": self._account_conflict,
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
                for line in lines:
                    writer.write(_encode(self.answer(line)))
                await writer.drain()
        except ConnectionError:
            pass  # whoever asked is gone
        finally:
            self._writers.discard(writer)
            writer.close()

    def close(self) -> None:
        """End all control connections."""
        for writer in list(self._writers):
            writer.close()

    def answer(self, line: bytes) -> Reply:
        """The reply to one request line; never raises for what the line says."""
        try:
            return {"ok": True, **self._run(_parse(line))}
        except GatewayError as problem:
            return {"ok": False, "error": str(problem)}

    def _run(self, request: dict[str, object]) -> Reply:
        name = request.get("command")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            raise GatewayError(f"unknown command {name!r}: one of {', '.join(self._commands)}")
        return command(Arguments(request))

    def _ping(self, arguments: Arguments) -> Reply:
        arguments.finish()
        return {"port": self._gateway.port, "accounts": list(self._gateway.universe.accounts)}

    def _open(self, arguments: Arguments) -> Reply:
        account, conid, quantity = arguments.text("account"), arguments.integer("conid"), arguments.number("quantity")
        cost = arguments.number("average_cost") if arguments.has("average_cost") else None
        arguments.finish()
        return _holding(self._gateway.open_position(account, conid, quantity, cost))

    def _resize(self, arguments: Arguments) -> Reply:
        account, conid, quantity = arguments.text("account"), arguments.integer("conid"), arguments.number("quantity")
        arguments.finish()
        return _holding(self._gateway.resize_position(account, conid, quantity))

    def _close(self, arguments: Arguments) -> Reply:
        account, conid = arguments.text("account"), arguments.integer("conid")
        arguments.finish()
        return _holding(self._gateway.close_position(account, conid))

    def _quiet(self, arguments: Arguments) -> Reply:
        conids = arguments.conids() if arguments.has("conids") else None
        arguments.finish()
        self._gateway.quiet(conids)
        return {}

    def _resume(self, arguments: Arguments) -> Reply:
        conids = arguments.conids() if arguments.has("conids") else None
        arguments.finish()
        self._gateway.resume(conids)
        return {}

    def _deny(self, arguments: Arguments) -> Reply:
        conids = arguments.conids()
        arguments.finish()
        self._gateway.deny(conids)
        return {}

    def _allow(self, arguments: Arguments) -> Reply:
        conids = arguments.conids()
        arguments.finish()
        self._gateway.allow(conids)
        return {}

    def _positions(self, arguments: Arguments) -> Reply:
        account = arguments.text("account") if arguments.has("account") else None
        arguments.finish()
        return {"positions": [_holding(holding) for holding in self._gateway.book.held(account)]}

    def _contracts(self, arguments: Arguments) -> Reply:
        symbol = arguments.text("symbol") if arguments.has("symbol") else None
        sec_type = arguments.text("sec_type") if arguments.has("sec_type") else None
        arguments.finish()
        found = [
            contract
            for contract in self._gateway.universe.contracts.values()
            if symbol in {None, contract.symbol} and sec_type in {None, contract.sec_type}
        ]
        return {"contracts": [_contract(contract) for contract in found]}

    def _statistics(self, arguments: Arguments) -> Reply:
        arguments.finish()
        return {"statistics": self._gateway.statistics.snapshot()}

    def _lines(self, arguments: Arguments) -> Reply:
        lines = arguments.integer("lines")
        arguments.finish()
        self._gateway.set_lines(lines)
        return {"lines": lines}

    def _account_conflict(self, arguments: Arguments) -> Reply:
        mode = arguments.text("mode")
        arguments.finish()
        if mode not in set(AccountConflict):
            raise GatewayError(f"mode must be one of {', '.join(AccountConflict)}")
        self._gateway.set_account_conflict(AccountConflict(mode))
        return {"mode": mode}

    def _stop(self, arguments: Arguments) -> Reply:
        arguments.finish()
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

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
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


def _holding(holding: Holding) -> Reply:
    return {
        "account": holding.account,
        "conid": holding.conid,
        "quantity": holding.quantity,
        "average_cost": holding.average_cost,
    }


def _contract(contract: Contract) -> Reply:
    names = ("conid", "symbol", "sec_type", "expiry", "strike", "right", "multiplier", "currency", "local_symbol")
    return {name: getattr(contract, name) for name in names}
