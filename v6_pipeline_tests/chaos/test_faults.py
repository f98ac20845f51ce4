"""The faults themselves: what they break must be theirs alone."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from v6_pipeline_tests.chaos import faults
from v6_pipeline_tests.chaos.faults import LakeAway, can_exchange
from v6_pipeline_tests.chaos.violations import Violations


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
