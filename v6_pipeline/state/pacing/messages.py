"""The message allowance of all processes together: the instants at which each may send.

IB counts the messages of a login in any rolling second, whichever process sends them (50 at 100 market-data lines). So
every message needs an *instant*, and one row per gateway grants instants, ``spacing`` apart over all processes. A
message is sent within ``TOLERANCE`` after its instant or not at all; a missed instant is wasted. Idle time is not saved
up, and a process that dies wastes only the instants it held.

*The bound.* A message sent in a given second, a half-open interval, has its instant in that second or up to
``TOLERANCE`` before it: in a half-open interval of ``1 + TOLERANCE`` seconds, which holds at most ``rate`` instants.
IB counts a message when the gateway reads it. If the way there (a sender that is not scheduled, the network, a busy
gateway) takes up to ``JITTER`` longer at one time than at another, a second of the gateway's count holds the instants
of ``1 + TOLERANCE + JITTER`` seconds: at most ``IB_LIMIT``, or the rate where the settings allow more. At the default
of 45 this decides: 38.5 messages a second, and never more than 50 in one. With a margin of 115 ms, four refreshes and a
streamer on a busy machine once made it 52. A lower rate only widens the distances, so the bound holds across every
change of the rate.

*Clocks.* Instants are UTC by the state database's clock, which each process knows to within a round trip: d seconds of
error between two processes add d to the tolerance between them, and the process behind waits d longer. A row whose
next instant is further ahead than all grants together can reach was written by a wrong clock; it is set back, so that
no process waits for it.

Pure functions on ``PacingState`` first, then the row. ``ib.pacing`` sends the messages.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select, update

from v6_pipeline.settings import RUN_CLIENT_IDS
from v6_pipeline.state.database import reads, writes
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.pacing.throttle import BackOffRule, RateState, slow_down
from v6_pipeline.state.schema import message_pacing
from v6_pipeline.state.upsert import upsert

TOLERANCE = timedelta(milliseconds=50)
"""Time after its instant in which a message may still be sent."""
JITTER = timedelta(milliseconds=250)
"""Variation of a message's way to the gateway's count that cannot exceed IB's limit."""
IB_LIMIT = 50
"""Messages that IB accepts in any second at the default of 100 market-data lines: half as many as lines."""
GRANT_SECONDS = 0.25
"""A grant covers at most this much of the allowance (11 messages at 45 a second), but always one message."""
SHARES = 1 + RUN_CLIENT_IDS
"""Most processes that connect: the streamer and 15 runs. Each sends its share while the row cannot be reached."""
BACK_OFF = BackOffRule(slowest=5.0, burst=timedelta(seconds=5), pause=timedelta(seconds=1), pause_after_granted=True)
"""One burst draws an error in several processes, and on several messages. Heartbeats and cancels must always pass."""
SHARES_LINGER = timedelta(seconds=3)
"""Time in which others may still use their shares once the row can be reached again; longer than their retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacingState(RateState):
    """The allowance of one gateway. Until ``shares_until`` some processes may use their shares of it."""

    shares_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PacingReport:
    """The allowance for display: ``since`` and ``reason`` are those of a slowed rate, ``None`` at full speed."""

    gateway: str
    configured_rate: float
    current_rate: float
    since: datetime | None
    reason: str | None


def spacing(rate: float) -> timedelta:
    """Return the distance of consecutive instants at ``rate`` messages a second."""
    window = 1 + TOLERANCE.total_seconds()
    seconds = max(window / rate, (window + JITTER.total_seconds()) / max(IB_LIMIT, rate))
    # Rounded up, though not for the noise of a float.
    return timedelta(microseconds=math.ceil(round(1e6 * seconds, 3)))


def grant(
    state: PacingState, count: int, *, now: datetime, earliest: datetime
) -> tuple[PacingState, tuple[datetime, ...]]:
    """Grant up to ``count`` consecutive instants, at least one; return the new state and the instants.

    ``earliest`` is the first instant that the process can use, since writing the row takes time.
    """
    rate = state.rate(now)
    longest = 2 * SHARES * max(GRANT_SECONDS, 1 / rate)
    if state.shares_until is not None and now < state.shares_until:
        rate /= SHARES
    distance = spacing(rate)
    # Instants of the next second that a process with another clock holds pass first.
    free_at = state.next_at if (state.next_at - now).total_seconds() <= longest else now + BACK_OFF.pause
    first = max(now, earliest, free_at)
    instants = tuple(first + index * distance for index in range(max(1, min(count, int(rate * GRANT_SECONDS)))))
    return replace(state, next_at=instants[-1] + distance), instants


@writes
def take(
    connection: Connection,
    gateway: str,
    count: int,
    *,
    configured_rate: float,
    clock: Clock,
    commit_seconds: float = 0.0,
    announce: bool = False,
    from_shares: bool = False,
) -> tuple[datetime, ...]:
    """Take up to ``count`` consecutive send instants of a gateway, at least one, in a write transaction.

    ``gateway`` is ``host:port``; ``configured_rate`` is in messages a second, by this process's settings. ``clock`` is
    UTC and read while the write lock is held, so that a wait for the lock cannot make it stale; the first instant lies
    at least ``commit_seconds`` later. ``announce`` marks the process's first grant: it read the settings last, so its
    rate holds for all. ``from_shares`` means that the process used its share until now: others may still use theirs for
    a moment, in which grants stay small.
    """
    now = clock()
    known = _read(connection, gateway)
    state = known or PacingState(gateway=gateway, configured_rate=configured_rate, next_at=now)
    if announce and state.configured_rate != configured_rate:
        state = replace(state, configured_rate=configured_rate)
    if from_shares:
        state = replace(state, shares_until=now + SHARES_LINGER)
    changed = state != known
    state, instants = grant(state, count, now=now, earliest=now + timedelta(seconds=commit_seconds))
    if changed:
        _write(connection, state)
    else:
        connection.execute(_ADVANCE, {"row": gateway, "next_at": state.next_at})
    return instants


@writes
def back_off(
    connection: Connection, gateway: str, *, reason: str, configured_rate: float, clock: Clock
) -> PacingReport:
    """Slow all processes down after a pacing error; return the allowance in force now."""
    now = clock()
    state = _read(connection, gateway) or PacingState(gateway=gateway, configured_rate=configured_rate, next_at=now)
    state = slow_down(state, reason, BACK_OFF, now=now)
    _write(connection, state)
    return _report(state, now)


@reads
def describe(connection: Connection, *, now: datetime) -> tuple[PacingReport, ...]:
    """List the allowance of each gateway that was ever used, by name."""
    rows = connection.execute(select(message_pacing).order_by(message_pacing.c.gateway)).mappings()
    return tuple(_report(PacingState(**row), now) for row in rows)


def _report(state: PacingState, now: datetime) -> PacingReport:
    rate = state.rate(now)
    slowed = rate < state.configured_rate
    return PacingReport(
        gateway=state.gateway,
        configured_rate=state.configured_rate,
        current_rate=rate,
        since=state.slowed_at if slowed else None,
        reason=state.slowed_by if slowed else None,
    )


# Built once: a single message waits for both, and building them costs more than running them.
_ROW = select(message_pacing).where(message_pacing.c.gateway == bindparam("row"))
_ADVANCE = (
    update(message_pacing).where(message_pacing.c.gateway == bindparam("row")).values(next_at=bindparam("next_at"))
)


def _read(connection: Connection, gateway: str) -> PacingState | None:
    row = connection.execute(_ROW, {"row": gateway}).mappings().first()
    return None if row is None else PacingState(**row)


def _write(connection: Connection, state: PacingState) -> None:
    upsert(connection, message_pacing, [asdict(state)])
