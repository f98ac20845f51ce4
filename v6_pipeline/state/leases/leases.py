"""Leases: who alone may do something, until when, told apart by an epoch that grows with every new owner.

``NamedLease`` is for what a process holds while it works (the account feed, a refresh). ``StreamerLease`` has two
sides: the control plane (Dagster's sensor) grants, renews and revokes; the streamer claims, beats and obeys.
``ClientIds`` are the API client ids that runs take turns with.

An owner is named by ``ProcessIdentity.owner``: a pid alone is used again by the system.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from v6_pipeline.errors import FencedError
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.leases import rows
from v6_pipeline.state.leases.rows import ClientIdState, DesiredState, GrantedBy, NamedLeaseState, StreamerLeaseState

__all__ = [
    "ClientIds",
    "DesiredState",
    "GrantedBy",
    "NamedLease",
    "NamedLeaseState",
    "ProcessIdentity",
    "StreamerLease",
    "StreamerLeaseState",
]

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
        """Whether it still runs; ``None`` if it is on another host. A zombie does not run."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            started_at = datetime.fromtimestamp(process.create_time(), UTC)
            return abs(started_at - self.started_at) <= _START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@functools.cache  # by pid, for a fork is another process; kept, for a changed clock must not change the name
def _identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity.of(pid)


class NamedLease:
    """One owner's view of a lease; another object with the same owner is the same owner.

    Args:
        database: the state database.
        name: what is leased, such as ``account_feed``.
        owner: unique among all that may want it.
        ttl_seconds: how long it lasts without ``renew``.
        clock: tells the time.
    """

    def __init__(
        self, database: StateDatabase, name: str, owner: str, *, ttl_seconds: float, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._name = name
        self._owner = owner
        self._ttl = timedelta(seconds=ttl_seconds)
        self._clock = clock

    def acquire(self) -> int | None:
        """Take the lease if nobody has it; its epoch, or ``None`` if another has it. Taken twice it is only renewed."""
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_named(connection, self._name)
            if lease.is_live(now):
                if lease.owner != self._owner:
                    return None
                lease = replace(lease, expires_at=now + self._ttl)
            else:
                lease = replace(
                    lease, epoch=lease.epoch + 1, owner=self._owner, acquired_at=now, expires_at=now + self._ttl
                )
            rows.write_named(connection, lease)
        return lease.epoch

    def renew(self) -> int:
        """Prolong the lease; its epoch.

        Raises:
            FencedError: it has expired or is another's.
        """
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_named(connection, self._name)
            if not lease.is_live(now) or lease.owner != self._owner:
                raise FencedError(f"the lease {self._name!r} of {self._owner} is lost: {_holder(lease, now)}")
            rows.write_named(connection, replace(lease, expires_at=now + self._ttl))
        return lease.epoch

    def release(self) -> bool:
        """Give the lease back; ``False`` if this owner did not have it any more."""
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_named(connection, self._name)
            if lease.owner != self._owner:
                return False
            rows.write_named(connection, replace(lease, owner=None, expires_at=None))
        return lease.is_live(now)

    def read(self) -> NamedLeaseState:
        """The lease as it is."""
        with self._database.read() as connection:
            return rows.read_named(connection, self._name)


class StreamerLease:
    """The right to stream.

    Only one epoch is live at a time, and an expired one never lives again: its owner may be stopping, or stalled.
    """

    def __init__(self, database: StateDatabase, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    def read(self) -> StreamerLeaseState:
        """The lease as it is."""
        with self._database.read() as connection:
            return rows.read_streamer(connection)

    def claim(
        self, owner: str, *, granted_by: GrantedBy, ttl_seconds: float, process: ProcessIdentity | None = None
    ) -> int | None:
        """Become the owner if nobody is; the new epoch, or ``None`` if another is live.

        The sensor claims for a streamer that it is about to start, and commits before it does; that streamer then
        calls ``attach``. A streamer without Dagster claims for itself, and the desired state becomes ``run``; a
        sensor's claim respects a stop request that came after its tick had looked.
        """
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_streamer(connection)
            stopped = granted_by is GrantedBy.SENSOR and lease.desired_state is DesiredState.STOP
            if lease.is_live(now) or stopped:
                return None
            expires_at = now + timedelta(seconds=ttl_seconds)
            taken = _taken(lease, owner, process, now)
            rows.write_streamer(connection, replace(taken, expires_at=expires_at, granted_by=granted_by))
        return taken.epoch

    def grant(self, *, ttl_seconds: float) -> StreamerLeaseState:
        """The sensor's tick for a streamer that others start: prolong the owner's lease, or offer it to who claims it.

        A streamer that runs without Dagster is left be: look at ``granted_by`` of what is returned.
        """
        with self._database.write() as connection:
            now = self._clock()
            expires_at = now + timedelta(seconds=ttl_seconds)
            lease = rows.read_streamer(connection)
            if lease.is_live(now):
                if lease.granted_by is not GrantedBy.SENSOR:
                    return lease
                lease = replace(lease, expires_at=expires_at)
            else:
                lease = replace(_freed(lease), expires_at=expires_at, granted_by=GrantedBy.SENSOR)
            rows.write_streamer(connection, lease)
        return lease

    def claim_grant(self, owner: str, process: ProcessIdentity | None = None) -> int | None:
        """A supervised streamer takes what ``grant`` offers; the new epoch, or ``None`` while nothing is offered."""
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_streamer(connection)
            if not lease.is_open_grant(now):
                return None
            taken = _taken(lease, owner, process, now)
            rows.write_streamer(connection, taken)
        return taken.epoch

    def renew(self, epoch: int, *, ttl_seconds: float) -> bool:
        """Prolong the lease of ``epoch``; ``False`` if it is over."""
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_streamer(connection)
            if lease.epoch != epoch or not lease.is_live(now):
                return False
            rows.write_streamer(connection, replace(lease, expires_at=now + timedelta(seconds=ttl_seconds)))
        return True

    def attach(self, epoch: int, process: ProcessIdentity) -> StreamerLeaseState:
        """The started streamer says which process it is.

        Raises:
            FencedError: the lease of ``epoch`` is over.
        """
        return self._as_owner(epoch, host=process.host, pid=process.pid, pid_started_at=process.started_at)

    # Any: the report is the streamer's business.
    def heartbeat(self, epoch: int, status: Mapping[str, Any]) -> StreamerLeaseState:
        """The streamer reports that it lives and how it is; what it is asked to do is in the answer.

        Raises:
            FencedError: the lease of ``epoch`` is over: stop writing at once.
        """
        return self._as_owner(epoch, heartbeat_at=self._clock(), status=dict(status))

    def request_stop(self) -> None:
        """Ask the streamer to stop, at its next look."""
        self._request(DesiredState.STOP)

    def request_run(self) -> None:
        """Take a request to stop back."""
        self._request(DesiredState.RUN)

    def raise_epoch(self, above: int) -> None:
        """Let the next epoch be higher than ``above``, and end the lease of a lower one.

        For a state database that is newer than the lake: its epochs begin at 1, and the lake has seen higher ones.
        """
        with self._database.write() as connection:
            lease = rows.read_streamer(connection)
            if lease.epoch < above:
                rows.write_streamer(connection, replace(_freed(lease), epoch=above))

    def release(self, epoch: int) -> bool:
        """End the lease of ``epoch``: by the streamer once it has stopped, or by the sensor once it is dead."""
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_streamer(connection)
            if lease.epoch != epoch or lease.owner is None:
                return False
            rows.write_streamer(connection, _freed(lease))
        return lease.is_live(now)

    # Any: the values of columns.
    def _as_owner(self, epoch: int, **changes: Any) -> StreamerLeaseState:  # noqa: ANN401
        with self._database.write() as connection:
            now = self._clock()
            lease = rows.read_streamer(connection)
            if lease.epoch != epoch or not lease.is_live(now):
                raise FencedError(f"the streamer lease of epoch {epoch} is lost: {_streamer_holder(lease, now)}")
            lease = replace(lease, **changes)
            rows.write_streamer(connection, lease)
        return lease

    def _request(self, desired: DesiredState) -> None:
        with self._database.write() as connection:
            rows.write_streamer(connection, replace(rows.read_streamer(connection), desired_state=desired))


class ClientIds:
    """API client ids that processes take turns with: a gateway serves each to one client only.

    Args:
        database: the state database.
        ids: the ids that may be leased.
        clock: tells the time.
    """

    def __init__(self, database: StateDatabase, ids: range, clock: Clock = utc_now) -> None:
        self._database = database
        self._ids = ids
        self._clock = clock

    def acquire(self, owner: str, *, ttl_seconds: float) -> int | None:
        """The lowest free id, leased to ``owner``; ``None`` if none is free."""
        with self._database.write() as connection:
            now = self._clock()
            known = rows.read_client_ids(connection)
            for client_id in self._ids:
                state = known.get(client_id, ClientIdState(client_id=client_id))
                if state.is_free(now):
                    expires_at = now + timedelta(seconds=ttl_seconds)
                    rows.write_client_id(
                        connection, replace(state, owner=owner, expires_at=expires_at, busy_until=None)
                    )
                    return client_id
        return None

    def renew(self, client_id: int, owner: str, *, ttl_seconds: float) -> bool:
        """Prolong a lease; ``False`` if it has expired or is another's."""
        with self._database.write() as connection:
            now = self._clock()
            state = rows.read_client_ids(connection).get(client_id)
            if state is None or state.owner != owner or state.expires_at is None or state.expires_at <= now:
                return False
            rows.write_client_id(connection, replace(state, expires_at=now + timedelta(seconds=ttl_seconds)))
        return True

    def mark_busy(self, client_id: int, owner: str, *, seconds: float) -> None:
        """The gateway says that someone else uses the id (error 326): nobody tries it for a while."""
        with self._database.write() as connection:
            now = self._clock()
            state = rows.read_client_ids(connection).get(client_id, ClientIdState(client_id=client_id))
            if state.owner not in {owner, None}:  # leased to another meanwhile, who finds out for itself
                return
            busy_until = now + timedelta(seconds=seconds)
            rows.write_client_id(connection, replace(state, owner=None, expires_at=None, busy_until=busy_until))

    def release(self, client_id: int, owner: str) -> bool:
        """Give an id back; ``False`` if it is another's by now."""
        with self._database.write() as connection:
            state = rows.read_client_ids(connection).get(client_id)
            if state is None or state.owner != owner:
                return False
            rows.write_client_id(connection, replace(state, owner=None, expires_at=None))
        return True

    def leased(self) -> dict[int, str]:
        """The ids in use, and by whom."""
        with self._database.read() as connection:
            now = self._clock()
            known = rows.read_client_ids(connection)
        return {
            state.client_id: state.owner
            for state in known.values()
            if state.owner is not None and state.expires_at is not None and state.expires_at > now
        }


def _taken(lease: StreamerLeaseState, owner: str, process: ProcessIdentity | None, now: datetime) -> StreamerLeaseState:
    return replace(
        lease,
        epoch=lease.epoch + 1,
        owner=owner,
        host=None if process is None else process.host,
        pid=None if process is None else process.pid,
        pid_started_at=None if process is None else process.started_at,
        claimed_at=now,
        desired_state=DesiredState.RUN,
        heartbeat_at=None,
        status={},
    )


def _freed(lease: StreamerLeaseState) -> StreamerLeaseState:
    """Without an owner; the last report stays for those who ask what happened."""
    return replace(lease, owner=None, host=None, pid=None, pid_started_at=None, expires_at=None, granted_by=None)


def _holder(lease: NamedLeaseState, now: datetime) -> str:
    return f"{lease.owner} has it" if lease.is_live(now) else "it has expired or was given back; take it again"


def _streamer_holder(lease: StreamerLeaseState, now: datetime) -> str:
    if lease.is_live(now):
        return f"epoch {lease.epoch} of {lease.owner} has it"
    return "it was not renewed in time or was revoked"
