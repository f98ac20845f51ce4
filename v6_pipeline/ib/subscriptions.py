"""The streamer's market-data lines: taken from the ledger and subscribed, cancelled and given back, in that order.

At no instant does the gateway hold a line for us that the ledger does not know of. Which contracts get one is decided
in ``routing``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from v6_pipeline.errors import GatewayError, StateError
from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.market_data import MarketData, Refusal
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.state.slots.allocation import AcquiredSlots, Wait
from v6_pipeline.state.slots.ledger import SlotChanges, SlotLedger
from v6_pipeline.streaming.refusals import Refusals
from v6_pipeline.streaming.streamed_contracts import Silence

log = logging.getLogger(__name__)

SLOT_TTL_SECONDS = 100
"""A streamer that is dead, or stands still, has its lines in the ledger for so long: longer than the sensor takes to
kill one that hangs, for while it lives the gateway has them too. The sensor gives those of a dead one back at once."""
GIVE_UP_SECONDS = 80
"""Lines that could not be renewed for so long are cancelled, before they are another's in the ledger."""
RENEWAL_SECONDS = 20
"""A state database that does not answer within that has not renewed them."""
CLOSING_SECONDS = 5
TURN_SECONDS = 0.05
"""Between two looks at whether another process has confirmed its new line."""
PASS_SECONDS = 5.0
"""A pass ends after that even if lines are still to be had, so that changes of the routes are looked at."""
YIELD_SECONDS = 10.0
"""Batches yield within a second; a contract that still has no line after that is queued meanwhile."""


@dataclass(frozen=True, slots=True)
class NewStreams:
    """What came of asking for lines: the contracts that stream, and those that will within seconds."""

    streaming: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()


class StreamLines:
    """Subscriptions of one connection, a line each.

    Args:
        connection: may be made again; call ``begin_session`` after each connect.
        book: qualifies contracts.
        ledger: the lines of all processes.
        holder: names this streamer in the ledger.
        clock: UTC now.
        on_quote: called on the loop for each contract that ticked.
        on_refused: called after a refusal: the line is given back with the next ``cancel``.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        book: ContractCache,
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
        self._on_tick = on_quote
        self._on_refused = on_refused
        self._market = MarketData(connection, on_quote=self._on_quote, on_refused=self._note_refusal, clock=clock)
        self._exhausted: set[int] = set()
        self._unconfirmed: set[int] = set()
        self._confirmed: set[int] = set()
        self._cancelled: set[int] = set()
        self._to_release: set[int] = set()
        self._waiting_since: datetime | None = None
        self._kept_at: datetime | None = None
        self._are_free = True
        self.refusals = Refusals()
        self.silence = Silence()

    @property
    def conids(self) -> frozenset[int]:
        """Contracts subscribed now."""
        return self._market.conids

    @property
    def awaits_lines(self) -> bool:
        """Whether lines are about to come free for contracts that were asked for: ask again within a second."""
        return self._waiting_since is not None

    def quote(self, conid: int) -> Quote | None:
        """The newest quote of a subscribed contract."""
        return self._market.quote(conid)

    async def begin_session(self) -> None:
        """Begin with no line on a new connection: the gateway lets a client id in only once its old session has ended.

        Raises:
            StateError: the ledger cannot be used.
        """
        # Those of a session that fell silent, and what a pass took that the loss of the connection overtook.
        await asyncio.to_thread(self._ledger.release, self._holder)
        await self._book.forget_refused()
        self._kept_at, self._are_free = self._clock(), False
        for pending in (self._exhausted, self._unconfirmed, self._confirmed, self._cancelled, self._to_release):
            pending.clear()
        self._waiting_since = None
        self.refusals.clear()
        self.silence.begin_session()
        self._market.attach()

    async def end_session(self) -> None:
        """Cancel, disconnect, give back what IB surely has again: it confirmed the cancels, or closed the socket.

        Whoever ends a session because nothing was heard knows nothing: such lines stay in the ledger until the next
        login, or until they expire.
        """
        if await self._cancel_all() or self._connection.was_closed_by_gateway:
            self._are_free = True
        await self._connection.close()
        self._market.forget_all()
        if not self._are_free:
            log.info("the end of the session was not confirmed: its lines stay in the ledger for now")
            return
        try:
            await asyncio.to_thread(self._ledger.release, self._holder)
        except StateError as error:
            log.warning("lines are not given back, and expire: %s", error)

    async def _cancel_all(self) -> bool:
        """Cancel what is subscribed; whether the gateway has confirmed it."""
        if not self._connection.is_connected:
            return False
        try:
            for conid in self._market.conids:
                self._market.cancel(conid)
            async with asyncio.timeout(CLOSING_SECONDS):  # in all: the cancels may wait for the message rate
                await self._connection.round_trip()
        except (GatewayError, TimeoutError) as error:
            log.info("cancelling the market data: %s", str(error) or "not confirmed in time")
            return False
        return True

    async def cancel(self, conids: Iterable[int]) -> None:
        """Cancel subscriptions and give their lines back, and those of refused ones.

        Raises:
            GatewayError: the gateway did not confirm; the lines are given back with a later call.
            StateError: the ledger cannot be used.
        """
        closing = frozenset(conids)
        if closing or self._exhausted or self._to_release:
            await self._tell(closing=closing)
        self.silence.cancelled(closing, self._clock())
        for conid in closing:
            self._market.cancel(conid)
            self._cancelled.add(conid)
        if self._cancelled or self._unconfirmed:
            await self._settle()
            await self._tell()

    async def qualified(self, conids: Iterable[int]) -> dict[int, ContractSpec]:
        """The contracts as they are to be subscribed; those that cannot be qualified now are left out."""
        return await self._book.qualified(conids)

    async def subscribe(
        self, specs: Mapping[int, ContractSpec], priorities: Mapping[int, int] | None = None
    ) -> NewStreams:
        """Take lines and subscribe, most important first, a few at a time: each is confirmed before the next ones.

        Args:
            specs: qualified contracts by conid, in the order of their importance.
            priorities: of their strategies, for the ledger.

        Raises:
            GatewayError: the gateway did not answer; what was subscribed stays so and is confirmed by a later call.
            StateError: the ledger cannot be used.
        """
        wanted = list(specs)
        streaming: list[int] = []
        pass_ends_at = asyncio.get_running_loop().time() + PASS_SECONDS
        wait = Wait.NOT_NEEDED
        while wanted:
            answer = await self._take(wanted, priorities)
            wait = answer.wait
            for conid in answer.granted:
                self._unconfirmed.add(conid)
                self._market.subscribe(specs[conid])
                self.silence.subscribed(conid, self._clock())
            if self._unconfirmed:
                await self._settle()
            streaming += [conid for conid in answer.granted if conid in self._market.conids]
            wanted = [conid for conid in wanted if conid not in answer.granted]
            if wait is not Wait.TURN or asyncio.get_running_loop().time() > pass_ends_at:
                break
            if not answer.granted:
                await self._await_turn(pass_ends_at)
        await self._tell()
        return NewStreams(tuple(streaming), tuple(wanted) if self._may_come(wait, wanted) else ())

    async def renew(self) -> bool:
        """Prolong the lines in the ledger; whether some are to be routed anew, since they were cancelled here.

        A line whose row expired meanwhile (this process was stopped) may be another's.

        Raises:
            StateError: the ledger cannot be used. Lines whose rows may soon expire are cancelled, for nobody knows who
                has them then.
        """
        before, begun_at = self._market.conids, self._clock()
        try:
            async with asyncio.timeout(RENEWAL_SECONDS):
                kept = await asyncio.to_thread(self._ledger.renew, self._holder, ttl_seconds=SLOT_TTL_SECONDS)
        except (StateError, TimeoutError) as error:
            self._give_up_unkept()
            raise StateError(str(error) or f"lines were not renewed within {RENEWAL_SECONDS} s") from error
        self._kept_at = begun_at
        lost = (before - kept) & self._market.conids
        for conid in lost:
            log.warning("the line of contract %d expired in the ledger: cancelled and routed anew", conid)
            self._market.cancel(conid)
        self.silence.lost(lost)
        return bool(lost or self._cancelled)

    def _give_up_unkept(self) -> None:
        """Cancel everything if it was not renewed for long; the ledger is told once it can be."""
        subscribed = self._market.conids
        if (
            not subscribed
            or self._kept_at is None
            or self._clock() - self._kept_at < timedelta(seconds=GIVE_UP_SECONDS)
        ):
            return
        log.warning("%d lines could not be renewed since %s: cancelled", len(subscribed), self._kept_at.isoformat())
        for conid in subscribed:
            self._market.cancel(conid)
            self._cancelled.add(conid)
        self.silence.lost(subscribed)

    def market_data_lost(self) -> None:
        """The gateway has ended every subscription (1101): their lines are free, and may be taken anew."""
        lost = self._market.conids
        self._market.drop_all()
        self._unconfirmed -= lost
        self._confirmed -= lost
        self._to_release |= lost
        self.silence.lost(lost)

    async def _await_turn(self, until: float) -> None:
        """Until others have confirmed their new lines; looks without writing, so that nobody is delayed by it."""
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(TURN_SECONDS)
            usage = await asyncio.to_thread(self._ledger.usage)
            if usage.turns > 0 or usage.limit.is_paused:
                return

    async def _take(self, wanted: list[int], priorities: Mapping[int, int] | None) -> AcquiredSlots:
        """Ask for lines, and tell what is known of the others, in one transaction."""
        changes = self._changes()
        answer = await asyncio.to_thread(
            self._ledger.record_and_acquire,
            changes,
            wanted,
            holder=self._holder,
            purpose=SlotPurpose.STREAM,
            ttl_seconds=SLOT_TTL_SECONDS,
            priorities=priorities,
        )
        self._told(changes)
        return answer

    async def _tell(self, closing: Iterable[int] = ()) -> None:
        """Tell the ledger what has become of lines; what it could not be told is told next time."""
        changes = self._changes()
        changes.closing |= set(closing)
        if changes:
            await asyncio.to_thread(self._ledger.record, self._holder, changes)
        self._told(changes)

    def _changes(self) -> SlotChanges:
        return SlotChanges(
            exhausted=set(self._exhausted), confirmed=set(self._confirmed), released=set(self._to_release)
        )

    def _told(self, changes: SlotChanges) -> None:
        self._exhausted -= changes.exhausted
        self._confirmed -= changes.confirmed
        self._to_release -= changes.released

    async def _settle(self) -> None:
        """A round trip: after it every earlier subscribe was granted or refused, and every earlier cancel was read.

        ib_async may hold messages back to keep the rate, so that nothing is known before.
        """
        while True:
            asked, before, cancelled = set(self._unconfirmed), self._market.requests, set(self._cancelled)
            await self._connection.round_trip()
            # What was asked for once more meanwhile was asked after the question that is answered now.
            again = {conid for conid, request in self._market.requests.items() if request != before.get(conid)} & asked
            self._confirmed |= (asked - again) & (self._market.conids - self._exhausted)
            self._unconfirmed -= asked - again
            self._to_release |= cancelled
            self._cancelled -= cancelled
            if not again:
                return

    def _may_come(self, wait: Wait, wanted: list[int]) -> bool:
        now = self._clock()
        if not wanted or wait not in {Wait.TURN, Wait.LINES}:
            self._waiting_since = None
            return False
        self._waiting_since = self._waiting_since or now
        return wait is Wait.TURN or (now - self._waiting_since).total_seconds() < YIELD_SECONDS

    def _on_quote(self, conid: int, quote: Quote) -> None:
        self.silence.ticked(conid, self._clock())
        self._on_tick(conid, quote)

    def _note_refusal(self, refusal: Refusal) -> None:
        self._unconfirmed.discard(refusal.conid)
        self.silence.lost([refusal.conid])
        if refusal.reaction is Reaction.LINES_EXHAUSTED:
            # Not the contract's fault: the ledger learns, and gives lines to the most important as far as they go.
            self._exhausted.add(refusal.conid)
        else:
            self.refusals.add(refusal, self._clock())
            self._to_release.add(refusal.conid)
        self._on_refused()
