"""Environment and command lines of Dagster's processes, and the webserver's report on the code location."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from v6_pipeline.cli import dagster_processes as processes
from v6_pipeline.cli.dagster_processes import LoadState, LocationStatus
from v6_pipeline.settings import Settings


class Webserver(HTTPServer):
    """Answers every question with ``answer``."""

    answer: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/graphql"
        self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Webserver)
        body = self.server.answer if isinstance(self.server.answer, bytes) else json.dumps(self.server.answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def webserver() -> Iterator[Webserver]:
    with Webserver(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def workspace(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"workspaceOrError": {"__typename": "Workspace", "locationEntries": list(entries)}}}


def location(status: str = "LOADED", *, name: str = "v6_pipeline", **result: Any) -> dict[str, Any]:
    return {"name": name, "loadStatus": status, "locationOrLoadError": result or None}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (workspace(location(__typename="RepositoryLocation")), LocationStatus(LoadState.LOADED)),
        (workspace(location("LOADING")), LocationStatus(LoadState.LOADING)),
        (
            workspace(location(__typename="PythonError", message="no module")),
            LocationStatus(LoadState.FAILED, "no module"),
        ),
        (
            workspace(location(name="other", __typename="RepositoryLocation")),
            LocationStatus(LoadState.FAILED, "there is no code location v6_pipeline"),
        ),
        (
            {"data": {"workspaceOrError": {"__typename": "PythonError", "message": "broken"}}},
            LocationStatus(LoadState.FAILED, "broken"),
        ),
        ({"errors": []}, None),
        ([], None),
        (b"<html>", None),
    ],
)
def test_what_the_webserver_says(webserver: Webserver, answer: Any, status: LocationStatus | None) -> None:
    webserver.answer = answer
    assert processes.location_status(webserver.url) == status


def test_a_proxy_of_the_environment_is_not_asked(webserver: Webserver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    webserver.answer = workspace(location("LOADING"))
    assert processes.location_status(webserver.url) is not None


def test_no_server_answers() -> None:
    assert processes.location_status(f"http://127.0.0.1:{processes.free_port()}") is None


def test_taken_and_free_ports() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not processes.is_port_free(port)
        assert processes.accepts_connections(port)
    assert processes.is_port_free(port)
    assert not processes.accepts_connections(port)


def test_everything_is_bound_to_this_machine_under_the_one_name(settings: Settings) -> None:
    path = processes.write_workspace(settings, 4266)
    assert yaml.safe_load(path.read_text()) == {
        "load_from": [{"grpc_server": {"host": "127.0.0.1", "port": 4266, "location_name": "v6_pipeline"}}]
    }
    code, web = processes.code_server(settings, 4266).arguments, processes.webserver(path, 3000).arguments
    assert code[code.index("--location-name") + 1] == "v6_pipeline"
    assert code[code.index("--module-name") + 1] == "v6_pipeline.definitions"
    for arguments in (code, web):
        assert arguments[arguments.index("--host") + 1] == "127.0.0.1"


def test_children_find_this_home_and_send_no_telemetry(settings: Settings) -> None:
    environ = processes.environment(settings, {"PATH": "/bin", "PYTHONPATH": "/mine", "V6_HOME": "relative"})
    assert environ["V6_HOME"] == str(settings.home)
    assert environ["DAGSTER_HOME"] == str(settings.home / "dagster")
    assert environ["DAGSTER_DISABLE_TELEMETRY"] == "1"
    assert environ["PATH"] == "/bin"
    assert Path(environ["PYTHONPATH"].split(":")[-1]) == Path("/mine")


def test_an_instance_that_does_not_answer_in_time_is_one_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "INSTANCE_SECONDS", 0.001)
    fault = processes.instance_fault(settings, os.environ)
    assert fault == "no answer within 0.001 s: its database may be unreachable"
