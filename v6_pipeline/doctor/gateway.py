"""Examines the gateway: whether it is IB's, accepts a session, permits reading, and grants market data.

Each step uses the product's own parts: a bare handshake, a session under each client id, a request for positions,
quotes of a few contracts on lines of the ledger's batch share. Apart from leases that it releases, it stores only
contracts, in the cache. It sends no order: the answer to a request for open orders shows the Read-Only API setting.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterable
from datetime import date, timedelta
from typing import Any

from v6_pipeline.doctor.findings import Finding, fault, ok, skipped, warning
from v6_pipeline.doctor.quotes import TrialTimeouts, examine_quotes
from v6_pipeline.errors import ClientIdInUseError, GatewayError, RequestRefusedError
from v6_pipeline.ib.close_plan import is_forgotten
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.positions import download_positions
from v6_pipeline.ib.probe import PROBE_SECONDS, ProbeAnswer, explain, probe
from v6_pipeline.ib.resets import ExpectedOutage, expected_outage
from v6_pipeline.ib.session import leased_connection, shared_pacer
from v6_pipeline.model import Holding
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.leases.client_ids import ClientIds
from v6_pipeline.state.leases.streamer import StreamerLease

CLOCK_WARNING, CLOCK_FAULT = timedelta(seconds=5), timedelta(seconds=30)
"""The gateway reports whole seconds, and an answer may take two, so an offset below five seconds is not reported."""
KNOWN_STOCK = 265598
"""IB's conid of AAPL on NASDAQ, used if nothing is held."""
QUOTES = 4
"""Number of contracts whose quotes are tried, one per security type."""
_OF_A_SESSION = "client ids, accounts, clock, read-only, positions and market data"
_READ_ONLY = re.compile(r"read.?only", re.IGNORECASE)


async def examine_gateway(
    settings: Settings, database: StateDatabase | None, clock: Clock, timeouts: TrialTimeouts | None = None
) -> AsyncIterator[Finding]:
    """Examine the gateway; a step that fails ends the examination. Without ``database`` only the handshake is tried."""
    outage = expected_outage(clock(), settings.ib_region)
    if database is not None:
        await shared_pacer(settings, database, clock).wait_to_send()
    found = await probe(settings.ib_host, settings.ib_port, PROBE_SECONDS)
    reason = explain(found, settings.ib_address)
    if reason is not None and (outage is None or found.answer not in {ProbeAnswer.NO_PROCESS, ProbeAnswer.SILENT}):
        yield fault("gateway", reason)
        return
    if reason is not None:
        yield _away("gateway", reason, outage)
        yield skipped(
            "session", f"{_OF_A_SESSION} were not examined: the gateway is away", "run 'v6 doctor' when it is back"
        )
        return
    yield ok("gateway", f"an IB gateway listens at {settings.ib_address}")
    if database is None:
        yield skipped(
            "session",
            f"{_OF_A_SESSION} were not examined: this needs the state database, which holds the leases of client ids "
            "and lines",
            "correct the state as shown above, then run 'v6 doctor' again",
        )
        return
    yield await _client_ids(settings, database, clock)
    try:
        async with leased_connection(settings, database, owner=f"doctor/{os.getpid()}", clock=clock) as connection:
            async for finding in _session(settings, database, connection, clock, timeouts or TrialTimeouts()):
                yield finding
    except ClientIdInUseError as error:
        yield fault("session", str(error))
    except GatewayError as error:
        yield _away("session", str(error), outage)


def _away(what: str, says: str, outage: ExpectedOutage | None, remedy: str = "") -> Finding:
    """Return a fault, or a warning while the broker is expected to be away."""
    if outage is None:
        return fault(what, says, remedy)
    return warning(what, f"{says}; this is expected in {outage}", "run 'v6 doctor' after it")


async def _client_ids(settings: Settings, database: StateDatabase, clock: Clock) -> Finding:
    """Open a short session under each client id that v6 does not use itself."""
    ours = set(ClientIds(database, settings.run_client_ids, clock).leased())
    if StreamerLease(database, clock).read().is_live(clock()):
        ours.add(settings.ib_client_id)
    wanted = (settings.ib_client_id, *settings.run_client_ids)
    taken = [
        client_id
        for client_id in wanted
        if client_id not in ours and await _is_taken(settings, database, client_id, clock)
    ]
    in_use = f", except {len(ours)} that v6 itself uses now" if ours else ""
    if settings.ib_client_id in taken:
        return fault(
            "client ids",
            f"client id {settings.ib_client_id}, the streamer's, is in use by another program",
            "end that program, or set V6_IB_CLIENT_ID to another id",
        )
    if taken:
        says = f"{', '.join(map(str, taken))} of {wanted[0]} to {wanted[-1]} are in use by other programs"
        remedy = "runs use the others; to have all, set V6_IB_CLIENT_ID to an id that is free, as are the 15 after it"
        return warning("client ids", says, remedy)
    return ok("client ids", f"{wanted[0]} to {wanted[-1]} are free{in_use}")


async def _is_taken(settings: Settings, database: StateDatabase, client_id: int, clock: Clock) -> bool:
    connection = IBConnectionManager(
        host=settings.ib_host,
        port=settings.ib_port,
        client_id=client_id,
        policy=ConnectionPolicy(messages_per_second=settings.messages_per_second),
        pacer=shared_pacer(settings, database, clock),
    )
    try:
        await connection.connect()
    except ClientIdInUseError:
        return True
    except GatewayError:  # opening the session will fail in the same way and report it
        return False
    await connection.close()
    return False


async def _session(
    settings: Settings, database: StateDatabase, connection: IBConnectionManager, clock: Clock, timeouts: TrialTimeouts
) -> AsyncIterator[Finding]:
    yield _accounts(settings, connection.accounts)
    yield await _clock(connection, clock)
    yield await _read_only(connection)
    try:
        positions = await download_positions(connection, clock, accounts=settings.ib_accounts)
    except RequestRefusedError as error:
        yield fault("positions", str(error))  # it says what to set: the API's settings are right, the login is refused
        return
    except GatewayError as error:
        outage = expected_outage(clock(), settings.ib_region)
        yield _away("positions", str(error), outage, "tick 'Enable ActiveX and Socket Clients' under API > Settings")
        return
    yield ok("positions", f"{len(positions)} are held")
    conids = _to_try(positions, clock().date())
    contracts = await ContractCache(database, connection, clock).qualified(conids)
    async for finding in examine_quotes(settings, database, connection, contracts, clock, timeouts):
        yield finding


def _to_try(positions: Iterable[Holding], today: date) -> list[int]:
    """Return one held contract of each security type; an expired option is still held but has no quotes."""
    live = [holding.contract for holding in positions if not is_forgotten(holding.contract, today)]
    one_each = {contract.sec_type: contract.conid for contract in live}
    return list(one_each.values())[:QUOTES] or [KNOWN_STOCK]


def _accounts(settings: Settings, managed: Iterable[str]) -> Finding:
    missing = sorted(set(settings.ib_accounts) - set(managed))
    if missing:
        says = f"the login does not manage {', '.join(missing)} of V6_IB_ACCOUNTS; it manages {', '.join(managed)}"
        return fault("accounts", says, "correct V6_IB_ACCOUNTS, or log in as a user who manages them")
    return ok("accounts", ", ".join(settings.ib_accounts or managed))


async def _clock(connection: IBConnectionManager, clock: Clock) -> Finding:
    before = clock()
    gateway = await connection.gateway_time()
    after = clock()
    # The gateway truncates its time to a second, and answered between our two readings of the clock.
    earliest, latest = gateway - after, gateway + timedelta(seconds=1) - before
    off = max(earliest, -latest, timedelta(0))
    side = "behind" if earliest > timedelta(0) else "ahead of"
    says = f"this machine's is {off.total_seconds():.0f} s {side} the gateway's"
    remedy = "synchronise both clocks by NTP: prices, trading days and leases depend on this one"
    if off > CLOCK_FAULT:
        return fault("clock", says, remedy)
    if off > CLOCK_WARNING:
        return warning("clock", says, remedy)
    return ok("clock", f"within {CLOCK_WARNING.total_seconds():.0f} s of the gateway's")


async def _read_only(connection: IBConnectionManager) -> Finding:
    """Rate the Read-Only API setting: with it, the gateway refuses even to list open orders (error 321)."""
    refused: list[str] = []

    def listen(_request: int, _code: int, text: str) -> None:
        if _READ_ONLY.search(text):
            refused.append(text)

    connection.add_error_listener(listen)
    client: Any = connection.ib.client
    client.reqOpenOrders()
    await connection.round_trip()
    if refused:
        return ok("read-only", "the gateway refuses order messages, and this client sends none")
    return warning(
        "read-only",
        "the gateway would accept orders; this client refuses to send any",
        "tick 'Read-Only API' under API > Settings, to protect against other programs on this machine",
    )
