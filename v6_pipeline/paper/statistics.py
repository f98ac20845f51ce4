"""Counts what happened at the gateway, so that a test can check a client's behaviour from the other side of the socket.

Belongs here: counters, peaks and the values last delivered. Nothing is decided here: the limits are enforced in
`session` (message rate) and `market` (lines).
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping


class RollingCount:
    """How many events fell into the last rolling second, and the most there ever were."""

    __slots__ = ("_times", "peak")

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self.peak = 0

    def add(self, now: float) -> int:
        """Record an event at `now` (monotonic seconds); returns the count of the second that ends then.

        An event exactly one second old is no longer in the window.
        """
        while self._times and now - self._times[0] >= 1.0:
            self._times.popleft()
        self._times.append(now)
        self.peak = max(self.peak, len(self._times))
        return len(self._times)

    def clear(self) -> None:
        """Begin a new window; the peak stays."""
        self._times.clear()


class Statistics:
    """Everything counted since the gateway started; survives disconnects.

    Attributes:
        lines: market data lines in use now; `peak_lines` is the most at any moment.
        subscriptions: lines in use now by conid; `subscriptions_total` counts every one ever taken.
        messages: messages received by client id, refused ones included.
        errors: errors, warnings and notices sent, by code.
        order_messages: orders, cancels and exercises received, all refused.
        unknown_messages: messages whose id the gateway does not serve, by id.
        connections: completed logins by client id; `clients` are those connected now.
        last_values: by conid, the numbers last put on the wire and the sequence number they belong to.
        last_portfolio: by account and conid, the portfolio row last put on the wire.
        ticks_sent: tick messages sent; `messages_sent` counts every message.
        bad_clients: connections closed for bytes that are not the protocol.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.lines = 0
        self.peak_lines = 0
        self.subscriptions: Counter[int] = Counter()
        self.subscriptions_total: Counter[int] = Counter()
        self.messages: Counter[int] = Counter()
        self.errors: Counter[int] = Counter()
        self.order_messages = 0
        self.unknown_messages: Counter[int] = Counter()
        self.connections: Counter[int] = Counter()
        self.clients: set[int] = set()
        self.last_values: dict[int, dict[str, float]] = {}
        self.last_portfolio: dict[tuple[str, int], dict[str, float]] = {}
        self.ticks_sent = 0
        self.messages_sent = 0
        self.bad_clients = 0
        self._rate_by_client: dict[int, RollingCount] = {}
        self._rate = RollingCount()

    @property
    def messages_total(self) -> int:
        """Messages received from all clients."""
        return self.messages.total()

    @property
    def peak_rate(self) -> int:
        """The most messages received in any rolling second, all clients together."""
        return self._rate.peak

    @property
    def peak_rate_by_client(self) -> dict[int, int]:
        """The most messages received in any rolling second, by client id."""
        return {client_id: window.peak for client_id, window in self._rate_by_client.items()}

    def message_received(self, client_id: int) -> None:
        """A client sent a message."""
        now = self._clock()
        self.messages[client_id] += 1
        self._rate.add(now)
        self._rate_by_client.setdefault(client_id, RollingCount()).add(now)

    def line_taken(self, conid: int) -> None:
        """A subscription or snapshot took a line."""
        self.lines += 1
        self.peak_lines = max(self.peak_lines, self.lines)
        self.subscriptions[conid] += 1
        self.subscriptions_total[conid] += 1

    def line_released(self, conid: int) -> None:
        """A line was given back."""
        self.lines -= 1
        self.subscriptions[conid] -= 1
        if not self.subscriptions[conid]:
            del self.subscriptions[conid]

    def delivered(self, conid: int, sequence: int, values: Mapping[str, float], ticks: int) -> None:
        """`ticks` messages put `values` of one quote on the wire; values not sent again keep their last one."""
        self.ticks_sent += ticks
        self.last_values.setdefault(conid, {}).update(values, sequence=sequence)

    def snapshot(self) -> dict[str, object]:
        """All of it as JSON can carry it: keys are text, an account and conid joined by ``:``."""
        return {
            "lines": self.lines,
            "peak_lines": self.peak_lines,
            "subscriptions": _text_keys(self.subscriptions),
            "subscriptions_total": _text_keys(self.subscriptions_total),
            "messages": _text_keys(self.messages),
            "messages_total": self.messages_total,
            "peak_rate": self.peak_rate,
            "peak_rate_by_client": _text_keys(self.peak_rate_by_client),
            "errors": _text_keys(self.errors),
            "order_messages": self.order_messages,
            "unknown_messages": _text_keys(self.unknown_messages),
            "connections": _text_keys(self.connections),
            "clients": sorted(self.clients),
            "last_values": {str(conid): dict(values) for conid, values in self.last_values.items()},
            "last_portfolio": {
                f"{account}:{conid}": dict(values) for (account, conid), values in self.last_portfolio.items()
            },
            "ticks_sent": self.ticks_sent,
            "messages_sent": self.messages_sent,
            "bad_clients": self.bad_clients,
        }


def _text_keys(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(key): count for key, count in counts.items()}
