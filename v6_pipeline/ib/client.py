"""ib_async's client as this product uses it: read-only, and telling which account a download ended for.

Only what the library lacks; connecting is in ``connection``.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

from eventkit import Event
from ib_async import IB

from v6_pipeline.errors import GatewayError

ORDER_MESSAGES = frozenset({3, 4, 15, 19, 21, 58})
"""Message ids that touch orders: place, cancel, bind to this client, allocate (FA), exercise, cancel all."""

_READ_ONLY = "this connection is read-only: v6_pipeline never sends, changes or cancels an order"


class ReadOnlyIB(IB):
    """An ``IB`` that cannot send an order.

    Build it inside the running event loop that will own it: eventkit binds to the loop it finds.
    """

    def __init__(self) -> None:
        # ib_async logs each position at INFO and each broker notice as an ERROR; ours say the same once, with the
        # reaction. Whoever wants its log all the same sets a level before.
        logger = logging.getLogger("ib_async")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
        super().__init__()
        # A request that IB refuses shall raise; by default ib_async returns an empty list, which reads as 'none exist'.
        self.RaiseRequestErrors = True
        # On 1102 ib_async subscribes to the account summary, which nobody here reads and IB grants a client twice.
        self.errorEvent -= self._onError
        self._refuse_orders()
        self.accountDownloadEndEvent = Event("accountDownloadEndEvent")
        end_of_download = self.wrapper.accountDownloadEnd

        def on_account_download_end(account: str) -> None:
            """ib_async drops the account that the message names; after an eviction it may be another than asked for."""
            end_of_download(account)
            self.accountDownloadEndEvent.emit(account)

        self.wrapper.accountDownloadEnd = on_account_download_end  # type: ignore[method-assign, assignment]

    def _refuse_orders(self) -> None:
        """Let no order pass the one function through which everything is sent, whoever calls it."""
        send = self.client.send

        # Any: the fields of a message are of any type.
        def send_unless_order(*fields: Any, makeEmpty: bool = True) -> None:  # noqa: ANN401, N803  (ib_async's name)
            if fields[0] in ORDER_MESSAGES:
                raise GatewayError(_READ_ONLY)
            send(*fields, makeEmpty=makeEmpty)

        self.client.send = send_unless_order  # type: ignore[method-assign]

    def whatIfOrderAsync(self, *_: object) -> NoReturn:  # noqa: N802  (ib_async's name)
        """Refused before ib_async makes a future that nobody would await."""
        raise GatewayError(_READ_ONLY)
