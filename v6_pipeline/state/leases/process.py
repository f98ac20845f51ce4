"""The identity of a process that owns leases and slots: a pid alone is reused by the system."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil

_START_TOLERANCE = timedelta(seconds=2)
"""A process's start is counted from the boot time, which moves a little when the clock is set."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same pid."""

    host: str
    pid: int
    started_at: datetime

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process, always under the same name."""
        return _identity_of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """A running process of this host.

        Raises:
            psutil.NoSuchProcess: there is none.
        """
        started_at = datetime.fromtimestamp(psutil.Process(pid).create_time(), UTC)
        return cls(host=socket.gethostname(), pid=pid, started_at=started_at)

    @property
    def owner(self) -> str:
        """The name under which it owns leases and slots."""
        return f"{self.host}:{self.pid}:{self.started_at:%Y%m%dT%H%M%S.%fZ}"

    def is_alive(self) -> bool | None:
        """True while it runs; ``None`` if it is on another host. A zombie does not run."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            started_at = datetime.fromtimestamp(process.create_time(), UTC)
            return abs(started_at - self.started_at) <= _START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@functools.cache  # by pid, because a fork is another process; kept, because a changed clock must not change the name
def _identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity.of(pid)
