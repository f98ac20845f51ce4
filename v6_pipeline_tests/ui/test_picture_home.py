"""``make pictures`` deletes only folders that it made itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from v6_pipeline_tests.ui.picture_home import made_anew


def test_what_an_earlier_time_left_is_deleted(tmp_path: Path) -> None:
    folder = made_anew(tmp_path / "v6")
    (folder / "home").mkdir()
    made_anew(folder)
    assert not (folder / "home").exists()


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(FileExistsError, match="not made for pictures"):
        made_anew(tmp_path)
    assert (tmp_path / "kept").exists()
