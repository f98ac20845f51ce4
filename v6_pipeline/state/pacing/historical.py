"""Historical requests of all processes together: how many may be open, and at which instant the next may be made.

IB allows 50 open requests (https://interactivebrokers.github.io/tws-api/historical_limitations.html) and gives no rate
for bars of a minute and more: it answers more slowly, and refuses with 162 when there are too many. So requests go out
at a steady rate, which each refusal halves for all processes and which recovers. Bars of 30 seconds and less have rules
of their own, which nothing here enforces: the product requests bars of ``1 day`` and ``30 mins`` only.

Pure functions first, then the rows. The requests are made in ``v6_pipeline.ib.historical_pacing``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, select

from v6_pipeline.state.database import writes
from v6_pipeline.state.pacing.throttle import BackOffRule, RateState, slow_down
from v6_pipeline.state.schema import historical_pacing, historical_permits
from v6_pipeline.state.upsert import upsert

OPEN_AT_IB = 50
MOST_OPEN = 40
"""Over all processes; the rest is head-room for a process wrongly taken for dead, and for TWS itself."""
BACK_OFF = BackOffRule(slowest=0.1, burst=timedelta(seconds=10), pause=timedelta(seconds=10))
"""One burst draws a refusal of several requests. The slowest rate is what IB allows for the smallest bars."""


def grant(state: RateState, *, now: datetime) -> tuple[RateState, datetime]:
    """Hand out the next instant; return the state after it and the instant. Idle time is not saved up.

    A row whose next instant lies absurdly far ahead was written by a wrong clock, and is set back.
    """
    longest = timedelta(seconds=OPEN_AT_IB / BACK_OFF.slowest) + BACK_OFF.pause
    free_at = state.next_at if state.next_at - now <= longest else now
    instant = max(now, free_at)
    return replace(state, next_at=instant + timedelta(seconds=1 / state.rate(now))), instant


@writes
def take(connection: Connection, gateway: str, *, configured_rate: float, now: datetime) -> datetime:
    """Take the instant of the next request."""
    state, instant = grant(_read(connection, gateway, configured_rate, now), now=now)
    _write(connection, replace(state, configured_rate=configured_rate))
    return instant


@writes
def back_off(connection: Connection, gateway: str, *, reason: str, configured_rate: float, now: datetime) -> float:
    """Slow all processes down; return the rate now in force."""
    state = slow_down(_read(connection, gateway, configured_rate, now), reason, BACK_OFF, now=now)
    _write(connection, state)
    return state.rate(now)


@writes
def lease_permits(
    connection: Connection, gateway: str, holder: str, wanted: int, *, ttl_seconds: float, now: datetime
) -> int:
    """Take up to ``wanted`` permits for open requests, or renew them; return how many, 0 if others hold all.

    The permits of a holder that did not renew them in time are free.
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


@writes
def release_permits(connection: Connection, gateway: str, holder: str) -> None:
    """Release a holder's permits; harmless if it has none."""
    table = historical_permits
    connection.execute(delete(table).where(table.c.gateway == gateway, table.c.holder == holder))


def _read(connection: Connection, gateway: str, configured_rate: float, now: datetime) -> RateState:
    row = connection.execute(select(historical_pacing).where(historical_pacing.c.gateway == gateway)).mappings().first()
    return RateState(gateway=gateway, configured_rate=configured_rate, next_at=now) if row is None else RateState(**row)


def _write(connection: Connection, state: RateState) -> None:
    upsert(connection, historical_pacing, [asdict(state)])
