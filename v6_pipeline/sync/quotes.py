"""Quotes for a batch, through the lines that are free: subscribe, wait until filled or late, cancel, give back.

A better primitive than IB's snapshot requests, which take eleven seconds, know no generic ticks, and may leave greeks
out. Options come first, for only a line gives their greeks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.market_data import MarketData, Refusal
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.sync.contract_book import ContractBook
from v6_pipeline.sync.slots import SlotLedger

log = logging.getLogger(__name__)

SLOT_TTL_SECONDS = 30
"""Longer than a wave takes; a dead worker's lines are free again after that."""
LINES_PAUSE = timedelta(seconds=120)
"""After error 101 no quote is asked for before that: TWS windows hold the lines, and each request would draw 101."""


class BatchQuotes:
    """Collects quotes over one connection.

    Args:
        connection: connected.
        book: qualifies contracts.
        ledger: the lines.
        holder: names this worker in the ledger.
        deadline_seconds: how long a wave of contracts may hold its lines.
        clock: UTC now.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        book: ContractBook,
        ledger: SlotLedger,
        *,
        holder: str,
        clock: Callable[[], datetime],
        deadline_seconds: float = 6,
    ) -> None:
        self._connection = connection
        self._book = book
        self._ledger = ledger
        self._holder = holder
        self._clock = clock
        self._deadline = deadline_seconds
        self._market = MarketData(connection, on_quote=self._on_quote, on_refused=self._on_refused)
        self._market.attach()
        self._contracts: dict[int, ContractSpec] = {}
        # As many as can be subscribed and cancelled within the deadline at the connection's message rate.
        self._wave_size = max(1, int(connection.policy.messages_per_second * deadline_seconds / 3))
        self._unavailable: set[int] = set()
        self._paused_until = datetime.min.replace(tzinfo=UTC)
        self._open: set[int] = set()
        self._changed = asyncio.Event()

    async def collect(self, contracts: Iterable[ContractSpec]) -> dict[int, Quote]:
        """The quotes that could be had, by conid; a contract that found no line, or no market, has none.

        One wave per free set of lines, and no waiting for lines that others hold: what gets none now is valued without.
        """
        wanted = sorted(
            {item.conid: item for item in contracts if item.conid not in self._unavailable}.values(),
            key=lambda item: (not item.sec_type.is_option, item.conid),
        )
        self._contracts = await self._book.qualified([item.conid for item in wanted])
        waiting = [item.conid for item in wanted if item.conid in self._contracts]
        quotes: dict[int, Quote] = {}
        while waiting and self._clock() >= self._paused_until:
            acquired = await asyncio.to_thread(
                self._ledger.acquire,
                waiting[: self._wave_size],
                holder=self._holder,
                purpose=SlotPurpose.BATCH,
                ttl_seconds=SLOT_TTL_SECONDS,
            )
            if not acquired.granted:
                log.info("no free line: %d contracts are valued without a quote", len(waiting))
                break
            quotes |= await self._wave(acquired.granted)
            waiting = [conid for conid in waiting if conid not in acquired.granted]
        return quotes

    async def _wave(self, conids: tuple[int, ...]) -> dict[int, Quote]:
        """Hold a line per contract until its quote is filled or the deadline comes; then cancel and give back."""
        quotes: dict[int, Quote] = {}
        self._open = set(conids)
        try:
            for conid in conids:
                self._market.subscribe(self._contracts[conid])
            async with asyncio.timeout(self._deadline):
                while self._open:
                    self._changed.clear()
                    for conid in self._filled():
                        quotes |= self._take(conid)
                    if self._open:
                        await self._changed.wait()
        except TimeoutError:
            for conid in tuple(self._open):
                quotes |= self._take(conid)
        finally:
            for conid in conids:
                self._market.cancel(conid)
            await asyncio.shield(self._give_back(conids))
        return quotes

    async def _give_back(self, conids: tuple[int, ...]) -> None:
        """Give lines to others once their cancels have reached the gateway: until then they are in use there."""
        if self._connection.is_connected:
            try:
                await self._connection.round_trip(timeout=self._deadline)
            except GatewayError as error:
                log.warning("lines are given back unconfirmed: %s", error)
        await asyncio.to_thread(self._ledger.release, self._holder, conids)

    def _filled(self) -> list[int]:
        return [conid for conid in self._open if self._market.is_filled(conid)]

    def _take(self, conid: int) -> dict[int, Quote]:
        quote = self._market.quote(conid)
        self._open.discard(conid)
        self._market.cancel(conid)
        return {conid: quote} if quote is not None and quote.price_time is not None else {}

    def _on_quote(self, conid: int, _quote: Quote) -> None:
        if conid in self._open:
            self._changed.set()

    def _on_refused(self, refusal: Refusal) -> None:
        log.info("no quote for contract %d: %d %s", refusal.conid, refusal.code, refusal.text)
        if refusal.reaction is Reaction.FAIL_REQUEST:
            self._unavailable.add(refusal.conid)
        else:
            self._paused_until = self._clock() + LINES_PAUSE
        self._open.discard(refusal.conid)
        self._changed.set()
