"""The program as a whole: help, exit codes, and errors as one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from v6_pipeline import __version__
from v6_pipeline.cli import home as home_module
from v6_pipeline.errors import LakeError, UsageError
from v6_pipeline_tests.unit.cli.conftest import Run

COMMANDS = [
    *(
        "init",
        "doctor",
        "trace",
        "lake",
        "demo",
        "up",
        "gateway",
        "stream",
        "refresh",
        "slots",
        "positions",
        "strategies",
        "queue",
    ),
    *("strategies add", "strategies remove", "strategies list", "strategies import"),
    *("queue stats", "queue list", "queue retry", "queue purge"),
]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(v6: Run, command: str) -> None:
    result = v6(*command.split(), "--help")
    assert result.code == 0
    assert f"Usage: v6 {command}".strip() in result.out
    assert result.err == ""


def test_version(v6: Run) -> None:
    assert v6("--version").out == f"v6 {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("queue",), ("strategies",)])
def test_without_a_command_the_help_is_shown(v6: Run, arguments: tuple[str, ...]) -> None:
    result = v6(*arguments)
    assert result.code == 2
    assert result.out.count("Usage: v6") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "No such command 'nonsense'; see 'v6 --help'"),
        (("slots", "--nonsense"), "No such option: --nonsense; see 'v6 slots --help'"),
        (("queue", "list", "--limit", "x"), "see 'v6 queue list --help'"),
        (("strategies", "add"), "STRATEGY"),
        (("stream", "--seconds", "0"), "--seconds 0 is not greater than 0"),
        (("stream", "--seconds", "nan"), "--seconds nan is not greater than 0"),
        (("stream", "--stop", "--owned"), "--stop and --start cannot be combined with other options"),
        (("stream", "--stop", "--start"), "--stop and --start cannot be combined with other options"),
        (("demo", "--seconds", "-1"), "--seconds -1 is not greater than 0"),
        (("positions", "--limit", "0"), "--limit 0 is less than 1"),
        (("positions", "--as-of", "20.11.2026"), "is not a date such as 2026-11-20"),
        (("queue", "list", "--state", "gone"), "--state gone is none of open, leased, waiting, dead"),
        (("queue", "retry"), "give --all"),
        (("queue", "retry", "--all", "DU1:1"), "or give --all"),
        (("queue", "retry", "265598"), "'265598' is not ACCOUNT:CONID"),
        (("queue", "purge", "--state", "leased"), "leased items cannot be purged"),
        (("queue", "purge", "--state", "gone"), "--state gone is none of dead, open, waiting"),
        (("strategies", "add", "s"), "name at least one CONID, or a selector"),
        (("strategies", "add", "s", "x"), "see 'v6 strategies add --help'"),
        (("strategies", "add", "s", "1", "x"), "Invalid value for '[CONID]...': 'x' is not a valid integer; see"),
        (("strategies", "add", "s", "1", "--quantity", "much"), "for '--quantity': 'much' is not a valid"),
        (("strategies", "add", "s", "1", "--priority", "1.5"), "for '--priority': '1.5' is not a valid integer"),
        (("strategies", "remove", "s", "1.5"), "'1.5' is not a valid integer"),
        (("trace", "AAPL", "--date", "x"), "'AAPL' is not a valid integer"),
        (("up", "--port", "web"), "for '--port': 'web' is not a valid integer"),
        (("stream", "--seconds", "x" * 5000), f"'{'x' * 79} is not a valid"),
        (("--home", "", "slots"), "--home is empty"),
        (("gateway", "--accounts", "0"), "--accounts 0 is not between 1 and 1000"),
        (("gateway", "--port", "0", "--as-of", "never"), "--as-of never is not a date"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(v6: Run, home: Path, arguments: tuple[str, ...], said: str) -> None:
    result = v6(*arguments)
    assert result.code == 2
    assert said in result.error
    assert result.out == ""
    assert not home.exists()


def test_a_failure_is_one_line_and_exit_code_1(v6: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise LakeError("the lake\nis dry")

    monkeypatch.setattr(home_module, "load", fail)
    result = v6("slots")
    assert (result.code, result.error) == (1, "the lake is dry")


def test_a_usage_error_from_below_is_exit_code_2(v6: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise UsageError("not so")

    monkeypatch.setattr(home_module, "load", fail)
    assert v6("slots").code == 2


def test_ctrl_c_is_quiet_and_exit_code_130(v6: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(home_module, "load", interrupt)
    result = v6("slots")
    assert (result.code, result.out, result.err) == (130, "", "")


@pytest.mark.parametrize("command", ["init", "slots", "positions", "refresh", "stream", "up", "gateway"])
def test_an_unknown_setting_is_reported_and_nothing_is_written(
    v6: Run, home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("V6_IB_PROT", "4002")
    result = v6(command)
    assert result.code == 1
    assert result.error == "V6_IB_PROT: no such setting; did you mean V6_IB_PORT?"
    assert not home.exists()


def test_home_option_stands_in_for_the_variable(v6: Run, home: Path, tmp_path: Path) -> None:
    result = v6("--home", "elsewhere", "init", "--json")
    assert result.document["home"] == str(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "v6.toml").exists()
    assert not home.exists()


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """Dagster never; the others not before a command needs them."""
    heavy = "dagster polars deltalake ib_async sqlalchemy pydantic pandas"
    code = (
        "import sys; from v6_pipeline.cli import main; main(['--help']); "
        f"sys.exit(', '.join(sorted(set('{heavy}'.split()) & set(sys.modules))))"
    )
    before = _children_seconds()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.strip() == ""
    assert _children_seconds() - before < 1.0, "0.2 s on an idle machine"


def _children_seconds() -> float:

    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize(
    ("words", "offered"),
    [("v6 strat", {"strategies"}), ("v6 lake history account", {"account_values"}), ("v6 strategies remove ", set())],
)
def test_the_shell_completes_commands_and_names(home: Path, words: str, offered: set[str]) -> None:
    """The environment is that of bash; a missing state has no strategies and is not an error."""
    asked = {"_V6_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "v6_pipeline.cli"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (set(done.stdout.split()), done.stderr) == (offered, "")
