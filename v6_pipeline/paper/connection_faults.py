"""Faults of the network or of the gateway process, as a client sees them.

Every public method but `apply`, `is_occupied` and `heal` is an action; see `actions`.
"""

import socket
from collections.abc import Callable, Collection, Iterator

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import messages
from v6_pipeline.paper.config import LOOPBACK
from v6_pipeline.paper.fields import ClientId, Code, Count, Port, Seconds
from v6_pipeline.paper.listener import Listener
from v6_pipeline.paper.session import ClientSession
from v6_pipeline.paper.timers import Timers
from v6_pipeline.paper.wire import encode_payload, frame

_HUGE_LENGTH = b"\xff\xff\xff\xf0"
_INACTIVE_FARM = "HMDS data farm connection is inactive but should be available upon demand.ushmds"
_GARBAGE = (
    b"\xff\xfe\x80garbage\0\xc3\x28\0",  # no UTF-8
    b"9999\x001\x00unknown message\0",
    b"1\x006\x00not a number\0",  # a price without its fields
    b"61\x003\0",  # a position without its fields
    b"\0\0\0",
    b"",
)


class ConnectionFaults:
    """Connection faults of one gateway.

    `sessions` lists the open connections; `release` frees the client id and the lines of one at once.
    """

    def __init__(
        self,
        listener: Listener,
        timers: Timers,
        sessions: Callable[[], Collection[ClientSession]],
        release: Callable[[ClientSession], None],
    ) -> None:
        self._listener = listener
        self._timers = timers
        self._sessions = sessions
        self._release = release
        # By client id; None is every connection.
        self._blackholes: set[int | None] = set()
        self._delays: dict[int | None, float] = {}
        self._occupied: set[int] = set()

    def apply(self, session: ClientSession) -> None:
        """Apply the active faults to a connection that is new, or whose client id has become known."""
        if self._is_blackholed(session):
            session.freeze()
        session.outbox.hold_seconds = self._delays.get(session.client_id, self._delays.get(None, 0.0))

    def is_occupied(self, client_id: int) -> bool:
        """Return whether a client id is to be refused with 326."""
        return client_id in self._occupied

    def drop(self, client_id: ClientId | None = None, *, reset: bool = False) -> None:
        """End connections, in order or with a reset (RST); ids and lines are free at once."""
        for session in self._matching(client_id):
            self._release(session)
            if reset:
                session.reset()
            else:
                session.close()

    def refuse_connections(self, seconds: Seconds) -> None:
        """Refuse new connections (ECONNREFUSED); open ones stay."""
        self._listener.refuse()
        self._timers.after("refuse", seconds, self._listener.accept)

    def blackhole(self, seconds: Seconds, client_id: ClientId | None = None) -> None:
        """Leave sockets open and answer nothing, not even new connections; then serve everything in order.

        A connection that its client closes in the meantime keeps its lines and its client id until the end.
        """
        self._blackholes.add(client_id)
        for session in self._matching(client_id):
            session.freeze()
        self._timers.after(("blackhole", client_id), seconds, lambda: self._end_blackhole(client_id))

    def delay(self, hold_seconds: Seconds, seconds: Seconds | None = None, client_id: ClientId | None = None) -> None:
        """Hold each outgoing message for `hold_seconds`, for `seconds` or until healed."""
        self._set_delay(client_id, hold_seconds)
        self._timers.cancel(("delay", client_id))
        if seconds is not None:
            self._timers.after(("delay", client_id), seconds, lambda: self._set_delay(client_id, 0.0))

    def stall(self, seconds: Seconds) -> None:
        """Read nothing from any client for `seconds`, as a program that collects garbage; then all of it at once."""
        for session in self._matching(None):
            session.stall(reads=False)
        self._timers.after("stall", seconds, self._read_on)

    def _read_on(self) -> None:
        for session in self._matching(None):
            session.stall(reads=True)

    def truncated_frame(self, client_id: ClientId | None = None, *, then_drop: bool = True) -> None:
        """Send half a frame, then end the connection or continue out of step."""
        whole = frame(encode_payload(messages.error(-1, 2107, _INACTIVE_FARM)))
        for session in self._matching(client_id):
            session.send_bytes(whole[: len(whole) // 2])
        if then_drop:
            self.drop(client_id)

    def garbage_frame(self, client_id: ClientId | None = None) -> None:
        """Send well-framed nonsense: no UTF-8, unknown messages, known ones with wrong fields."""
        for session in self._matching(client_id):
            for payload in _GARBAGE:
                session.send_bytes(frame(payload))

    def huge_frame(self, client_id: ClientId | None = None) -> None:
        """Announce a frame of 4 GB, which swallows all later messages."""
        for session in self._matching(client_id):
            session.send_bytes(_HUGE_LENGTH)

    def exceed_rate(self, count: Count = 1, client_id: ClientId | None = None) -> None:
        """Answer the next `count` messages of each client with error 100; the third breach ends a connection."""
        for session in self._matching(client_id):
            session.forced_breaches = count

    def occupy_client_id(self, client_id: ClientId, seconds: Seconds) -> None:
        """Refuse logins with this id with 326, as IB does while it still holds an old session."""
        self._occupied.add(client_id)
        self._timers.after(("occupied", client_id), seconds, lambda: self._occupied.discard(client_id))

    def move_port(self, port: Port = 0) -> dict[str, object]:
        """Listen on another port too, notify all clients (1300) and end their connections; returns the port.

        Raises:
            GatewayError: the port is taken.
        """
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError as problem:
                raise GatewayError(f"cannot listen on {LOOPBACK}:{port}: {problem.strerror}") from problem
            chosen: int = probe.getsockname()[1]
        self._timers.spawn(self._move(chosen))
        return {"port": chosen}

    def notice(self, code: Code, text: str = "", client_id: ClientId | None = None) -> None:
        """Send any code as a message that belongs to no request."""
        for session in self._matching(client_id):
            session.error(-1, code, text)

    def heal(self) -> None:
        """End all that lasts."""
        self._timers.cancel("stall")
        self._read_on()
        self._timers.cancel("refuse")
        self._listener.accept()
        for client_id in list(self._blackholes):
            self._timers.cancel(("blackhole", client_id))
            self._end_blackhole(client_id)
        for client_id in list(self._delays):
            self._timers.cancel(("delay", client_id))
            self._set_delay(client_id, 0.0)
        for session in self._sessions():
            session.forced_breaches = 0
        for occupied in self._occupied:
            self._timers.cancel(("occupied", occupied))
        self._occupied.clear()

    def _matching(self, client_id: int | None) -> Iterator[ClientSession]:
        return (session for session in list(self._sessions()) if client_id in {None, session.client_id})

    def _is_blackholed(self, session: ClientSession) -> bool:
        return None in self._blackholes or session.client_id in self._blackholes

    def _end_blackhole(self, client_id: int | None) -> None:
        self._blackholes.discard(client_id)
        frozen = [item for item in self._matching(client_id) if item.outbox.is_frozen and not self._is_blackholed(item)]
        # Connections that ended during the blackhole free their ids and lines before later ones need them.
        for session in sorted(frozen, key=lambda session: not session.has_ended):
            if session.has_ended:
                self._release(session)
            session.thaw()

    def _set_delay(self, client_id: int | None, hold_seconds: float) -> None:
        if hold_seconds:
            self._delays[client_id] = hold_seconds
        else:
            self._delays.pop(client_id, None)
        for session in self._matching(client_id):
            self.apply(session)

    async def _move(self, port: int) -> None:
        await self._listener.open(port, "port")
        self.notice(
            1300,
            "TWS socket port has been reset and this connection is being dropped. "
            f"Please reconnect on the new port - {port}",
        )
        self.drop()
