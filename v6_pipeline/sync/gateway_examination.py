"""The examination of the broker's side: is it a gateway, does it let us in, may we read, and what does it grant.

Each step is what the product does in its work, by the same parts: a bare handshake, a session under each client id, a
request for positions, quotes of a few contracts on lines of the ledger's batch share. Nothing is stored but contracts
in the cache, and no order message is ever sent: whether the gateway's Read-Only API setting is on shows in its answer
to a question about open orders.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import ClientIdInUseError, GatewayError
from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.ib.market_data import MarketData, Refusal
from v6_pipeline.ib.positions import download_positions
from v6_pipeline.ib.probe import PROBE_SECONDS, explain, probe
from v6_pipeline.model import ContractSpec, Quote
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.sync.batch_lines import BatchLines
from v6_pipeline.sync.contract_book import ContractBook
from v6_pipeline.sync.findings import Finding, fault, ok, skipped, warning
from v6_pipeline.sync.gateway_session import leased_connection, shared_pacer
from v6_pipeline.sync.leases import ClientIds, StreamerLease
from v6_pipeline.sync.slots import SlotLedger

CLOCK_WARNING, CLOCK_FAULT = timedelta(seconds=5), timedelta(seconds=30)
"""The gateway tells whole seconds, and an answer may take two: less than five is no news."""
KNOWN_STOCK = 265598
"""IB's conid of AAPL on NASDAQ, asked for where nothing is held."""
QUOTES = 4
"""Contracts whose quotes are tried, one of each security type."""
_READ_ONLY = re.compile(r"read.?only", re.IGNORECASE)
_DELAYED = {3, 4}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for lines of the ledger, and for the first price of each quote."""

    lines: float = 15
    quotes: float = 10


async def examine_gateway(
    settings: Settings, database: StateDatabase | None, clock: Clock, patience: Patience | None = None
) -> AsyncIterator[Finding]:
    """Look at the gateway, as far as one step lets the next begin.

    Args:
        settings: which gateway, and as whom.
        database: leases, lines and the message rate; without it only the handshake is tried.
        clock: UTC now, compared with the gateway's.
        patience: time-outs.
    """
    reason = explain(await probe(settings.ib_host, settings.ib_port, PROBE_SECONDS), settings.ib_address)
    if reason is not None:
        yield fault("gateway", reason)
        return
    yield ok("gateway", f"an IB gateway listens at {settings.ib_address}")
    if database is None:
        yield skipped("session", "it needs the state database, which holds the leases of client ids and lines")
        return
    yield await _client_ids(settings, database, clock)
    try:
        async with leased_connection(settings, database, owner=f"doctor/{os.getpid()}", clock=clock) as connection:
            async for finding in _session(settings, database, connection, clock, patience or Patience()):
                yield finding
    except GatewayError as error:
        yield fault("session", str(error))


async def _client_ids(settings: Settings, database: StateDatabase, clock: Clock) -> Finding:
    """A short session under each id that is not in use by ourselves."""
    ours = set(ClientIds(database, settings.run_client_ids, clock).leased())
    if StreamerLease(database, clock).read().is_live(clock()):
        ours.add(settings.ib_client_id)
    wanted = (settings.ib_client_id, *settings.run_client_ids)
    taken = [
        client_id
        for client_id in wanted
        if client_id not in ours and await _is_taken(settings, database, client_id, clock)
    ]
    in_use = f", but for {len(ours)} that v6 itself uses now" if ours else ""
    if settings.ib_client_id in taken:
        return fault(
            "client ids",
            f"client id {settings.ib_client_id}, the streamer's, is taken by another program",
            "end that program, or set V6_IB_CLIENT_ID to another id",
        )
    if taken:
        says = f"{', '.join(map(str, taken))} of {wanted[0]} to {wanted[-1]} are taken by other programs"
        remedy = "runs use the others; set V6_IB_CLIENT_ID so that 15 ids after it are free to have all"
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
    except GatewayError:  # what else is wrong is found by the session
        return False
    await connection.close()
    return False


async def _session(
    settings: Settings, database: StateDatabase, connection: IBConnectionManager, clock: Clock, patience: Patience
) -> AsyncIterator[Finding]:
    yield _accounts(settings, connection.accounts)
    yield await _clock(connection, clock)
    yield await _read_only(connection)
    try:
        positions = await download_positions(connection, clock)
    except GatewayError as error:
        yield fault("positions", str(error), "tick 'Enable ActiveX and Socket Clients' under API > Settings")
        return
    yield ok("positions", f"{len(positions)} are held")
    one_each = {holding.contract.sec_type: holding.contract.conid for holding in positions}
    conids = list(one_each.values())[:QUOTES] or [KNOWN_STOCK]
    contracts = await ContractBook(database, connection, clock).qualified(conids)
    async for finding in _quotes(settings, database, connection, contracts, clock, patience):
        yield finding


def _accounts(settings: Settings, managed: Iterable[str]) -> Finding:
    missing = sorted(set(settings.ib_accounts) - set(managed))
    if missing:
        says = f"the login does not manage {', '.join(missing)} of V6_IB_ACCOUNTS, but {', '.join(managed)}"
        return fault("accounts", says, "correct V6_IB_ACCOUNTS, or log in as the user who has them")
    return ok("accounts", ", ".join(settings.ib_accounts or managed))


async def _clock(connection: IBConnectionManager, clock: Clock) -> Finding:
    before = clock()
    gateway = await connection.gateway_time()
    after = clock()
    # The gateway's second began at most one before it was told, which was between the two.
    earliest, latest = gateway - after, gateway + timedelta(seconds=1) - before
    off = max(earliest, -latest, timedelta(0))
    side = "behind" if earliest > timedelta(0) else "ahead of"
    says = f"this machine's is {off.total_seconds():.0f} s {side} the gateway's"
    remedy = "synchronise both by NTP: prices are dated by this clock, and trading days and leases counted by it"
    if off > CLOCK_FAULT:
        return fault("clock", says, remedy)
    if off > CLOCK_WARNING:
        return warning("clock", says, remedy)
    return ok("clock", f"within {CLOCK_WARNING.total_seconds():.0f} s of the gateway's")


async def _read_only(connection: IBConnectionManager) -> Finding:
    """A gateway in read-only mode refuses even to list open orders, with error 321."""
    refused: list[str] = []

    def listen(_request: int, _code: int, text: str) -> None:
        if _READ_ONLY.search(text):
            refused.append(text)

    connection.add_error_listener(listen)
    client: Any = connection.ib.client
    client.reqOpenOrders()
    await connection.round_trip()
    if refused:
        return ok("read-only", "the gateway refuses everything about orders, and so does this client")
    return warning(
        "read-only",
        "the gateway would take orders; this client refuses to send any",
        "tick 'Read-Only API' under API > Settings, for the other programs of this machine",
    )


@dataclass(slots=True)
class _Tried:
    """What came of the quotes."""

    refused: dict[int, Refusal] = field(default_factory=dict)
    quotes: dict[int, Quote] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def is_settled(self, asked: Iterable[int]) -> bool:
        return all(conid in self.refused or _has_price(self.quotes.get(conid)) for conid in asked)


def _has_price(quote: Quote | None) -> bool:
    return quote is not None and any(
        price is not None for price in (quote.bid, quote.ask, quote.last, quote.close, quote.mark)
    )


async def _quotes(
    settings: Settings,
    database: StateDatabase,
    connection: IBConnectionManager,
    contracts: Mapping[int, ContractSpec],
    clock: Clock,
    patience: Patience,
) -> AsyncIterator[Finding]:
    ledger = SlotLedger.from_settings(settings, database, clock)
    tried = _Tried()

    def on_quote(conid: int, quote: Quote) -> None:
        tried.quotes[conid] = quote
        tried.arrived.set()

    def on_refused(refusal: Refusal) -> None:
        tried.refused[refusal.conid] = refusal
        lines.refused(refusal.conid, exhausted=refusal.reaction is Reaction.LINES_EXHAUSTED)
        tried.arrived.set()

    market = MarketData(connection, on_quote=on_quote, on_refused=on_refused, clock=clock)
    market.attach()
    lines = BatchLines(connection, market, ledger, holder=f"doctor/{os.getpid()}")
    asked: set[int] = set()
    try:
        asked = await _subscribed(lines, contracts, patience.lines)
        await _first_prices(tried, asked, patience.quotes)
    finally:
        await lines.close()
    usage = await lines.usage()
    exhausted = any(refusal.reaction is Reaction.LINES_EXHAUSTED for refusal in tried.refused.values())
    if exhausted:
        yield fault(
            "market-data lines",
            f"IB has none left (error 101) while v6 uses {len(usage.slots)} of the {usage.configured_ceiling} it may",
            "close TWS windows that show quotes and other programs, or lower V6_MARKET_DATA_LINES",
        )
    elif usage.limit.is_learned:
        yield warning(
            "market-data lines",
            f"{usage.ceiling} are granted instead of {usage.configured_ceiling}, learned from errors 101",
            "close TWS windows that show quotes, or lower V6_MARKET_DATA_LINES",
        )
    elif not asked:
        yield warning("market-data lines", f"all {usage.ceiling} are in use by v6 itself: none was tried")
    else:
        yield ok("market-data lines", f"{len(usage.slots)} of {usage.ceiling} in use, {usage.free} free")
    yield _permission(settings, clock, contracts, asked, tried)


async def _subscribed(lines: BatchLines, contracts: Mapping[int, ContractSpec], seconds: float) -> set[int]:
    """Contracts that got a line: those of the ledger are few at a time, and others may wait for them."""
    asked: set[int] = set()
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while (left := [conid for conid in contracts if conid not in asked]) and loop.time() < until:
        answer = await lines.turn(left, contracts)
        asked |= set(answer.granted)
        if not answer.granted:
            await asyncio.sleep(0.5)
    return asked


async def _first_prices(tried: _Tried, asked: Iterable[int], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not tried.is_settled(asked):
                await tried.arrived.wait()
                tried.arrived.clear()
    except TimeoutError:
        pass


def _permission(
    settings: Settings, clock: Clock, contracts: Mapping[int, ContractSpec], asked: set[int], tried: _Tried
) -> Finding:
    denied = {
        conid: refusal for conid, refusal in tried.refused.items() if refusal.reaction is not Reaction.LINES_EXHAUSTED
    }
    if denied:
        names = ", ".join(_name(contracts[conid]) for conid in denied)
        first = next(iter(denied.values()))
        return fault(
            "market data",
            f"refused for {names}: {first.code} {first.text}",
            "subscribe to the exchange's data under Settings > Market Data Subscriptions in the Client Portal, and "
            "share it with a paper account; without it these contracts are valued from the portfolio feed alone",
        )
    heard = {conid: tried.quotes[conid] for conid in asked if _has_price(tried.quotes.get(conid))}
    silent = [_name(contracts[conid]) for conid in asked if conid not in heard and conid not in tried.refused]
    if not asked or not (heard or silent):
        return skipped("market data", "no line could be had for a quote")
    if any(quote.market_data_type in _DELAYED for quote in heard.values()):
        return warning("market data", "IB sends delayed quotes", "subscribe to live data, or trust the prices less")
    if silent and TradingCalendar(settings.timezone).is_open(clock()):
        return warning(
            "market data",
            f"no price of {', '.join(silent)} came although the market is open",
            "look whether TWS or the phone is logged in with the same user: IB gives its data to one session",
        )
    return ok("market data", f"live; prices of {len(heard)} of {len(asked)} contracts came")


def _name(spec: ContractSpec) -> str:
    return f"{spec.local_symbol or spec.symbol} ({spec.sec_type})"
