"""Request rates of web services over all processes: a maximum number of requests in any window of time.

One row per service and credential has the times of the last requests. A process takes the write lock, checks the
windows and either may send, which is recorded at once, or gets the time to wait and tries again. Nothing is reserved
for later, so a process that dies while it waits delays no other.

*Clocks.* The clock is read while the write lock is held, so a wait for the lock cannot make it stale. A recorded
instant in the future was written before a clock was set back, or by a machine whose clock is ahead: it counts, which
errs on the safe side, but never as further ahead than the longest window, so that a clock set back by an hour causes no
hour of waiting. A clock set forward makes requests look older than they are, which cannot be detected here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from v6_pipeline.state.database import writes
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.schema import request_rates
from v6_pipeline.state.upsert import upsert

LONGEST_PAUSE = timedelta(minutes=10)
"""A pause that ends later was written by a wrong clock, and is ignored."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``count`` requests in any ``length`` of time."""

    count: int
    length: timedelta


def wait_for(sent_at: Sequence[datetime], windows: Sequence[Window], *, now: datetime) -> timedelta:
    """Time until one more request keeps every window; zero if it may be sent now. ``sent_at`` is oldest first."""
    waits = [sent_at[-window.count] + window.length - now for window in windows if len(sent_at) >= window.count]
    return max([timedelta(0), *waits])


@writes
def take(connection: Connection, name: str, windows: Sequence[Window], *, clock: Clock) -> timedelta:
    """Allow a request now and record it, or return the time to wait before the next call.

    Zero means that the request may be sent at once, and has been counted. ``name`` is that of the service and
    credential; it must not be a secret itself.
    """
    now = clock()
    known, paused_until = _read(connection, name)
    latest = now + max(window.length for window in windows)
    # Set back to now and written: if it were set back at every call, the wait would never end.
    sent_at = sorted(now if instant > latest else instant for instant in known)
    wait = max(wait_for(sent_at, windows, now=now), _left(paused_until, now))
    if wait <= timedelta(0):
        # After a clock was set back, earlier requests may lie ahead without forbidding this one.
        sent_at = sorted([*sent_at, now])[-max(window.count for window in windows) :]
        wait = timedelta(0)
    if sent_at != known:
        _write(connection, name, sent_at, paused_until)
    return wait


@writes
def pause(connection: Connection, name: str, duration: timedelta, *, clock: Clock) -> None:
    """Stop all requests for a while, after the service reported too many; a longer pause in force stays.

    ``duration`` counts up to ``LONGEST_PAUSE``; ``name`` is as in ``take``.
    """
    now = clock()
    sent_at, paused_until = _read(connection, name)
    _write(connection, name, sent_at, now + max(min(duration, LONGEST_PAUSE), _left(paused_until, now)))


def _left(paused_until: datetime | None, now: datetime) -> timedelta:
    """Rest of a pause; zero if it ends later than any pause can."""
    left = timedelta(0) if paused_until is None else paused_until - now
    return left if timedelta(0) < left <= LONGEST_PAUSE else timedelta(0)


def _read(connection: Connection, name: str) -> tuple[list[datetime], datetime | None]:
    row = connection.execute(select(request_rates).where(request_rates.c.name == name)).first()
    if row is None:
        return [], None
    return [_EPOCH + number * _MICROSECOND for number in row.sent_at], row.paused_until


def _write(connection: Connection, name: str, sent_at: Sequence[datetime], paused_until: datetime | None) -> None:
    numbers = [(instant - _EPOCH) // _MICROSECOND for instant in sent_at]
    upsert(connection, request_rates, [{"name": name, "sent_at": numbers, "paused_until": paused_until}])
