"""Faults of single contracts, of market data requests, and the line limit.

Belongs here: setting `conditions` and telling those who stream. What a condition does to ticks and answers is in
`market_data`. Every public method is an action; see `actions`.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Annotated

from v6_pipeline.paper.conditions import NextRequests, Prices
from v6_pipeline.paper.fields import Count, Lines, OneOf
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.market_data import ADVISORIES, REJECTIONS, MarketDataDesk
from v6_pipeline.paper.session import ClientSession
from v6_pipeline.paper.statistics import Statistics

AdvisoryCode = Annotated[int, OneOf(tuple(ADVISORIES))]
RejectionCode = Annotated[int, OneOf(tuple(REJECTIONS))]


class ContractFaults:
    """What may be wrong with the contracts of one gateway; `sessions` lists the clients that are logged in."""

    def __init__(
        self,
        market: Market,
        desk: MarketDataDesk,
        statistics: Statistics,
        sessions: Callable[[], Collection[ClientSession]],
    ) -> None:
        self._market = market
        self._conditions = market.conditions
        self._desk = desk
        self._statistics = statistics
        self._sessions = sessions

    def set_lines(self, lines: Lines) -> None:
        """Change the line limit; lines in use above it stay, new requests draw 101."""
        self._market.lines = lines

    def set_tws_lines(self, lines: Lines) -> None:
        """Let windows of TWS hold lines of the same allowance."""
        self._statistics.tws_lines = lines

    def quiet(self, conids: list[int] | None = None) -> None:
        """Send no ticks for these contracts, or for none at all, not even a first one; their prices stand still."""
        self._market.quiet(conids)

    def resume(self, conids: list[int] | None = None) -> None:
        """Undo `quiet` for these contracts, or for all."""
        self._market.resume(conids)

    def deny(self, conids: list[int]) -> None:
        """Refuse new requests for these contracts with 354, or serve them delayed where delayed data are asked for."""
        self._conditions.denied.update(conids)

    def allow(self, conids: list[int]) -> None:
        """Undo `deny`."""
        self._conditions.denied.difference_update(conids)

    def halt(self, conids: list[int]) -> None:
        """Halt trading: tick 49 says so with the next tick, and prices are frozen."""
        self._conditions.halted.update(conids)

    def end_halt(self, conids: list[int]) -> None:
        """Undo `halt`."""
        self._conditions.halted.difference_update(conids)

    def withhold_greeks(self, conids: list[int]) -> None:
        """Send no option computations."""
        self._conditions.without_greeks.update(conids)

    def distort_prices(self, conids: list[int], prices: Prices = Prices.MINUS_ONE) -> None:
        """Send -1 or a sentinel in the place of every price."""
        self._conditions.distorted.update(dict.fromkeys(conids, prices))

    def expire(self, conids: list[int]) -> None:
        """Contracts expire: 200 on details and market data, streams fall silent, accounts still hold them."""
        self._conditions.expired.update(conids)

    def unqualify(self, conids: list[int]) -> None:
        """IB has no definition of these contracts: 200 on details and new requests; open streams go on."""
        self._conditions.unqualifiable.update(conids)

    def advise(self, code: AdvisoryCode, conids: list[int] | None = None) -> None:
        """Send a code with data on open and new requests for these contracts, or for all; the data go on."""
        known = self._market.universe.contracts
        self._conditions.advised.update(dict.fromkeys(known if conids is None else conids, code))
        for session in self._sessions():
            for subscription in list(session.subscriptions.market_data.values()):
                if conids is None or subscription.contract.conid in conids:
                    self._desk.advise(session, subscription)

    def reject_market_data(self, code: RejectionCode = 420, count: Count = 1, conids: list[int] | None = None) -> None:
        """Turn the next requests away with a code; they take no line."""
        self._desk.rejections.append(NextRequests.of(code, count, conids))

    def restore_contracts(self, conids: list[int] | None = None) -> None:
        """Nothing is wrong with these contracts, or with any, any more; halts end with a tick that says so."""
        affected: Iterable[int] = self._market.universe.contracts if conids is None else conids
        for conid in affected:
            self._conditions.restore(conid)
        if conids is None:
            self._market.resume(None)

    def heal(self) -> None:
        """End all that lasts; the line limit stays as it is."""
        self.restore_contracts()
        self._desk.rejections.clear()
        self.set_tws_lines(0)
