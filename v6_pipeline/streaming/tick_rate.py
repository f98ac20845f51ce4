"""How often a feed is heard, and from that how long a silence of it may last before it means something.

Pure. Forty streams that ticked each second and then none for twenty seconds have died; two options that hardly trade
have not. So what counts is how many ticks a silence has cost, by the rate at which they came before it.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime, timedelta

SILENT_AFTER = timedelta(seconds=90)
"""Of a feed that is heard seldom, or of which nothing is known yet."""
SUSPICIOUS_AFTER = timedelta(seconds=20)
"""Of the liveliest feed: markets hold their breath, and a gateway may stand still for some seconds."""
MISSED_TICKS = 12
"""A silence that cost so many is no chance."""
MEMORY = timedelta(seconds=30)
"""What happened longer ago hardly counts."""
SWARM = timedelta(seconds=0.5)
"""What ticks within it is heard once: one move of an underlying is a tick of each of its options."""
YOUNG = timedelta(seconds=5)
"""A shorter watch is taken for one of this length: a few ticks are no rate."""
LEAST_WEIGHT = 3.0
"""Fewer ticks of late, each worth less the older it is, tell nothing."""
MOST_QUICK = 3
QUICK_WITHIN = timedelta(minutes=15)
"""So many silences shorter than ``SILENT_AFTER`` are acted upon in that time: a market that stutters makes no storm."""


class Rhythm:
    """How often one feed is heard."""

    def __init__(self) -> None:
        self._heard_at: datetime | None = None
        self._watched = timedelta()
        self._weight = 0.0
        """Ticks, each worth less the older it is."""
        self._quick: deque[datetime] = deque(maxlen=MOST_QUICK)

    def heard(self, now: datetime) -> None:
        """A contract of the feed ticked."""
        if self._heard_at is not None:
            gap = now - self._heard_at
            if gap < SWARM:
                return
            self._watched += gap
            self._weight = self._weight * math.exp(-(gap / MEMORY)) + 1
        self._heard_at = now

    def pause(self) -> None:
        """The feed is away: until it is heard again says nothing of how often it ticks."""
        self._heard_at = None

    @property
    def per_second(self) -> float:
        """Ticks in a second, as of the last one; what was known before an outage holds after it."""
        watched = max(self._watched, YOUNG)
        return self._weight / (MEMORY.total_seconds() * (1 - math.exp(-(watched / MEMORY))))

    def patience(self, now: datetime) -> timedelta:
        """How long nothing may be heard before the feed is taken for dead."""
        rate = self.per_second
        is_tired = len(self._quick) == MOST_QUICK and now - self._quick[0] < QUICK_WITHIN
        if is_tired or self._weight < LEAST_WEIGHT or rate * SILENT_AFTER.total_seconds() <= MISSED_TICKS:
            return SILENT_AFTER
        return max(SUSPICIOUS_AFTER, timedelta(seconds=MISSED_TICKS / rate))

    def acted(self, now: datetime, *, after: timedelta) -> None:
        """The feed was taken for dead after so long a silence: how often it ticks has to be shown anew.

        Else what a new subscription brings at once would be missed again and again in a market that has calmed down.
        """
        if after < SILENT_AFTER:
            self._quick.append(now)
        self.pause()
        self._weight, self._watched = 0.0, timedelta()
