"""Quotes for a batch, through the lines that are free: subscribe, wait until filled or late, cancel, give back.

A better primitive than IB's snapshot requests, which take eleven seconds, know no generic ticks, and may leave greeks
out. Options come first, for only a line gives their greeks. Lines that others hold are waited for, within bounds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.batch_lines import BatchLines
from v6_pipeline.ib.codes import Reaction, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.market_data import MarketData, Refusal
from v6_pipeline.model import ContractSpec, Quote
from v6_pipeline.state.slots.allocation import Wait
from v6_pipeline.state.slots.ledger import SlotLedger

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuotePatience:
    """How long a batch waits; seconds."""

    deadline: float = 6
    """How long a quote may hold its line; IB answers a cancel that comes within about 5 s, unfilled, with error 300."""
    for_options: float = 20
    """How long options go without a new line before the rest of them is valued without."""
    for_others: float = 3
    """The same for contracts without greeks: the account download has most of what a line would give."""
    batch: float = 90
    """How long a batch may take in all."""
    turn: float = 0.05
    """Between two looks at the ledger while others are confirming their new lines."""
    poll: float = 0.4
    """Between two looks otherwise, while lines are held or waited for."""


class BatchQuotes:
    """Collects quotes over one connection.

    Args:
        connection: connected.
        book: qualifies contracts.
        ledger: the lines.
        holder: names this worker in the ledger.
        clock: UTC now.
        patience: how long to wait for what.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        book: ContractCache,
        ledger: SlotLedger,
        *,
        holder: str,
        clock: Callable[[], datetime],
        patience: QuotePatience | None = None,
    ) -> None:
        self._book = book
        self._patience = patience or QuotePatience()
        self._market = MarketData(connection, on_quote=self._on_quote, on_refused=self._on_refused, clock=clock)
        self._market.attach()
        self._lines = BatchLines(connection, self._market, ledger, holder=holder)
        connection.add_error_listener(self._on_error)
        self._contracts: dict[int, ContractSpec] = {}
        self._waiting: list[int] = []
        self._unavailable: set[int] | None = None
        self._refused: dict[int, int] = {}
        self._stopped = ""
        self._moved = asyncio.Event()

    async def collect(self, contracts: Iterable[ContractSpec]) -> dict[int, Quote]:
        """The quotes that could be had, by conid; a contract that found no line, or no market, has none."""
        if self._unavailable is None:
            self._unavailable = set(await self._book.refused())
        wanted = sorted(
            {item.conid: item for item in contracts if item.conid not in self._unavailable}.values(),
            key=lambda item: (not item.sec_type.is_option, item.conid),
        )
        if not wanted or self._stopped:
            return {}
        self._contracts = await self._book.qualified([item.conid for item in wanted])
        self._waiting = [item.conid for item in wanted if item.conid in self._contracts]
        quotes: dict[int, Quote] = {}
        try:
            await self._collect(quotes)
        except GatewayError as error:
            self._stopped = str(error)
        finally:
            await asyncio.shield(self._lines.close())
        if self._refused:
            self._unavailable |= self._refused.keys()
            await self._book.note_refused(self._refused)
            self._refused.clear()
        missed = len(self._contracts.keys() - quotes.keys())
        if missed:
            log.info("%d contracts are valued without a quote%s", missed, self._stopped and f": {self._stopped}")
        return quotes

    async def _collect(self, quotes: dict[int, Quote]) -> None:
        """Until nothing is waited for and no line is held."""
        begun_at = served_at = self._now()
        wait, granted = Wait.NOT_NEEDED, True
        while self._waiting or not self._lines.is_idle:
            self._moved.clear()
            # New lines are confirmed without another look: until then all others wait for theirs.
            usage = None if granted else await self._lines.usage()
            yielded = self._lines.to_yield(usage) if usage else frozenset()
            ended = self._ended(yielded)
            for conid in ended:
                quotes |= self._take(conid)
            # What is given up unfilled for a stream waits for its next chance.
            self._waiting[:0] = [conid for conid in ended if conid in yielded and conid not in quotes]
            idle_for, spent = self._now() - served_at, self._now() - begun_at
            if self._stopped or idle_for > self._patience_for(wait) or spent > self._patience.batch:
                self._waiting.clear()
            ask = bool(self._waiting) and (usage is None or self._lines.is_worth_asking(usage))
            answer = await self._lines.turn(self._waiting if ask else (), self._contracts, ended=ended)
            if ask:
                wait = answer.wait
            granted = bool(answer.granted)
            if granted:
                served_at = self._now()
                self._waiting = [conid for conid in self._waiting if conid not in answer.granted]
            elif not ended:
                await self._pause(wait)

    def _patience_for(self, wait: Wait) -> float:
        """How long to go without a new line; while quotes are under way, at least until they have ended."""
        if self._lines.opened_at:
            return self._patience.batch
        if wait is Wait.NONE_LEFT:
            return -1
        is_option = any(self._contracts[conid].sec_type.is_option for conid in self._waiting)
        return self._patience.for_options if is_option else self._patience.for_others

    def _ended(self, yielded: frozenset[int]) -> list[int]:
        """Lines whose quote is complete or late, or that are to be yielded; all of them once it is over."""
        late = self._now() - self._patience.deadline
        return [
            conid
            for conid, opened_at in self._lines.opened_at.items()
            if self._stopped or opened_at <= late or conid in yielded or self._market.is_filled(conid)
        ]

    def _take(self, conid: int) -> dict[int, Quote]:
        quote = self._market.quote(conid)
        return {conid: quote} if quote is not None and quote.price_time is not None else {}

    async def _pause(self, wait: Wait) -> None:
        """Until a quote moved, or it is time to look at the ledger again."""
        seconds = self._patience.turn if self._waiting and wait is Wait.TURN else self._patience.poll
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
                # Ticks come in packets: those of one moment are looked at together.
                await asyncio.sleep(self._patience.turn)
        except TimeoutError:
            pass

    def _on_quote(self, conid: int, _quote: Quote) -> None:
        if conid in self._lines.opened_at:
            self._moved.set()

    def _on_refused(self, refusal: Refusal) -> None:
        log.info("no quote for contract %d: %d %s", refusal.conid, refusal.code, refusal.text)
        exhausted = refusal.reaction is Reaction.LINES_EXHAUSTED
        self._lines.refused(refusal.conid, exhausted=exhausted)
        if exhausted:
            self._waiting.insert(0, refusal.conid)
        elif refusal.reaction is Reaction.FAIL_REQUEST:
            self._refused[refusal.conid] = refusal.code
        self._moved.set()

    def _on_error(self, _req_id: int, code: int, text: str) -> None:
        if reaction_to(code, text) is Reaction.COMPETING_SESSION:
            # The request stays open and shows nothing, for minutes: the rest of this run is valued without quotes.
            self._stopped = f"{code} {text}"
            self._moved.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
