"""Tick rate of a feed, and from it how long the feed may be silent before it is taken for dead.

Pure. Forty streams that ticked each second and then none for twenty seconds have died; two options that hardly trade
have not. So the number of missed ticks counts, at the rate before the silence.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime, timedelta

SILENT_AFTER = timedelta(seconds=90)
"""Timeout of a feed that ticks seldom, or whose rate is not known yet."""
SUSPICIOUS_AFTER = timedelta(seconds=20)
"""Timeout of the liveliest feed: markets pause, and a gateway may stall for some seconds."""
MISSED_TICKS = 12
"""A silence that cost so many ticks is not chance."""
MEMORY = timedelta(seconds=30)
"""Time constant of the exponential decay."""
SWARM = timedelta(seconds=0.5)
"""Ticks within it count as one: one move of an underlying is a tick of each of its options."""
YOUNG = timedelta(seconds=5)
"""A shorter observation is taken for one of this length: a few ticks are no rate."""
LEAST_WEIGHT = 3.0
"""Fewer recent ticks, each weighted by its age, give no rate."""
MOST_QUICK = 3
QUICK_WITHIN = timedelta(minutes=15)
"""At most so many silences shorter than ``SILENT_AFTER`` count in that time: a market that stutters makes no storm."""


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
        """Leave the time until the next tick out of the rate: the feed is away."""
        self._last_tick_at = None

    @property
    def per_second(self) -> float:
        """Ticks per second at the last tick; an outage does not change it."""
        observed = max(self._observed, YOUNG)
        return self._weight / (MEMORY.total_seconds() * (1 - math.exp(-(observed / MEMORY))))

    def timeout(self, now: datetime) -> timedelta:
        """Return how long the feed may be silent before it is taken for dead."""
        rate = self.per_second
        is_limited = len(self._quick) == MOST_QUICK and now - self._quick[0] < QUICK_WITHIN
        if is_limited or self._weight < LEAST_WEIGHT or rate * SILENT_AFTER.total_seconds() <= MISSED_TICKS:
            return SILENT_AFTER
        return max(SUSPICIOUS_AFTER, timedelta(seconds=MISSED_TICKS / rate))

    def restart(self, now: datetime, *, after: timedelta) -> None:
        """Measure from zero: the feed was taken for dead after so long a silence.

        Otherwise the opening ticks of a new subscription would be missed again and again in a market that has calmed.
        """
        if after < SILENT_AFTER:
            self._quick.append(now)
        self.pause()
        self._weight, self._observed = 0.0, timedelta()
