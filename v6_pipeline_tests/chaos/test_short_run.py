"""A short run: kill -9 of streamer and worker in turn, a round from a seed; in the end the lake is the truth."""

from __future__ import annotations

import itertools

import pytest

from v6_pipeline_tests.chaos.changes import AskFor
from v6_pipeline_tests.chaos.faults import KillStreamer, KillWorker
from v6_pipeline_tests.chaos.runner import Runner
from v6_pipeline_tests.chaos.schedule import CATALOGUE, rounds
from v6_pipeline_tests.chaos.settled import Settling

pytestmark = pytest.mark.timeout(150)

SEED = 5
QUICK = ("drop", "reset", "garbage frame", "truncated frame", "no greeks", "prices of -1", "advice 10090")
"""Over at once, or felt by contracts only: a round of these takes seconds."""


def test_after_kills_and_faults_the_lake_is_what_the_gateway_says(runner: Runner) -> None:
    world = runner.world
    for kill in (KillStreamer(), KillWorker(0.0), KillStreamer()):
        AskFor((0.1, 0.5, 0.9)).begin(world)
        assert runner.wait_for(lambda: world.workers.running)
        assert runner.hit(kill) is not None
        assert kill.happened
    for current in itertools.islice(rounds(SEED, {name: CATALOGUE[name] for name in QUICK}, {}), 1):
        runner.play(current)
    Settling(runner, pass_time=True).run()
    assert [str(violation) for violation in world.violations.found] == [], runner.log.path
    assert len(world.sensor.streamers) >= 3
    assert world.workers.ended["killed"] == 1
    assert world.queued.rows
    assert world.markers
