"""Market-data subscriptions: one per contract, quotes out, refusals out.

It keeps its own map of conid to request, because ib_async's does not show the lines in use: a refused ticker stays in
it, and a second request for a contract takes a second line that nothing can cancel. Does not belong here: the ledger of
lines (``subscriptions``), and which contract gets one (``streaming``, ``refresh``).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ib_async import Contract, Ticker

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.codes import Reaction, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import SMART, request_contract
from v6_pipeline.ib.valuation import known_price, tidy
from v6_pipeline.model import ContractSpec, Quote, SecType, known
from v6_pipeline.state.instants import Clock, utc_now

log = logging.getLogger(__name__)

MARK_PRICE = "221"
"""Generic tick: IB's mark price."""
_ID_IN_USE = 102
_NO_CONTRACT = 200
_CONTRADICTS_CONID = 478
_INVALID_REQUEST = 321

_BID_OR_ASK, _LAST, _MARK = frozenset({1, 2, 66, 67}), frozenset({4, 68}), 37
"""Types of ticks with a price, live and delayed."""

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
class PriceTimes:
    """When the newest bid or ask, last trade and mark were received (UTC); a size, a volume or a greek is no price."""

    quote: datetime | None = None
    last: datetime | None = None
    mark: datetime | None = None

    def ticked(self, tick_types: Iterable[int], now: datetime) -> None:
        """Record the ticks of a packet by IB's numbers of their types."""
        for tick_type in tick_types:
            if tick_type in _BID_OR_ASK:
                self.quote = now
            elif tick_type in _LAST:
                self.last = now
            elif tick_type == _MARK:
                self.mark = now


@dataclass(slots=True)
class _Subscription:
    req_id: int
    spec: ContractSpec
    contract: Contract
    ticker: Ticker
    generic_ticks: str
    retried: frozenset[int] = frozenset()
    """Codes after which the request was repeated."""
    times: PriceTimes = field(default_factory=PriceTimes)

    def quote(self) -> Quote:
        return quote_from_ib(self.ticker, self.spec, self.times)


class MarketData:
    """The market-data subscriptions of one connection.

    Args:
        connection: may reconnect; call ``attach`` after each connect.
        on_quote: called on the loop with (conid, quote) after each packet that brought ticks.
        on_refused: called when a subscription is refused; its line is free again, and it is forgotten here.
        on_remark: called with (conid, code and text) for each other message about a subscription, unknown codes
            included: it goes on, and may tick or not.
        clock: dates the ticks.
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
        self._request(spec, request_contract(spec), ticks)

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
        return None if subscription is None else subscription.quote()

    def conid_of(self, req_id: int) -> int | None:
        """Return the subscribed contract of a request id."""
        return self._conid_of_request.get(req_id)

    def is_filled(self, conid: int) -> bool:
        """Return True if a subscribed contract's quote has all that a row needs."""
        subscription = self._by_conid.get(conid)
        return subscription is not None and is_filled(subscription.ticker, option=subscription.spec.sec_type.is_option)

    def drop_all(self) -> None:
        """Forget every subscription without a cancel: the gateway has ended them all."""
        for conid in tuple(self._by_conid):
            self._drop(conid)

    def _request(
        self, spec: ContractSpec, contract: Contract, generic_ticks: str, *, retried: frozenset[int] = frozenset()
    ) -> None:
        ib = self._connection.ib
        ticker = ib.reqMktData(contract, generic_ticks)
        req_id = ib.wrapper.ticker2ReqId["mktData"][ticker]
        self._by_conid[spec.conid] = _Subscription(req_id, spec, contract, ticker, generic_ticks, retried)
        self._conid_of_request[req_id] = spec.conid

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
                subscription.times.ticked((tick.tickType for tick in ticker.ticks), now)
                self._on_quote(conid, subscription.quote())

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
        self._request(subscription.spec, contract, generic_ticks, retried=retried)


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
    if code in {_NO_CONTRACT, _CONTRADICTS_CONID} and contract.exchange != SMART:
        return dataclasses.replace(contract, exchange=SMART), generic_ticks
    return None


def quote_from_ib(ticker: Ticker, spec: ContractSpec, times: PriceTimes | None = None) -> Quote:
    """Convert ib_async's ticker of a qualified contract; greeks are IB's model's (tick 13).

    All that IB sends for "no data" becomes None, and quoted prices become prices in the contract's currency; so do
    vega and theta, and gamma is per unit of the underlying's price in that currency. A last trade is never newer than
    the time that IB gives for it.
    """
    times = times or PriceTimes()
    greeks = ticker.modelGreeks
    magnifier = spec.price_magnifier
    last_size = None if spec.sec_type.trades_without_size else _size(ticker.lastSize)
    traded_at = ticker.lastTimestamp or ticker.delayedLastTimestamp
    last_time = min(times.last, traded_at.astimezone(UTC)) if times.last and traded_at else times.last
    return Quote(
        bid=known_price(ticker.bid, spec, size=_size(ticker.bidSize)),
        ask=known_price(ticker.ask, spec, size=_size(ticker.askSize)),
        last=known_price(ticker.last, spec, size=last_size),
        close=known_price(ticker.close, spec),
        mark=known_price(ticker.markPrice, spec),
        implied_vol=known(greeks.impliedVol) if greeks else None,
        delta=known(greeks.delta) if greeks else None,
        gamma=_scaled(known(greeks.gamma), magnifier) if greeks else None,
        vega=_scaled(_computed(greeks.vega), 1 / magnifier) if greeks else None,
        theta=_scaled(_computed(greeks.theta), 1 / magnifier) if greeks else None,
        underlying_price=(
            known_price(greeks.undPrice, spec, signed=spec.sec_type is SecType.FUTURE_OPTION) if greeks else None
        ),
        # ib_async's default is 1, live, before the first tick.
        market_data_type=ticker.marketDataType if ticker.time else None,
        price_time=max((at for at in (times.quote, last_time, times.mark) if at is not None), default=None),
        quote_time=times.quote,
        last_time=last_time,
        mark_time=times.mark,
        tick_time=ticker.time.astimezone(UTC) if ticker.time else None,
    )


def _size(size: float) -> float | None:
    return None if math.isnan(size) else size


def _scaled(greek: float | None, factor: float) -> float | None:
    return greek if greek is None or factor == 1 else tidy(greek * factor)


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
