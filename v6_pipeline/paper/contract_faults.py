"""Faults of single contracts, of market data requests, and the line limit.

Every public method but `heal` is an action; see `actions`. `market_data` applies the conditions that are set here.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Annotated

from v6_pipeline.paper.conditions import NextRequests, Prices
from v6_pipeline.paper.fields import Code, Count, Lines, Number, OneOf
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.market_data import ADVISORIES, REJECTIONS, MarketDataDesk
from v6_pipeline.paper.session import ClientSession, streams
from v6_pipeline.paper.statistics import Statistics

AdvisoryCode = Annotated[int, OneOf(tuple(ADVISORIES))]
RejectionCode = Annotated[int, OneOf(tuple(REJECTIONS))]


class ContractFaults:
    """Faults of the contracts of one gateway; `sessions` lists the logged-in clients."""

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
        """Change the line limit; lines in use above it stay, new requests are refused with 101."""
        self._market.lines = lines

    def set_tws_lines(self, lines: Lines) -> None:
        """Let windows of TWS hold lines of the same allowance."""
        self._statistics.tws_lines = lines

    def quiet(self, conids: list[int] | None = None) -> None:
        """Send no ticks for these contracts, or for any, not even a first one; their prices are frozen."""
        self._market.quiet(conids)

    def resume(self, conids: list[int] | None = None) -> None:
        """Undo `quiet` for these contracts, or for all."""
        self._market.resume(conids)

    def deny(self, conids: list[int]) -> None:
        """Refuse new requests for these contracts with 354, or serve delayed data to clients that request it."""
        self._conditions.denied.update(conids)

    def allow(self, conids: list[int]) -> None:
        """Undo `deny`."""
        self._conditions.denied.difference_update(conids)

    def quote(
        self,
        conid: int,
        bid: Number | None = None,
        bid_size: Number | None = None,
        ask: Number | None = None,
        ask_size: Number | None = None,
        last: Number | None = None,
        last_size: Number | None = None,
        close: Number | None = None,
        mark: Number | None = None,
    ) -> None:
        """Send exactly these prices and sizes of a contract from the next tick on; without any, the market's again.

        A price that is not named keeps its value at the client; a bid, ask or last without size has a size of 100.
        """
        named = {"bid": bid, "ask": ask, "last": last, "close": close, "mark": mark}
        prices = {name: value for name, value in named.items() if value is not None}
        sizes = {"bid_size": bid_size, "ask_size": ask_size, "last_size": last_size}
        sizes |= {
            f"{name}_size": 100.0 for name in ("bid", "ask", "last") if name in prices and sizes[f"{name}_size"] is None
        }
        self._market.prescribe(conid, prices | {name: value for name, value in sizes.items() if value is not None})

    def halt(self, conids: list[int]) -> None:
        """Halt trading: tick 49 reports it with the next tick, and prices are frozen."""
        self._conditions.halted.update(conids)

    def end_halt(self, conids: list[int]) -> None:
        """Undo `halt`."""
        self._conditions.halted.difference_update(conids)

    def withhold_greeks(self, conids: list[int]) -> None:
        """Send no option computations."""
        self._conditions.without_greeks.update(conids)

    def distort_prices(self, conids: list[int], prices: Prices = Prices.MINUS_ONE) -> None:
        """Send -1 or a sentinel instead of every price."""
        self._conditions.distorted.update(dict.fromkeys(conids, prices))

    def expire(self, conids: list[int]) -> None:
        """Let contracts expire: 200 on details and market data, silent streams; accounts still hold them."""
        self._conditions.expired.update(conids)

    def unqualify(self, conids: list[int]) -> None:
        """Remove the definition of contracts: 200 on details and new requests; open streams continue."""
        self._conditions.unqualifiable.update(conids)

    def advise(self, code: AdvisoryCode, conids: list[int] | None = None) -> None:
        """Send a code in addition to data on requests for these contracts, open and new, or for all."""
        known = self._market.universe.contracts
        self._conditions.advised.update(dict.fromkeys(known if conids is None else conids, code))
        self._advise_streams(conids)

    def remark(self, code: Code, text: str, conids: list[int] | None = None) -> None:
        """Send any code with IB's words on requests for these contracts, open and new, or for all; no stream ends."""
        known = self._market.universe.contracts
        self._conditions.remarks.update(dict.fromkeys(known if conids is None else conids, (code, text)))
        self._advise_streams(conids)

    def _advise_streams(self, conids: list[int] | None) -> None:
        for session, subscription in streams(self._sessions()):
            if conids is None or subscription.contract.conid in conids:
                self._desk.advise(session, subscription)

    def reject_market_data(self, code: RejectionCode = 420, count: Count = 1, conids: list[int] | None = None) -> None:
        """Refuse the next requests with a code; they take no line."""
        self._desk.rejections.append(NextRequests.of(code, count, conids))

    def restore_contracts(self, conids: list[int] | None = None) -> None:
        """End the faults of these contracts, or of all; the end of a halt is reported by a tick."""
        affected: Iterable[int] = self._market.universe.contracts if conids is None else conids
        for conid in affected:
            self._conditions.restore(conid)
        if conids is None:
            self._market.resume(None)

    def heal(self) -> None:
        """End all faults; the line limit stays as it is."""
        self.restore_contracts()
        self._desk.rejections.clear()
        self.set_tws_lines(0)
