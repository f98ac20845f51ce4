"""The lines of one batch worker: taken, confirmed, cancelled and given back one by one, each step told to the ledger.

One transaction and one round trip serve all lines that move at that moment. Which contracts are worth a line, and for
how long, is decided in ``quotes``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.market_data import MarketData
from v6_pipeline.model import ContractSpec, SlotPurpose
from v6_pipeline.state.slots.allocation import AcquiredSlots, SlotUsage
from v6_pipeline.state.slots.ledger import SlotChanges, SlotLedger

log = logging.getLogger(__name__)

SLOT_TTL_SECONDS = 30
"""Longer than a quote takes; a dead worker's lines are free again after that."""
ASK_AGAIN_SECONDS = 2.0
"""A place in the line is kept by asking; in between a look without writing tells whether asking is worth it."""


class BatchLines:
    """Subscriptions of one connection that live for a quote each.

    Args:
        connection: connected.
        market: the subscriptions of this connection.
        ledger: the lines of all processes.
        holder: names this worker in the ledger.
    """

    def __init__(self, connection: IBConnectionManager, market: MarketData, ledger: SlotLedger, *, holder: str) -> None:
        self._connection = connection
        self._market = market
        self._ledger = ledger
        self._holder = holder
        self._opened_at: dict[int, float] = {}
        self._asked: set[int] = set()
        self._cancelled: set[int] = set()
        self._news = SlotChanges()
        self._asked_at = float("-inf")
        self._asking: asyncio.Future[AcquiredSlots] | None = None

    @property
    def opened_at(self) -> Mapping[int, float]:
        """Contracts subscribed now, and since when by the loop's clock."""
        return self._opened_at

    @property
    def is_idle(self) -> bool:
        """Whether no line is held, and the ledger knows it."""
        return not (self._opened_at or self._cancelled or self._news)

    async def usage(self) -> SlotUsage:
        """The lines of all processes."""
        return await asyncio.to_thread(self._ledger.usage)

    def is_worth_asking(self, usage: SlotUsage) -> bool:
        """Whether a line may be had, or the place in the line has to be kept."""
        turns = usage.turns_of(self._holder, SlotPurpose.BATCH)
        may_get = turns > 0 and usage.room(self._holder, SlotPurpose.BATCH) > 0
        return may_get or self._now() - self._asked_at >= ASK_AGAIN_SECONDS

    def to_yield(self, usage: SlotUsage) -> frozenset[int]:
        """Contracts whose lines streams wait for."""
        return usage.to_yield(self._holder)

    async def turn(
        self, wanted: Sequence[int], contracts: Mapping[int, ContractSpec], *, ended: Iterable[int] = ()
    ) -> AcquiredSlots:
        """Cancel ``ended``, subscribe what of ``wanted`` gets a line, and let the gateway confirm both.

        Raises:
            GatewayError: the gateway did not confirm: the lines stay in use in the ledger.
            StateError: the ledger cannot be used; nothing was cancelled or subscribed.
        """
        closing = [conid for conid in ended if conid in self._opened_at]
        news = SlotChanges(set(self._news.exhausted), set(self._news.confirmed), set(self._news.released), set(closing))
        answer = AcquiredSlots((), ())
        if wanted or news:
            self._asking = asyncio.ensure_future(
                asyncio.to_thread(
                    self._ledger.record_and_acquire,
                    news,
                    tuple(wanted),
                    holder=self._holder,
                    purpose=SlotPurpose.BATCH,
                    ttl_seconds=SLOT_TTL_SECONDS,
                )
            )
            # A cancelled task leaves its thread running: ``close`` waits for it, and gives back what it took.
            answer = await asyncio.shield(self._asking)
            self._told(news)
        if wanted:
            self._asked_at = self._now()
        for conid in closing:
            self._market.cancel(conid)
            self._cancelled.add(conid)
            self._opened_at.pop(conid, None)
        for conid in answer.granted:
            self._asked.add(conid)
            self._opened_at[conid] = self._now()
            self._market.subscribe(contracts[conid])
        await self._settle()
        return answer

    def refused(self, conid: int, *, exhausted: bool) -> None:
        """The gateway refused a subscription: with error 101, or for the contract's own sake."""
        self._asked.discard(conid)
        self._opened_at.pop(conid, None)
        (self._news.exhausted if exhausted else self._news.released).add(conid)

    async def close(self) -> None:
        """Cancel what is subscribed, give it back, and wait no more.

        What the gateway neither confirms nor ends by closing the socket itself stays in use in the ledger until it
        expires: the gateway may have it still.
        """
        if self._asking is not None:
            await asyncio.wait({self._asking})
        try:
            while not self.is_idle:
                await self.turn((), {}, ended=tuple(self._opened_at))
        except GatewayError as error:
            if not self._connection.was_closed_by_gateway:
                log.warning("lines are not given back yet: %s", error)
                return
        self._opened_at.clear()
        self._asked.clear()
        self._cancelled.clear()
        self._news = SlotChanges()
        await asyncio.to_thread(self._ledger.release, self._holder)

    async def _settle(self) -> None:
        """A round trip: after it every earlier subscribe was granted or refused, and every earlier cancel was read."""
        asked, before, cancelled = set(self._asked), self._market.requests, set(self._cancelled)
        if not asked and not cancelled:
            return
        await self._connection.round_trip()
        # What was asked for once more meanwhile was asked after the question that is answered now.
        asked -= {conid for conid, request in self._market.requests.items() if request != before.get(conid)}
        self._news.confirmed |= asked & self._asked
        self._asked -= asked
        self._news.released |= cancelled
        self._cancelled -= cancelled

    def _told(self, news: SlotChanges) -> None:
        self._news.exhausted -= news.exhausted
        self._news.confirmed -= news.confirmed
        self._news.released -= news.released

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
