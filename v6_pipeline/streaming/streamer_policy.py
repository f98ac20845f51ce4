"""How often a running streamer looks at what others may have changed.

A value of its own, so that a simulation can make a whole trading day cheap; nobody else has a reason to change it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamerPolicy:
    """Seconds between two looks."""

    lease: float = 1
    """At the lease: report, and hear whether to stop."""
    registry: float = 1
    """At the strategies: a change of another process is followed within twice that."""
    upkeep: float = 1
    """At what has become due: rows of silent contracts, the ledger, exchange rates."""
