"""A streamer in the test's own loop, and what surrounds it: gateway, state, lake, a clock that is set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.paper import PaperGateway
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.slots.ledger import SlotLedger
from v6_pipeline.streamer import build_streamer
from v6_pipeline.streaming.policy import StreamerPolicy
from v6_pipeline.streaming.stream_lines import SLOT_TTL_SECONDS
from v6_pipeline.streaming.streamer import IBPositionStreamer
from v6_pipeline.streaming.writer import DeltaLakePositionWriter
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.unit.state.databases import ManualClock

QUICK = StreamerPolicy(lease=0.05, registry=0.05, upkeep=0.05)
"""Looks often, so that tests wait for less."""


@dataclass
class Rig:
    """A running streamer and what surrounds it."""

    gateway: PaperGateway
    settings: Settings
    database: StateDatabase
    lake: Lake
    clock: ManualClock

    @asynccontextmanager
    async def streaming(self, epoch: int = 1) -> AsyncIterator[IBPositionStreamer]:
        writer = DeltaLakePositionWriter(
            self.lake.table(STREAMED_POSITIONS),
            epoch=epoch,
            gateway=self.settings.ib_address,
            trading_day=TradingCalendar().trading_day,
            clock=self.clock,
            flush_seconds=self.settings.flush_seconds,
        )
        await writer.open()
        streamer = build_streamer(self.settings, self.database, writer, epoch=epoch, clock=self.clock, policy=QUICK)
        stop = asyncio.Event()
        running = asyncio.create_task(streamer.run(stop, connect_once=True))
        try:
            await eventually(lambda: running.done() or streamer.status().state == "streaming", "streaming")
            yield streamer
        finally:
            stop.set()
            await running

    @property
    def registry(self) -> StrategyRegistry:
        return StrategyRegistry(self.database, self.clock)

    @property
    def queue(self) -> PositionQueue:
        return PositionQueue(self.database, self.clock)

    def held(self) -> list[int]:
        return sorted({holding.conid for holding in self.gateway.book.held()})

    def subscribed(self) -> dict[int, int]:
        return dict(self.gateway.statistics.subscriptions)

    def queued(self) -> dict[tuple[str, int], int]:
        return {item.key: item.priority for item in self.queue.items()}

    def rows(self, conid: int) -> list[dict[str, Any]]:
        handle = self.lake.table(STREAMED_POSITIONS).load()
        if handle is None:
            return []
        found = pl.scan_delta(handle).filter(pl.col("conid") == conid).sort("timestamp", "ingested_at").collect()
        return found.to_dicts()

    def say(self, code: int, text: str) -> None:
        for session in list(self.gateway._open):
            session.error(-1, code, text)

    def fill_silently(self, account: str, conid: int, quantity: float) -> None:
        """A change without a position message."""
        self.gateway.book.resize(account, conid, quantity)

    def drop_clients(self) -> None:
        for session in list(self.gateway._open):
            session._writer.close()

    @property
    def ledger(self) -> SlotLedger:
        return SlotLedger(self.database, ceiling=90, batch_floor=10, clock=self.clock)

    def lines(self) -> set[int]:
        return {slot.conid for slot in self.ledger.usage().slots}

    def slots_last(self, now: datetime) -> bool:
        """Return True if every slot was renewed at ``now``."""
        return all(slot.expires_at == now + timedelta(seconds=SLOT_TTL_SECONDS) for slot in self.ledger.usage().slots)


def one_account_holding(rig: Rig) -> tuple[str, int]:
    """A holding whose contract no other account holds."""
    held = rig.gateway.book.held()
    return next((item.account, item.conid) for item in held if sum(other.conid == item.conid for other in held) == 1)
