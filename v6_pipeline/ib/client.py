"""ib_async's client as this product uses it: read-only, paced, and with an event that names a download's account."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, NoReturn

from eventkit import Event
from ib_async import IB
from ib_async.wrapper import RequestError

from v6_pipeline.errors import GatewayError
from v6_pipeline.foreign_text import visible
from v6_pipeline.ib.decoding import read_faithfully
from v6_pipeline.ib.pacing import MessagePacer

ORDER_MESSAGES = frozenset({3, 4, 15, 19, 21, 58})
"""Message ids that touch orders: place, cancel, bind to this client, allocate (FA), exercise, cancel all."""

_CANCELS_REMEMBERED = 1000
_ROUND_TRIPS_REMEMBERED = 8

_READ_ONLY = "this connection is read-only: v6_pipeline never sends, changes or cancels an order"


class ReadOnlyIB(IB):
    """An ``IB`` that cannot send an order, and sends each message at an instant of the pacer.

    Build it inside the running event loop that will own it: eventkit binds to the loop it finds. ``pacer`` replaces
    ib_async's own throttle, which does not count the messages of other processes.
    """

    def __init__(self, pacer: MessagePacer) -> None:
        # ib_async logs each position at INFO and each broker notice as an ERROR; our log has each once, with the
        # reaction. Set a level before this to get ib_async's log as well.
        logger = logging.getLogger("ib_async")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
        super().__init__()
        # Raise when IB refuses a request: by default ib_async returns an empty list, which reads as 'none exist'.
        self.RaiseRequestErrors = True
        # On 1102 ib_async subscribes to the account summary, which is not used here and which IB grants a client twice.
        self.errorEvent -= self._onError
        self._make_text_visible()
        read_faithfully(self)
        self._refuse_orders()
        self._pace(pacer)
        self._answer_time_in_order()
        self._remember_cancels()
        self._read_account_positions()
        self.accountDownloadEndEvent = Event("accountDownloadEndEvent")
        end_of_download = self.wrapper.accountDownloadEnd

        def on_account_download_end(account: str) -> None:
            """Emit the account named in the message, which ib_async drops: after an eviction it may be another one."""
            end_of_download(account)
            self.accountDownloadEndEvent.emit(account)

        self.wrapper.accountDownloadEnd = on_account_download_end  # type: ignore[method-assign, assignment]

    def _make_text_visible(self) -> None:
        """Let no control character of a message past the decoder: its text goes to terminals, logs and files."""
        decoder = self.client.decoder
        interpret = decoder.interpret

        def interpret_visible(fields: list[str]) -> None:
            if not "".join(fields).isprintable():  # one look for the thousands of ticks that have none
                fields = [visible(field) for field in fields]
            interpret(fields)

        decoder.interpret = interpret_visible  # type: ignore[method-assign]

    def _refuse_orders(self) -> None:
        """Refuse orders in the one function that sends every message."""
        send = self.client.send

        # Any: the fields of a message are of any type.
        def send_unless_order(*fields: Any, makeEmpty: bool = True) -> None:  # noqa: ANN401, N803  (ib_async's name)
            if fields[0] in ORDER_MESSAGES:
                raise GatewayError(_READ_ONLY)
            send(*fields, makeEmpty=makeEmpty)

        self.client.send = send_unless_order  # type: ignore[method-assign]

    def _pace(self, pacer: MessagePacer) -> None:
        """Put the pacer's queue between the client and its socket; close it with the socket."""
        client = self.client
        wire_log = logging.getLogger("ib_async.client")
        self._sends_urgently = False

        def write(payload: bytes) -> None:
            client.conn.sendMsg(client._prefix(payload))  # noqa: SLF001  (the library's framing, used by its sendMsg)
            wire_log.debug(">>> %r", payload)

        def send_message(message: str) -> None:
            self.outbox.send(message.encode(), urgent=self._sends_urgently)

        disconnect = client.disconnect

        def close_and_disconnect() -> None:
            self.outbox.close()  # first: a socket whose sending half is closed raises on a write
            disconnect()

        self.outbox = pacer.open(write)
        client.sendMsg = send_message  # type: ignore[method-assign, assignment]
        client.disconnect = close_and_disconnect  # type: ignore[method-assign]
        client.conn.disconnected += lambda _reason: self.outbox.close()

    def _answer_time_in_order(self) -> None:
        """Match the answers to ``ask_time`` by their order: they name no request, and ib_async allows one at a time."""
        asked: deque[tuple[asyncio.Future[int], float]] = deque()
        round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS_REMEMBERED)

        def current_time(seconds: int) -> None:
            if asked:
                answer, left_at = asked.popleft()
                round_trips.append(asyncio.get_running_loop().time() - left_at)
                if not answer.done():
                    answer.set_result(seconds)

        def close() -> None:
            for answer, _ in asked:
                _end_with_connection(answer)
            asked.clear()

        self.wrapper.currentTime = current_time  # type: ignore[method-assign, assignment]
        self.disconnectedEvent += close
        self._time_asked = asked
        self._round_trips = round_trips

    def _remember_cancels(self) -> None:
        """Record cancels: IB answers the cancel of a request that has ended with an error, which then means nothing."""
        cancelled: deque[int] = deque(maxlen=_CANCELS_REMEMBERED)
        cancel = self.client.cancelMktData

        def cancel_market_data(req_id: int) -> None:
            cancelled.append(req_id)
            cancel(req_id)

        self.client.cancelMktData = cancel_market_data  # type: ignore[method-assign]
        self._cancelled = cancelled

    def _read_account_positions(self) -> None:
        """Turn the messages of reqPositionsMulti, which ib_async drops, into position events and answers."""
        wrapper = self.wrapper
        self._position_requests: dict[str, int] = {}
        self._parts: dict[tuple[str, int], dict[str, tuple[float, float]]] = {}

        # Any: ib_async does not annotate its contract here.
        def position_multi(req_id: int, account: str, model: str, contract: Any, size: float, cost: float) -> None:  # noqa: ANN401
            if self._position_requests.get(account) != req_id:
                return
            parts = self._parts.setdefault((account, contract.conId), {})
            parts[model] = (size, cost)
            # A row without a model is the account's; else each model has its part of the position.
            counted = [parts[""]] if "" in parts else list(parts.values())
            total = sum(part for part, _ in counted)
            paid = sum(part * price for part, price in counted)
            wrapper.position(account, contract, total, paid / total if total else 0.0)

        def position_multi_end(req_id: int) -> None:
            wrapper._endReq(req_id)  # noqa: SLF001  (as the library ends its own requests)

        wrapper.positionMulti = position_multi  # type: ignore[method-assign, assignment]
        wrapper.positionMultiEnd = position_multi_end  # type: ignore[method-assign, assignment]

    def request_account_positions(self, account: str) -> asyncio.Future[list[object]]:
        """Subscribe to one account's positions; ``positionEvent`` reports each, the future ends after the last.

        A subscription of the account from before is cancelled.
        """
        before = self._position_requests.pop(account, None)
        if before is not None:
            self.client.cancelPositionsMulti(before)
        for key in [key for key in self._parts if key[0] == account]:
            del self._parts[key]
        req_id = self.client.getReqId()
        self._position_requests[account] = req_id
        answer: asyncio.Future[list[object]] = self.wrapper.startReq(req_id)

        def on_error(failed_id: int, code: int, text: str, _contract: object) -> None:
            # ib_async treats 321 as a warning and never ends the request.
            if failed_id == req_id and not answer.done():
                answer.set_exception(RequestError(req_id, code, text))

        self.errorEvent += on_error
        answer.add_done_callback(lambda _: self.errorEvent.disconnect(on_error))
        self.client.reqPositionsMulti(req_id, account, "")
        return answer

    def has_cancelled(self, req_id: int) -> bool:
        """Return whether the market-data request is one of the last 1,000 that were cancelled."""
        return req_id in self._cancelled

    @property
    def latency_seconds(self) -> float:
        """Shortest of the last few round trips, since each may have waited for a busy loop; 0 before the first."""
        return min(self._round_trips, default=0.0)

    def ask_time(self, *, urgent: bool = False) -> asyncio.Future[int]:
        """Request the gateway's time; the future gets the answer to this very request, in seconds since 1970.

        ``urgent`` overtakes waiting messages. Otherwise the answer proves that all messages sent before were read.
        """
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._sends_urgently = urgent
        try:
            self.client.reqCurrentTime()
        finally:
            self._sends_urgently = False

        def left() -> None:
            if self.outbox.is_closed:
                _end_with_connection(answer)
            else:
                self._time_asked.append((answer, asyncio.get_running_loop().time()))

        # In the order of sending, because an urgent request overtakes earlier ones.
        self.outbox.when_left(left, urgent=urgent)
        return answer

    def reqCurrentTimeAsync(self) -> NoReturn:  # noqa: N802  (ib_async's name)
        """Refuse: its answer could not be distinguished from those to ``ask_time``."""
        raise GatewayError("use IBConnectionManager.round_trip")

    def whatIfOrderAsync(self, *_: object) -> NoReturn:  # noqa: N802  (ib_async's name)
        """Refuse, before ib_async creates a future that is never awaited."""
        raise GatewayError(_READ_ONLY)


def _end_with_connection(answer: asyncio.Future[int]) -> None:
    if not answer.done():
        answer.set_exception(ConnectionError("Socket disconnect"))
        answer.exception()  # retrieved, because the caller may have given up
