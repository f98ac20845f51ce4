"""Historical requests of all processes together: how many may be open, and at which instant the next may be made.

IB's rules (https://interactivebrokers.github.io/tws-api/historical_limitations.html): at most 50 requests open; of bars
of 30 seconds or less no more than 60 in ten minutes, no identical one within 15 seconds, and fewer than six of the same
contract, exchange and data within two seconds; a request for BID_ASK counts twice. Larger bars have no such numbers:
IB answers slower, and refuses with 162 when it is too much. So they go out at a steady rate, which each refusal halves
for all and which recovers.

A request for small bars is a row. Until it has left it counts as made now, because it may wait for the message rate.

Pure functions first, then the rows. Who asks is in ``v6_pipeline.ib.historical_pacing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, or_, select, update

from v6_pipeline.state.schema import historical_pacing, historical_permits, small_bar_requests
from v6_pipeline.state.upsert import upsert

OPEN_AT_IB = 50
MOST_OPEN = 40
"""Over all processes; the rest is head-room for a process that was taken for dead, and for TWS itself."""
SLOWEST = 0.1
"""Requests a second below which no refusal slows us: what IB allows for the smallest bars."""
SLOWED_ONCE_IN = timedelta(seconds=10)
"""One burst draws a refusal of several requests."""
PAUSE = timedelta(seconds=10)
"""Nobody asks for that long after a refusal."""
RECOVERY = timedelta(seconds=60)
"""The rate doubles after each such time without a refusal, up to the configured one."""
MARGIN = timedelta(seconds=1)
"""Added to IB's windows: a message takes longer to the gateway one time than another."""
_LOST_AFTER = timedelta(minutes=10)
"""A request that has not left by then never will: its process died."""


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``most`` within any ``seconds``, counted over what has equal ``by``; IB's, without our margin."""

    seconds: float
    most: int
    by: str = ""


WINDOWS = (Window(600, 60), Window(15, 1, "identity"), Window(2, 5, "contract"))
"""IB's rules for bars of 30 seconds or less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallBarRequest:
    """A request for small bars.

    ``contract`` is what the rule of two seconds goes by (contract, exchange, data), ``identity`` the whole request.
    ``left_at`` is ``None`` until it is on its way.
    """

    contract: str
    identity: str
    cost: int
    granted_at: datetime
    left_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoricalRate:
    """The rate of a gateway's historical requests, a second; ``slowed_*`` tell of the last refusal."""

    gateway: str
    configured_rate: float
    next_at: datetime
    slowed_to: float | None = None
    slowed_at: datetime | None = None
    slowed_by: str | None = None

    def rate(self, now: datetime) -> float:
        """The rate in force: the configured one, or what a refusal left of it, doubled after each quiet minute."""
        if self.slowed_to is None or self.slowed_at is None:
            return self.configured_rate
        quiet = max(0, (now - self.slowed_at) // RECOVERY)
        return min(self.configured_rate, self.slowed_to * 2.0 ** min(quiet, 20))


def seconds_until_allowed(request: SmallBarRequest, made: Iterable[SmallBarRequest], *, now: datetime) -> float:
    """How long ``request`` has to wait for IB's windows; 0 if it may go now. Asked again after that."""
    earlier = list(made)
    longest = 0.0
    for window in WINDOWS:
        seconds = timedelta(seconds=window.seconds) + MARGIN
        same = [item for item in earlier if not window.by or getattr(item, window.by) == getattr(request, window.by)]
        # An identical request is one too many whatever it costs; the windows of many count BID_ASK twice.
        own = 1 if window.by == "identity" else request.cost
        held = sorted((item.left_at or now, 1 if window.by == "identity" else item.cost) for item in same)
        held = [(at, cost) for at, cost in held if now - at < seconds]
        room = window.most - own - sum(cost for _, cost in held)
        for at, cost in held:
            if room >= 0:
                break
            room += cost
            longest = max(longest, (at + seconds - now).total_seconds())
    return longest


def grant(state: HistoricalRate, *, now: datetime) -> tuple[HistoricalRate, datetime]:
    """Hand out the next instant; returns the state after it and the instant. Idle time is not saved up.

    A row whose next instant lies absurdly far ahead was written by a clock that was wrong, and is set back.
    """
    longest = timedelta(seconds=OPEN_AT_IB / SLOWEST) + PAUSE
    free_at = state.next_at if state.next_at - now <= longest else now
    instant = max(now, free_at)
    return replace(state, next_at=instant + timedelta(seconds=1 / state.rate(now))), instant


def slow_down(state: HistoricalRate, reason: str, *, now: datetime) -> HistoricalRate:
    """Halve the rate, once per burst of refusals, and pause."""
    if state.slowed_at is not None and timedelta(0) <= now - state.slowed_at < SLOWED_ONCE_IN:
        return state
    return replace(
        state,
        slowed_to=max(min(SLOWEST, state.configured_rate), state.rate(now) / 2),
        slowed_at=now,
        slowed_by=reason,
        next_at=max(state.next_at, now + PAUSE),
    )


def take(connection: Connection, gateway: str, *, configured_rate: float, now: datetime) -> datetime:
    """The instant of the next request for bars of any size, in a write transaction."""
    state, instant = grant(_read(connection, gateway, configured_rate, now), now=now)
    _write(connection, replace(state, configured_rate=configured_rate))
    return instant


def back_off(connection: Connection, gateway: str, *, reason: str, configured_rate: float, now: datetime) -> float:
    """Slow all processes down, in a write transaction; returns the rate that holds now."""
    state = slow_down(_read(connection, gateway, configured_rate, now), reason, now=now)
    _write(connection, state)
    return state.rate(now)


def take_small(
    connection: Connection, gateway: str, request_id: str, request: SmallBarRequest, *, now: datetime
) -> float:
    """Enter a request for small bars if IB's windows have room, in a write transaction; else the seconds to wait."""
    _prune(connection, gateway, now)
    rows = connection.execute(select(small_bar_requests).where(small_bar_requests.c.gateway == gateway))
    wait = seconds_until_allowed(request, [_small(row) for row in rows], now=now)
    if not wait:
        upsert(connection, small_bar_requests, [{"id": request_id, "gateway": gateway} | asdict(request)])
    return wait


def note_left(connection: Connection, request_ids: Sequence[str], *, now: datetime) -> None:
    """These requests for small bars are on their way, or never will be."""
    connection.execute(
        update(small_bar_requests).where(small_bar_requests.c.id.in_(list(request_ids))).values(left_at=now)
    )


def lease_permits(
    connection: Connection, gateway: str, holder: str, wanted: int, *, ttl_seconds: float, now: datetime
) -> int:
    """Take up to ``wanted`` of the requests that may be open, or prolong them; 0 if all are out.

    In a write transaction; the permits of a holder that did not prolong them in time are free.
    """
    table = historical_permits
    here = table.c.gateway == gateway
    connection.execute(delete(table).where(here, table.c.expires_at <= now))
    taken = connection.scalar(select(func.coalesce(func.sum(table.c.permits), 0)).where(here, table.c.holder != holder))
    permits = min(wanted, MOST_OPEN - int(taken or 0))
    if permits > 0:
        row = {"gateway": gateway, "holder": holder, "permits": permits}
        upsert(connection, table, [row | {"expires_at": now + timedelta(seconds=ttl_seconds)}])
    return max(0, permits)


def release_permits(connection: Connection, gateway: str, holder: str) -> None:
    """Give the permits back, in a write transaction; harmless if there are none."""
    table = historical_permits
    connection.execute(delete(table).where(table.c.gateway == gateway, table.c.holder == holder))


def _prune(connection: Connection, gateway: str, now: datetime) -> None:
    """Forget what no window reaches any more, and what never left."""
    table = small_bar_requests
    longest = timedelta(seconds=max(window.seconds for window in WINDOWS)) + MARGIN
    over = or_(table.c.left_at <= now - longest, table.c.left_at.is_(None) & (table.c.granted_at <= now - _LOST_AFTER))
    connection.execute(delete(table).where(table.c.gateway == gateway, over))


def _small(row: object) -> SmallBarRequest:
    return SmallBarRequest(**{name: getattr(row, name) for name in SmallBarRequest.__dataclass_fields__})


def _read(connection: Connection, gateway: str, configured_rate: float, now: datetime) -> HistoricalRate:
    row = connection.execute(select(historical_pacing).where(historical_pacing.c.gateway == gateway)).mappings().first()
    return (
        HistoricalRate(gateway=gateway, configured_rate=configured_rate, next_at=now)
        if row is None
        else HistoricalRate(**row)
    )


def _write(connection: Connection, state: HistoricalRate) -> None:
    upsert(connection, historical_pacing, [asdict(state)])
