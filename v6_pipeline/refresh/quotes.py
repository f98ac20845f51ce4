"""Quotes for a batch, through free lines: subscribe, wait until filled or late, cancel, release.

Better than IB's snapshot requests, which take eleven seconds, offer no generic ticks, and may omit greeks. Options
come first, because their greeks come only through a line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.codes import Reaction, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.lines import LineListener
from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.ib.subscriptions import Subscriptions
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.slots.allocation import SlotUsage, Wait
from v6_pipeline.state.slots.ledger import SlotLedger

log = logging.getLogger(__name__)

SLOT_TTL_SECONDS = 30
"""Longer than a quote takes; the lines of a dead worker are free again after this time."""
SILENCES = 2
"""Requests of one refresh without a tick after which later refreshes leave a contract out, as one that IB refuses."""
SILENT_CODE = 0
"""Recorded in place of IB's code for a contract that is silent without a remark of IB's."""
FLOWS_SECONDS = 30
"""While any contract has ticked within this time, the silence of another one is its own."""
ANSWER_SECONDS = 8.0
"""How long a batch waits for the ledger: twice this and a quote's deadline are less than a line lasts there."""
ASK_AGAIN_SECONDS = 2.0
"""Asking keeps the worker's place among those that wait; in between, a read shows whether asking is worthwhile."""


@dataclass(frozen=True, slots=True)
class QuoteTimeouts:
    """Limits on a batch's waiting, in seconds."""

    deadline: float = 6
    """How long a quote may hold its line; IB answers error 300 if it is cancelled within about 5 s without a tick."""
    for_options: float = 20
    """How long options wait for a new line before the rest of them are valued without quotes."""
    for_others: float = 3
    """The same for contracts without greeks: the account download has most of what a line would give."""
    batch: float = 90
    """How long a batch may take in all."""
    confirmation_poll: float = 0.05
    """Interval between reads of the ledger while others are confirming their new lines."""
    poll: float = 0.4
    """Interval between reads otherwise, while lines are held or waited for."""


class BatchQuotes(LineListener):
    """Collects quotes over an open connection; ``holder`` names this worker in the ledger."""

    def __init__(
        self,
        connection: IBConnectionManager,
        book: ContractCache,
        ledger: SlotLedger,
        *,
        holder: str,
        clock: Clock,
        timeouts: QuoteTimeouts | None = None,
        is_open: Callable[[datetime], bool] | None = None,
    ) -> None:
        self._book = book
        self._clock = clock
        self._is_open = is_open or TradingCalendar().is_open
        self._holder = holder
        self._timeouts = timeouts or QuoteTimeouts()
        self._lines = Subscriptions(
            connection,
            ledger,
            holder=holder,
            purpose=SlotPurpose.BATCH,
            ttl_seconds=SLOT_TTL_SECONDS,
            clock=clock,
            listener=self,
            answer_seconds=ANSWER_SECONDS,
        )
        self._lines.attach()
        connection.add_error_listener(self._on_error)
        self._contracts: dict[int, ContractSpec] = {}
        self._waiting: list[int] = []
        self._unavailable: set[int] | None = None
        self._refused: dict[int, int] = {}
        self._ticked: dict[int, float] = {}
        self._last_tick_at = float("-inf")
        self._remarks: dict[int, int] = {}
        self._silences: dict[int, int] = {}
        self._stopped = ""
        self._asked_at = float("-inf")
        self._moved = asyncio.Event()

    async def collect(self, contracts: Iterable[ContractSpec]) -> dict[int, Quote]:
        """Return the quotes by conid; a contract without a line, or without a market, has none."""
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
        """Add to ``quotes`` until no contract waits and no line is held."""
        begun_at = served_at = self._now()
        read_at, wait = float("-inf"), Wait.NOT_NEEDED
        while self._waiting or not self._lines.is_idle:
            self._moved.clear()
            # With changes to report, step without reading the ledger: others wait for these lines.
            is_due = not self._lines.has_changes or self._now() - read_at >= self._timeouts.poll
            usage = await self._lines.usage() if is_due else None
            read_at = self._now() if is_due else read_at
            yielded = usage.to_yield(self._holder) if usage else frozenset()
            ended = self._ended(yielded)
            self._waiting += self._silent_once(set(ended) - yielded)
            for conid in ended:
                quotes |= self._take(conid)
            # A contract that gave its line to a stream before its quote was complete waits for another line.
            self._waiting[:0] = [conid for conid in ended if conid in yielded and conid not in quotes]
            idle_for, spent = self._now() - served_at, self._now() - begun_at
            if self._stopped or idle_for > self._timeout(wait) or spent > self._timeouts.batch:
                self._waiting.clear()
            ask = bool(self._waiting) and (self._lines.has_changes or usage is None or self._is_worth_asking(usage))
            if ask:
                self._asked_at = self._now()
            answer = await self._lines.advance(self._waiting if ask else (), self._contracts, ended=ended)
            wait = answer.wait if ask else wait
            if answer.granted:
                served_at = self._now()
                self._waiting = [conid for conid in self._waiting if conid not in answer.granted]
            elif not ended:
                await self._pause(wait)

    def _is_worth_asking(self, usage: SlotUsage) -> bool:
        """Return True if a line may be granted, or if the worker must ask to keep its place among those that wait."""
        turns = usage.new_lines_of(self._holder, SlotPurpose.BATCH)
        may_get = turns > 0 and usage.room(self._holder, SlotPurpose.BATCH) > 0
        return may_get or self._now() - self._asked_at >= ASK_AGAIN_SECONDS

    def _timeout(self, wait: Wait) -> float:
        """Return how many seconds to wait for a new line; while lines are held, until their quotes have ended."""
        if self._lines.opened_at:
            return self._timeouts.batch
        if wait is Wait.NONE_LEFT:
            return -1
        is_option = any(self._contracts[conid].sec_type.is_option for conid in self._waiting)
        return self._timeouts.for_options if is_option else self._timeouts.for_others

    def _ended(self, yielded: frozenset[int]) -> list[int]:
        """Return the contracts whose quote is complete or late, or whose line streams need; all once stopped.

        A request that the gateway has not confirmed may be refused still: IB answers its cancel with 300.
        """
        late = self._now() - self._timeouts.deadline
        return [
            conid
            for conid, opened_at in self._lines.opened_at.items()
            if conid in self._lines.live
            and (self._stopped or opened_at <= late or conid in yielded or self._lines.market.is_filled(conid))
        ]

    def _silent_once(self, ended: Iterable[int]) -> list[int]:
        """Return those of ``ended`` to request once more, after all others: their requests brought no tick of any kind.

        The second silence is recorded, so that refreshes do not spend their lines on the contract for an hour. A
        silence without a remark of IB's proves nothing while the exchange is closed, or while nothing ticks at all.
        """
        again = []
        for conid in ended if not self._stopped else ():
            opened_at = self._lines.opened_at[conid]
            has_ticked = self._ticked.get(conid, float("-inf")) >= opened_at
            should_tick = self._is_open(self._clock()) and self._now() - self._last_tick_at < FLOWS_SECONDS
            if has_ticked or not (should_tick or conid in self._remarks):
                continue
            self._silences[conid] = self._silences.get(conid, 0) + 1
            if self._silences[conid] < SILENCES:
                again.append(conid)
            else:
                self._refused[conid] = self._remarks.get(conid, SILENT_CODE)
                log.warning("contract %d brought no tick in %d requests: left out for an hour", conid, SILENCES)
        return again

    def _take(self, conid: int) -> dict[int, Quote]:
        quote = self._lines.market.quote(conid)
        return {conid: quote} if quote is not None and quote.tick_time is not None else {}

    async def _pause(self, wait: Wait) -> None:
        """Wait until a quote changes or it is time to read the ledger again."""
        seconds = self._timeouts.confirmation_poll if self._waiting and wait is Wait.CONFIRM else self._timeouts.poll
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
                # Ticks come in bursts: handle those of one moment together.
                await asyncio.sleep(self._timeouts.confirmation_poll)
        except TimeoutError:
            pass

    def on_quote(self, conid: int, quote: Quote) -> None:  # noqa: ARG002  the listener's signature
        """Wake the batch, as a quote may be complete."""
        self._ticked[conid] = self._last_tick_at = self._now()
        self._moved.set()

    def on_confirmed(self) -> None:
        """Wake the batch, as lines may be free."""
        self._moved.set()

    def on_remark(self, conid: int, remark: str) -> None:
        """Remember the code of IB's remark; data may follow it, or not."""
        self._remarks[conid] = int(remark.partition(" ")[0])

    def on_refused(self, refusal: Refusal) -> None:
        """Wait for another line after error 101; otherwise value the contract without a quote."""
        log.info("no quote for contract %d: %d %s", refusal.conid, refusal.code, refusal.text)
        if refusal.reaction is Reaction.LINES_EXHAUSTED:
            self._waiting.insert(0, refusal.conid)
        elif refusal.reaction is Reaction.FAIL_REQUEST:
            self._refused[refusal.conid] = refusal.code
        self._moved.set()

    def _on_error(self, _req_id: int, code: int, text: str) -> None:
        if reaction_to(code, text) is Reaction.COMPETING_SESSION:
            # The request stays open and empty for minutes, so the rest of this run is valued without quotes.
            self._stopped = f"{code} {text}"
            self._moved.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
