"""Batch quotes and a streamer's start over a wire with latency, in virtual time: how much the round trip costs.

Belongs here: the measurement. ``test_round_trip`` states what must hold, ``benchmarks/round_trip.py`` prints figures.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Sequence, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from v6_pipeline.ib.allowance import SharedAllowance
from v6_pipeline.ib.close_plan import BarType
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.ib.history import BarsRequest, request_bars
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
DAY = BarType(bar_size="1 day", what_to_show="TRADES", seconds=86_400, longest_days=365)


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
        lines = self._stream_lines(self.connection)

        async def start() -> frozenset[int]:
            while len(lines.conids) < count:
                await lines.subscribe({conid: specs[conid] for conid in specs if conid not in lines.conids})
            return lines.conids

        figures = await self._measured(start())
        await lines.close()
        return figures

    async def everything(self, *, stall_seconds: float) -> Figures:
        """Let a streamer, four refreshes, a history run and a doctor that reconnects send all they may, at once.

        The gateway reads nothing for ``stall_seconds``, again and again.
        """
        specs = await self.options(110)
        for number in range(30):
            self.loop.call_later(2.5 + 1.6 * number, self.gateway.connection_faults.stall, stall_seconds)
        streamer, doctor, history, *refreshing = clients = [self._client(number) for number in range(2, 9)]
        conids = list(specs)

        async def work() -> list[int]:
            parts = (conids[begin : begin + 20] for begin in range(30, 110, 20))
            streaming = asyncio.create_task(self._stream(streamer, [specs[conid] for conid in conids[:30]]))
            await asyncio.gather(
                self._download(history, [specs[conid] for conid in conids[:10]]),
                self._examine(doctor, conids),
                *(
                    self._refresh(client, [specs[conid] for conid in part])
                    for client, part in zip(refreshing, parts, strict=True)
                ),
            )
            lines = await streaming
            await lines.close()
            return conids

        figures = await self._measured(work())
        for client in clients:
            await client.close()
        return figures

    async def flood(self, *, stall_seconds: float) -> Figures:
        """Let five processes connect and send 80 messages each, as fast as they may, while the gateway stalls."""
        clients = [self._client(number) for number in range(2, 7)]
        for number in range(12):
            self.loop.call_later(3 + 1.6 * number, self.gateway.connection_faults.stall, stall_seconds)

        async def send(connection: IBConnectionManager) -> None:
            await connection.connect()
            client: Any = connection.ib.client
            for _ in range(80):
                client.reqMarketDataType(1)
            await connection.round_trip()

        async def work() -> list[IBConnectionManager]:
            await asyncio.gather(*(send(client) for client in clients))
            return clients

        figures = await self._measured(work())
        for client in clients:
            await client.close()
        return figures

    async def _stream(self, connection: IBConnectionManager, specs: Sequence[ContractSpec]) -> StreamLines:
        await connection.connect()
        lines = self._stream_lines(connection)
        await lines.subscribe({spec.conid: spec for spec in specs})
        return lines

    async def _refresh(self, connection: IBConnectionManager, specs: Sequence[ContractSpec]) -> None:
        await connection.connect()
        holder = f"run {connection.client_id}"
        await BatchQuotes(connection, self.cache(), self.ledger, holder=holder, clock=self.loop.utc).collect(specs)

    async def _download(self, connection: IBConnectionManager, specs: Sequence[ContractSpec]) -> None:
        await connection.connect()
        for spec in specs:
            request = BarsRequest(contract=spec, bar_type=DAY, end=BEGIN, seconds=86_400)
            await request_bars(connection, request)

    async def _examine(self, connection: IBConnectionManager, conids: Sequence[int]) -> None:
        for _ in range(2):
            await connection.connect()
            await asyncio.gather(*(qualify(connection, conid) for conid in conids))
            await connection.gateway_time()
            await connection.close()

    def _client(self, client_id: int) -> IBConnectionManager:
        """A process of its own, as far as its allowance goes."""
        pacer = MessagePacer(SharedAllowance(self.database, "gateway", MESSAGES_PER_SECOND, self.loop.utc))
        return IBConnectionManager(host="127.0.0.1", port=self.gateway.port, client_id=client_id, pacer=pacer)

    def _stream_lines(self, connection: IBConnectionManager) -> StreamLines:
        lines = StreamLines(
            connection,
            self.ledger,
            holder="streamer",
            clock=self.loop.utc,
            contracts=StreamedContracts(),
            publish=lambda _conid, _quote: None,
            wake=lambda: None,
        )
        lines.attach()
        return lines

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
                ledger = SlotLedger(database, ceiling=CEILING, batch_floor=FLOOR, clock=loop.utc)
                pacer = MessagePacer(SharedAllowance(database, "gateway", MESSAGES_PER_SECOND, loop.utc))
                connection = IBConnectionManager(host="127.0.0.1", port=gateway.port, client_id=1, pacer=pacer)
                await connection.connect()
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
