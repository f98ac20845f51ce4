"""A whole installation under test: gateway, sensor, streamer, workers, lake, state, and what it should look like.

What faults and the oracle need is here; what a fault is, is in ``faults``, and what must hold, in ``oracle``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from v6_pipeline.errors import GatewayError, StateError
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline_tests.chaos.excuses import Excuses
from v6_pipeline_tests.chaos.lake_log import Key, PositionLog
from v6_pipeline_tests.chaos.processes import (
    Gateway,
    Owner,
    Sensor,
    Workers,
    load,
    open_state,
    settings_of,
    v6_environment,
)
from v6_pipeline_tests.chaos.scale import Scale
from v6_pipeline_tests.chaos.state_store import StateStore, running_store
from v6_pipeline_tests.chaos.truth import PositionTruth
from v6_pipeline_tests.chaos.violations import Violations

STRATEGY = "chaos"


@dataclass(frozen=True, slots=True)
class Marker:
    """A holding that somebody asked to have refreshed at that time."""

    key: Key
    at: datetime


@dataclass(slots=True)
class World:
    """Everything that runs, and everything that is known to be so.

    ``active`` are the conids of the one strategy. ``excuses`` says what faults explain.
    """

    scale: Scale
    home: Path
    settings: Settings
    gateway: Gateway
    sensor: Owner
    workers: Workers
    database: StateDatabase
    store: StateStore
    registry: StrategyRegistry
    queue: PositionQueue
    truth: PositionTruth
    contracts: dict[int, dict[str, Any]]
    violations: Violations
    streamed: PositionLog
    queued: PositionLog
    active: set[int] = field(default_factory=set)
    excuses: Excuses = field(default_factory=Excuses)
    markers: list[Marker] = field(default_factory=list)
    skipped: int = 0
    """Actions that could not be done because of another fault."""
    _uncertain_since: datetime | None = None

    @property
    def accounts(self) -> list[str]:
        """Accounts of the gateway."""
        return sorted({key[0] for key in self.truth.held() | dict.fromkeys(self.truth.closed(), 0.0)})

    def wanted(self) -> set[int]:
        """Active contracts that are held, which streams are for."""
        return self.active & {conid for _, conid in self.truth.held()}

    def stream_count(self) -> int:
        """Return the number of contracts that must stream."""
        return min(len(self.wanted() - self.excuses.unsold), self._stream_capacity())

    def all_stream(self) -> bool:
        """Return True if there are lines for all wanted contracts, so that each must stream if IB sells its data."""
        return len(self.wanted()) <= self._stream_capacity()

    def _stream_capacity(self) -> int:
        return self.excuses.capacity(self.scale.stream_capacity, self.scale.batch_lines)

    def streamer_logins(self) -> int:
        """Return the number of logins of the streamer.

        Raises:
            GatewayError: no answer.
        """
        return self.logins_in(self.gateway.statistics())

    def logins_in(self, seen: dict[str, Any]) -> int:
        """Return the number of the streamer's logins in these statistics."""
        return int(seen["connections"].get(str(self.settings.ib_client_id), 0))

    # Changes of the broker's side

    def trade(self, command: str, **arguments: object) -> None:
        """Change positions at the gateway: ``open``, ``resize``, ``close`` or ``assign``.

        Raises:
            GatewayError: out of reach, or refused.
        """
        earliest = datetime.now(UTC)
        try:
            self.gateway.request(command, **arguments)
        except GatewayError:
            # Carried out perhaps, and perhaps later, out of the socket's buffer: to be asked for once it answers again.
            self._uncertain_since = self._uncertain_since or earliest
            raise
        self._learn_positions(self._uncertain_since or earliest)

    def settle_truth(self) -> None:
        """Ask for the positions again if a trade got no answer.

        Raises:
            GatewayError: out of reach still.
        """
        if self._uncertain_since is not None:
            self._learn_positions(self._uncertain_since)

    def _learn_positions(self, earliest: datetime) -> None:
        now_held = {
            (item["account"], item["conid"]): float(item["quantity"])
            for item in self.gateway.request("positions")["positions"]
        }
        before, latest = self.truth.held(), datetime.now(UTC)
        for key in sorted(before.keys() | now_held.keys()):
            quantity = now_held.get(key, 0.0)
            if quantity != before.get(key, 0.0):
                self.truth.changed(key, quantity, earliest=earliest, latest=latest)
        self._uncertain_since = None

    # Changes of ours

    def activate(self, conids: set[int]) -> None:
        """Let the strategy use contracts."""
        with self._unless_locked():
            self.registry.add_active(STRATEGY, sorted(conids))
            self.active |= conids

    def deactivate(self, conids: set[int]) -> None:
        """End the strategy's use of contracts."""
        conids &= self.active
        if conids and conids != self.active:
            with self._unless_locked():
                self.registry.remove_active(STRATEGY, conids)
                self.active -= conids

    def ask_for(self, keys: list[Key]) -> None:
        """Insert holdings into the queue; each must be refreshed after this."""
        with self._unless_locked():
            at = datetime.now(UTC)
            self.queue.insert_many((account, conid, str(self.contracts[conid]["symbol"]), 2) for account, conid in keys)
            self.markers += [Marker(key, at) for key in keys]

    @contextlib.contextmanager
    def _unless_locked(self) -> Iterator[None]:
        try:
            yield
        except StateError:
            self.skipped += 1


@contextlib.contextmanager
def running_world(
    scale: Scale,
    seed: int,
    folder: Path,
    owner: Callable[[Settings], Owner] | None = None,
    state: str = "sqlite",
) -> Iterator[World]:
    """Start everything; end everything, whatever happened.

    Args:
        scale: how big.
        seed: of quantities, prices and the workers' rhythm.
        folder: for homes and logs; left as it is at the end.
        owner: keeps the streamer; by default ``Sensor``.
        state: one of ``state_store.STORES``.
    """
    home = folder / "home"
    logs = folder / "processes"
    logs.mkdir(parents=True)
    violations = Violations()
    with contextlib.ExitStack() as stack:
        with v6_environment({}):
            gateway = Gateway(scale, seed, logs)
        stack.callback(gateway.close)
        store = stack.enter_context(running_store(state, home))
        there = {"V6_STATE_URL": store.url} if store.url else {}
        stack.enter_context(v6_environment(settings_of(home, gateway, scale) | there))
        settings = load()
        database = open_state(settings, store.direct_url)
        stack.callback(database.close)
        registry = StrategyRegistry(database, timezone=settings.timezone)
        registry.initialize()
        held = gateway.request("positions")["positions"]
        truth = PositionTruth(((item["account"], item["conid"]), item["quantity"]) for item in held)
        workers = Workers(scale.workers, seed, logs, violations)
        stack.callback(workers.close)
        sensor: Owner = Sensor(scale, settings) if owner is None else owner(settings)
        world = World(
            scale=scale,
            home=home,
            settings=settings,
            gateway=gateway,
            sensor=sensor,
            workers=workers,
            database=database,
            store=store,
            registry=registry,
            queue=PositionQueue(database),
            truth=truth,
            contracts={item["conid"]: item for item in gateway.request("contracts")["contracts"]},
            violations=violations,
            streamed=PositionLog(Path(settings.lake_root) / "streamed_positions"),
            queued=PositionLog(Path(settings.lake_root) / "queued_positions"),
        )
        conids = sorted({conid for _, conid in truth.held()})
        step = max(1, len(conids) // scale.active)
        world.activate(set(conids[::step][: scale.active]))
        stack.callback(_end_streamers, sensor)
        stack.enter_context(sensor)
        yield world


def _end_streamers(sensor: Owner) -> None:
    for process in sensor.streamers.values():
        with contextlib.suppress(Exception):
            process.kill()
            process.wait(5)
