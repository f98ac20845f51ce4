"""The streamer's market-data lines: taken from the ledger and subscribed, cancelled and given back, in that order.

At no instant does the gateway hold a line for us that the ledger does not know of. Which contracts get one is decided
in ``routing``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from v6_pipeline.errors import GatewayError, StateError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.market_data import MarketData, Refusal
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.sync.contract_book import ContractBook
from v6_pipeline.sync.refusals import Refusals
from v6_pipeline.sync.slots import SlotLedger

log = logging.getLogger(__name__)

SLOT_TTL_SECONDS = 60
"""A dead streamer's lines are free for others after that."""
CLOSING_SECONDS = 5


class StreamLines:
    """Subscriptions of one connection, a line each.

    Args:
        connection: may be made again; call ``begin_session`` after each connect.
        book: qualifies contracts.
        ledger: the lines of all processes.
        holder: names this streamer in the ledger.
        clock: UTC now.
        on_quote: called on the loop for each contract that ticked.
        on_refused: called after a refusal: the line is given back with the next ``release``.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        book: ContractBook,
        ledger: SlotLedger,
        *,
        holder: str,
        clock: Callable[[], datetime],
        on_quote: Callable[[int, Quote], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._book = book
        self._ledger = ledger
        self._holder = holder
        self._clock = clock
        self._on_refused = on_refused
        self._market = MarketData(connection, on_quote=on_quote, on_refused=self._note_refusal)
        self._to_release: set[int] = set()
        self.refusals = Refusals()

    @property
    def conids(self) -> frozenset[int]:
        """Contracts subscribed now."""
        return self._market.conids

    def quote(self, conid: int) -> Quote | None:
        """The newest quote of a subscribed contract."""
        return self._market.quote(conid)

    async def begin_session(self) -> None:
        """Begin with no line on a new connection.

        Raises:
            StateError: the ledger cannot be used.
        """
        # A pass that the loss of the last connection overtook may have taken lines after they were all given back.
        await asyncio.to_thread(self._ledger.release, self._holder)
        self._to_release.clear()
        self.refusals.clear()
        self._market.attach()

    async def end_session(self) -> None:
        """Cancel, disconnect, give back: IB has its lines again, by a cancel or with the socket."""
        try:
            if self._connection.is_connected:
                for conid in self._market.conids:
                    self._market.cancel(conid)
                await self._connection.round_trip(timeout=CLOSING_SECONDS)
        except GatewayError as error:
            log.info("cancelling the market data: %s", error)
        await self._connection.close()
        self._market.forget_all()
        try:
            await asyncio.to_thread(self._ledger.release, self._holder)
        except StateError as error:
            log.warning("lines are not given back, and expire: %s", error)

    async def cancel(self, conids: Iterable[int]) -> None:
        """Cancel subscriptions and give their lines back, and those of refused ones.

        Raises:
            GatewayError: the gateway did not confirm; the lines are given back with the next call.
        """
        cancelled = list(conids)
        for conid in cancelled:
            self._market.cancel(conid)
            self._to_release.add(conid)
        if cancelled:
            # ib_async may still hold the cancels back to keep the message rate: the lines are free once they were read.
            await self._connection.round_trip()
        released = set(self._to_release)
        if released:
            await asyncio.to_thread(self._ledger.release, self._holder, released)
            self._to_release -= released

    async def subscribe(self, conids: tuple[int, ...]) -> dict[int, ContractSpec]:
        """Take lines and subscribe, most important first; the contracts that got one, qualified."""
        if not conids:
            return {}
        specs = await self._book.qualified(conids)
        wanted = [conid for conid in conids if conid in specs]
        acquired = await asyncio.to_thread(
            self._ledger.acquire,
            wanted,
            holder=self._holder,
            purpose=SlotPurpose.STREAM,
            ttl_seconds=SLOT_TTL_SECONDS,
        )
        for conid in acquired.granted:
            self._market.subscribe(specs[conid])
        return {conid: specs[conid] for conid in acquired.granted}

    async def renew(self) -> bool:
        """Prolong the lines in the ledger; whether some were lost there, and are therefore cancelled here.

        A line whose row expired meanwhile (this process was stopped) may be another's.
        """
        before = self._market.conids
        kept = await asyncio.to_thread(self._ledger.renew, self._holder, ttl_seconds=SLOT_TTL_SECONDS)
        lost = (before - kept) & self._market.conids
        for conid in lost:
            log.warning("the line of contract %d expired in the ledger: cancelled and routed anew", conid)
            self._market.cancel(conid)
        return bool(lost)

    def resubscribe(self, specs: dict[int, ContractSpec], *, cancel: bool) -> None:
        """Ask for everything again, as ``MarketData.resubscribe``."""
        self._market.resubscribe(specs, cancel=cancel)

    def _note_refusal(self, refusal: Refusal) -> None:
        self.refusals.add(refusal, self._clock())
        self._to_release.add(refusal.conid)
        self._on_refused()
