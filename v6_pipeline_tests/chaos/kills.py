"""kill -9 of streamer, worker and code server in turn, under a real Dagster."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from v6_pipeline_tests.chaos.changes import AskFor
from v6_pipeline_tests.chaos.dagster_owner import DagsterOwner
from v6_pipeline_tests.chaos.faults import Fault, KillStreamer
from v6_pipeline_tests.chaos.runner import Runner
from v6_pipeline_tests.chaos.world import World

RESTART_SECONDS = 90.0
"""A code server loads for 10 to 16 s on two busy cores."""


@dataclass(slots=True)
class KillRun(Fault):
    """kill -9 of a Dagster run that refreshes, or else of a worker without Dagster."""

    name = "kill worker run"

    def begin(self, world: World) -> None:
        owner = world.sensor
        runs = owner.runs if isinstance(owner, DagsterOwner) else []
        if runs:
            runs[0].kill()
            return
        running = world.workers.running
        self.happened = bool(running)
        if running:
            world.workers.kill(running[0])


@dataclass(slots=True)
class KillCodeServer(Fault):
    """kill -9 of Dagster's code server."""

    name = "kill code server"

    def begin(self, world: World) -> None:
        assert isinstance(world.sensor, DagsterOwner)
        world.sensor.kill_code_server()


def kill_in_turn(runner: Runner, count: int) -> None:
    """So many kills, each after what the last one killed is back and streams."""
    world, owner = runner.world, runner.world.sensor
    assert isinstance(owner, DagsterOwner)
    kinds: tuple[Callable[[], Fault], ...] = (KillStreamer, KillRun, KillCodeServer)
    for number, kind in zip(range(count), itertools.cycle(kinds), strict=False):
        AskFor((number / count, 0.5)).begin(world)
        if not runner.wait_for(lambda: owner.is_served and owner.streamer and world.workers.running, RESTART_SECONDS):
            world.violations.add("everything is back", f"not within {RESTART_SECONDS:g} s before kill {number + 1}")
            return
        epoch, fault = owner.epoch, kind()
        taken = runner.hit(fault)
        runner.log.write("kill", number=number + 1, fault=fault.name, seconds=taken, epoch=owner.epoch)
        if not isinstance(fault, KillStreamer) and owner.epoch != epoch:
            world.violations.add("a stream outlives its owner", f"epoch {owner.epoch} after {fault.name}, was {epoch}")
