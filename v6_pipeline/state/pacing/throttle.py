"""The back-off rule of each rate that processes share: a violation halves it, quiet minutes double it again.

Pure: state and event in, new state out. ``messages`` and ``historical`` keep the state in a row per gateway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

RECOVERY = timedelta(seconds=60)
"""The rate doubles after each such time without a violation, up to the configured one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """The shared rate of one gateway; rates are per second.

    ``next_at`` is the first instant that is not handed out yet. ``slowed_to``, ``slowed_at`` and ``slowed_by`` describe
    the last violation: the rate after it, when it came, IB's code and text.
    """

    gateway: str
    configured_rate: float
    next_at: datetime
    slowed_to: float | None = None
    slowed_at: datetime | None = None
    slowed_by: str | None = None

    def rate(self, now: datetime) -> float:
        """The rate in force: the configured one, or what a violation left of it, doubled after each quiet minute."""
        if self.slowed_to is None or self.slowed_at is None:
            return self.configured_rate
        quiet = max(0, (now - self.slowed_at) // RECOVERY)
        # 2 ** 20 exceeds any rate; a year in minutes as the exponent would overflow a float.
        return min(self.configured_rate, self.slowed_to * 2.0 ** min(quiet, 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOffRule:
    """How much a violation costs.

    Args:
        slowest: rate per second below which no violation slows.
        burst: violations within that time after one that counted are the same burst, and cost nothing more.
        pause: no instant is handed out for that long, so that IB's window empties.
        pause_after_granted: the pause begins after the last instant that is handed out, instead of at the violation.
    """

    slowest: float
    burst: timedelta
    pause: timedelta
    pause_after_granted: bool = False


S = TypeVar("S", bound=RateState)


def slow_down(state: S, reason: str, rule: BackOffRule, *, now: datetime) -> S:
    """Halve the rate, once per burst of violations, and pause; ``reason`` is IB's code and text."""
    if state.slowed_at is not None and timedelta(0) <= now - state.slowed_at < rule.burst:
        return state
    resume_at = (max(state.next_at, now) if rule.pause_after_granted else now) + rule.pause
    return replace(
        state,
        slowed_to=max(min(rule.slowest, state.configured_rate), state.rate(now) / 2),
        slowed_at=now,
        slowed_by=reason,
        next_at=max(state.next_at, resume_at),
    )
