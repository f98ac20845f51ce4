"""The rows of leases: named ones, the streamer's, and client ids.

Epochs only grow: the row of a lease stays when nobody holds it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select

from v6_pipeline.state.schema import client_ids, named_leases, streamer_lease
from v6_pipeline.state.upsert import upsert

_STREAMER = "streamer"


class DesiredState(enum.StrEnum):
    """What the streamer is asked to do."""

    RUN = "run"
    STOP = "stop"


class GrantedBy(enum.StrEnum):
    """Who renews the streamer's lease."""

    SENSOR = "sensor"
    """Dagster's sensor, the control plane."""
    SELF = "self"
    """The streamer itself, run without Dagster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLeaseState:
    """A lease by name; nobody has it if ``owner`` is ``None`` or it has expired."""

    name: str
    epoch: int = 0
    owner: str | None = None
    acquired_at: datetime | None = None
    expires_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether someone holds it."""
        return self.owner is not None and self.expires_at is not None and self.expires_at > now


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamerLeaseState:
    """Who may stream, on whose authority, and what the streamer last said.

    ``owner`` is ``None`` while nobody streams; with ``expires_at`` in the future that is a grant for whoever claims it.
    ``status`` is the streamer's own report, a JSON object.
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
        """Whether an owner may stream."""
        return self.owner is not None and self.expires_at is not None and self.expires_at > now

    def is_open_grant(self, now: datetime) -> bool:
        """Whether a supervised streamer may claim."""
        return (
            self.owner is None
            and self.expires_at is not None
            and self.expires_at > now
            and self.desired_state is DesiredState.RUN
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdState:
    """A client id: leased to ``owner`` until ``expires_at``; not to be used before ``busy_until``."""

    client_id: int
    owner: str | None = None
    expires_at: datetime | None = None
    busy_until: datetime | None = None

    def is_free(self, now: datetime) -> bool:
        """Whether it can be leased."""
        leased = self.owner is not None and self.expires_at is not None and self.expires_at > now
        return not leased and (self.busy_until is None or self.busy_until <= now)


def read_named(connection: Connection, name: str) -> NamedLeaseState:
    """A named lease; one never taken has epoch 0."""
    row = connection.execute(_NAMED, {"lease": name}).mappings().one_or_none()
    return NamedLeaseState(name=name) if row is None else NamedLeaseState(**row)


def write_named(connection: Connection, lease: NamedLeaseState) -> None:
    """Store a named lease."""
    upsert(connection, named_leases, [asdict(lease)])


def read_streamer(connection: Connection) -> StreamerLeaseState:
    """The streamer's lease; one never taken has epoch 0."""
    row = connection.execute(_STREAMERS).mappings().one_or_none()
    if row is None:
        return StreamerLeaseState()
    values = {name: value for name, value in row.items() if name != "name"}
    values["granted_by"] = None if row["granted_by"] is None else GrantedBy(row["granted_by"])
    values["desired_state"] = DesiredState(row["desired_state"])
    return StreamerLeaseState(**values)


def write_streamer(connection: Connection, lease: StreamerLeaseState) -> None:
    """Store the streamer's lease."""
    granted_by = None if lease.granted_by is None else lease.granted_by.value
    row = asdict(lease) | {"name": _STREAMER, "granted_by": granted_by, "desired_state": lease.desired_state.value}
    upsert(connection, streamer_lease, [row])


def read_client_ids(connection: Connection) -> dict[int, ClientIdState]:
    """Every client id that was ever leased or busy."""
    return {row["client_id"]: ClientIdState(**row) for row in connection.execute(select(client_ids)).mappings()}


def write_client_id(connection: Connection, state: ClientIdState) -> None:
    """Store what is known of a client id."""
    upsert(connection, client_ids, [asdict(state)])


# Built once, for building a query costs more than running it.
_NAMED = select(named_leases).where(named_leases.c.name == bindparam("lease"))
_STREAMERS = select(streamer_lease).where(streamer_lease.c.name == _STREAMER)
