"""Market-data lines of one connection: the one state machine that streams, batch quotes and the doctor use.

At no instant does the gateway hold a line for us that the ledger does not know of. So the ledger grants a line before
the request is sent (``SUBSCRIBING``); a tick or a round trip shows that the gateway granted it as well (``LIVE``). The
ledger marks a line as closing before the cancel is sent (``CANCELLING``), unless a session ends or a row has expired,
and releases it after a round trip has confirmed the cancel (``RELEASING``). A refusal, or the loss of all market data,
ends a line without a cancel.

Does not belong here: which contracts get a line and for how long (``streaming.stream_lines``, ``refresh.quotes``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from v6_pipeline.errors import GatewayError, StateError
from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.lines import Line, LineListener, LineState
from v6_pipeline.ib.market_data import MarketData, Refusal
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.state.answers import ANSWER_SECONDS, ask, ask_within
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.slots.allocation import AcquiredSlots, SlotUsage
from v6_pipeline.state.slots.ledger import SlotChanges, SlotLedger

log = logging.getLogger(__name__)


_SUBSCRIBED = frozenset({LineState.SUBSCRIBING, LineState.LIVE})
_UNCONFIRMED = frozenset({LineState.SUBSCRIBING, LineState.CANCELLING})
_ENDED = frozenset({LineState.EXHAUSTED, LineState.RELEASING})


class Subscriptions:
    """The subscriptions of one connection, one line each.

    Args:
        connection: may reconnect; call ``begin_session`` after each connect.
        holder: names this process in the ledger.
        ttl_seconds: how long its lines stay in the ledger unless renewed.
        answer_seconds: how long a step waits for the ledger; lines must be cancelled before they expire in it.

    Attributes:
        market: the quotes; only this class subscribes and cancels there.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        ledger: SlotLedger,
        *,
        holder: str,
        purpose: SlotPurpose,
        ttl_seconds: float,
        clock: Clock,
        listener: LineListener,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._holder = holder
        self._purpose = purpose
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._listener = listener
        self._answer_seconds = answer_seconds
        self._lines: dict[int, Line] = {}
        self._session = 0
        self._steps = 0
        self._open_steps = 0
        self._ledger_call: asyncio.Future[AcquiredSlots] | None = None
        self._release: asyncio.Future[int] | None = None
        self._confirming: asyncio.Task[None] | None = None
        self._renewed_at = clock()
        self.market = MarketData(
            connection,
            on_quote=self._on_quote,
            on_refused=self._on_refused,
            on_remark=listener.on_remark,
            clock=clock,
        )

    @property
    def conids(self) -> frozenset[int]:
        """Contracts subscribed now."""
        return self._having(*_SUBSCRIBED)

    @property
    def live(self) -> frozenset[int]:
        """Contracts whose request the gateway has granted."""
        return self._having(LineState.LIVE)

    @property
    def opened_at(self) -> dict[int, float]:
        """Loop time, in seconds, of each subscribed contract's request."""
        return {conid: line.opened_at for conid, line in self._lines.items() if line.state in _SUBSCRIBED}

    @property
    def is_idle(self) -> bool:
        """True while no line is held and the ledger knows it."""
        return not self._lines

    @property
    def has_changes(self) -> bool:
        """True if the next step has something to report to the ledger, so that lines may come free by it."""
        return bool(self._having(*_ENDED)) or any(
            line.state is LineState.LIVE and not line.is_reported_live for line in self._lines.values()
        )

    async def usage(self) -> SlotUsage:
        """Return the lines of all processes."""
        return await ask_within(self._answer_seconds, self._ledger.usage)

    async def begin_session(self) -> None:
        """Start without a line on a new connection; the gateway admits a client id once its old session has ended."""
        await self._stop_steps()
        # Lines of a session that fell silent, and any that a step took while the connection was being lost.
        await ask(self._ledger.release, self._holder)
        self.attach()

    def attach(self) -> None:
        """Start on a connection for which the ledger has no line of this holder."""
        self._lines.clear()
        self._renewed_at = self._clock()
        self.market.attach()

    async def step(
        self,
        wanted: Sequence[int] = (),
        specs: Mapping[int, ContractSpec] | None = None,
        *,
        ended: Iterable[int] = (),
        priorities: Mapping[int, int] | None = None,
    ) -> AcquiredSlots:
        """Make an ``advance`` and wait until the gateway has confirmed everything.

        Raises:
            GatewayError: the gateway did not confirm, or the session ended; a later step confirms and reports.
            StateError: the ledger cannot be used; nothing was cancelled or subscribed.
        """
        ended = list(ended)
        answer = await self.advance(wanted, specs, ended=ended, priorities=priorities)
        await self.confirmed()
        if late := [conid for conid in ended if conid in self.live]:  # those that were on their way
            await self.advance(ended=late)
            await self.confirmed()
        return answer

    async def advance(
        self,
        wanted: Sequence[int] = (),
        specs: Mapping[int, ContractSpec] | None = None,
        *,
        ended: Iterable[int] = (),
        priorities: Mapping[int, int] | None = None,
    ) -> AcquiredSlots:
        """Cancel those of ``ended`` that are live, and subscribe those of ``wanted`` that the ledger grants a line.

        The gateway confirms while the caller goes on: a round trip delays only the release of these lines.

        Args:
            wanted: contracts without a line, most important first.
            specs: qualified contracts by conid.
            ended: contracts whose subscriptions end.
            priorities: of the strategies, by conid, for the ledger.

        Raises:
            GatewayError: the gateway did not confirm an earlier one, or the session ended; a later step confirms.
            StateError: the ledger cannot be used; nothing was cancelled or subscribed.
        """
        if self._confirming is not None and self._confirming.done():
            await self.confirmed()
        # A request on its way may be refused, and its cancel would cross the refusal: a later step ends it.
        live = self.live
        closing = [conid for conid in ended if conid in live]
        self._steps += 1
        self._open_steps += 1
        try:
            answer = await self._exchange(closing, wanted, priorities)
            subscribed = self.conids
            for conid in filter(subscribed.__contains__, closing):
                self._listener.on_cancelled(conid)
                self._cancel(conid)
            self._subscribe([conid for conid in answer.granted if conid not in self._lines], specs or {})
        finally:
            self._open_steps -= 1
        if self._having(*_UNCONFIRMED) and (self._confirming is None or self._confirming.done()):
            self._confirming = asyncio.create_task(self._confirm(), name="confirm lines")
            self._confirming.add_done_callback(_retrieve_error)
        return answer

    async def confirmed(self) -> None:
        """Wait until the gateway has confirmed every request and cancel.

        Raises:
            GatewayError: it did not.
        """
        confirming = self._confirming
        if confirming is None:
            return
        await asyncio.wait({confirming})
        if self._confirming is confirming:
            self._confirming = None
        if confirming.cancelled():
            raise GatewayError("the session ended before the gateway confirmed its lines")
        confirming.result()

    async def report(self) -> None:
        """Record the changes since the last report in the ledger; what fails is part of the next step or report."""
        await self._exchange()

    async def renew(self, *, timeout: float, give_up_seconds: float) -> bool:  # noqa: ASYNC109
        """Extend the expiry of the lines in the ledger; return True if some were cancelled, so that routes change.

        A line whose row expired (this process was stopped for a while) may be another's: it is cancelled. All are, once
        they could not be renewed for ``give_up_seconds``, before their rows expire. ``timeout`` is in seconds.

        Raises:
            StateError: the lines were not renewed.
        """
        before, begun_at = self.conids, self._clock()
        steps = None if self._open_steps else self._steps
        # The last attempt ends in time to cancel, however long the database does not answer.
        left = give_up_seconds - (begun_at - self._renewed_at).total_seconds()
        seconds = max(1.0, min(timeout, left))
        try:
            kept = await ask_within(seconds, self._ledger.renew, self._holder, ttl_seconds=self._ttl_seconds)
        except StateError:
            if before and self._clock() - self._renewed_at >= timedelta(seconds=give_up_seconds):
                log.warning("%d lines not renewed since %s: cancelled", len(before), self._renewed_at.isoformat())
                self._abandon(self.conids)
            raise
        self._renewed_at = begun_at
        for conid in (before - kept) & self.conids:
            log.warning("the line of contract %d expired in the ledger: cancelled, to be routed again", conid)
            self._abandon([conid])
        unused = kept - self._lines.keys()
        if unused and steps == self._steps:
            # Granted after the step had stopped waiting for the answer. Renewed, it would be held for ever.
            # A step that begins now waits, since the release would take away what it takes.
            release = asyncio.ensure_future(ask_within(seconds, self._ledger.release, self._holder, unused))
            self._release = release
            await release
        return bool(self._having(LineState.CANCELLING))

    def market_data_lost(self) -> None:
        """End every subscription without a cancel, as the gateway did with message 1101."""
        lost = self.conids
        self.market.drop_all()
        for conid in lost:
            self._lines[conid].state = LineState.RELEASING
            self._listener.on_lost(conid)

    async def cancel_all(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Cancel every subscription and wait for the gateway to confirm, up to ``timeout`` seconds in all.

        A step under way subscribes nothing more. The cancels may wait for the message rate, but not for the ledger,
        whose database may be the reason for the end: so it does not mark these lines as closing.
        """
        self._session += 1
        self._abandon(self.conids)
        try:
            async with asyncio.timeout(timeout):
                await self._confirm()
        except (GatewayError, TimeoutError) as error:
            log.info("cancelling the market data: %s", str(error) or "not confirmed in time")

    async def close(self) -> None:
        """Cancel every subscription, marked as closing in the ledger if that answers, and give all lines back.

        Raises:
            StateError: the ledger cannot be used; the lines expire.
        """
        await self._stop_steps()
        try:
            while not self.is_idle:
                await self.step(ended=self.conids)
        except GatewayError as error:
            log.info("cancelling the market data: %s", error)
        except StateError:
            await self.cancel_all()
        await self.release_all()

    async def release_all(self) -> None:
        """Give all lines back after ``cancel_all``, if the gateway confirmed the cancels or closed the socket itself.

        Otherwise it may still hold them, for instance if the session was ended for its silence: they stay in the ledger
        until they expire or the next session begins.

        Raises:
            StateError: the ledger cannot be used; the lines expire.
        """
        await self._stop_steps()
        unconfirmed = self._having(LineState.CANCELLING)
        if unconfirmed and not self._connection.was_closed_by_gateway:
            log.warning("the gateway confirmed no cancel: %d lines stay in the ledger for now", len(unconfirmed))
            return
        if self._having(LineState.EXHAUSTED):
            await self.report()
        self._lines.clear()
        await ask(self._ledger.release, self._holder)

    async def _stop_steps(self) -> None:
        """Wait for the ledger's answer to a step under way; the step then fails before it subscribes."""
        self._session += 1
        if self._confirming is not None:
            self._confirming.cancel()
            await asyncio.wait({self._confirming})
            self._confirming = None
        if self._ledger_call is not None:
            await asyncio.wait({self._ledger_call})

    async def _exchange(
        self, closing: Iterable[int] = (), wanted: Sequence[int] = (), priorities: Mapping[int, int] | None = None
    ) -> AcquiredSlots:
        """Report changes to the ledger and request lines, in one transaction."""
        session = self._session
        if self._release is not None:
            await asyncio.wait({self._release})
        changes = SlotChanges(
            exhausted=set(self._having(LineState.EXHAUSTED)),
            confirmed={conid for conid in self._having(LineState.LIVE) if not self._lines[conid].is_reported_live},
            released=set(self._having(LineState.RELEASING)),
            closing=set(closing),
        )
        if not wanted and not changes:
            return AcquiredSlots((), ())
        self._ledger_call = asyncio.ensure_future(
            ask_within(
                self._answer_seconds,
                self._ledger.record_and_acquire,
                changes,
                tuple(wanted),
                holder=self._holder,
                purpose=self._purpose,
                ttl_seconds=self._ttl_seconds,
                priorities=priorities,
            )
        )
        # The thread of a cancelled task goes on: ``release_all`` waits for it, and gives back the lines that it took.
        answer = await asyncio.shield(self._ledger_call)
        if session != self._session:
            raise GatewayError("the session ended during a call of the slot ledger")
        for conid in changes.confirmed & self._lines.keys():
            self._lines[conid].is_reported_live = True
        # A report at the end of the session may have removed some already.
        for conid in (changes.exhausted | changes.released) & self._having(*_ENDED):
            del self._lines[conid]
        return answer

    def _subscribe(self, granted: Sequence[int], specs: Mapping[int, ContractSpec]) -> None:
        now = asyncio.get_running_loop().time()
        # Until its request is sent a granted line is in the ledger only, and is released if sending fails.
        self._lines |= {conid: Line(LineState.RELEASING, now) for conid in granted}
        for conid in granted:
            self.market.subscribe(specs[conid])
            self._lines[conid].state = LineState.SUBSCRIBING
            self._listener.on_subscribed(specs[conid])

    def _cancel(self, conid: int) -> None:
        self._lines[conid].state = LineState.CANCELLING
        self.market.cancel(conid)

    def _abandon(self, conids: Iterable[int]) -> None:
        """Cancel lines without the ledger."""
        for conid in conids:
            self._cancel(conid)
            self._listener.on_lost(conid)

    async def _confirm(self) -> None:
        """Make a round trip: after it each earlier request was granted or refused, and each earlier cancel was read.

        ib_async may hold messages back to keep the rate, so that nothing is known before.
        """
        while unconfirmed := {conid: line for conid, line in self._lines.items() if line.state in _UNCONFIRMED}:
            cancelled = [line for line in unconfirmed.values() if line.state is LineState.CANCELLING]
            requests = self.market.requests
            await self._connection.round_trip()
            self._ledger.round_trip_seconds = self._connection.latency_seconds
            for line in cancelled:
                line.state = LineState.RELEASING
            for conid, line in unconfirmed.items():
                # A request repeated during the round trip is not covered by this reply.
                if conid in requests and self.market.requests.get(conid) == requests[conid]:
                    line.state = LineState.LIVE
            self._listener.on_confirmed()

    def _having(self, *states: LineState) -> frozenset[int]:
        return frozenset(conid for conid, line in self._lines.items() if line.state in states)

    def _on_quote(self, conid: int, quote: Quote) -> None:
        """Take a tick as the proof that the gateway granted the line, without a round trip."""
        line = self._lines.get(conid)
        if line is not None and line.state is LineState.SUBSCRIBING:
            line.state = LineState.LIVE
        self._listener.on_quote(conid, quote)

    def _on_refused(self, refusal: Refusal) -> None:
        is_exhausted = refusal.reaction is Reaction.LINES_EXHAUSTED
        self._lines[refusal.conid].state = LineState.EXHAUSTED if is_exhausted else LineState.RELEASING
        self._listener.on_refused(refusal)


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Retrieve the error of a confirmation that no step waits for, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
