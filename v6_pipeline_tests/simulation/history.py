"""Historical requests on the virtual loop: how long IB's pacing makes them take, and whether it is ever broken.

Belongs here: the runs that ``benchmarks/historical_pacing.py`` prints and a test judges. The gateway is the paper one,
which counts violations; hours pass in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.closes import CloseFetcher
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.historical_pacing import REQUESTS_PER_SECOND
from v6_pipeline.ib.session import leased_connection
from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.simulation.wire import SimulatedLoop

BEGIN = datetime(2026, 11, 30, 23, tzinfo=UTC)
DAYS = TradingCalendar().sessions_between(date(2026, 9, 3), date(2026, 11, 30))
ANSWER_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a run; ``bound`` is the least time that pacing allows for its requests, seconds."""

    requests: int
    seconds: float
    bound: float
    violations: int
    peak_open: int
    closes: int = 0

    @property
    def ratio(self) -> float:
        """Wall time by the bound."""
        return self.seconds / self.bound


Body = Callable[[SimulatedLoop, PaperGateway, Settings, StateDatabase], Coroutine[Any, Any, Figures]]


def simulate(body: Body, folder: Path, *, seed: int = 1) -> Figures:
    """Run ``body`` on a loop of its own, with a gateway and an empty state database."""
    loop = SimulatedLoop(random.Random(seed), BEGIN)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_simulate(body, loop, folder))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _simulate(body: Body, loop: SimulatedLoop, folder: Path) -> Figures:
    config = GatewayConfig(
        control_port=None,
        as_of=BEGIN.date(),
        tick_seconds=None,
        message_rate=50,
        history_seconds=ANSWER_SECONDS,
        clock=loop.time,
        utcnow=loop.peek,
    )
    async with PaperGateway(config) as gateway:
        settings = Settings(home=folder, ib_port=gateway.port)
        database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
        with contextlib.closing(database):
            return await body(loop, gateway, settings, database)


def closes_of_options(runs: int, contracts: int, days: Sequence[date] = DAYS) -> Body:
    """So many runs at once fetch the closes of these trading days, of so many options each."""

    async def body(loop: SimulatedLoop, gateway: PaperGateway, settings: Settings, database: StateDatabase) -> Figures:
        options = [item.conid for item in gateway.universe.contracts.values() if item.sec_type == "OPT"]
        fetchers = [
            CloseFetcher(settings, database, run_id=f"run-{number}", calendar=TradingCalendar(), clock=loop.utc)
            for number in range(runs)
        ]
        await _qualify(settings, database, options[: runs * contracts], loop)
        began = loop.time()
        reports = await asyncio.gather(
            *(
                fetcher.fetch(dict.fromkeys(options[number::runs][:contracts], days), {})
                for number, fetcher in enumerate(fetchers)
            )
        )
        seconds = loop.time() - began
        history = gateway.statistics.history
        requests = history.asked.total()
        closes = sum(entry.close is not None for report in reports for entry in report.entries.values())
        bound = requests / REQUESTS_PER_SECOND
        return Figures(requests, seconds, bound, history.violations, history.peak_open, closes)

    return body


async def _qualify(settings: Settings, database: StateDatabase, conids: list[int], loop: SimulatedLoop) -> None:
    """Definitions first, as a holding account has them: they are no historical requests."""
    async with leased_connection(settings, database, owner="cache", clock=loop.utc) as connection:
        await ContractCache(database, connection, loop.utc).qualified(conids)
