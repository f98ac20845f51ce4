"""Stand-ins for the streamer's process, for the tests of its control."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import StreamerLease
from v6_pipeline_tests.unit.state.databases import START, ManualClock


class Spawned:
    """Stands in for the process: notes what was in the database when it was started."""

    def __init__(self, database: StateDatabase, clock: ManualClock) -> None:
        self._lease = StreamerLease(database, clock)
        self._clock = clock
        self.epochs: list[int] = []
        self.error: BaseException | None = None

    def __call__(self, _settings: Settings, epoch: int) -> None:
        state = self._lease.read()
        assert state.epoch == epoch
        assert state.is_live(self._clock.now)
        assert state.pid is None
        if self.error is not None:
            raise self.error
        self.epochs.append(epoch)


def elsewhere(pid: int = 1) -> ProcessIdentity:
    """Return a process on another host, whose state only its reports show."""
    return ProcessIdentity(host="elsewhere", pid=pid, started_at=START)


def in_another_container(pid: int = 2**22 - 1) -> ProcessIdentity:
    """Return a process on a host of this name whose pid counts in another namespace."""
    return ProcessIdentity(host=socket.gethostname(), pid=pid, started_at=START, space="3f2a9c1d0e4b-4026531999")


def dead() -> ProcessIdentity:
    """On this host, and gone: its pid, if in use, is of a process that started at another time."""
    return ProcessIdentity(host=socket.gethostname(), pid=os.getpid(), started_at=START - timedelta(days=9999))
