"""Batch quotes and a streamer's start over a wire with latency, in virtual time: how much the round trip costs.

Belongs here: the measurement. ``test_round_trip`` states what must hold, ``benchmarks/round_trip.py`` prints figures.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from v6_pipeline.ib.allowance import SharedAllowance
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.pacing import MessagePacer
from v6_pipeline.model import ContractSpec
from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline.refresh.quotes import BatchQuotes
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.slots.ledger import SlotLedger
from v6_pipeline.streaming.stream_lines import StreamLines
from v6_pipeline.streaming.streamed_contracts import StreamedContracts
from v6_pipeline_tests.simulation import wire
from v6_pipeline_tests.simulation.wire import SimulatedLoop

BEGIN = datetime(2026, 3, 3, 15, tzinfo=UTC)
MESSAGES_PER_SECOND = 45
CEILING, FLOOR = 90, 10


@dataclass(frozen=True, slots=True)
class Figures:
    """What the gateway saw."""

    served: int
    seconds: float
    peak_lines: int
    peak_rate: int
    exhausted: int

    @property
    def per_second(self) -> float:
        """Quotes, or streams, a second."""
        return self.served / self.seconds


@dataclass(slots=True)
class World:
    """A gateway behind a wire with a round trip of ``seconds``, and one client of it."""

    loop: SimulatedLoop
    gateway: PaperGateway
    database: StateDatabase
    ledger: SlotLedger
    connection: IBConnectionManager

    async def options(self, count: int) -> dict[int, ContractSpec]:
        """Return so many options, qualified."""
        listed = [item.conid for item in self.gateway.universe.contracts.values() if item.sec_type == "OPT"]
        specs = await self.cache().qualified(listed[:count])
        assert len(specs) == count
        return specs

    def cache(self) -> ContractCache:
        """A cache over the connection."""
        return ContractCache(self.database, self.connection, self.loop.utc)

    async def quotes(self, count: int, *, drop_after: float | None = None, lines: int = 0) -> Figures:
        """Quote so many options; ``drop_after`` seconds later the gateway has ``lines`` lines only."""
        specs = await self.options(count)
        batch = BatchQuotes(self.connection, self.cache(), self.ledger, holder="run", clock=self.loop.utc)
        if drop_after is not None:
            self.loop.call_later(drop_after, self.gateway.contract_faults.set_lines, lines)
        return await self._measured(batch.collect(specs.values()))

    async def streams(self, count: int) -> Figures:
        """Start so many streams."""
        specs = await self.options(count)
        lines = StreamLines(
            self.connection,
            self.ledger,
            holder="streamer",
            clock=self.loop.utc,
            contracts=StreamedContracts(),
            publish=lambda _conid, _quote: None,
            wake=lambda: None,
        )
        lines.attach()

        async def start() -> frozenset[int]:
            while len(lines.conids) < count:
                await lines.subscribe({conid: specs[conid] for conid in specs if conid not in lines.conids})
            return lines.conids

        figures = await self._measured(start())
        await lines.close()
        return figures

    async def _measured(self, work: Awaitable[Sized]) -> Figures:
        statistics = self.gateway.statistics
        await asyncio.sleep(2)
        statistics.reset_peaks()
        began = self.loop.time()
        served = len(await work)
        seconds = self.loop.time() - began
        return Figures(served, seconds, statistics.peak_lines, statistics.peak_rate, statistics.errors[101])


def over_a_wire(
    round_trip: float, folder: Path, template: Path, body: Callable[[World], Awaitable[Figures]]
) -> Figures:
    """Run ``body`` in virtual time, with a round trip of so many seconds; each way varies by a half of it.

    ``template`` is a migrated state database, of which a copy is made in ``folder``.
    """

    async def run() -> Figures:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        path = folder / "state.db"
        shutil.copy(template, path)
        database = StateDatabase.open(f"sqlite:///{path}", name_for_messages="state")
        config = GatewayConfig(
            control_port=None, positions=600, tick_seconds=None, as_of=BEGIN.date(), clock=loop.time, utcnow=loop.peek
        )
        try:
            async with PaperGateway(config) as gateway:
                connection = IBConnectionManager(
                    host="127.0.0.1",
                    port=gateway.port,
                    client_id=1,
                    pacer=MessagePacer(SharedAllowance(database, "gateway", MESSAGES_PER_SECOND, loop.utc)),
                )
                await connection.connect()
                ledger = SlotLedger(database, ceiling=CEILING, batch_floor=FLOOR, clock=loop.utc)
                figures = await body(World(loop, gateway, database, ledger, connection))
                assert ledger.usage().slots == ()
                await connection.close()
                return figures
        finally:
            database.close()
            path.unlink()

    with (
        patch.object(wire, "_LATENCY_SECONDS", (round_trip / 2,)),
        patch.object(wire, "_CUT_IN_TWO", 0.0),
        asyncio.Runner(loop_factory=lambda: SimulatedLoop(random.Random(1), BEGIN)) as runner,
    ):
        return runner.run(run())
