"""``v6 gateway --scenario``: played from the start on, or refused as a whole before anything starts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.cli import main
from v6_pipeline.paper import ControlClient

COMMAND = (sys.executable, "-m", "v6_pipeline.cli", "gateway", "--port", "0", "--positions", "10")


def test_a_scenario_is_played_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "lines.toml"
    path.write_text('[[action]]\nat = 0\ndo = "lines"\nlines = 40\n')
    with subprocess.Popen((*COMMAND, "--scenario", str(path)), stdout=subprocess.PIPE, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            with ControlClient("127.0.0.1", ports["control_port"]) as control:
                report: Any = control.request("statistics")["statistics"]
                control.request("stop")
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert report["line_limit"] == 40
    assert [action[1:] for action in report["actions"]] == [["lines", {"lines": 40}]]


@pytest.mark.parametrize("text", ['[[action]]\nat = 0\ndo = "lines"\nlines = "many"\n', None])
def test_a_wrong_scenario_is_one_line_and_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
    path = tmp_path / "wrong.toml"
    if text is not None:
        path.write_text(text)
    assert main(["gateway", "--port", "0", "--scenario", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(path) in printed.err
    assert printed.err.count("\n") == 1


def test_the_actions_are_listed_with_their_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
    assert main(["gateway", "--port", "0", "--actions"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "seconds client_id?" in rows["blackhole"]
    assert "Leave sockets open and answer nothing" in rows["blackhole"]
    assert {"drop", "link_restored", "heal", "portfolio_tick"} <= rows.keys()
