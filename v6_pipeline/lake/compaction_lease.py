"""The lease under which a table of an object store is compacted: there no file can be locked.

It is a lease of the state database, which all hosts share, renewed while the compaction lasts. The lease of a process
that died ends after ``LEASE_SECONDS``, and only compactions wait for it. A process that is stalled for longer in the
middle of a compaction could still double rows: nothing in Delta stops it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

from v6_pipeline.errors import FencedError, LakeConflictError, StateError
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.named import NamedLease
from v6_pipeline.state.leases.process import ProcessIdentity

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings

log = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
RENEW_EVERY_SECONDS = 60.0


@contextlib.contextmanager
def compaction_lease(settings: Settings, table: str) -> Iterator[None]:
    """Hold the lease of ``table``, by its name, while inside.

    Raises:
        LakeConflictError: another process compacts the table, or the state database cannot be used.
    """
    owner = f"{ProcessIdentity.current().owner}/{uuid4().hex}"
    try:
        database = StateDatabase.open(settings.state_database_url, name_for_messages=settings.safe_state_url)
    except StateError as error:
        raise _not_now(table, error) from error
    ended = threading.Event()
    try:
        lease = NamedLease(database, f"compaction/{table}", owner, ttl_seconds=LEASE_SECONDS)
        try:
            epoch = lease.acquire()
        except StateError as error:
            raise _not_now(table, error) from error
        if epoch is None:
            raise LakeConflictError(f"table {table}: another compaction is under way")
        renewal = threading.Thread(target=_renew, args=(lease, table, ended), name="compaction lease", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join(RENEW_EVERY_SECONDS)
            with contextlib.suppress(StateError):  # it expires
                lease.release()
    finally:
        database.close()


def _renew(lease: NamedLease, table: str, ended: threading.Event) -> None:
    while not ended.wait(RENEW_EVERY_SECONDS):
        try:
            lease.renew()
        except FencedError as error:
            log.warning("table %s is compacted without its lease: %s", table, error)
            return
        except StateError as error:
            log.warning("the lease of the compaction of table %s is not renewed: %s", table, error)


def _not_now(table: str, error: StateError) -> LakeConflictError:
    return LakeConflictError(f"table {table} is not compacted now, because its lease cannot be had: {error}")
