"""One run's part in the pacing of historical requests: permits for open requests, and an instant for each request.

The rules over all processes are in ``state.pacing.historical``. The message then waits for the message rate as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime

from v6_pipeline.errors import StateError
from v6_pipeline.ib.allowance import steady_now
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.pacing import historical as rules

log = logging.getLogger(__name__)

REQUESTS_PER_SECOND = 10.0
"""IB gives no number for bars of a minute and more; each refusal halves it."""
LEASE_SECONDS = 60.0
RENEW_EVERY_SECONDS = 15.0
POLL_SECONDS = 1.0
"""Between two attempts to take permits while other runs hold all of them."""


class HistoricalPacer:
    """Admits the requests of one run when the rules over all runs allow it.

    ``gateway`` is ``host:port``, ``holder`` is unique to the run, ``rate`` is in requests a second.
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
        """Requests that were admitted."""
        self.refusals = 0
        """Requests that IB refused as too fast."""

    @contextlib.asynccontextmanager
    async def permits(self, wanted: int) -> AsyncIterator[None]:
        """Hold up to ``wanted`` permits while inside; requests wait while other runs hold all of them."""
        renewal = asyncio.create_task(self._renew_permits(wanted), name="historical permits")
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            with contextlib.suppress(StateError):  # they expire on their own
                await asyncio.shield(ask(rules.release_permits, self._database, self._gateway, self._holder))

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
            await self._return_permit()

    async def back_off(self, reason: str) -> None:
        """Halve the request rate of all processes, because IB refused a request as too fast."""
        self.refusals += 1
        rate = await ask(
            rules.back_off,
            self._database,
            self._gateway,
            reason=reason,
            configured_rate=self._rate,
            now=self._now(),
        )
        log.warning("historical requests are too fast (%s): all processes now make %.2f a second", reason, rate)

    async def _renew_permits(self, wanted: int) -> None:
        """Take the permits and renew them; while the database fails, drop them before they can expire."""
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while True:
            began_at = loop.time()
            try:
                permits = await ask(
                    rules.lease_permits,
                    self._database,
                    self._gateway,
                    self._holder,
                    wanted,
                    ttl_seconds=LEASE_SECONDS,
                    now=self._now(),
                )
                renewed_at = began_at
            except StateError as error:
                log.warning("permits for historical requests are not renewed: %s", error)
                permits = self._permits if loop.time() - renewed_at < LEASE_SECONDS - RENEW_EVERY_SECONDS else 0
            async with self._changed:
                self._permits = permits
                self._changed.notify_all()
            await asyncio.sleep(RENEW_EVERY_SECONDS if permits else POLL_SECONDS)

    async def _take_permit(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.open_now < self._permits)
            self.open_now += 1

    async def _return_permit(self) -> None:
        self.open_now -= 1
        async with self._changed:
            self._changed.notify()

    async def _take_instant(self) -> None:
        instant = await ask(rules.take, self._database, self._gateway, configured_rate=self._rate, now=self._now())
        await asyncio.sleep(max(0.0, (instant - self._now()).total_seconds()))

    def _now(self) -> datetime:
        return steady_now(asyncio.get_running_loop(), self._clock)
