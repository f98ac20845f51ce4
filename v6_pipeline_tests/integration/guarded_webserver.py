"""The webserver that ``v6 up`` starts, alone, over an instance whose pool of the account feed can be set."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from v6_pipeline.cli import dagster_processes, home
from v6_pipeline.settings import Settings
from v6_pipeline_tests.integration.real_dagster import UP_SECONDS, wait_for

POOL = "ib_account_feed"
MUTATION = f'mutation {{ setConcurrencyLimit(concurrencyKey: "{POOL}", limit: 0) }}'
JSON = {"Content-Type": "application/json"}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class GuardedWebserver:
    """A running webserver and its process."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: str | None = None) -> Answer:
        """Send a request with exactly these headers, and the Host of the server unless they name one."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in ({"Host": f"127.0.0.1:{self.port}"} | dict(headers or {})).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(None if body is None else body.encode())
            answer = connection.getresponse()
            text = "" if answer.status == 101 else answer.read().decode()
            return Answer(answer.status, text, dict(answer.getheaders()))
        finally:
            connection.close()

    def ask(self, query: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.send("POST", "/graphql", JSON | dict(headers or {}), json.dumps({"query": query}))

    def limit(self) -> int | None:
        """Return the limit that someone set for the pool; None if it is the default."""
        answer = self.ask("{ instance { concurrencyLimits { concurrencyKey slotCount } } }")
        limits = json.loads(answer.text)["data"]["instance"]["concurrencyLimits"]
        return next((int(item["slotCount"]) for item in limits if item["concurrencyKey"] == POOL), None)

    def is_up(self) -> bool:
        try:
            return self.send("GET", "/server_info").status == 200
        except OSError:
            return False


@contextmanager
def guarded_webserver() -> Iterator[GuardedWebserver]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home")
        home.prepare_log_folder(settings)
        home.prepare_dagster_home(settings)
        port, grpc_port = dagster_processes.free_port(), dagster_processes.free_port()
        # No code server: the instance alone is what a mutation changes here.
        command = dagster_processes.webserver(dagster_processes.write_workspace(settings, grpc_port), port)
        log = settings.log_dir / "dagster.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command.arguments,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dagster_processes.environment(settings, os.environ),
                start_new_session=True,
            )
        server = GuardedWebserver(port, process, log)
        try:
            wait_for("the webserver", server.is_up, UP_SECONDS)
            yield server
        finally:
            process.kill()
            process.wait()
