"""``NamedLease``: what one process at a time holds while it works, such as the account feed or a refresh.

The epoch grows with every new owner; the row of a lease stays when it has no owner.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select

from v6_pipeline.errors import FencedError
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.schema import named_leases
from v6_pipeline.state.upsert import upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLeaseState:
    """A lease by name; it is free if ``owner`` is ``None`` or it has expired."""

    name: str
    epoch: int = 0
    owner: str | None = None
    acquired_at: datetime | None = None
    expires_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """True while an owner holds it."""
        return self.owner is not None and self.expires_at is not None and self.expires_at > now


class NamedLease:
    """One owner's view of a lease; objects with the same ``owner`` share the lease.

    ``owner`` is unique among the processes that may want the lease, which lasts ``ttl_seconds`` unless renewed.
    """

    def __init__(
        self, database: StateDatabase, name: str, owner: str, *, ttl_seconds: float, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._name = name
        self._owner = owner
        self._ttl = timedelta(seconds=ttl_seconds)
        self._clock = clock or database.now

    def acquire(self) -> int | None:
        """Take the lease if it is free, or renew it; return its epoch, or ``None`` if another owner has it."""
        with self._database.write() as connection:
            now = self._clock()
            lease = self._read(connection)
            if lease.is_live(now):
                if lease.owner != self._owner:
                    return None
                lease = replace(lease, expires_at=now + self._ttl)
            else:
                lease = replace(
                    lease, epoch=lease.epoch + 1, owner=self._owner, acquired_at=now, expires_at=now + self._ttl
                )
            _write(connection, lease)
        return lease.epoch

    def renew(self) -> int:
        """Prolong the lease and return its epoch.

        Raises:
            FencedError: it has expired or is another's.
        """
        with self._database.write() as connection:
            now = self._clock()
            lease = self._read(connection)
            if not lease.is_live(now) or lease.owner != self._owner:
                raise FencedError(f"the lease {self._name!r} of {self._owner} is lost: {_holder(lease, now)}")
            _write(connection, replace(lease, expires_at=now + self._ttl))
        return lease.epoch

    def release(self) -> bool:
        """Give the lease back; ``False`` if this owner no longer had it."""
        with self._database.write() as connection:
            now = self._clock()
            lease = self._read(connection)
            if lease.owner != self._owner:
                return False
            _write(connection, replace(lease, owner=None, expires_at=None))
        return lease.is_live(now)

    def read(self) -> NamedLeaseState:
        """Read the lease; one never taken has epoch 0."""
        with self._database.read() as connection:
            return self._read(connection)

    def _read(self, connection: Connection) -> NamedLeaseState:
        row = connection.execute(_BY_NAME, {"lease": self._name}).mappings().one_or_none()
        return NamedLeaseState(name=self._name) if row is None else NamedLeaseState(**row)


# Built once, because building a query costs more than running it.
_BY_NAME = select(named_leases).where(named_leases.c.name == bindparam("lease"))


def _write(connection: Connection, lease: NamedLeaseState) -> None:
    upsert(connection, named_leases, [asdict(lease)])


def _holder(lease: NamedLeaseState, now: datetime) -> str:
    return f"{lease.owner} has it" if lease.is_live(now) else "it has expired or was given back; take it again"
