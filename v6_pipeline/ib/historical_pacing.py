"""When a historical request may be made: the gateway's rules over all processes, kept in the state database.

``HistoricalPacer`` is one run's part: permits for requests that are open at once, and an instant for each. The rules
are those of ``v6_pipeline.state.pacing.historical``; the message itself then waits for the message rate like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime

from v6_pipeline.errors import StateError
from v6_pipeline.ib.allowance import steady_now
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.pacing import historical as rules

log = logging.getLogger(__name__)

REQUESTS_PER_SECOND = 10.0
"""IB gives no number for bars of a minute and more; each refusal halves it."""
LEASE_SECONDS = 60.0
RENEW_EVERY_SECONDS = 15.0
POLL_SECONDS = 1.0
"""Between two looks while all permits are out."""


class HistoricalPacer:
    """Lets the requests of one run go when the rules over all runs allow it.

    Args:
        database: of all processes.
        gateway: ``host:port``, the same text in every process.
        holder: names the run.
        clock: UTC now.
        rate: requests a second.
    """

    def __init__(
        self,
        database: StateDatabase,
        gateway: str,
        *,
        holder: str,
        clock: Clock,
        rate: float = REQUESTS_PER_SECOND,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._holder = holder
        self._clock = clock
        self._rate = rate
        self._permits = 0
        self._changed = asyncio.Condition()
        self.open_now = 0
        """Requests that are open."""
        self.waiting = 0
        """Requests that wait for a permit or their instant."""
        self.made = 0
        """Requests that were let go."""
        self.refusals = 0
        """Times that IB said it was too much."""

    @contextlib.asynccontextmanager
    async def permits(self, wanted: int) -> AsyncIterator[None]:
        """Hold up to ``wanted`` permits while inside; as long as all are out, requests wait."""
        keeper = asyncio.create_task(self._keep(wanted), name="historical permits")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            with contextlib.suppress(StateError):  # they expire by themselves
                await asyncio.shield(asyncio.to_thread(self._release))

    @contextlib.asynccontextmanager
    async def admission(self) -> AsyncIterator[None]:
        """Wait until a request may be made, and count it as open while inside.

        Raises:
            StateError: the state database failed.
        """
        self.waiting += 1
        try:
            await self._take_permit()
        except BaseException:
            self.waiting -= 1
            raise
        try:
            try:
                await self._take_instant()
            finally:
                self.waiting -= 1
            self.made += 1
            yield
        finally:
            await self._give_permit_back()

    async def back_off(self, reason: str) -> None:
        """IB said that it was too much: all processes ask half as fast."""
        self.refusals += 1
        rate = await asyncio.to_thread(self._back_off, reason, self._now())
        log.warning("too many historical requests (%s): %.2f a second from now on", reason, rate)

    async def _keep(self, wanted: int) -> None:
        """Take the permits and prolong them; without the database they are void once they may have expired."""
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while True:
            asked_at = loop.time()
            try:
                permits = await asyncio.to_thread(self._lease, wanted, self._now())
                renewed_at = asked_at
            except StateError as error:
                log.warning("permits for historical requests are not prolonged: %s", error)
                permits = self._permits if loop.time() - renewed_at < LEASE_SECONDS - RENEW_EVERY_SECONDS else 0
            async with self._changed:
                self._permits = permits
                self._changed.notify_all()
            await asyncio.sleep(RENEW_EVERY_SECONDS if permits else POLL_SECONDS)

    async def _take_permit(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.open_now < self._permits)
            self.open_now += 1

    async def _give_permit_back(self) -> None:
        self.open_now -= 1
        async with self._changed:
            self._changed.notify()

    async def _take_instant(self) -> None:
        now = self._now()
        instant = await asyncio.to_thread(self._take, now)
        await asyncio.sleep(max(0.0, (instant - self._now()).total_seconds()))

    def _now(self) -> datetime:
        return steady_now(asyncio.get_running_loop(), self._clock)

    # One transaction each, in a thread.

    def _lease(self, wanted: int, now: datetime) -> int:
        with self._database.write() as connection:
            return rules.lease_permits(
                connection, self._gateway, self._holder, wanted, ttl_seconds=LEASE_SECONDS, now=now
            )

    def _release(self) -> None:
        with self._database.write() as connection:
            rules.release_permits(connection, self._gateway, self._holder)

    def _take(self, now: datetime) -> datetime:
        with self._database.write() as connection:
            return rules.take(connection, self._gateway, configured_rate=self._rate, now=now)

    def _back_off(self, reason: str, now: datetime) -> float:
        with self._database.write() as connection:
            return rules.back_off(connection, self._gateway, reason=reason, configured_rate=self._rate, now=now)
