"""Market-data subscriptions: one per contract, quotes out, refusals out.

It keeps its own map of conid to request, because ib_async's does not show the lines in use: a refused ticker stays in
it, and a second request for a contract takes a second line that nothing can cancel. Does not belong here: the ledger of
lines (``subscriptions``), and which contract gets one (``streaming``, ``refresh``).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC

from ib_async import Contract, Ticker

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.codes import Reaction, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import SMART, request_contract
from v6_pipeline.ib.valuation import known_price
from v6_pipeline.model import ContractSpec, Quote, SecType, known
from v6_pipeline.state.instants import Clock, utc_now

log = logging.getLogger(__name__)

MARK_PRICE = "221"
"""Generic tick: IB's mark price."""
_ID_IN_USE = 102
_NO_CONTRACT = 200
_INVALID_REQUEST = 321

_ENDS_A_SUBSCRIPTION = frozenset({Reaction.FAIL_REQUEST, Reaction.LINES_EXHAUSTED, Reaction.BACK_OFF})
"""For a request, as opposed to the connection, these mean that it gets no data."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A subscription that the gateway refused: IB's code and text, and the reaction to it."""

    conid: int
    code: int
    text: str
    reaction: Reaction


@dataclass(slots=True)
class _Subscription:
    req_id: int
    contract: Contract
    ticker: Ticker
    is_option: bool
    generic_ticks: str
    retried: frozenset[int] = frozenset()
    """Codes after which the request was repeated."""


class MarketData:
    """The market-data subscriptions of one connection.

    Args:
        connection: may reconnect; call ``attach`` after each connect.
        on_quote: called on the loop with (conid, quote) after each packet that brought ticks.
        on_refused: called when a subscription is refused; its line is free again, and it is forgotten here.
        on_remark: called with (conid, code and text) for each other message about a subscription, unknown codes
            included: it goes on, and may tick or not.
        clock: gives each quote its ``price_time``.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        *,
        on_quote: Callable[[int, Quote], None],
        on_refused: Callable[[Refusal], None],
        on_remark: Callable[[int, str], None] = lambda _conid, _remark: None,
        clock: Clock = utc_now,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._on_quote = on_quote
        self._on_refused = on_refused
        self._on_remark = on_remark
        self._by_conid: dict[int, _Subscription] = {}
        self._conid_of_request: dict[int, int] = {}
        connection.add_error_listener(self._on_error)

    @property
    def conids(self) -> frozenset[int]:
        """Contracts subscribed now."""
        return frozenset(self._by_conid)

    @property
    def requests(self) -> dict[int, int]:
        """Request id of each subscribed contract, by conid; a repeated request has a new id."""
        return {conid: subscription.req_id for conid, subscription in self._by_conid.items()}

    def attach(self) -> None:
        """Listen on a new connection, without any subscription."""
        self._by_conid.clear()
        self._conid_of_request.clear()
        ticks = self._connection.ib.pendingTickersEvent
        if self._on_tickers not in ticks:
            ticks += self._on_tickers

    def subscribe(self, spec: ContractSpec) -> None:
        """Request a contract's market data, unless it is subscribed.

        Raises:
            GatewayError: not connected, or the contract is not qualified.
        """
        if spec.conid in self._by_conid:
            return
        if not spec.exchange:
            raise GatewayError(f"contract {spec.conid} has no exchange: qualify it first, or the gateway answers 321")
        # Currency pairs have no mark price: IB refuses the generic tick for them.
        ticks = "" if spec.sec_type is SecType.CURRENCY else MARK_PRICE
        self._request(spec.conid, request_contract(spec), ticks, is_option=spec.sec_type.is_option)

    def cancel(self, conid: int) -> None:
        """End a contract's subscription; ignore one that is not subscribed, or ended with its connection."""
        subscription = self._forget(conid)
        if subscription is None or not self._connection.is_connected:
            return
        ib = self._connection.ib
        ib.cancelMktData(subscription.contract)
        # A later subscription must begin with an empty quote.
        ib.wrapper.tickers.pop(hash(subscription.contract), None)

    def quote(self, conid: int) -> Quote | None:
        """Return the newest quote of a subscribed contract."""
        subscription = self._by_conid.get(conid)
        return None if subscription is None else quote_from_ib(subscription.ticker)

    def conid_of(self, req_id: int) -> int | None:
        """Return the subscribed contract of a request id."""
        return self._conid_of_request.get(req_id)

    def is_filled(self, conid: int) -> bool:
        """Return True if a subscribed contract's quote has all that a row needs."""
        subscription = self._by_conid.get(conid)
        return subscription is not None and is_filled(subscription.ticker, option=subscription.is_option)

    def drop_all(self) -> None:
        """Forget every subscription without a cancel: the gateway has ended them all."""
        for conid in tuple(self._by_conid):
            self._drop(conid)

    def _request(
        self,
        conid: int,
        contract: Contract,
        generic_ticks: str,
        *,
        is_option: bool,
        retried: frozenset[int] = frozenset(),
    ) -> None:
        ib = self._connection.ib
        ticker = ib.reqMktData(contract, generic_ticks)
        req_id = ib.wrapper.ticker2ReqId["mktData"][ticker]
        self._by_conid[conid] = _Subscription(req_id, contract, ticker, is_option, generic_ticks, retried)
        self._conid_of_request[req_id] = conid

    def _drop(self, conid: int) -> None:
        """Forget a subscription that the gateway has ended, so that the contract can be subscribed again."""
        subscription = self._forget(conid)
        if subscription is not None:
            wrapper = self._connection.ib.wrapper
            wrapper.endTicker(subscription.ticker, "mktData")
            wrapper.tickers.pop(hash(subscription.contract), None)

    def _forget(self, conid: int) -> _Subscription | None:
        subscription = self._by_conid.pop(conid, None)
        if subscription is not None:
            self._conid_of_request.pop(subscription.req_id, None)
        return subscription

    def _on_tickers(self, tickers: set[Ticker]) -> None:
        now = self._clock()
        for ticker in tickers:
            conid = ticker.contract.conId if ticker.contract else 0
            subscription = self._by_conid.get(conid)
            if subscription is not None and subscription.ticker is ticker:
                # ib_async uses the system's clock; all stored instants come from the one clock that was passed in.
                ticker.time = now
                self._on_quote(conid, quote_from_ib(ticker))

    def _on_error(self, req_id: int, code: int, text: str) -> None:
        conid = self._conid_of_request.get(req_id)
        if conid is None:
            return
        reaction = reaction_to(code, text)
        if reaction not in _ENDS_A_SUBSCRIPTION:
            if reaction is Reaction.INFORM:
                self._on_remark(conid, f"{code} {text}")
            return
        subscription = self._by_conid[conid]
        self._drop(conid)
        again = _second_try(subscription, code)
        if again is None:
            self._on_refused(Refusal(conid, code, text, reaction))
            return
        contract, generic_ticks = again
        retried = subscription.retried | {code}
        self._request(conid, contract, generic_ticks, is_option=subscription.is_option, retried=retried)


def _second_try(subscription: _Subscription, code: int) -> tuple[Contract, str] | None:
    """Return the contract and generic ticks of a second request, if it may succeed after this refusal."""
    contract, generic_ticks = subscription.contract, subscription.generic_ticks
    if code in subscription.retried:
        return None
    if code == _INVALID_REQUEST and generic_ticks:
        # Some contracts have no mark price, and IB refuses the request for it as invalid: request the rest.
        return contract, ""
    if code == _ID_IN_USE:  # each request has a new id
        return contract, generic_ticks
    if code == _NO_CONTRACT and contract.exchange != SMART:
        return dataclasses.replace(contract, exchange=SMART), generic_ticks
    return None


def quote_from_ib(ticker: Ticker) -> Quote:
    """Convert ib_async's ticker: NaN, -1 and sentinels become None; greeks are IB's model's (tick 13)."""
    greeks = ticker.modelGreeks
    return Quote(
        bid=known_price(ticker.bid),
        ask=known_price(ticker.ask),
        last=known_price(ticker.last),
        close=known_price(ticker.close),
        mark=known_price(ticker.markPrice),
        implied_vol=known(greeks.impliedVol) if greeks else None,
        delta=known(greeks.delta) if greeks else None,
        gamma=known(greeks.gamma) if greeks else None,
        vega=_computed(greeks.vega) if greeks else None,
        theta=_computed(greeks.theta) if greeks else None,
        underlying_price=known_price(greeks.undPrice) if greeks else None,
        # ib_async's default is 1, live, before the first tick.
        market_data_type=ticker.marketDataType if ticker.time else None,
        price_time=ticker.time.astimezone(UTC) if ticker.time else None,
    )


def is_filled(ticker: Ticker, *, option: bool) -> bool:
    """Return True if both sides, the close and an option's greeks have arrived.

    IB sends -1 for a side without a quote, as for the bid of many far options: that counts as arrived, because nothing
    else will come. ib_async keeps it apart from NaN, its value until the first tick.
    """
    has_prices = not any(math.isnan(price) for price in (ticker.bid, ticker.ask, ticker.close))
    return has_prices and (
        not option or (ticker.modelGreeks is not None and known(ticker.modelGreeks.delta) is not None)
    )


def _computed(greek: float | None) -> float | None:
    """Return a vega or theta; None for IB's -2, 'not computed', which ib_async maps for delta and gamma only."""
    return None if greek == -2 else known(greek)
