"""``v6 init``."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from v6_pipeline_tests.unit.cli.conftest import Run


def actions(v6: Run, *options: str) -> dict[str, str]:
    result = v6("init", "--json", *options)
    assert result.code == 0, result.err
    return {step["what"]: step["action"] for step in result.document["steps"]}


def test_a_home_is_made_once(v6: Run, home: Path) -> None:
    assert set(actions(v6).values()) == {"created"}
    assert (home / "state.db").exists()
    assert (home / "logs").is_dir()
    assert "telemetry" in (home / "dagster" / "dagster.yaml").read_text()
    assert tomllib.loads((home / "v6.toml").read_text()) == {}
    assert set(actions(v6).values()) == {"kept"}


def test_it_says_what_it_did(v6: Run, home: Path) -> None:
    out = v6("init").out
    assert f"created  settings {home}/v6.toml" in out
    assert "v6 up" in out


def test_what_was_changed_by_hand_stays(v6: Run, home: Path) -> None:
    v6("init")
    (home / "v6.toml").write_text("ib_port = 7497\n")
    (home / "dagster" / "dagster.yaml").write_text("nux: {enabled: false}\n")
    v6("init")
    assert (home / "v6.toml").read_text() == "ib_port = 7497\n"
    assert (home / "dagster" / "dagster.yaml").read_text() == "nux: {enabled: false}\n"


def test_force_writes_new_settings_and_keeps_the_old_ones(v6: Run, home: Path) -> None:
    v6("init")
    (home / "v6.toml").write_text("no such setting\n")
    assert v6("init").code == 1
    assert actions(v6, "--force")["settings"] == "replaced"
    assert tomllib.loads((home / "v6.toml").read_text()) == {}
    assert (home / "v6.toml.old").read_text() == "no such setting\n"


def test_a_broken_settings_file_is_one_line(v6: Run, home: Path) -> None:
    home.mkdir()
    (home / "v6.toml").write_text("ib_prot = 1\n")
    result = v6("init")
    assert result.code == 1
    assert result.error == f"ib_prot in {home}/v6.toml: no such setting; did you mean ib_port?"
    assert not (home / "state.db").exists()


def test_a_home_that_is_a_file_is_one_line(v6: Run, home: Path) -> None:
    home.write_text("")
    result = v6("init")
    assert result.code == 1
    assert str(home) in result.error
    assert "V6_HOME" in result.error


@pytest.mark.parametrize("command", ["slots", "queue stats", "queue list", "strategies list", "stream --stop"])
def test_commands_that_only_look_do_not_make_a_home(v6: Run, home: Path, command: str) -> None:
    result = v6(*command.split())
    assert result.code == 1
    assert "run 'v6 init'" in result.error
    assert not home.exists()


@pytest.mark.parametrize("command", ["slots", "queue stats", "strategies list", "init", "refresh", "stream --stop"])
def test_a_state_file_that_is_none_is_one_line_and_left_as_it_is(v6: Run, home: Path, command: str) -> None:
    home.mkdir()
    (home / "state.db").write_text("this is no database, but long enough to be read as one" * 20)
    before = (home / "state.db").read_bytes()
    result = v6(*command.split())
    assert result.code == 1
    assert str(home / "state.db") in result.error
    assert (home / "state.db").read_bytes() == before
