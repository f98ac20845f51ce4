"""Source of a process's send instants: the allowance that all processes share, or one of its own.

``SharedAllowance`` takes grants from the state database, and falls back to its share while the database cannot be
reached. ``LocalAllowance`` is that share; it also serves a connection that is alone at its gateway. The rules are those
of ``v6_pipeline.state.pacing.messages``. Instants are in the running loop's seconds (``loop.time()``), because the
loop's timers wait for them.
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
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.pacing import messages as pacing
from v6_pipeline.state.pacing.throttle import slow_down

log = logging.getLogger(__name__)

SLOW_SECONDS = 2.0
"""A database that does not answer for that long counts as unavailable."""
PROBE_SECONDS = 0.05
"""Time-out of a request to a database that may be back, while the process sends at its share."""
RETRY_SECONDS = 1.0
"""Pause after a failure; short enough that all processes take grants again within ``pacing.SHARES_LINGER``."""
_CLOCK_READS = 5
_TOGETHER_SECONDS = 0.002
"""Two clocks are read together within this time. A process that is suspended between the readings would shift the
instants of its grant by as long, against those of all other processes."""
_ZERO = datetime(2000, 1, 1, tzinfo=UTC)


class Allowance(Protocol):
    """Hands out send instants."""

    async def take(self, count: int) -> list[float]:
        """Take up to ``count`` instants, at least one, in order; each is usable until ``TOLERANCE`` after it."""

    async def back_off(self, reason: str) -> None:
        """Lower the rate, because the gateway reported that messages came too fast."""


class LocalAllowance:
    """An allowance for this process alone, at ``rate`` messages a second."""

    def __init__(self, rate: float) -> None:
        self._state = pacing.PacingState(gateway="", configured_rate=rate, next_at=_ZERO)

    async def take(self, count: int) -> list[float]:
        """Take instants without waiting."""
        return self.take_now(count)

    def take_now(self, count: int) -> list[float]:
        """Take instants, as ``take``, outside a coroutine."""
        now = _now()
        self._state, instants = pacing.grant(self._state, count, now=now, earliest=now)
        return [(instant - _ZERO).total_seconds() for instant in instants]

    async def back_off(self, reason: str) -> None:
        """Halve the rate, as the shared allowance does."""
        self._state = slow_down(self._state, reason, pacing.BACK_OFF, now=_now())


class SharedAllowance:
    """The allowance of all processes that use a gateway, handed out by the state database in small grants.

    Args:
        gateway: ``host:port``, the same text in every process.
        rate: messages a second by this process's settings. The process that started last has the newest settings, so
            its rate applies to all processes from its first grant on.

    While the database fails or does not answer within ``SLOW_SECONDS``, this process sends at ``1 / SHARES`` of the
    rate, so that all processes together keep to it. A process that is cut off alone adds its share to the others' rate.
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
        self._request: asyncio.Future[list[float]] | None = None

    async def take(self, count: int) -> list[float]:
        """Take instants; the caller skips those of a grant that came too late."""
        loop = asyncio.get_running_loop()
        if self._request is None:
            if self._on_share and loop.time() < self._retry_at:
                return self._share.take_now(count)
            self._request = asyncio.ensure_future(ask(self._take_grant, count, loop))
            self._request.add_done_callback(_retrieve_error)
        request = self._request
        # Not cancelled together with this wait: the thread cannot be stopped, and its grant may serve the next message.
        await asyncio.wait({request}, timeout=PROBE_SECONDS if self._on_share else SLOW_SECONDS)
        if not request.done():
            self._fall_back(f"no answer for {SLOW_SECONDS:g} s")
            return self._share.take_now(count)
        self._request = None
        try:
            instants = request.result()
        except StateError as error:
            self._retry_at = loop.time() + RETRY_SECONDS
            self._fall_back(str(error))
            return self._share.take_now(count)
        if self._on_share:
            self._on_share = False
            log.info("message allowance: the state database answers again, so grants are shared again")
        return instants

    async def back_off(self, reason: str) -> None:
        """Halve the rate of all processes."""
        await self._share.back_off(reason)
        try:
            report = await ask(self._back_off, reason, asyncio.get_running_loop())
        except StateError as error:
            log.warning("too many messages (%s); the other processes were not slowed down: %s", reason, error)
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
            log.warning("message allowance: %s; this process now sends its share of %.1f a second", why, share)

    def _take_grant(self, count: int, loop: asyncio.AbstractEventLoop) -> list[float]:
        """Take a grant in one transaction. Its first instant lies after the commit, or a slow disk would waste it."""
        began = loop.time()
        now, at = self._clock(), began

        def read_clocks() -> datetime:
            nonlocal now, at
            for _ in range(_CLOCK_READS):
                before = loop.time()
                now, at = steady_now(loop, self._clock), loop.time()
                if at - before < _TOGETHER_SECONDS:
                    break
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
        # A commit of a few milliseconds is within the tolerance, and a single message need not wait for it twice.
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
            at, shown = elapsed(), clock()
            if self._shown is not None:
                shown = max(shown, self._shown + timedelta(seconds=0.9 * (at - self._shown_at)))
            self._shown, self._shown_at = shown, at
            return shown


_STEADY: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Steady] = weakref.WeakKeyDictionary()


def steady_now(loop: asyncio.AbstractEventLoop, clock: Clock) -> datetime:
    """Return UTC for instants that the loop's timers wait for.

    This is ``clock``, unless that was set back or stands still: then it advances at nine tenths of the loop's pace
    until ``clock`` has caught up, because instants already handed out would otherwise lie in a future that never comes.
    There is one per loop, so that all connections of a process agree.
    """
    return _STEADY.setdefault(loop, _Steady()).now(clock, loop.time)


def _now() -> datetime:
    return _ZERO + timedelta(seconds=asyncio.get_running_loop().time())


def _retrieve_error(request: asyncio.Future[list[float]]) -> None:
    """Retrieve the error of a grant that is no longer awaited, so that asyncio does not log it."""
    if not request.cancelled():
        request.exception()
