"""Counts of the gateway's traffic, so that a test can check a client from the other side of the socket.

Does not belong here: limits, which `session` (message rate) and `market` (lines) enforce.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import datetime

from v6_pipeline.paper.config import utcnow

KEPT_EVENTS = 1_000
"""Number of the newest errors (of each code) and actions that are kept with their times."""

KEPT_REQUESTS = 50_000
"""Number of the newest historical requests that are kept."""

_NUMBERS = (
    *("seconds", "lines", "peak_lines", "tws_lines", "messages_total", "rate", "peak_rate", "order_messages"),
    *("ticks_sent", "messages_sent", "bad_clients"),
)
_COUNTS = (
    *("subscriptions", "subscriptions_total", "peak_subscriptions", "messages", "rate_by_client"),
    *("peak_rate_by_client", "errors", "unknown_messages", "connections", "ticks_by_contract"),
)


class HistoryStatistics:
    """Historical requests.

    Attributes:
        asked: requests by conid, including refused ones.
        log: the newest requests: seconds since the start, conid, bar size, data, end and duration.
        open_now: requests that are not answered yet; `peak_open` is the most at any moment.
        empty: replies without bars; `answers` counts those with bars.
        violations: requests refused for pacing, or because too many were open at once.
    """

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.log: deque[tuple[float, int, str, str, str, str]] = deque(maxlen=KEPT_REQUESTS)
        self.open_now = 0
        self.peak_open = 0
        self.answers = 0
        self.empty = 0
        self.violations = 0

    def opened(self) -> None:
        """Count a request that was accepted."""
        self.open_now += 1
        self.peak_open = max(self.peak_open, self.open_now)

    def closed(self) -> None:
        """Count the end of a request: answered, cancelled, or its client is gone."""
        self.open_now -= 1

    def snapshot(self) -> dict[str, object]:
        """Return the counts in a form that JSON can carry, without the log."""
        return {
            "asked": _text_keys(self.asked),
            "asked_total": self.asked.total(),
            "open": self.open_now,
            "peak_open": self.peak_open,
            "answers": self.answers,
            "empty": self.empty,
            "violations": self.violations,
        }


class RollingCount:
    """Number of events in the last rolling second, and the peak of that number."""

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

    def count(self, now: float) -> int:
        """Return the number of events in the second that ends at `now`."""
        return sum(now - moment < 1.0 for moment in self._times)

    def clear(self) -> None:
        """Begin a new window; the peak stays."""
        self._times.clear()

    def reset_peak(self, now: float) -> None:
        """Begin a new peak with the current count."""
        self.peak = self.count(now)


class Statistics:
    """Counts since the start of the gateway, over all connections; memory does not grow with time.

    A message counts as sent, and a value as delivered, when it is passed to the client's connection, where a fault may
    hold it back.

    Attributes:
        tws_lines: lines that the windows of TWS hold, in addition to the clients' `lines`.
        subscriptions: lines in use now by conid; `subscriptions_total` counts all that were ever taken, and
            `peak_subscriptions` is the most of one contract at any moment.
        messages: messages received by client id, including refused ones.
        error_times: the newest `errors` (warnings and notices included), by code, in seconds since the start.
        order_messages: orders, cancels and exercises received, all refused.
        connections: completed logins by client id; `clients` are those connected now.
        last_values: by conid, the newest numbers sent and their sequence number.
        delivered_at: by conid, the time of the newest tick, in UTC.
        last_portfolio: by account and conid, the newest portfolio row sent.
        ticks_sent: tick messages sent, `ticks_by_contract` by conid; `messages_sent` counts every message.
        bad_clients: connections closed because of bytes that are not the protocol.
        actions: the newest actions: seconds since the start, name and fields.
    """

    def __init__(self, clock: Callable[[], float], utcnow: Callable[[], datetime] = utcnow) -> None:
        self._clock = clock
        self._utcnow = utcnow
        self._started_at = clock()
        self.lines = 0
        self.peak_lines = 0
        self.tws_lines = 0
        self.subscriptions: Counter[int] = Counter()
        self.subscriptions_total: Counter[int] = Counter()
        self.peak_subscriptions: Counter[int] = Counter()
        self.messages: Counter[int] = Counter()
        self.errors: Counter[int] = Counter()
        self.error_times: dict[int, deque[float]] = {}
        self.order_messages = 0
        self.unknown_messages: Counter[int] = Counter()
        self.connections: Counter[int] = Counter()
        self.clients: set[int] = set()
        self.last_values: dict[int, dict[str, float]] = {}
        self.delivered_at: dict[int, datetime] = {}
        self.last_portfolio: dict[tuple[str, int], dict[str, float]] = {}
        self.ticks_sent = 0
        self.ticks_by_contract: Counter[int] = Counter()
        self.messages_sent = 0
        self.bad_clients = 0
        self.history = HistoryStatistics()
        self.actions: deque[tuple[float, str, dict[str, object]]] = deque(maxlen=KEPT_EVENTS)
        self._rate_by_client: dict[int, RollingCount] = {}
        self._rate = RollingCount()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started_at

    @property
    def messages_total(self) -> int:
        """Messages received from all clients."""
        return self.messages.total()

    @property
    def rate(self) -> int:
        """Messages received in the last second, all clients together."""
        return self._rate.count(self._clock())

    @property
    def rate_by_client(self) -> dict[int, int]:
        """Messages received in the last second, by client id."""
        now = self._clock()
        return {client_id: window.count(now) for client_id, window in self._rate_by_client.items()}

    @property
    def peak_rate(self) -> int:
        """Most messages received in any rolling second, all clients together."""
        return self._rate.peak

    @property
    def peak_rate_by_client(self) -> dict[int, int]:
        """Most messages received in any rolling second, by client id."""
        return {client_id: window.peak for client_id, window in self._rate_by_client.items()}

    def reset_peaks(self) -> None:
        """Begin new peaks (lines, contracts, rates) with the current values."""
        now = self._clock()
        self.peak_lines = self.lines
        self.peak_subscriptions = Counter(self.subscriptions)
        for window in (self._rate, *self._rate_by_client.values()):
            window.reset_peak(now)

    def message_received(self, client_id: int) -> None:
        """Count a message of a client."""
        now = self._clock()
        self.messages[client_id] += 1
        self._rate.add(now)
        self._rate_by_client.setdefault(client_id, RollingCount()).add(now)

    def error_sent(self, code: int) -> None:
        """Count an error, warning or notice that was sent."""
        self.errors[code] += 1
        self.error_times.setdefault(code, deque(maxlen=KEPT_EVENTS)).append(self.seconds)

    def acted(self, name: str, fields: Mapping[str, object]) -> None:
        """Record an action."""
        self.actions.append((self.seconds, name, dict(fields)))

    def line_taken(self, conid: int) -> None:
        """Count a line that a subscription or snapshot took."""
        self.lines += 1
        self.peak_lines = max(self.peak_lines, self.lines)
        self.subscriptions[conid] += 1
        self.subscriptions_total[conid] += 1
        self.peak_subscriptions[conid] = max(self.peak_subscriptions[conid], self.subscriptions[conid])

    def line_released(self, conid: int) -> None:
        """Count a line that was released."""
        self.lines -= 1
        self.subscriptions[conid] -= 1
        if not self.subscriptions[conid]:
            del self.subscriptions[conid]

    def delivered(self, conid: int, sequence: int, values: Mapping[str, float], ticks: int) -> None:
        """Record that `ticks` messages sent `values` of one quote; values that were not sent keep the previous ones."""
        self.ticks_sent += ticks
        self.last_values.setdefault(conid, {}).update(values, sequence=sequence)
        if ticks:
            self.ticks_by_contract[conid] += ticks
            self.delivered_at[conid] = self._utcnow()

    def snapshot(self) -> dict[str, object]:
        """Return all counts for JSON: keys are text, account and conid are joined by ``:``, times are ISO 8601."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            **{name: _text_keys(getattr(self, name)) for name in _COUNTS},
            "error_times": {str(code): list(times) for code, times in self.error_times.items()},
            "clients": sorted(self.clients),
            "last_values": {str(conid): dict(values) for conid, values in self.last_values.items()},
            "delivered_at": {str(conid): moment.isoformat() for conid, moment in self.delivered_at.items()},
            "last_portfolio": {
                f"{account}:{conid}": dict(values) for (account, conid), values in self.last_portfolio.items()
            },
            "history": self.history.snapshot(),
            "actions": [[seconds, name, fields] for seconds, name, fields in self.actions],
        }


def _text_keys(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(key): count for key, count in counts.items()}
