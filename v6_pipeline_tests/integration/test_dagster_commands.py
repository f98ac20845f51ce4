"""Dagster's own commands from the root, without arguments: each finds the definitions, under the same name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from v6_pipeline.cli.dagster_processes import LOCATION, free_port
from v6_pipeline_tests.integration.real_dagster import UP_SECONDS, DagsterApi, wait_for

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.slow


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment that sets only Dagster's home and ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("V6_", "DAGSTER_"))}
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return kept | {"V6_HOME": str(tmp_path / "home"), "DAGSTER_HOME": str(folder)}


def succeeds(environ: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_dg_lists_the_definitions(environ: dict[str, str]) -> None:
    listed = json.loads(succeeds(environ, "dg", "list", "defs", "--json").stdout)

    assert {asset["asset_key"] for asset in listed["assets"]} > {"streamed_positions", "queued_positions"}
    assert {check["key"] for check in listed["asset_checks"]} > {"streamed_positions:stream_fresh"}
    assert {sensor["name"] for sensor in listed["sensors"]} > {"ib_streamer_sensor"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("dg", "check", "defs"), "All definitions loaded successfully."),
        pytest.param(
            ("dagster", "definitions", "validate"),
            f"Validation successful for code location {LOCATION}",
            marks=pytest.mark.long,  # as the one before
        ),
    ],
)
def test_the_definitions_are_valid(environ: dict[str, str], command: tuple[str, ...], said: str) -> None:
    done = succeeds(environ, *command)

    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("V6_LEASE_SECOND", "9", "V6_LEASE_SECOND: no such setting; did you mean V6_LEASE_SECONDS?"),
        pytest.param(
            "V6_LEASE_SECONDS",
            "9",
            "V6_LEASE_SECONDS: a whole number from 15 to 3600 (got '9')",
            marks=pytest.mark.long,  # as the one before
        ),
    ],
)
def test_a_wrong_setting_is_one_line_without_a_stack(
    environ: dict[str, str], variable: str, value: str, line: str
) -> None:
    command = [str(BIN / "dagster"), "definitions", "validate"]
    done = subprocess.run(
        command, cwd=ROOT, env=environ | {variable: value}, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert line in said
    assert "Stack Trace" not in said
    assert "Traceback" not in said


@contextmanager
def started(environ: dict[str, str], *command: str) -> Iterator[DagsterApi]:
    """A server in the background; it and its children are ended."""
    port = free_port()
    arguments = [str(BIN / command[0]), *command[1:], "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            api = DagsterApi(f"http://127.0.0.1:{port}")
            wait_for("the code location", api.is_ready, UP_SECONDS)
            yield api
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            for child in psutil.wait_procs([*children, psutil.Process(process.pid)], timeout=20)[1]:
                child.kill()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", [("dagster", "dev"), ("dg", "dev")])
def test_the_development_server_has_the_same_location(environ: dict[str, str], command: tuple[str, ...]) -> None:
    environ["V6_STREAMER"] = "supervised"  # its sensor would start a streamer
    with started(environ, *command) as api:
        [found] = api.ask("{ workspaceOrError { ... on Workspace { locationEntries { name } } } }").values()

        assert [entry["name"] for entry in found["locationEntries"]] == [LOCATION]
