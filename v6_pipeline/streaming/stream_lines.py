"""The streamer's market-data lines: passes that take lines a few at a time, and renewal.

A line's life is ``ib.subscriptions``; which contracts get one is decided in ``routing``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime

from v6_pipeline.errors import StateError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.lines import LineListener
from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.ib.subscriptions import Subscriptions
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.state.answers import ask
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.slots.allocation import Wait
from v6_pipeline.state.slots.ledger import SlotLedger
from v6_pipeline.streaming.policy import SLOT_RENEWAL
from v6_pipeline.streaming.streamed_contracts import StreamedContracts

log = logging.getLogger(__name__)

SLOT_TTL_SECONDS = 100
"""How long the ledger keeps the lines of a dead or stalled streamer. Longer than the sensor takes to kill a hung one,
as until then the gateway holds its lines too. The sensor releases the lines of a dead one at once."""
GIVE_UP_SECONDS = 80
"""Lines that could not be renewed for this long are cancelled before the ledger gives them to another process; see
``give_up_seconds``."""
CANCEL_SECONDS = 0.4
"""Between two cancels of a process that is cut off from the shared allowance, at the default message rate: 80 cancels
leave within 31 s."""
GIVE_UP_AT_LEAST = 30
"""Two renewals may fail."""
RENEWAL_SECONDS = 20
"""A renewal that the state database has not answered after this long counts as failed."""
CLOSING_SECONDS = 5
"""How long the end of a session waits for the gateway to confirm the cancels, and for handlers."""
RETURN_SECONDS = 3
"""How long the end of a session waits for the ledger to take the lines back; otherwise they expire."""
CONFIRMATION_POLL_SECONDS = 0.05
"""Interval between checks whether other processes have confirmed their new lines."""
PASS_SECONDS = 5.0
"""A pass ends after this time even if more lines are available, so that route changes are considered."""
YIELD_SECONDS = 10.0
"""Batches yield within a second; a contract that has no line after this time is queued meanwhile."""


def give_up_seconds(lines: int) -> float:
    """Return after how many seconds without a renewal so many lines are cancelled: the last cancel leaves in time."""
    in_time = SLOT_TTL_SECONDS - CLOSING_SECONDS - lines * CANCEL_SECONDS
    return max(GIVE_UP_AT_LEAST, min(GIVE_UP_SECONDS, in_time))


class StreamLines(Subscriptions, LineListener):
    """The streamer's subscriptions. Events change ``contracts``; a refusal calls ``wake`` and waits for ``cancel``."""

    def __init__(
        self,
        connection: IBConnectionManager,
        ledger: SlotLedger,
        *,
        holder: str,
        clock: Clock,
        contracts: StreamedContracts,
        publish: Callable[[int, Quote], None],
        wake: Callable[[], None],
    ) -> None:
        self._contracts = contracts
        self._publish = publish
        self._wake = wake
        self._waiting_since: datetime | None = None
        self._symbols: dict[int, str] = {}
        self._in_session = False
        self._confirmation = asyncio.Event()
        super().__init__(
            connection,
            ledger,
            holder=holder,
            purpose=SlotPurpose.STREAM,
            ttl_seconds=SLOT_TTL_SECONDS,
            clock=clock,
            listener=self,
            answer_seconds=RENEWAL_SECONDS,
        )

    @property
    def awaits_lines(self) -> bool:
        """True while lines for waiting contracts are about to come free: start another pass within a second."""
        return self._waiting_since is not None

    async def begin_session(self) -> None:
        """Start without a line on a new connection, which shows that those of earlier streamers have ended.

        Raises:
            StateError: the database failed.
        """
        self._in_session = True
        await super().begin_session()
        if count := await ask(self._ledger.release_earlier_streams, self._holder):
            log.info("%d lines of earlier streamers are free: their connection has ended", count)

    async def end_session(self) -> None:
        """Cancel, disconnect, and give back the lines that IB surely has again."""
        self._waiting_since = None
        await self.cancel_all(timeout=CLOSING_SECONDS)
        await self._connection.close()
        if not self._in_session:
            return
        self._in_session = False
        try:
            async with asyncio.timeout(RETURN_SECONDS):
                await self.release_all()
        except (StateError, TimeoutError) as error:
            reason = str(error) or f"no answer for {RETURN_SECONDS} s"
            log.warning("lines are not given back, and expire: %s", reason)

    async def keep_renewed(self, is_due: Callable[[], bool], pause: Callable[[], float]) -> None:
        """Renew the lines in the ledger; those that cannot be renewed are cancelled before they are another's.

        Apart from other calls of the database, since each of them may wait until its own deadline. ``pause`` returns
        the seconds between two looks.
        """
        renewed_at = datetime.min.replace(tzinfo=UTC)
        while True:
            now = self._clock()
            if is_due() and now - renewed_at >= SLOT_RENEWAL:
                try:
                    if await self.renew(timeout=RENEWAL_SECONDS, give_up_seconds=give_up_seconds(len(self.conids))):
                        self._wake()
                    renewed_at = now
                except StateError as error:
                    log.warning("lines are not renewed: %s", error)  # tried again at the next look
            await asyncio.sleep(pause())

    async def cancel(self, conids: Iterable[int]) -> None:
        """Cancel subscriptions; give back their lines and those of refused subscriptions.

        Raises:
            GatewayError: the gateway did not confirm; the lines are given back with a later call.
            StateError: the ledger cannot be used.
        """
        await self.step(ended=conids)
        await self.report()

    async def subscribe(
        self, specs: Mapping[int, ContractSpec], priorities: Mapping[int, int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Take lines and subscribe qualified contracts, most important first; each is confirmed before the next ones.

        Return the contracts that stream, and those that will within seconds. The ledger displays ``priorities``.

        Raises:
            GatewayError: the gateway did not answer; subscriptions made so far stay, and a later call confirms them.
            StateError: the ledger cannot be used.
        """
        wanted = list(specs)
        streaming: list[int] = []
        pass_ends_at = asyncio.get_running_loop().time() + PASS_SECONDS
        wait = Wait.NOT_NEEDED
        while wanted:
            answer = await self.advance(wanted, specs, priorities=priorities)
            wait = answer.wait
            streaming += [conid for conid in answer.granted if conid in self.conids]
            wanted = [conid for conid in wanted if conid not in answer.granted]
            if wait is not Wait.CONFIRM or asyncio.get_running_loop().time() > pass_ends_at:
                break
            if not answer.granted:
                await self._await_confirmations(pass_ends_at)
        await self.confirmed()
        await self.report()
        return streaming, wanted if self._may_come(wait, wanted) else []

    def on_subscribed(self, spec: ContractSpec) -> None:
        """Begin a subscription in the contract's record."""
        self._symbols[spec.conid] = spec.local_symbol or spec.symbol
        self._contracts.subscribed(spec.conid, spec.sec_type, self._clock())

    def on_quote(self, conid: int, quote: Quote) -> None:
        """Publish a quote."""
        self._confirmation.set()
        self._publish(conid, quote)

    def on_confirmed(self) -> None:
        """Let a pass go on."""
        self._confirmation.set()

    def on_cancelled(self, conid: int) -> None:
        """End the subscription in the contract's record."""
        self._contracts.cancelled(conid, self._clock())

    def on_lost(self, conid: int) -> None:
        """End the subscription in the contract's record."""
        self._contracts.lost(conid)

    def on_refused(self, refusal: Refusal) -> None:
        """Record a refusal, and start a routing pass."""
        self._contracts.refused(refusal, self._clock())
        self._wake()

    def on_remark(self, conid: int, remark: str) -> None:
        """Record IB's remark on a request that goes on."""
        self._contracts.remarked(conid, remark)

    def report_losses(self, overflow: Collection[int]) -> None:
        """Log the silent contracts that lost their lines and are wanted: ``overflow`` has all that wait for one."""
        for record in self._contracts.take_losses():
            if record.conid not in overflow:
                continue
            log.warning(
                "contract %d (%s) brought no tick since %s%s: its line goes to one that waits; it is queued, and tried "
                "again after %s",
                record.conid,
                self._symbols.get(record.conid, "unknown"),
                f"{record.silent_since:%H:%M:%S} UTC",
                record.remark and f" ({record.remark})",
                f"{record.cooldown_until:%H:%M} UTC",
            )

    async def _await_confirmations(self, until: float) -> None:
        """Wait until new lines were confirmed, own or others'; only reads, so that it delays no other process."""
        while asyncio.get_running_loop().time() < until:
            try:
                async with asyncio.timeout(CONFIRMATION_POLL_SECONDS):
                    await self._confirmation.wait()
            except TimeoutError:
                pass
            self._confirmation.clear()
            if self.has_changes:
                return
            usage = await self.usage()
            if usage.new_lines > 0 or usage.limit.is_paused:
                return

    def _may_come(self, wait: Wait, wanted: list[int]) -> bool:
        now = self._clock()
        if not wanted or wait not in {Wait.CONFIRM, Wait.LINES}:
            self._waiting_since = None
            return False
        self._waiting_since = self._waiting_since or now
        return wait is Wait.CONFIRM or (now - self._waiting_since).total_seconds() < YIELD_SECONDS
