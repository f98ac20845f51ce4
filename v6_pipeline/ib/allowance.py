"""Where a process gets its send instants from: the allowance of all processes, or one of its own.

``SharedAllowance`` asks the state database and lives on its share while that cannot be reached; ``LocalAllowance`` is
that share, and serves a connection that shares its gateway with nobody. The rules are those of
``v6_pipeline.state.pacing.messages``. Instants are given in the running loop's seconds (``loop.time()``), because the
timers are what waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from v6_pipeline.errors import StateError
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.pacing import messages as pacing
from v6_pipeline.state.pacing.throttle import slow_down

log = logging.getLogger(__name__)

SLOW_SECONDS = 2.0
"""A database that does not answer for that long is taken for unavailable."""
PROBE_SECONDS = 0.05
"""How long a process on its share waits for a database that may be back."""
RETRY_SECONDS = 1.0
"""After a failure; with it all processes are back on grants well within ``pacing.SHARES_LINGER``."""
_ZERO = datetime(2000, 1, 1, tzinfo=UTC)


class Allowance(Protocol):
    """Hands out send instants."""

    async def take(self, count: int) -> list[float]:
        """Up to ``count`` instants, at least one, in order; each is of use until ``TOLERANCE`` after it."""

    async def back_off(self, reason: str) -> None:
        """The gateway said that messages came too fast: hand out fewer."""


class LocalAllowance:
    """An allowance of this process alone.

    Args:
        rate: messages a second.
    """

    def __init__(self, rate: float) -> None:
        self._state = pacing.PacingState(gateway="", configured_rate=rate, next_at=_ZERO)

    async def take(self, count: int) -> list[float]:
        """As the protocol says; answers at once."""
        return self.take_now(count)

    def take_now(self, count: int) -> list[float]:
        """The same for whoever cannot wait."""
        now = _now()
        self._state, instants = pacing.grant(self._state, count, now=now, earliest=now)
        return [(instant - _ZERO).total_seconds() for instant in instants]

    async def back_off(self, reason: str) -> None:
        """Halve the rate, as the shared one would."""
        self._state = slow_down(self._state, reason, pacing.BACK_OFF, now=_now())


class SharedAllowance:
    """The allowance of all processes that use a gateway, handed out by the state database in small grants.

    Args:
        database: of all processes.
        gateway: ``host:port``, the same text in every process.
        rate: messages a second by this process's settings. The process that starts last has read them last, so its
            rate holds for all from its first grant on.
        clock: UTC now.

    While the database fails or keeps us waiting for ``SLOW_SECONDS``, this process sends ``1 / SHARES`` of the rate, so
    that all together still keep to it; only a process that is cut off alone adds its share to what the others send.
    """

    def __init__(self, database: StateDatabase, gateway: str, rate: float, clock: Clock) -> None:
        self._database = database
        self._gateway = gateway
        self._rate = rate
        self._clock = clock
        self._share = LocalAllowance(rate / pacing.SHARES)
        self._announced = False
        self._on_share = False
        self._retry_at = 0.0
        self._took = 0.0
        self._asking: asyncio.Future[list[float]] | None = None

    async def take(self, count: int) -> list[float]:
        """As the protocol says. A grant that came too late to be used is wasted by whoever finds it so."""
        loop = asyncio.get_running_loop()
        if self._asking is None:
            if self._on_share and loop.time() < self._retry_at:
                return self._share.take_now(count)
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._ask, count, loop))
            self._asking.add_done_callback(_look_at)
        asking = self._asking
        # Not cancelled when this wait is: the thread cannot be stopped, and its grant may serve the next message.
        await asyncio.wait({asking}, timeout=PROBE_SECONDS if self._on_share else SLOW_SECONDS)
        if not asking.done():
            self._fall_back(f"no answer for {SLOW_SECONDS:g} s")
            return self._share.take_now(count)
        self._asking = None
        try:
            instants = asking.result()
        except StateError as error:
            self._retry_at = loop.time() + RETRY_SECONDS
            self._fall_back(str(error))
            return self._share.take_now(count)
        if self._on_share:
            self._on_share = False
            log.info("message allowance: the state database answers again")
        return instants

    async def back_off(self, reason: str) -> None:
        """Halve the rate of all processes."""
        await self._share.back_off(reason)
        try:
            report = await asyncio.to_thread(self._back_off, reason, asyncio.get_running_loop())
        except StateError as error:
            log.warning("too many messages (%s), but the other processes cannot be told: %s", reason, error)
        else:
            log.warning(
                "too many messages (%s): all processes together send %g a second instead of %g since %s",
                reason,
                report.current_rate,
                report.configured_rate,
                report.since,
            )

    def _fall_back(self, why: str) -> None:
        if not self._on_share:
            self._on_share = True
            share = self._rate / pacing.SHARES
            log.warning("message allowance: %s; this process sends its share of %.1f a second meanwhile", why, share)

    def _ask(self, count: int, loop: asyncio.AbstractEventLoop) -> list[float]:
        """One transaction, in a thread. The first instant lies after its commit, or a slow disk would waste each."""
        began = loop.time()
        now, at = self._clock(), began

        def read_clocks() -> datetime:
            nonlocal now, at
            now, at = steady_now(loop, self._clock), loop.time()
            return now

        instants = pacing.take(
            self._database,
            self._gateway,
            count,
            configured_rate=self._rate,
            clock=read_clocks,
            commit_seconds=self._took,
            announce=not self._announced,
            from_shares=self._on_share,
        )
        self._announced = True
        committing = loop.time() - at
        # A commit of a few milliseconds is within the tolerance, and a lone message need not wait for it twice.
        self._took = committing if committing > pacing.TOLERANCE.total_seconds() / 2 else 0.0
        log.debug("%d of %d messages granted in %.1f ms", len(instants), count, (loop.time() - began) * 1e3)
        return [at + (instant - now).total_seconds() for instant in instants]

    def _back_off(self, reason: str, loop: asyncio.AbstractEventLoop) -> pacing.PacingReport:
        return pacing.back_off(
            self._database,
            self._gateway,
            reason=reason,
            configured_rate=self._rate,
            clock=lambda: steady_now(loop, self._clock),
        )


class _Steady:
    """UTC that follows a clock forward at once, but never goes back or stands still."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: datetime | None = None
        self._shown_at = 0.0

    def now(self, clock: Clock, elapsed: Callable[[], float]) -> datetime:
        with self._lock:
            at, told = elapsed(), clock()
            if self._shown is not None:
                told = max(told, self._shown + timedelta(seconds=0.9 * (at - self._shown_at)))
            self._shown, self._shown_at = told, at
            return told


_STEADY: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Steady] = weakref.WeakKeyDictionary()


def steady_now(loop: asyncio.AbstractEventLoop, clock: Clock) -> datetime:
    """UTC for instants that the loop's timers wait for.

    ``clock``, unless that was set back or stands still: then nine tenths of the loop's pace until ``clock`` has caught
    up, because instants already handed out would else lie in a future that nobody reaches. One per loop, so that all
    connections of a process agree.
    """
    return _STEADY.setdefault(loop, _Steady()).now(clock, loop.time)


def _now() -> datetime:
    return _ZERO + timedelta(seconds=asyncio.get_running_loop().time())


def _look_at(asking: asyncio.Future[list[float]]) -> None:
    """An ask that nobody awaits any more has no complaint."""
    if not asking.cancelled():
        asking.exception()
