"""How often a streamer looks at what.

Belongs here: its intervals. The deadlines of lines and feeds stand with their rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

SLOT_RENEWAL = timedelta(seconds=15)
RATES_RELOAD = timedelta(seconds=30)
ROUTE_AT_LEAST_EVERY = timedelta(seconds=15)
"""Lines may come free without an event (a batch ends, a limit is raised)."""
SESSION_PAUSE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class StreamerPolicy:
    """Intervals in seconds; longer ones make the simulation of a trading day cheap."""

    lease: float = 1
    """Report to the lease, and read whether to stop."""
    registry: float = 1
    """Read the strategies: a change by another process takes effect within twice this time."""
    upkeep: float = 1
    """Make rows of silent contracts, renew lines, read exchange rates."""
