"""Dagster as ``v6 up`` runs it: code server, webserver and daemon, each a child process on 127.0.0.1.

``dagster dev`` would start the same three, but does not report a process that died, and prints a deprecation notice.
The daemon does not replace a code server of its own process every minute.

Belongs here: their command lines, environment and workspace, and the query for the state of the code location. Dagster
is never imported.
"""

from __future__ import annotations

import enum
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v6_pipeline.cli.supervise import Command

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings

HOST = "127.0.0.1"
LOCATION = "v6_pipeline"
MODULE = "v6_pipeline.definitions"
ANSWER_SECONDS = 10.0
INSTANCE_SECONDS = 120.0
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception)\b")
_WORKSPACE = f"""\
# Written by 'v6 up' at each start.
load_from:
  - grpc_server:
      host: {HOST}
      port: %d
      location_name: {LOCATION}
"""
_QUERY = """
{ workspaceOrError {
    __typename
    ... on PythonError { message }
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
      __typename ... on PythonError { message } } } } } }
"""


class LoadState(enum.StrEnum):
    """Load state of the code location."""

    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LocationStatus:
    """The webserver's report on the code location; ``error`` is Dagster's text if it failed."""

    state: LoadState
    error: str = ""


def environment(settings: Settings, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Dagster's processes, and so of the runs and the streamer that they start."""
    # Dagster removes the first entry of the path, assuming that it is the script's folder: it must not be the user's.
    path = [str(settings.log_dir), *filter(None, [base.get("PYTHONPATH")])]
    return {
        **base,
        "V6_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        # A file such as calendar.py or gql.py in the folder where v6 was started must not hide a library.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }


def code_server(settings: Settings, port: int) -> Command:
    """Return the command that loads ``definitions`` and serves them to the others."""
    return Command(
        "code server",
        (
            *(sys.executable, "-m", "dagster", "code-server", "start", "--host", HOST, "--port", str(port)),
            *("--module-name", MODULE, "--working-directory", str(settings.log_dir), "--location-name", LOCATION),
            "--use-python-environment-entry-point",
        ),
    )


def webserver(workspace: Path, port: int) -> Command:
    """Return the command of the UI and GraphQL: Dagster's webserver behind a guard against other sites' pages."""
    return Command(
        "webserver",
        (
            *(sys.executable, "-m", "v6_pipeline.defs.webserver", "--host", HOST, "--port", str(port)),
            *("--workspace", str(workspace)),
        ),
    )


def daemon(workspace: Path) -> Command:
    """Return the command that ticks sensors and schedules and launches queued runs."""
    return Command("daemon", (sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)))


def instance_fault(settings: Settings, base: Mapping[str, str]) -> str | None:
    """Return Dagster's own reason why it cannot use its instance; ``None`` if it can."""
    try:
        done = subprocess.run(
            (sys.executable, "-m", "dagster", "instance", "info"),
            env=environment(settings, base),
            capture_output=True,
            text=True,
            timeout=INSTANCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {INSTANCE_SECONDS:g} s: its database may be unreachable"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # The last exception of a traceback, and what it says below.
    begin = max((at for at, line in enumerate(lines) if _EXCEPTION.match(line)), default=len(lines) - 1)
    return textwrap.shorten(" ".join(lines[begin:]) or "no reason given", 300, placeholder="...")


def write_workspace(settings: Settings, port: int) -> Path:
    """Write the workspace file by which webserver and daemon find the code server at ``port``."""
    path = settings.dagster_home / "up-workspace.yaml"
    path.write_text(_WORKSPACE % port, encoding="utf-8")
    return path


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_port_free(port: int) -> bool:
    """Return whether a server can listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        if (
            os.name == "posix"
        ):  # a port whose last connections are closing is free; on Windows the option means something else
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def accepts_connections(port: int) -> bool:
    """Return whether a server listens on this port of 127.0.0.1."""
    try:
        with socket.create_connection((HOST, port), 1):
            return True
    except OSError:
        return False


def location_status(url: str) -> LocationStatus | None:
    """Query the webserver at ``url`` for the code location; return ``None`` while it does not answer."""
    request = urllib.request.Request(  # noqa: S310  (our own http address)
        f"{url}/graphql", json.dumps({"query": _QUERY}).encode(), {"Content-Type": "application/json"}
    )
    # Without proxies: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as response:
            answer = json.load(response)
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError):
        return None
    return _read_status(answer)


def _read_status(answer: Any) -> LocationStatus | None:  # noqa: ANN401  (JSON)
    try:
        workspace = answer["data"]["workspaceOrError"]
        if workspace["__typename"] != "Workspace":
            return LocationStatus(LoadState.FAILED, workspace.get("message", "no workspace"))
        entry = next((entry for entry in workspace["locationEntries"] if entry["name"] == LOCATION), None)
        if entry is None:
            return LocationStatus(LoadState.FAILED, f"there is no code location {LOCATION}")
        loaded = entry["locationOrLoadError"]
        if entry["loadStatus"] != "LOADED" or loaded is None:
            return LocationStatus(LoadState.LOADING)
        if loaded["__typename"] != "RepositoryLocation":
            return LocationStatus(LoadState.FAILED, loaded.get("message", loaded["__typename"]))
    except (KeyError, TypeError):
        return None
    return LocationStatus(LoadState.LOADED)
