"""``IBPositionStreamer``: requests positions, and keeps each holding routed to a line or to the queue.

The live half of the product, on one asyncio loop. Database calls run in threads, so that a busy one never delays a
tick. Does not belong here: the decisions, which are pure (``routing``, ``feed_health``), and the right to stream
(lease, epoch), which is the caller's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from v6_pipeline.errors import GatewayError, StateError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.model import QueuePriority, Quote
from v6_pipeline.settings import Settings
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.keys import Key
from v6_pipeline.state.position_feed import StreamerState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.assignments import strategy_ids
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.slots.allocation import SlotUsage
from v6_pipeline.state.slots.ledger import SlotLedger
from v6_pipeline.streaming.feed_monitor import FeedMonitor
from v6_pipeline.streaming.handlers import HandlerDispatcher
from v6_pipeline.streaming.holdings import HoldingsFeed
from v6_pipeline.streaming.policy import (
    RATES_RELOAD,
    ROUTE_AT_LEAST_EVERY,
    SESSION_PAUSE_SECONDS,
    StreamerPolicy,
)
from v6_pipeline.streaming.portfolio import Portfolio
from v6_pipeline.streaming.routing import Route, RoutePlan, StreamCapacity, plan_routes, queue_priorities
from v6_pipeline.streaming.status import OVERFLOW_SAMPLE, StreamerStatus, StreamState
from v6_pipeline.streaming.stream_lines import CLOSING_SECONDS, StreamLines
from v6_pipeline.streaming.streamed_contracts import StreamedContracts
from v6_pipeline.streaming.writer import DeltaLakePositionWriter

log = logging.getLogger(__name__)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class IBPositionStreamer:
    """Streams the holdings of active strategies and queues the others.

    One instance per process: two would each take the lines.

    Args:
        connection: one that is not connected yet.
        writer: one of ``dispatcher``'s handlers.
        registry: initialized.
        holder: name of this process in the ledger.
        is_open: True if the exchange is in session at an instant; while it is closed, silence proves nothing.
    """

    _in_process: ClassVar[bool] = False

    def __init__(
        self,
        settings: Settings,
        database: StateDatabase,
        connection: IBConnectionManager,
        *,
        writer: DeltaLakePositionWriter,
        dispatcher: HandlerDispatcher,
        registry: StrategyRegistry,
        queue: PositionQueue,
        ledger: SlotLedger,
        holder: str,
        is_open: Callable[[datetime], bool],
        clock: Callable[[], datetime],
        policy: StreamerPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._policy = policy or StreamerPolicy()
        self._connection = connection
        self._writer = writer
        self._dispatcher = dispatcher
        self._registry = registry
        self._state = StreamerState(database, queue)
        self._ledger = ledger
        self._clock = clock
        self._portfolio = Portfolio(settings.ib_accounts)
        self._wake = asyncio.Event()
        self._holdings = HoldingsFeed(connection, self._state, self._portfolio, clock=clock, on_change=self._wake.set)
        self._book = ContractCache(database, connection, clock)
        self._contracts = StreamedContracts()
        self._lines = StreamLines(
            connection,
            ledger,
            holder=holder,
            clock=clock,
            contracts=self._contracts,
            publish=self._on_quote,
            wake=self._wake.set,
        )
        self._resync = asyncio.Event()
        self._feeds = FeedMonitor(
            connection,
            self._lines,
            self._contracts,
            is_open=is_open,
            region=settings.ib_region,
            clock=clock,
            wake=self._wake,
            resync=self._resync,
        )
        self._queued: dict[Key, QueuePriority] = {}
        self._plan: RoutePlan | None = None
        self._capacity = StreamCapacity()
        self._started_at = clock()
        self._last_tick_at: datetime | None = None
        self._ticks = 0
        self._routed_at = _LONG_AGO
        self.upkeeps = 0
        """Upkeep passes so far."""

    async def run(self, stop: asyncio.Event, *, connect_once: bool = False) -> None:
        """Stream until ``stop`` is set; then cancel the market data, flush, give the lines back and disconnect.

        Args:
            stop: set by the caller to end.
            connect_once: fail at once if the gateway cannot be used at the start, rather than retry until it can.

        Raises:
            GatewayError: with ``connect_once``, the gateway cannot be used.
            FencedError: another streamer has taken over; nothing was written after that.
        """
        if IBPositionStreamer._in_process:
            raise RuntimeError("one IBPositionStreamer per process: a second one would take the same lines again")
        IBPositionStreamer._in_process = True
        tasks: list[asyncio.Task[Any]] = []
        try:
            if connect_once:
                await self._connection.connect()
            tasks = [
                asyncio.create_task(self._keep_connected(), name="connection"),
                asyncio.create_task(self._keep_routed(), name="routing"),
                asyncio.create_task(
                    self._lines.keep_renewed(lambda: self._holdings.is_complete, lambda: self._policy.upkeep),
                    name="lines",
                ),
                asyncio.create_task(self._keep_fresh(), name="upkeep"),
                asyncio.create_task(self._dispatcher.run(), name="handlers"),
                asyncio.create_task(self._writer.run(), name="writer"),
                asyncio.create_task(stop.wait(), name="stop"),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            try:
                await self._shut_down(tasks)
            finally:
                IBPositionStreamer._in_process = False

    def status(self) -> StreamerStatus:
        """Return the streamer's report at this moment."""
        plan, blind_since = self._plan, self._feeds.blind_since
        return StreamerStatus(
            state=StreamState.STREAMING if blind_since is None else StreamState.BLIND,
            connection=self._connection.state.value,
            gateway=self._connection.address,
            client_id=self._connection.client_id,
            connects=self._connection.connects,
            started_at=self._started_at,
            blind_since=blind_since,
            feeds=self._feeds.health.describe(),
            competing_session_since=self._feeds.health.competing_since,
            expected_outage=self._feeds.expected_outage,
            holdings=len(self._portfolio),
            streamed_contracts=len(self._lines.conids),
            overflow_contracts=len(plan.overflow) if plan else 0,
            overflow_sample=tuple(plan.overflow[:OVERFLOW_SAMPLE]) if plan else (),
            queued_holdings=len(plan.queue) if plan else 0,
            refused=self._contracts.refusals(),
            silent=self._contracts.silences(),
            ticks=self._ticks,
            last_tick_at=self._last_tick_at,
            error_codes=dict(sorted(self._connection.error_counts.items())),
            writer=self._writer.status(),
            handlers=self._dispatcher.status(),
        )

    # Connection

    async def _keep_connected(self) -> None:
        failed = 0
        while True:
            if not self._connection.is_connected:
                await self._connection.connect_persistently()
            heartbeat: asyncio.Task[None] | None = None
            try:
                await self._begin_session()
                failed = 0
                heartbeat = asyncio.create_task(self._connection.run_heartbeat(), name="heartbeat")
                log.warning("connection lost: %s", await self._hold_session())
            except (GatewayError, StateError) as error:
                failed += 1
                log.warning("session failed: %s", error)
            finally:
                if heartbeat is not None:
                    heartbeat.cancel()
                await self._end_session()
            if failed:
                # Give time to a gateway that admits a client and drops it at once, as during its nightly restart.
                await asyncio.sleep(min(2.0 ** min(failed, 10), SESSION_PAUSE_SECONDS))

    async def _begin_session(self) -> None:
        await self._lines.begin_session()
        self._feeds.begin_session()
        await self._book.forget_refused()
        self._resync.clear()
        await self._holdings.begin_session()
        self._feeds.positions_known()
        self._wake.set()

    async def _hold_session(self) -> str:
        """Download positions after each outage of the link, or if some are missing; return why the session ended."""
        lost = asyncio.create_task(self._connection.wait_lost(), name="connection lost")
        try:
            while True:
                resync = asyncio.create_task(self._resync.wait(), name="resync")
                recheck = self._holdings.recheck_seconds
                await asyncio.wait({lost, resync}, timeout=recheck, return_when=asyncio.FIRST_COMPLETED)
                resync.cancel()
                if lost.done():
                    return lost.result()
                self._resync.clear()
                await self._holdings.download()
                self._feeds.positions_known()
                self._wake.set()
        finally:
            lost.cancel()

    async def _end_session(self) -> None:
        self._holdings.end_session()
        self._feeds.end_session()
        await self._lines.end_session()

    async def _shut_down(self, tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                log.debug("while stopping: %s", result)
        try:
            await self._dispatcher.drain(CLOSING_SECONDS)
        finally:
            await self._writer.close()
            await self._end_session()

    # Routing

    async def _keep_routed(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._policy.registry):
                    await self._wake.wait()
            except TimeoutError:
                pass
            try:
                changed = await ask(self._registry.reload_if_changed)
                usage = await ask(self._ledger.usage)
                due = self._wake.is_set() or changed or self._is_route_due(usage)
                self._wake.clear()
                if self._holdings.is_complete and due:
                    await self._route(usage)
            except (GatewayError, StateError) as error:
                # Try again: either the connection is lost, whose return starts a pass, or the database is busy.
                log.warning("routing interrupted: %s", error)
                self._routed_at = _LONG_AGO

    def _is_route_due(self, usage: SlotUsage) -> bool:
        """Return True if the number of lines changed, or lines are about to come free, or may have unnoticed."""
        changed = usage.limit.stream_target != self._capacity.offered
        return changed or self._lines.awaits_lines or self._clock() - self._routed_at >= ROUTE_AT_LEAST_EVERY

    async def _route(self, usage: SlotUsage) -> None:
        self._routed_at = self._clock()
        await self._publish_changes()
        renewed = self._feeds.take_renewals() & self._lines.conids
        self._contracts.begin_renewal(renewed)
        try:
            await self._follow_routes(usage, renewed)
        finally:
            self._contracts.end_renewals(self._clock())
            self._lines.report_losses(self._plan.overflow if self._plan else ())

    async def _follow_routes(self, usage: SlotUsage, renewed: set[int]) -> None:
        """Plan, cancel and subscribe; ``renewed`` contracts are subscribed again."""
        await self._lines.cancel(renewed)
        now = self._clock()
        routes = self._routes(now)
        capacity = self._capacity.usable(usage.limit.stream_target, now, probing=usage.limit.is_probing)
        self._plan = plan = plan_routes(routes, subscribed=self._lines.conids, capacity=capacity)
        await self._lines.cancel(plan.cancel)
        # While another login has the data, a new request would only wait, so its contract is queued instead.
        wanted = [conid for conid in plan.subscribe if not self._feeds.is_paused or conid in renewed]
        # Those that stream too: their units and names may have been learned since.
        specs = await self._book.qualified({*wanted, *self._lines.conids})
        learned = {conid for conid, spec in specs.items() if self._portfolio.contracts.get(conid, spec) != spec}
        self._portfolio.contracts |= specs
        qualified = {conid: specs[conid] for conid in wanted if conid in specs}
        streaming, pending = await self._lines.subscribe(qualified, plan.priorities)
        self._contracts.planned(self._lines.conids | set(plan.subscribe), others_wait=bool(plan.overflow))
        # What was learned of a contract, such as its unit, changes its rows though nothing ticks.
        for conid in {*streaming, *(learned & self._lines.conids)}:
            if not self._feeds.is_blind(conid):
                self._publish(conid, self._clock())
        await self._enqueue(plan, routes, set(plan.subscribe) - {*streaming, *pending})

    def _routes(self, now: datetime) -> list[Route]:
        routes: list[Route] = []
        strategies: dict[Key, tuple[str, ...]] = {}
        silent, refused = self._contracts.silent(now), self._contracts.refused_ones(now)
        for holding in self._portfolio:
            conid, assignments = holding.contract.conid, self._registry.assignments(holding)
            has_expired = self._registry.has_expired(holding.contract)
            priority = None if has_expired else min((item.priority for item in assignments), default=None)
            routes.append(Route(holding, priority, refused=conid in refused, silent=conid in silent))
            strategies[holding.key] = strategy_ids(assignments)
        self._portfolio.strategies = strategies
        active = {route.holding.contract.conid for route in routes if route.priority is not None}
        since = self._contracts.wanted(active, now)
        return [replace(route, since=since.get(route.holding.contract.conid)) for route in routes]

    async def _publish_changes(self) -> None:
        """Store the changes of positions since the last pass, publish their rows, and have queued ones refreshed."""
        changed = await self._holdings.store_changes()
        now = self._clock()
        for holding in changed:
            self._portfolio.put(holding)
            # At once: a contract's new symbol may be selected by other strategies.
            self._portfolio.strategies[holding.key] = strategy_ids(self._registry.assignments(holding))
            conid = holding.contract.conid
            if conid in self._lines.conids:
                self._publish(conid, now)
            if holding.position == 0:
                self._portfolio.discard(holding)
        # Streamed holdings too: only the account feed has a trade's realized profit.
        await self._state.verify(changed)

    async def _enqueue(self, plan: RoutePlan, routes: list[Route], without_line: set[int]) -> None:
        """Enqueue what is newly routed to the queue; the schedule refreshes what was enqueued before."""
        wanted = queue_priorities(plan, routes, without_line)
        new = {key: priority for key, priority in wanted.items() if self._queued.get(key) != priority}
        await self._state.enqueue(new, {route.holding.key: route.holding.contract.symbol for route in routes})
        self._queued = wanted

    # Upkeep

    async def _keep_fresh(self) -> None:
        """Read exchange rates, check the feeds and refresh contracts without ticks, once a second."""
        rates_at = _LONG_AGO
        while True:
            now = self._clock()
            try:
                if now - rates_at >= RATES_RELOAD:
                    self._portfolio.bases = await self._state.base_currencies()
                    rates_at = now
            except StateError as error:
                # Tried again in a second, until the lease, which is in the same database, expires.
                log.warning("upkeep interrupted: %s", error)
            await self._feeds.look(now)
            if self._holdings.is_complete:
                try:
                    await self._refresh_silent(now)
                except StateError as error:
                    log.warning("upkeep interrupted: %s", error)
            self.upkeeps += 1
            await asyncio.sleep(self._policy.upkeep)

    async def _refresh_silent(self, now: datetime) -> None:
        """Publish rows of contracts without one for ``refresh_seconds``; queue those that their lines cannot value."""
        after = timedelta(seconds=self._settings.refresh_seconds)
        for conid in self._portfolio.silent(self._lines.conids, now, after):
            # While the contract's data is away, a row would claim that the old price still holds.
            if not self._feeds.is_blind(conid):
                self._publish(conid, now)
        for conid in self._lines.conids:
            can_value = self._portfolio.can_value(conid, self._lines.market.quote(conid))
            is_valued = can_value and not self._feeds.is_blind(conid)
            self._contracts.valued(conid, now, is_valued=is_valued)
        due = self._contracts.unvalued(now, after) if self._feeds.is_linked else []
        held = {holding.key: holding for conid in due for holding in self._portfolio.holders(conid)}
        symbols = {key: holding.contract.symbol for key, holding in held.items()}
        await self._state.enqueue(dict.fromkeys(held, QueuePriority.OVERFLOW), symbols)
        self._contracts.queued(due, now)

    # Events of the gateway, on the loop

    def _publish(self, conid: int, now: datetime, quote: Quote | None = None) -> None:
        for update in self._portfolio.updates(conid, quote or self._lines.market.quote(conid), now):
            self._dispatcher.publish(update)

    def _on_quote(self, conid: int, quote: Quote) -> None:
        self._last_tick_at = now = self._clock()
        self._ticks += 1
        self._feeds.ticked(conid)
        self._publish(conid, now, quote)
