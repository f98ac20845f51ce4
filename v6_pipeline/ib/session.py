"""A run's connection, under a client id that is leased from the pool and released at the end.

The gateway serves each client id once, so the runs of all processes share ``ib_client_id + 1`` to ``+ 15``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from v6_pipeline.errors import ClientIdInUseError, StateError
from v6_pipeline.ib.allowance import SharedAllowance
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.ib.pacing import MessagePacer
from v6_pipeline.settings import Settings
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.leases.client_ids import ClientIds

log = logging.getLogger(__name__)

LEASE_SECONDS = 60
RENEW_EVERY_SECONDS = 15
BUSY_SECONDS = 60
"""The gateway keeps an ended session of a client id for some seconds."""


def shared_pacer(settings: Settings, database: StateDatabase, clock: Clock) -> MessagePacer:
    """Return a pacer that takes its instants from the allowance shared by all processes of this gateway."""
    return MessagePacer(SharedAllowance(database, settings.ib_address, settings.messages_per_second, clock))


@contextlib.asynccontextmanager
async def leased_connection(
    settings: Settings,
    database: StateDatabase,
    *,
    owner: str,
    clock: Clock,
    policy: ConnectionPolicy | None = None,
) -> AsyncIterator[IBConnectionManager]:
    """Connect under a free client id of the pool. ``owner`` must be unique to this run.

    Raises:
        ClientIdInUseError: all ids are in use.
        GatewayError: the gateway cannot be used.
    """
    ids = ClientIds(database, settings.run_client_ids, clock)
    policy = policy or ConnectionPolicy(messages_per_second=settings.messages_per_second)
    connection = await _connect(settings, ids, owner, policy, shared_pacer(settings, database, clock))
    upkeep = asyncio.create_task(_keep_lease(ids, connection.client_id, owner), name="client id")
    heartbeat = asyncio.create_task(connection.run_heartbeat(), name="heartbeat")
    try:
        yield connection
    finally:
        for task in (upkeep, heartbeat):
            task.cancel()
        await asyncio.gather(upkeep, heartbeat, return_exceptions=True)
        await connection.close()
        await asyncio.shield(ask(ids.release, connection.client_id, owner))


async def _connect(
    settings: Settings, ids: ClientIds, owner: str, policy: ConnectionPolicy, pacer: MessagePacer
) -> IBConnectionManager:
    for _ in settings.run_client_ids:
        client_id = await ask(ids.acquire, owner, ttl_seconds=LEASE_SECONDS)
        if client_id is None:
            break
        connection = IBConnectionManager(
            host=settings.ib_host, port=settings.ib_port, client_id=client_id, policy=policy, pacer=pacer
        )
        try:
            await connection.connect()
        except ClientIdInUseError as error:
            log.warning("%s; trying the next id", error)
            await ask(ids.mark_busy, client_id, owner, seconds=BUSY_SECONDS)
        except BaseException:
            await asyncio.shield(ask(ids.release, client_id, owner))
            raise
        else:
            return connection
    first, last = settings.run_client_ids[0], settings.run_client_ids[-1]
    raise ClientIdInUseError(
        f"client ids {first} to {last} of {settings.ib_address} are all in use: wait for other runs to end, or set "
        "V6_IB_CLIENT_ID so that 15 ids after it are free"
    )


async def _keep_lease(ids: ClientIds, client_id: int, owner: str) -> None:
    while True:
        await asyncio.sleep(RENEW_EVERY_SECONDS)
        try:
            await ask(ids.renew, client_id, owner, ttl_seconds=LEASE_SECONDS)
        except StateError as error:
            log.warning("lease of client id %d is not renewed: %s", client_id, error)  # tried again before it ends
