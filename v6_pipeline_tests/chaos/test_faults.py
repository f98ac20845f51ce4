"""The faults themselves: what they break must be theirs alone."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from v6_pipeline.errors import StateError
from v6_pipeline_tests.chaos import faults
from v6_pipeline_tests.chaos.faults import Fault, LakeAway, await_stopped, can_exchange
from v6_pipeline_tests.chaos.runner import Runner
from v6_pipeline_tests.chaos.schedule import Planned, Round
from v6_pipeline_tests.chaos.violations import Violations
from v6_pipeline_tests.chaos.world import World


def world(lake: Path) -> Any:
    return SimpleNamespace(settings=SimpleNamespace(lake_root=str(lake)), violations=Violations())


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "row").write_text("kept")
    if not can_exchange(tmp_path):
        pytest.skip("here two paths cannot change places")
    return lake


def test_a_lake_that_is_away_is_a_file_and_comes_back_whole(lake: Path) -> None:
    fault, here = LakeAway(1), world(lake)
    fault.begin(here)
    assert lake.is_file()
    with pytest.raises(OSError, match="lake") as refused:
        (lake / "rows").mkdir(parents=True)
    assert refused.value.errno in {errno.ENOTDIR, errno.EEXIST}
    fault.end(here)
    assert ((lake / "row").read_text(), here.violations.found) == ("kept", [])
    assert [path.name for path in lake.parent.iterdir()] == ["lake"]


def test_a_second_lake_is_a_violation(lake: Path) -> None:
    fault, here = LakeAway(1), world(lake)
    fault.begin(here)
    lake.unlink()
    lake.mkdir()
    fault.end(here)
    assert len(here.violations.found) == 1
    assert (lake / "row").read_text() == "kept"


def test_a_second_lake_is_kept_and_does_not_come_back(lake: Path) -> None:
    here, second = world(lake), LakeAway(1)
    second.begin(here)
    lake.unlink()
    lake.mkdir()
    (lake / "row").write_text("second")
    second.end(here)

    again = LakeAway(1)
    again.begin(here)
    assert lake.is_file()
    again.end(here)

    assert (lake / "row").read_text() == "kept"
    [left] = [path for path in lake.parent.iterdir() if path != lake]
    assert left.name.startswith("lake.second-")
    assert (left / "row").read_text() == "second"


def test_where_nothing_can_change_places_nothing_happens(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "exchange", lambda _one, _other: False)
    fault, here = LakeAway(1), world(lake)
    fault.begin(here)
    fault.end(here)
    assert not fault.happened
    assert [path.name for path in lake.parent.iterdir()] == ["lake"]


def test_without_a_lake_there_is_nothing_to_take_away(tmp_path: Path) -> None:
    fault = LakeAway(1)
    fault.begin(world(tmp_path / "lake"))
    assert not fault.happened


@pytest.fixture
def busy_process() -> Iterator[psutil.Process]:
    with subprocess.Popen(
        [sys.executable, "-c", "import threading\nthreading.Thread(target=input).start()\nprint(flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield psutil.Process(started.pid)
        started.kill()


def test_a_process_has_stopped_once_all_its_threads_have(busy_process: psutil.Process) -> None:
    with pytest.raises(TimeoutError, match="still runs"):
        await_stopped(busy_process, 0)
    busy_process.suspend()
    await_stopped(busy_process)
    assert busy_process.num_threads() == 2
    assert busy_process.status() == psutil.STATUS_STOPPED


def test_a_process_that_has_ended_does_not_stop(busy_process: psutil.Process) -> None:
    busy_process.kill()
    busy_process.wait()
    with pytest.raises(psutil.NoSuchProcess):
        await_stopped(busy_process)


def test_what_lasts_is_healed_when_a_later_fault_cannot_begin() -> None:
    class Lasting(Fault):
        name = "lasting"
        seconds = 100.0
        healed = 0

        def begin(self, _world: World) -> None:
            """Nothing."""

        def end(self, _world: World) -> None:
            self.healed += 1

    class Broken(Lasting):
        name = "broken"

        def begin(self, _world: World) -> None:
            raise StateError("locked")

    lasting, broken, unbroken = Lasting(), Broken(), Lasting()
    plan = Round(1, (Planned(0, lasting), Planned(0, broken), Planned(0, unbroken)))
    log: Any = SimpleNamespace(write=lambda *_args, **_fields: None)
    anything: Any = SimpleNamespace()
    with pytest.raises(StateError, match="locked"):
        Runner(anything, anything, log).play(plan)
    assert [fault.healed for fault in (lasting, broken, unbroken)] == [1, 1, 0]
