"""``StreamerLease``: the right to stream, of one process at a time.

It has two sides: the control plane (Dagster's sensor) grants, renews and revokes; the streamer claims, sends heartbeats
and obeys. The epoch grows with every new owner; the row stays when there is none.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from v6_pipeline.errors import FencedError
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.schema import streamer_lease
from v6_pipeline.state.upsert import upsert

_STREAMER = "streamer"


class DesiredState(enum.StrEnum):
    """Request of the control plane to the streamer."""

    RUN = "run"
    STOP = "stop"


class GrantedBy(enum.StrEnum):
    """Process that renews the streamer's lease."""

    SENSOR = "sensor"
    """Dagster's sensor, the control plane."""
    SELF = "self"
    """The streamer itself, run without Dagster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamerLeaseState:
    """The owner of the right to stream, the process that granted it, and the streamer's last report.

    ``owner`` is ``None`` while no process streams; with ``expires_at`` in the future that is a grant for the streamer
    that claims it. ``status`` is the streamer's own report, a JSON object.
    """

    epoch: int = 0
    owner: str | None = None
    host: str | None = None
    pid: int | None = None
    pid_started_at: datetime | None = None
    claimed_at: datetime | None = None
    expires_at: datetime | None = None
    granted_by: GrantedBy | None = None
    desired_state: DesiredState = DesiredState.RUN
    heartbeat_at: datetime | None = None
    # Any: the report is the streamer's business.
    status: Mapping[str, Any] = field(default_factory=dict)

    def is_live(self, now: datetime) -> bool:
        """True while an owner may stream."""
        return self.owner is not None and self.expires_at is not None and self.expires_at > now

    def is_open_grant(self, now: datetime) -> bool:
        """True while a supervised streamer may claim it."""
        return (
            self.owner is None
            and self.expires_at is not None
            and self.expires_at > now
            and self.desired_state is DesiredState.RUN
        )


class StreamerLease:
    """The right to stream.

    Only one epoch is live at a time, and an expired one never lives again: its owner may be stopping, or stalled.
    """

    def __init__(self, database: StateDatabase, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or database.now

    def read(self) -> StreamerLeaseState:
        """Read the lease; one never taken has epoch 0."""
        with self._database.read() as connection:
            return _read(connection)

    def claim(
        self, owner: str, *, granted_by: GrantedBy, ttl_seconds: float, process: ProcessIdentity | None = None
    ) -> int | None:
        """Become the owner if there is none; return the new epoch, or ``None`` if another owner is live.

        The sensor claims for a streamer that it is about to start, and commits before it does; that streamer then
        calls ``attach``. A streamer without Dagster claims for itself, and the desired state becomes ``run``; a
        sensor's claim respects a stop request that came after its tick had looked.
        """
        with self._database.write() as connection:
            now = self._clock()
            lease = _read(connection)
            stopped = granted_by is GrantedBy.SENSOR and lease.desired_state is DesiredState.STOP
            if lease.is_live(now) or stopped:
                return None
            expires_at = now + timedelta(seconds=ttl_seconds)
            taken = _taken(lease, owner, process, now)
            _write(connection, replace(taken, expires_at=expires_at, granted_by=granted_by))
        return taken.epoch

    def grant(self, *, ttl_seconds: float) -> StreamerLeaseState:
        """Prolong the lease of a supervised streamer; if none is live, offer the lease to the one that claims it.

        The sensor calls it at each tick. A streamer without Dagster is left running: see the result's ``granted_by``.
        """
        with self._database.write() as connection:
            now = self._clock()
            expires_at = now + timedelta(seconds=ttl_seconds)
            lease = _read(connection)
            if lease.is_live(now):
                if lease.granted_by is not GrantedBy.SENSOR:
                    return lease
                lease = replace(lease, expires_at=expires_at)
            else:
                lease = replace(_freed(lease), expires_at=expires_at, granted_by=GrantedBy.SENSOR)
            _write(connection, lease)
        return lease

    def claim_grant(self, owner: str, process: ProcessIdentity | None = None) -> int | None:
        """Take what ``grant`` offers, as a supervised streamer; the new epoch, or ``None`` while there is no offer."""
        with self._database.write() as connection:
            now = self._clock()
            lease = _read(connection)
            if not lease.is_open_grant(now):
                return None
            taken = _taken(lease, owner, process, now)
            _write(connection, taken)
        return taken.epoch

    def renew(self, epoch: int, *, ttl_seconds: float) -> bool:
        """Prolong the lease of ``epoch``; ``False`` if it is over."""
        with self._database.write() as connection:
            now = self._clock()
            lease = _read(connection)
            if lease.epoch != epoch or not lease.is_live(now):
                return False
            _write(connection, replace(lease, expires_at=now + timedelta(seconds=ttl_seconds)))
        return True

    def attach(self, epoch: int, process: ProcessIdentity) -> StreamerLeaseState:
        """Record the process of the streamer that was started.

        Raises:
            FencedError: the lease of ``epoch`` is over.
        """
        changes: dict[str, Any] = {"owner": process.owner} if process.space else {}  # the owner's name has the space
        return self._as_owner(epoch, host=process.host, pid=process.pid, pid_started_at=process.started_at, **changes)

    # Any: the report is the streamer's business.
    def heartbeat(self, epoch: int, status: Mapping[str, Any]) -> StreamerLeaseState:
        """Record the streamer's report; the result holds the state that is desired of it.

        Raises:
            FencedError: the lease of ``epoch`` is over: stop writing at once.
        """
        return self._as_owner(epoch, reports=True, status=dict(status))

    def request_stop(self) -> None:
        """Request that the streamer stop when it next reads the lease."""
        self._request(DesiredState.STOP)

    def request_run(self) -> None:
        """Withdraw a request to stop."""
        self._request(DesiredState.RUN)

    def raise_epoch(self, above: int) -> None:
        """Make the next epoch higher than ``above``, and end the lease of a lower one.

        For a state database that is newer than the lake: its epochs begin at 1, and the lake has seen higher ones.
        """
        with self._database.write() as connection:
            lease = _read(connection)
            if lease.epoch < above:
                _write(connection, replace(_freed(lease), epoch=above))

    def release(self, epoch: int) -> bool:
        """End the lease of ``epoch``: by the streamer once it has stopped, or by the sensor once it is dead."""
        with self._database.write() as connection:
            now = self._clock()
            lease = _read(connection)
            if lease.epoch != epoch or lease.owner is None:
                return False
            _write(connection, _freed(lease))
        return lease.is_live(now)

    # Any: the values of columns.
    def _as_owner(self, epoch: int, *, reports: bool = False, **changes: Any) -> StreamerLeaseState:  # noqa: ANN401
        with self._database.write() as connection:
            now = self._clock()
            lease = _read(connection)
            if lease.epoch != epoch or not lease.is_live(now):
                raise FencedError(f"the streamer lease of epoch {epoch} is lost: {_holder(lease, now)}")
            lease = replace(lease, **changes, heartbeat_at=now if reports else lease.heartbeat_at)
            _write(connection, lease)
        return lease

    def _request(self, desired: DesiredState) -> None:
        with self._database.write() as connection:
            _write(connection, replace(_read(connection), desired_state=desired))


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
    """The lease without an owner; the last report stays, to show what happened."""
    return replace(lease, owner=None, host=None, pid=None, pid_started_at=None, expires_at=None, granted_by=None)


def _read(connection: Connection) -> StreamerLeaseState:
    row = connection.execute(_ROW).mappings().one_or_none()
    if row is None:
        return StreamerLeaseState()
    values = {name: value for name, value in row.items() if name != "name"}
    values["granted_by"] = None if row["granted_by"] is None else GrantedBy(row["granted_by"])
    values["desired_state"] = DesiredState(row["desired_state"])
    return StreamerLeaseState(**values)


def _write(connection: Connection, lease: StreamerLeaseState) -> None:
    granted_by = None if lease.granted_by is None else lease.granted_by.value
    row = asdict(lease) | {"name": _STREAMER, "granted_by": granted_by, "desired_state": lease.desired_state.value}
    upsert(connection, streamer_lease, [row])


def _holder(lease: StreamerLeaseState, now: datetime) -> str:
    if lease.is_live(now):
        return f"epoch {lease.epoch} of {lease.owner} has it"
    return "it was not renewed in time or was revoked"


# Built once, because building a query costs more than running it.
_ROW = select(streamer_lease).where(streamer_lease.c.name == _STREAMER)
