"""The settings file that ``v6 init`` writes."""

from __future__ import annotations

import errno
import os
import tomllib
from datetime import date
from pathlib import Path

import pytest

from v6_pipeline.cli.home import disk_faults, render_settings_file
from v6_pipeline.errors import SettingsError
from v6_pipeline.settings import Settings, load_settings


def test_the_rendered_file_lists_every_setting_and_reads_back(home: Path) -> None:
    home.mkdir()
    text = render_settings_file({"ib_port": "4001", "start_date": "2026-01-02"})
    (home / "v6.toml").write_text(text)

    settings = load_settings(home)

    assert (settings.ib_port, settings.start_date) == (4001, date(2026, 1, 2))
    for name in set(Settings.model_fields) - {"home"}:
        assert f"{name} = " in text


def test_the_defaults_in_the_rendered_file_are_the_defaults(home: Path) -> None:
    home.mkdir()
    lines = render_settings_file().splitlines()
    uncommented = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and line[2:].split(" = ")[0] in Settings.model_fields else line
        for line in lines
    )
    assert tomllib.loads(uncommented)
    (home / "v6.toml").write_text(uncommented)

    assert load_settings(home) == Settings(home=home)


def test_rendering_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="no such setting: ib_prt"):
        render_settings_file({"ib_prt": "1"})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_not_blamed_on_rights(number: int) -> None:
    with (
        pytest.raises(SettingsError, match=r"^cannot write v6\.toml: the disk is full; free some space$"),
        disk_faults(),
    ):
        raise OSError(number, os.strerror(number), "v6.toml")
