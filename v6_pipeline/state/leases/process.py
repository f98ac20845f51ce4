"""The identity of a process that owns leases and slots: a pid alone is reused by the system."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

_START_TOLERANCE = timedelta(seconds=2)
"""A process's start is counted from the boot time, which moves a little when the clock is set."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same pid."""

    host: str
    pid: int
    started_at: datetime
    space: str = ""
    """Where its pid counts: see ``pid_space``; empty if that is not known."""

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
        return cls(host=socket.gethostname(), pid=pid, started_at=started_at, space=pid_space())

    @property
    def owner(self) -> str:
        """The name under which it owns leases and slots."""
        name = f"{self.host}:{self.pid}:{self.started_at:%Y%m%dT%H%M%S.%fZ}"
        return f"{name}:{self.space}" if self.space else name

    def is_alive(self) -> bool | None:
        """True while it runs; ``None`` if it cannot be seen from here. A zombie does not run.

        Containers of one machine, or machines of one image, may have the same host name: where pids are others, a pid
        that does not exist here proves nothing.
        """
        if self.host != socket.gethostname() or (self.space and self.space != pid_space()):
            return None
        try:
            process = psutil.Process(self.pid)
            started_at = datetime.fromtimestamp(process.create_time(), UTC)
            return abs(started_at - self.started_at) <= _START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def space_of(owner: str | None) -> str:
    """Return the ``space`` in the name of an owner; empty if it has none."""
    parts = (owner or "").split(":")
    return parts[3] if len(parts) == 4 else ""


@functools.cache
def pid_space() -> str:
    """Return the mark of the processes that see each other's pids: the boot of the machine and the namespace.

    Empty where the system has no such thing, and a host name is enough.
    """
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return f"{boot.replace('-', '')[:12]}-{namespace}"


@functools.cache  # by pid, because a fork is another process; kept, because a changed clock must not change the name
def _identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity.of(pid)
