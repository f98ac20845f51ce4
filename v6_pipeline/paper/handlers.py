"""Dispatch of incoming requests, answers that need no state, and the refusal of orders and unknown messages."""

import functools
from collections.abc import Callable

from v6_pipeline.paper import messages
from v6_pipeline.paper.account_feeds import AccountDesk
from v6_pipeline.paper.config import GatewayConfig
from v6_pipeline.paper.history import HistoryDesk
from v6_pipeline.paper.market_data import MarketDataDesk, validation_error
from v6_pipeline.paper.requests import ORDER_REQUESTS, REQUEST_ID_INDEX, RequestId
from v6_pipeline.paper.session import ClientSession
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.wire import Fields, Message, WireError

Handler = Callable[[ClientSession, Fields], None]

READ_ONLY = validation_error("The API interface is currently in Read-Only mode.")
"""IB's text for an order while its Read-Only API setting is on."""


class Dispatcher:
    """Sends each message of a logged-in client to its handler."""

    def __init__(
        self,
        config: GatewayConfig,
        market_data: MarketDataDesk,
        history: HistoryDesk,
        accounts: AccountDesk,
        statistics: Statistics,
        executions: Handler,
    ) -> None:
        self._config = config
        self._statistics = statistics
        self.handlers: dict[int, Handler] = {
            RequestId.MARKET_DATA: market_data.subscribe,
            RequestId.CANCEL_MARKET_DATA: market_data.cancel,
            RequestId.MARKET_DATA_TYPE: market_data.market_data_type,
            RequestId.CONTRACT_DETAILS: market_data.contract_details,
            RequestId.HISTORICAL_DATA: history.request,
            RequestId.CANCEL_HISTORICAL_DATA: history.cancel,
            RequestId.POSITIONS: accounts.positions,
            RequestId.CANCEL_POSITIONS: accounts.cancel_positions,
            RequestId.POSITIONS_MULTI: accounts.positions_multi,
            RequestId.CANCEL_POSITIONS_MULTI: accounts.cancel_positions_multi,
            RequestId.ACCOUNT_UPDATES: accounts.account_updates,
            RequestId.ACCOUNT_UPDATES_MULTI: accounts.account_updates_multi,
            RequestId.CANCEL_ACCOUNT_UPDATES_MULTI: accounts.cancel_account_updates_multi,
            RequestId.ACCOUNT_SUMMARY: accounts.account_summary,
            RequestId.CANCEL_ACCOUNT_SUMMARY: accounts.cancel_account_summary,
            RequestId.PNL: accounts.pnl,
            RequestId.CANCEL_PNL: accounts.cancel_pnl,
            RequestId.PNL_SINGLE: functools.partial(accounts.pnl, single=True),
            RequestId.CANCEL_PNL_SINGLE: accounts.cancel_pnl,
            RequestId.CURRENT_TIME: self._current_time,
            RequestId.MANAGED_ACCOUNTS: self._managed_accounts,
            RequestId.NEXT_VALID_ID: self._next_valid_id,
            RequestId.OPEN_ORDERS: self._no_orders(messages.OPEN_ORDER_END),
            RequestId.ALL_OPEN_ORDERS: self._no_orders(messages.OPEN_ORDER_END),
            RequestId.COMPLETED_ORDERS: self._no_orders(messages.COMPLETED_ORDERS_END),
            RequestId.EXECUTIONS: executions,
            RequestId.AUTO_OPEN_ORDERS: self._accept_silently,
            RequestId.SERVER_LOG_LEVEL: self._accept_silently,
            RequestId.START_API: self._accept_silently,
        }

    def dispatch(self, session: ClientSession, message_id: int, fields: Fields) -> None:
        """Handle one message; orders are refused, unknown and malformed messages are answered with error 320."""
        request_id = fields.peek_integer(REQUEST_ID_INDEX.get(message_id, -1), -1)
        if message_id in ORDER_REQUESTS:
            self._statistics.order_messages += 1
            session.error(request_id, 321, READ_ONLY)
            return
        handler = self.handlers.get(message_id)
        if handler is None:
            self._statistics.unknown_messages[message_id] += 1
            text = f"Error reading request. Message {message_id} is not served by the paper gateway"
            session.error(request_id, 320, text)
            return
        try:
            handler(session, fields)
        except WireError as problem:
            session.error(request_id, 320, f"Error reading request. Message {message_id}: {problem}")

    def _current_time(self, session: ClientSession, _fields: Fields) -> None:
        session.send(messages.current_time(self._config.utcnow()))

    def _managed_accounts(self, session: ClientSession, _fields: Fields) -> None:
        session.send(messages.managed_accounts(self._config.accounts))

    def _next_valid_id(self, session: ClientSession, _fields: Fields) -> None:
        session.send(messages.next_valid_id(1))

    def _no_orders(self, end: Message) -> Handler:
        """Return a handler that sends `end`, or only error 321 if the gateway is read-only: the request times out."""

        def handle(session: ClientSession, _fields: Fields) -> None:
            if self._config.read_only:
                session.error(-1, 321, READ_ONLY)
            else:
                session.send(end)

        return handle

    def _accept_silently(self, session: ClientSession, fields: Fields) -> None:
        """Ignore a setting that has no effect here and that IB does not acknowledge."""
