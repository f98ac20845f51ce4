"""A simulated day: the gateway, Dagster's sensor and schedule, a streamer and refreshing runs, and the people.

Belongs here: the processes and people, and the actions on them. Faults are drawn in ``storms``; ``oracle`` has the
rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import V6Error
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline.refresh.due import LOOKAHEAD_SECONDS, decide_refresh
from v6_pipeline.refresh.worker import QueueWorker, RefreshScope
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.slots.ledger import SlotLedger
from v6_pipeline.streamer import Authority, stream
from v6_pipeline.streaming.control import StreamerControl
from v6_pipeline.streaming.policy import StreamerPolicy
from v6_pipeline_tests.simulation.loop import PROCESS, SimulatedProcess
from v6_pipeline_tests.simulation.operating_system import forget_other_streamers, simulated_operating_system
from v6_pipeline_tests.simulation.wire import SimulatedLoop

log = logging.getLogger("simulation")

SCHEDULE_SECONDS = 60
FLUSH_SECONDS = 120.0
"""Flush interval of the streamer; a crash loses only what the next download restores."""
AWAKE_AFTER_STORM = 240.0
"""Seconds for which all processes look as often as in the storm itself."""
ALIVE_WITHIN = 45.0
"""Streams that died are streams again by then."""
STREAMER, WORKER = "streamer", "worker"
_DIARY_LINES = 4000
NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class Span:
    """The simulated part of a trading day; instants in UTC."""

    day: date
    begin: datetime
    end: datetime


@dataclass(slots=True)
class Figures:
    """Figures of a day."""

    ticks: int = 0
    commits: int = 0
    rows: int = 0
    runs: int = 0
    failed_runs: int = 0
    streamers: int = 0
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds between the looks of the streamer, and of the sensor.

    Longer than in reality, which the events that are drawn here do not reveal: looks are most of the cost of a quiet
    hour. ``upkeep`` renews the lines, which last a minute.
    """

    policy: StreamerPolicy
    sensor: float


STORMY = Rhythm(StreamerPolicy(lease=20, registry=4, upkeep=20), sensor=30)
ALERT = Rhythm(StreamerPolicy(lease=20, registry=4, upkeep=2), sensor=30)
"""Nearly as often as they really look, where it is timed how soon dead streams are missed."""
CALM = Rhythm(StreamerPolicy(lease=45, registry=20, upkeep=40), sensor=60)
NIGHT = Rhythm(StreamerPolicy(lease=45, registry=60, upkeep=40), sensor=90)


class _Policy(StreamerPolicy):
    """The streamer's part of the rhythm of the moment."""

    def __init__(self, world: World) -> None:
        object.__setattr__(self, "_world", world)

    def __getattribute__(self, name: str) -> Any:
        if name in {"lease", "registry", "upkeep"}:
            world: World = object.__getattribute__(self, "_world")
            return getattr(world.rhythm.policy, name)
        return object.__getattribute__(self, name)


class World:
    """Everything of one day; ``live`` runs it.

    Args:
        seed: all that happens follows from it.
        span: when.
        folder: an empty one, for the home; best in memory.
        template: a migrated state database to copy.
    """

    def __init__(self, loop: SimulatedLoop, seed: str, span: Span, folder: Path, template: Path) -> None:
        self.loop = loop
        self.seed = seed
        self.span = span
        self.calendar = TradingCalendar()
        draw = self.rng("shape")
        self.lines = draw.choice((12, 14, 18))
        self.gateway = PaperGateway(
            GatewayConfig(
                control_port=None,
                accounts=("SIM0000001", "SIM0000002"),
                positions=draw.randrange(20, 26),
                unusual=True,
                tws_version=self.rng("release").choice(("10.30", "10.47")),
                seed=draw.randrange(1, 1_000_000),
                lines=self.lines,
                tick_seconds=None,
                as_of=span.day,
                clock=loop.time,
                utcnow=loop.peek,
            )
        )
        self._folder = folder
        self._template = template
        self._shape = draw
        self.settings: Settings
        self.database: StateDatabase
        self.lake: Lake
        self.figures = Figures()
        self.diary: deque[str] = deque(maxlen=_DIARY_LINES)
        self.streamer: SimulatedProcess | None = None
        self.workers: list[SimulatedProcess] = []
        self.daemon_until: float = 0.0
        """Dagster's daemon is down until then."""
        self.still_until = 0.0
        """No tick before."""
        self.lively_until = 0.0
        """End of the time in which ticks come every few seconds, as in a real market after an outage of the link."""
        self.alert_until = 0.0
        """End of the time in which the streamer looks as often as in reality."""
        self.stormy_until = 0.0
        """End of the time in which all processes look often."""
        self.last_run_at: datetime | None = None
        self.crashes: list[str] = []

    def rng(self, purpose: str) -> random.Random:
        """A source of chance of its own for each purpose, so that one drawing more does not change the others."""
        return random.Random(f"{self.seed}/{purpose}")

    # Set-up

    @contextlib.asynccontextmanager
    async def _running(self) -> Any:
        async with self.gateway:
            home = self._folder / "home"
            home.mkdir()
            shutil.copy(self._template, home / "state.db")
            self.settings = Settings(
                home=home,
                ib_port=self.gateway.port,
                market_data_lines=self.lines,
                reserved_lines=4,
                # Few lines for many: streams and batches together want more than there are, at any time.
                batch_lines=self._shape.choice((1, 2, 4)),
                flush_seconds=FLUSH_SECONDS,
                lease_seconds=180,
                queue_batch=self._shape.choice((7, 20)),
                refresh_seconds=self._shape.choice((600, 900)),
            )
            self.database = self.open_database()
            self.lake = Lake.from_settings(self.settings)
            try:
                yield
            finally:
                self.database.close()

    def open_database(self) -> StateDatabase:
        """A handle as each process opens its own."""
        return StateDatabase.open(self.settings.state_database_url, name_for_messages=self.settings.safe_state_url)

    @contextlib.asynccontextmanager
    async def life(self) -> Any:
        """The day's actors, from the first minute to the last; what they failed with is raised at the end."""
        with simulated_operating_system(self.loop):
            async with self._running():
                actors = [
                    asyncio.create_task(actor, name=name)
                    for name, actor in (
                        ("sensor", self._sensor()),
                        ("schedule", self._schedule()),
                        ("market", self._market()),
                    )
                ]
                try:
                    yield actors
                finally:
                    for actor in actors:
                        actor.cancel()
                    await asyncio.gather(*actors, return_exceptions=True)
                    for process in self.loop.processes:
                        self.loop.kill_process(process)
                    await self.loop.bury()

    # Time

    @property
    def rhythm(self) -> Rhythm:
        """Intervals between the looks of all processes now."""
        if self.loop.time() < self.alert_until:
            return ALERT
        if self.loop.time() < self.stormy_until:
            return STORMY
        return CALM if self.refreshes else NIGHT

    @property
    def now(self) -> datetime:
        return self.loop.peek()

    @property
    def is_session(self) -> bool:
        return self.calendar.is_open(self.now)

    @property
    def refreshes(self) -> bool:
        """True if the schedule refreshes at this time of day."""
        return self.calendar.is_open(self.now, until_cut_off=True)

    @property
    def seconds_to_session(self) -> float:
        """Seconds until the exchange opens next."""
        day = self.now.astimezone(NEW_YORK).date()
        while True:
            if self.calendar.is_session(day) and self.calendar.session(day).opens_at > self.now:
                return (self.calendar.session(day).opens_at - self.now).total_seconds()
            day += timedelta(days=1)

    @property
    def local_time(self) -> str:
        """Now, in New York."""
        return f"{self.now.astimezone(NEW_YORK):%a %H:%M:%S.%f}"

    def say(self, text: str) -> None:
        """A line of the diary."""
        self.diary.append(f"{self.local_time} {text}")

    # Dagster's daemon

    async def _sensor(self) -> None:
        control = StreamerControl(self.settings, self.database, self.loop.utc, spawn=self._spawn_streamer)
        while True:
            if self.loop.time() >= self.daemon_until:
                outcome = control.tick()
                if not outcome.decision.reason.startswith("renewed"):
                    self.say(f"sensor: {outcome.decision.reason}")
            await asyncio.sleep(self.rhythm.sensor)

    async def _schedule(self) -> None:
        queue = PositionQueue(self.database, self.loop.utc)
        while True:
            await asyncio.sleep(SCHEDULE_SECONDS)
            if self.loop.time() < self.daemon_until or not self.refreshes:
                continue
            active = next((worker.name for worker in self.workers if worker.is_alive), None)
            now = self.loop.utc()
            decision = decide_refresh(
                market_open=True,
                active_run_id=active,
                due=queue.count_due(refresh_seconds=self.settings.refresh_seconds, interval_seconds=LOOKAHEAD_SECONDS),
                queue=queue.stats(),
                last_run_at=self.last_run_at,
                last_run_failed=False,
                outage=None,  # the hours of the exchange lie outside of IB's resets
                refresh_seconds=self.settings.refresh_seconds,
                now=now,
            )
            if decision.refresh:
                self.last_run_at = now
                self.start_worker(RefreshScope(interval_seconds=LOOKAHEAD_SECONDS))

    # Processes

    def _spawn_streamer(self, _settings: Settings, epoch: int) -> None:
        # Now and then it runs where the sensor can neither look nor kill, as on another machine.
        reachable = self.rng(f"streamer/{epoch}").random() < 0.8

        async def body(process: SimulatedProcess) -> None:
            await asyncio.sleep(1.5)  # Python starts
            forget_other_streamers()
            try:
                await stream(
                    self.settings,
                    asyncio.Event(),
                    authority=Authority.SPAWNED,
                    epoch=epoch,
                    clock=self.loop.utc,
                    elapsed=self.loop.time,
                    policy=_Policy(self),
                )
                self.say(f"{process.name} ended")
            except V6Error as error:
                self.say(f"{process.name} failed: {error}")
            except Exception as error:
                self.crashes.append(f"{process.name}: {type(error).__name__}: {error}")
                log.exception("crash of %s", process.name)
                raise

        self.figures.streamers += 1
        self.streamer = self.loop.start_process(f"{STREAMER}/{epoch}", body, reachable=reachable)

    def start_worker(self, scope: RefreshScope) -> SimulatedProcess:
        """A run that refreshes, as of ``queued_positions`` or ``v6 refresh``."""
        self.figures.runs += 1
        run_id = f"run-{self.figures.runs:04d}"

        async def body(process: SimulatedProcess) -> None:
            await asyncio.sleep(2.0)
            database = self.open_database()
            try:
                worker = QueueWorker(
                    self.settings,
                    database,
                    Lake.from_settings(self.settings),
                    run_id=run_id,
                    trading_day=self.calendar.trading_day,
                    clock=self.loop.utc,
                )
                await worker.run(scope)
            except V6Error as error:
                self.figures.failed_runs += 1
                self.say(f"{process.name} failed: {error}")
            except Exception as error:
                self.crashes.append(f"{process.name}: {type(error).__name__}: {error}")
                log.exception("crash of %s", process.name)
                raise
            finally:
                database.close()

        self.workers = [worker for worker in self.workers if worker.is_alive]
        worker = self.loop.start_process(f"{WORKER}/{run_id}", body)
        self.workers.append(worker)
        return worker

    @property
    def living(self) -> list[SimulatedProcess]:
        """Processes that are alive, stopped ones included."""
        return [process for process in self.loop.processes if process.is_alive]

    # The market

    async def _market(self) -> None:
        draw = self.rng("market")
        while True:
            if self.loop.time() < self.lively_until:
                await asyncio.sleep(draw.uniform(1, 4))
            elif self.is_session:
                # Just within what the streamer takes for life.
                await asyncio.sleep(draw.uniform(20, 70))
            else:
                await asyncio.sleep(draw.uniform(60, 600))
                if draw.random() < 0.7:
                    continue
            if self.loop.time() >= self.still_until:
                self.gateway.tick_once()

    # The people

    @property
    def registry(self) -> StrategyRegistry:
        registry = StrategyRegistry(self.database, self.loop.utc, timezone=self.settings.timezone)
        registry.initialize()
        return registry

    @property
    def queue(self) -> PositionQueue:
        return PositionQueue(self.database, self.loop.utc)

    @property
    def ledger(self) -> SlotLedger:
        return SlotLedger.from_settings(self.settings, self.database, self.loop.utc)

    # Trouble

    @contextlib.contextmanager
    def lake_trouble(self, kind: str) -> Iterator[None]:
        """Within it no commit succeeds: the disk is full, or the answer is lost though the commit landed."""
        write = DeltaTableStore.write

        def fail(store: DeltaTableStore, *args: Any) -> None:
            if kind == "lost answer":
                write(store, *args)
            raise OSError(28, "No space left on device")

        with patch.object(DeltaTableStore, "write", fail):
            yield


def session_span(day: date, *, hours: tuple[float, float] | None = None) -> Span:
    """The trading day, or a part of it: hours after its begin at 04:00 New York."""
    calendar = TradingCalendar()
    begin = calendar.begins_at(day)
    if hours is None:
        return Span(day, begin, begin + timedelta(hours=24))
    return Span(day, begin + timedelta(hours=hours[0]), begin + timedelta(hours=hours[1]))


class DiaryHandler(logging.Handler):
    """The product's log, into the world's diary."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get()
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" [{record.exc_info[1]!r}]"
        self._world.say(f"{process.name if process else 'daemon'} {record.name.removeprefix('v6_pipeline.')}: {text}")
