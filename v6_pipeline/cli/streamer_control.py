"""Ending a streamer from outside: asking it to stop, waiting for that, and clearing up after one that died.

The streamer itself is ``v6_pipeline.streamer``; who may stream is decided by its lease in the state database.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from v6_pipeline.state.instants import utc_now
from v6_pipeline.state.leases.leases import GrantedBy, ProcessIdentity, StreamerLease
from v6_pipeline.state.slots.ledger import SlotLedger, stream_holder

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings
    from v6_pipeline.state.database import StateDatabase
    from v6_pipeline.state.leases.leases import StreamerLeaseState

POLL_SECONDS = 0.2
KILL_SECONDS = 3


def live_lease(database: StateDatabase) -> StreamerLeaseState | None:
    """The lease of the streamer that may stream now, if there is one."""
    state = StreamerLease(database).read()
    return state if state.is_live(utc_now()) else None


def clear_dead(settings: Settings, database: StateDatabase) -> StreamerLeaseState | None:
    """Give back the lease and the lines of a streamer of this host that died without doing so; which one it was.

    Otherwise its lease would keep the next one waiting until it ends.
    """
    state = live_lease(database)
    process = None if state is None else process_of(state)
    if state is None or process is None or process.is_alive() is not False:
        return None
    release(settings, database, state)
    return state


def release(settings: Settings, database: StateDatabase, state: StreamerLeaseState) -> None:
    """End the lease of a dead streamer; its connection is gone, so its lines are free."""
    SlotLedger.from_settings(settings, database).release(stream_holder(state.epoch))
    StreamerLease(database).release(state.epoch)


def stop_and_wait(database: StateDatabase, epoch: int, *, seconds: float, sleep: Callable[[float], None]) -> bool:
    """Ask for a stop and wait until ``epoch`` has no lease any more; whether that was so in time."""
    StreamerLease(database).request_stop()
    deadline = time.monotonic() + seconds
    while True:
        state = live_lease(database)
        if state is None or state.epoch != epoch:
            return True
        if time.monotonic() >= deadline:
            return False
        sleep(POLL_SECONDS)


def end(settings: Settings, database: StateDatabase, *, seconds: float) -> StreamerLeaseState | None:
    """End the streamer that the sensor of this home started, by force if it does not obey; which one it was.

    One that runs without Dagster, or on another host, is someone else's: it is left be.
    """
    clear_dead(settings, database)
    state = live_lease(database)
    if state is None or state.granted_by is not GrantedBy.SENSOR:
        return None
    process = process_of(state)
    if process is not None and process.is_alive() is None:
        return None
    if stop_and_wait(database, state.epoch, seconds=seconds, sleep=time.sleep):
        return state
    if process is not None:
        _kill(process)
    release(settings, database, state)
    return state


def process_of(state: StreamerLeaseState) -> ProcessIdentity | None:
    """The streamer's process; ``None`` until it has said which it is."""
    if state.host is None or state.pid is None or state.pid_started_at is None:
        return None
    return ProcessIdentity(host=state.host, pid=state.pid, started_at=state.pid_started_at)


def _kill(identity: ProcessIdentity) -> None:
    import psutil

    try:
        process = psutil.Process(identity.pid)
        if identity.is_alive():
            process.kill()
            process.wait(KILL_SECONDS)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return  # gone, or a zombie that its parent has not looked at
