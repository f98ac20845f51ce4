"""Tick rate of a feed, and how long at that rate the feed may be silent before it counts as dead.

Pure. Forty streams that ticked every second and then fell silent for twenty seconds have died; two options that hardly
trade have not. So what counts is the number of ticks missed, at the rate before the silence.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime, timedelta

SILENT_AFTER = timedelta(seconds=90)
"""Timeout of a feed that ticks seldom, or whose rate is not known yet."""
SUSPICIOUS_AFTER = timedelta(seconds=20)
"""Shortest timeout of any feed: markets pause, and a gateway may stall for some seconds."""
MISSED_TICKS = 12
"""A silence in which this many ticks are missed is no coincidence."""
MEMORY = timedelta(seconds=30)
"""Time constant of the exponential decay."""
SWARM = timedelta(seconds=0.5)
"""Ticks this close together count as one: one move of an underlying makes all its options tick."""
YOUNG = timedelta(seconds=5)
"""A shorter observation counts as one of this length: a few ticks are not yet a rate."""
LEAST_WEIGHT = 3.0
"""Least sum of recent ticks, each weighted by its age, that gives a rate."""
MOST_QUICK = 3
QUICK_WITHIN = timedelta(minutes=15)
"""Limit on silences shorter than ``SILENT_AFTER`` that count in this time: a stuttering market makes no storm."""


class TickRate:
    """Tick rate of one feed."""

    def __init__(self) -> None:
        self._last_tick_at: datetime | None = None
        self._observed = timedelta()
        self._weight = 0.0
        """Ticks, weighted by their age."""
        self._quick: deque[datetime] = deque(maxlen=MOST_QUICK)

    def ticked(self, now: datetime) -> None:
        """Count a tick of the feed."""
        if self._last_tick_at is not None:
            gap = now - self._last_tick_at
            if gap < SWARM:
                return
            self._observed += gap
            self._weight = self._weight * math.exp(-(gap / MEMORY)) + 1
        self._last_tick_at = now

    def pause(self) -> None:
        """Leave the time until the next tick out of the rate, as the feed is away."""
        self._last_tick_at = None

    @property
    def per_second(self) -> float:
        """Ticks per second at the last tick; an outage does not change it."""
        observed = max(self._observed, YOUNG)
        return self._weight / (MEMORY.total_seconds() * (1 - math.exp(-(observed / MEMORY))))

    def timeout(self, now: datetime) -> timedelta:
        """Return how long the feed may be silent before it counts as dead."""
        rate = self.per_second
        is_limited = len(self._quick) == MOST_QUICK and now - self._quick[0] < QUICK_WITHIN
        if is_limited or self._weight < LEAST_WEIGHT or rate * SILENT_AFTER.total_seconds() <= MISSED_TICKS:
            return SILENT_AFTER
        return max(SUSPICIOUS_AFTER, timedelta(seconds=MISSED_TICKS / rate))

    def restart(self, now: datetime, *, after: timedelta) -> None:
        """Measure from the start again, as the feed was declared dead ``after`` so long a silence.

        Otherwise, in a market that has calmed, the old rate would declare it dead again and again.
        """
        if after < SILENT_AFTER:
            self._quick.append(now)
        self.pause()
        self._weight, self._observed = 0.0, timedelta()
