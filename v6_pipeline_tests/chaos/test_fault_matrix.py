"""Each fault alone: streaming again with fresh rows in time, nothing subscribed twice, no rule broken in between.

Here are those from which the product recovers in seconds; ``make chaos`` mixes all of them for minutes.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from v6_pipeline_tests.chaos import faults
from v6_pipeline_tests.chaos.changes import Trade
from v6_pipeline_tests.chaos.faults import (
    AtGateway,
    Fault,
    HangPastLease,
    KillStreamer,
    KillWorker,
    LakeAway,
    StallPastLease,
    StateHangs,
    StateLocked,
    StopGateway,
    StopStreamer,
    StopWorker,
    can_exchange,
)
from v6_pipeline_tests.chaos.runner import Runner

pytestmark = [pytest.mark.minutes, pytest.mark.timeout(300)]

MATRIX: dict[str, Fault] = {
    "kill streamer": KillStreamer(),
    "stop streamer": StopStreamer(2.0),
    "stall past lease": StallPastLease(4.0, overlap=3.0, lease_left=0.5),
    "hang past lease": HangPastLease(1.0, lease_left=0.5),
    "kill worker": KillWorker(0.0),
    "stop worker": StopWorker(0.0, 1.0),
    "stop gateway": StopGateway(1.0),
    "lake away": LakeAway(1.5),
    "state locked": StateLocked(1.5),
    "state hangs": StateHangs(1.5),
    "drop": AtGateway("drop", begin_with=(("drop", {}),)),
    "link lost (data lost)": AtGateway("link lost", 1.0, (("link_lost", {}),), (("link_restored", {"data": "lost"}),)),
    "garbage frame": AtGateway("garbage frame", begin_with=(("garbage_frame", {}),)),
    "trades": Trade((("open", 0.1, 0.3), ("resize", 0.5, 0.5), ("close", 0.9, 0.0), ("assign", 0.2, 0.1))),
}


def test_streams_again_after_each_fault(runner: Runner, subtests: pytest.Subtests) -> None:
    """One test, for one world serves all; each fault begins once the one before is healed."""
    for name, fault in MATRIX.items():
        with subtests.test(name):
            check(runner, name, fault)


def check(runner: Runner, name: str, fault: Fault) -> None:
    world = runner.world
    if isinstance(fault, LakeAway) and not can_exchange(Path(world.settings.lake_root).parent):
        pytest.skip("here two paths cannot change places")
    before = len(world.violations)
    assert runner.wait_for(lambda: world.sensor.streamer is not None)
    if "worker" in name:
        assert runner.wait_for(lambda: world.workers.running)
    taken = runner.hit(fault)
    runner.oracle.look()
    assert [str(violation) for violation in world.violations.found[before:]] == [], runner.log.path
    assert taken is not None
    assert fault.happened


def test_a_lake_that_cannot_be_taken_away_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "exchange", lambda _one, _other: False)
    runner: Any = SimpleNamespace(world=SimpleNamespace(settings=SimpleNamespace(lake_root=str(tmp_path / "lake"))))
    with pytest.raises(pytest.skip.Exception, match="change places"):
        check(runner, "lake away", LakeAway(1))
