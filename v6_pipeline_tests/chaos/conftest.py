"""Fixtures of the chaos tests: a small world that starts in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from v6_pipeline_tests.chaos.figures import EventLog
from v6_pipeline_tests.chaos.oracle import Oracle
from v6_pipeline_tests.chaos.runner import Runner
from v6_pipeline_tests.chaos.scale import SHORT
from v6_pipeline_tests.chaos.world import running_world

START_SECONDS = 60.0
DEADLINE_SECONDS = 90.0
"""Reached in failure only: that recoveries take less than 45 s is shown by ``make chaos``, on a machine of its own."""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Everything runs and streams; one world for a module's tests, each of which leaves it healed."""
    folder: Path = tmp_path_factory.mktemp("chaos")
    log = EventLog(folder / "events.jsonl")
    with running_world(SHORT, 1, folder) as world:
        started = Runner(world, Oracle(world), log, DEADLINE_SECONDS)
        assert started.wait_for_streams(datetime.now(UTC), seconds=START_SECONDS) is not None, str(folder)
        yield started
    log.close()
