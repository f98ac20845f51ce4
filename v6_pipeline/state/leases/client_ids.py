"""``ClientIds``: API client ids; a gateway serves only one client at a time under each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.schema import client_ids
from v6_pipeline.state.upsert import upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdState:
    """A client id: leased to ``owner`` until ``expires_at``; not to be used before ``busy_until``."""

    client_id: int
    owner: str | None = None
    expires_at: datetime | None = None
    busy_until: datetime | None = None

    def is_leased(self, now: datetime) -> bool:
        """True while an owner holds it."""
        return self.owner is not None and self.expires_at is not None and self.expires_at > now

    def is_free(self, now: datetime) -> bool:
        """True if it can be leased."""
        return not self.is_leased(now) and (self.busy_until is None or self.busy_until <= now)


class ClientIds:
    """API client ids that processes lease one at a time."""

    def __init__(self, database: StateDatabase, ids: range, clock: Clock | None = None) -> None:
        self._database = database
        self._ids = ids
        self._clock = clock or database.now

    def acquire(self, owner: str, *, ttl_seconds: float) -> int | None:
        """Lease the lowest free id to ``owner``; ``None`` if none is free."""
        with self._database.write() as connection:
            now = self._clock()
            known = _read(connection)
            for client_id in self._ids:
                state = known.get(client_id, ClientIdState(client_id=client_id))
                if state.is_free(now):
                    expires_at = now + timedelta(seconds=ttl_seconds)
                    _write(connection, replace(state, owner=owner, expires_at=expires_at, busy_until=None))
                    return client_id
        return None

    def renew(self, client_id: int, owner: str, *, ttl_seconds: float) -> bool:
        """Prolong a lease; ``False`` if it has expired or is another's."""
        with self._database.write() as connection:
            now = self._clock()
            state = _read(connection).get(client_id)
            if state is None or state.owner != owner or not state.is_leased(now):
                return False
            _write(connection, replace(state, expires_at=now + timedelta(seconds=ttl_seconds)))
        return True

    def mark_busy(self, client_id: int, owner: str, *, seconds: float) -> None:
        """Keep an id from being leased for a while: the gateway reports another client with it (error 326)."""
        with self._database.write() as connection:
            now = self._clock()
            state = _read(connection).get(client_id, ClientIdState(client_id=client_id))
            if state.owner not in {owner, None}:  # leased to another owner since, which will see the error itself
                return
            busy_until = now + timedelta(seconds=seconds)
            _write(connection, replace(state, owner=None, expires_at=None, busy_until=busy_until))

    def release(self, client_id: int, owner: str) -> bool:
        """Release an id; ``False`` if another owner has it by now."""
        with self._database.write() as connection:
            state = _read(connection).get(client_id)
            if state is None or state.owner != owner:
                return False
            _write(connection, replace(state, owner=None, expires_at=None))
        return True

    def leased(self) -> dict[int, str]:
        """The owner of each id in use."""
        with self._database.read() as connection:
            now = self._clock()
            known = _read(connection).values()
        return {state.client_id: state.owner for state in known if state.owner is not None and state.is_leased(now)}


def _read(connection: Connection) -> dict[int, ClientIdState]:
    """Every client id that was ever leased or busy."""
    return {row["client_id"]: ClientIdState(**row) for row in connection.execute(select(client_ids)).mappings()}


def _write(connection: Connection, state: ClientIdState) -> None:
    upsert(connection, client_ids, [asdict(state)])
