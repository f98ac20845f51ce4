"""Market data and contract definitions: IB's rules for lines, streams and snapshots. `ticks` makes the messages."""

import asyncio
from collections.abc import Iterable

from v6_pipeline.paper import messages
from v6_pipeline.paper.conditions import NextRequests, distorted, use_up
from v6_pipeline.paper.config import GatewayConfig
from v6_pipeline.paper.contracts import Contract, Mismatch
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.requests import (
    ContractQuery,
    MarketDataRequest,
    parse_contract_details,
    parse_market_data,
    parse_versioned_id,
)
from v6_pipeline.paper.session import ClientSession, Subscription, streams
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.ticks import DELAYED_TICKS, LIVE_TICKS, MARK_PRICE_GENERIC, MarketDataType, burst
from v6_pipeline.paper.wire import Fields

NO_DEFINITION = "No security definition has been found for the request"
CONTRADICTION = "The contract id parameter of the request contradicts its other contract parameters."
NOT_SUBSCRIBED = (
    "Requested market data is not subscribed. Check API status by selecting the Account menu then under Management "
    "choose Market Data Subscription Manager and/or availability of delayed data."
)
COMPETING_SESSION = "No market data during competing live session"
DELAYED_SHOWN = "Requested market data is not subscribed. Displaying delayed market data."
ADVISORIES = {
    10089: "Requested market data requires additional subscription for API. See link in 'Market Data Connections' "
    "dialog for more details. Delayed market data is available.",
    10090: "Part of requested market data is not subscribed. Subscription-independent ticks are still active. "
    "Delayed market data is not available.",
    10091: "Part of requested market data requires additional subscription for API. See link in 'Market Data "
    "Connections' dialog for more details.",
    10167: DELAYED_SHOWN,
}
"""Codes that accompany data: the stream continues."""


def validation_error(cause: str) -> str:
    """Return the text of error 321; its two letters are an obfuscated name in IB's program and change often."""
    return f"Error validating request.-'bN' : cause - {cause}"


NO_DELAYED_DATA = "Requested market data is not subscribed. Delayed market data is not enabled."
REJECTIONS = {
    101: "Max number of tickers has been reached",
    200: NO_DEFINITION,
    321: validation_error("Please enter exchange"),
    322: "Error processing request.-'bQ' : cause - Duplicate ticker id",
    354: NOT_SUBSCRIBED,
    420: "Invalid Real-time Query: No market data permissions",
    10168: NO_DELAYED_DATA,
    10186: NO_DELAYED_DATA,
}
"""Codes that end a market data request."""


class MarketDataDesk:
    """Serves market data and contract definitions to all clients; `rejections` are ordered for requests to come."""

    def __init__(self, config: GatewayConfig, market: Market, statistics: Statistics) -> None:
        self.rejections: list[NextRequests[int]] = []
        self._config = config
        self._market = market
        self._statistics = statistics

    def contract_details(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqContractDetails: all matches and an end, or 200; without conid the security type is required."""
        request_id, query = parse_contract_details(fields)
        if not query.conid and not query.sec_type:
            session.error(request_id, 321, validation_error("Please enter a valid security type"))
            return
        if not self._market.link.has_definitions:
            return  # definitions come from IB's servers: users report that no answer comes
        found = self._find(query)
        if not found:
            session.error(request_id, *self._no_contract(query))
            return
        today = self._config.utcnow().date()
        for contract in found:
            exchange = query.exchange or contract.exchanges[0]
            session.send(messages.definition(request_id, contract, exchange, today))
        session.send(messages.contract_details_end(request_id))

    def market_data_type(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqMarketDataType, which applies to the client's later requests."""
        kind = parse_versioned_id(fields)
        if kind in set(MarketDataType):
            session.market_data_type = MarketDataType(kind)
        else:
            session.error(-1, 321, validation_error(f"Invalid market data type {kind}"))

    def subscribe(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqMktData: take a line and send a first full burst, or refuse with IB's code."""
        request = parse_market_data(fields)
        refusal = self._refusal(session, request)
        if refusal is not None:
            session.error(request.ticker_id, *refusal)
            return
        contract = self._find(request.query)[0]
        conditions = self._market.conditions
        is_delayed = contract.conid in conditions.denied
        if is_delayed and session.market_data_type not in {MarketDataType.DELAYED, MarketDataType.DELAYED_FROZEN}:
            session.error(request.ticker_id, 354, f"{NOT_SUBSCRIBED}{contract.symbol} {contract.long_name}/TOP/ALL")
            return
        if not self._market.take_line(contract.conid):
            session.error(request.ticker_id, 101, REJECTIONS[101])
            return
        subscription = Subscription(
            ticker_id=request.ticker_id,
            contract=contract,
            types=DELAYED_TICKS if is_delayed else LIVE_TICKS,
            # The better data win: a contract with live permission is served live, whatever type was requested.
            kind=session.market_data_type if is_delayed else MarketDataType.LIVE,
            wants_mark=MARK_PRICE_GENERIC in request.generic_ticks,
            snapshot=request.snapshot,
        )
        session.subscriptions.market_data[request.ticker_id] = subscription
        if self._market.link.is_competing:
            session.error(request.ticker_id, 10197, COMPETING_SESSION)
        if is_delayed:
            session.error(request.ticker_id, 10167, DELAYED_SHOWN)
        self.advise(session, subscription)
        if self._market.link.carries(contract):
            self._announce(session, subscription)
        self._tick(session, subscription)
        if request.snapshot:
            self._end_snapshot_later(session, subscription)

    def cancel(self, session: ClientSession, fields: Fields) -> None:
        """Serve cancelMktData: release the line, or error 300."""
        ticker_id = parse_versioned_id(fields)
        if ticker_id not in session.subscriptions.market_data:
            session.error(ticker_id, 300, f"Can't find EId with tickerId:{ticker_id}")
            return
        self._release(session, ticker_id)

    def disconnected(self, session: ClientSession) -> None:
        """End all streams of a client and release its lines."""
        for ticker_id in list(session.subscriptions.market_data):
            self._release(session, ticker_id)

    def advise(self, session: ClientSession, subscription: Subscription) -> None:
        """Send a client the advisory and the remark of a contract, if any; the data continue."""
        conditions, conid = self._market.conditions, subscription.contract.conid
        code = conditions.advised.get(conid)
        if code is not None:
            session.error(subscription.ticker_id, code, ADVISORIES[code])
        if conid in conditions.remarks:
            session.error(subscription.ticker_id, *conditions.remarks[conid])

    def tick(self, sessions: Iterable[ClientSession]) -> None:
        """Advance every streamed contract by one and send the changes to its subscribers."""
        live = [(session, each) for session, each in streams(sessions) if not each.snapshot]
        self._market.advance({subscription.contract.conid for _, subscription in live})
        for session, subscription in live:
            self._tick(session, subscription)

    def _refusal(self, session: ClientSession, request: MarketDataRequest) -> tuple[int, str] | None:
        """Return code and text if a request is refused, whatever the state of the market."""
        if request.ticker_id in session.subscriptions.market_data:
            return 322, REJECTIONS[322]
        if not request.query.exchange:
            return 321, validation_error("Please enter exchange")
        if request.regulatory_snapshot:
            # Each costs money at IB, on paper accounts too, so the product must not depend on them.
            return 321, validation_error("Regulatory snapshots are not simulated")
        if request.snapshot and request.generic_ticks:
            return 321, validation_error("Snapshot market data subscription is not applicable to generic ticks")
        found = self._find(request.query)
        if not found:
            return self._no_contract(request.query)
        if len(found) > 1:
            return 200, f"The contract description specified for {request.query.symbol} is ambiguous."
        code = use_up(self.rejections, found[0].conid)
        return None if code is None else (code, REJECTIONS[code])

    def _no_contract(self, query: ContractQuery) -> tuple[int, str]:
        """Return the refusal of a request that finds nothing: 478 if its fields contradict its conid, else 200.

        Reported by users: a security type that IB does not know, or another one than the contract's, draws 200.
        """
        contract = self._market.universe.contracts.get(query.conid)
        if contract is not None and contract.mismatch(query) is Mismatch.FIELDS:
            return 478, CONTRADICTION
        return 200, NO_DEFINITION

    def _find(self, query: ContractQuery) -> list[Contract]:
        """Return the contracts that a request describes and IB has a definition of."""
        conditions = self._market.conditions
        return [contract for contract in self._market.universe.find(query) if conditions.is_defined(contract.conid)]

    def _announce(self, session: ClientSession, subscription: Subscription) -> None:
        subscription.is_announced = True
        session.send(messages.market_data_type(subscription.ticker_id, subscription.kind))
        session.send(messages.tick_parameters(subscription.ticker_id, subscription.contract.min_tick))

    def _tick(self, session: ClientSession, subscription: Subscription) -> None:
        conid = subscription.contract.conid
        if subscription.is_dead or session.outbox.is_frozen or not self._market.flows(conid):
            return
        if not subscription.is_announced:
            self._announce(session, subscription)
        conditions = self._market.conditions
        is_halted = conid in conditions.halted
        if is_halted != subscription.is_halted:
            subscription.is_halted = is_halted
            session.send(messages.tick_generic(subscription.ticker_id, subscription.types.halted, float(is_halted)))
        quote = self._market.quote(conid)
        if conid in conditions.distorted:
            quote = distorted(quote, conditions.distorted[conid])
        ticks = burst(
            subscription.ticker_id,
            subscription.contract,
            quote,
            previous=subscription.seen,
            wants_mark=subscription.wants_mark,
            types=subscription.types,
            timestamp=int(self._config.utcnow().timestamp()),
            has_greeks=conid not in conditions.without_greeks,
        )
        for message in ticks.messages:
            session.send(message)
        subscription.seen = quote
        self._statistics.delivered(conid, quote.sequence, ticks.values, len(ticks.messages))

    def _end_snapshot_later(self, session: ClientSession, subscription: Subscription) -> None:
        if self._config.snapshot_seconds == 0:
            self._end_snapshot(session, subscription)
            return
        loop = asyncio.get_running_loop()
        subscription.timer = loop.call_later(self._config.snapshot_seconds, self._end_snapshot, session, subscription)

    def _end_snapshot(self, session: ClientSession, subscription: Subscription) -> None:
        self._release(session, subscription.ticker_id)
        session.send(messages.tick_snapshot_end(subscription.ticker_id))

    def _release(self, session: ClientSession, ticker_id: int) -> None:
        subscription = session.subscriptions.market_data.pop(ticker_id)
        if subscription.timer is not None:
            subscription.timer.cancel()
        self._market.release_line(subscription.contract.conid)
