"""``v6`` as people run it: a process of its own, against the real paper gateway."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import psutil
import pytest

from v6_pipeline.cli.dagster_processes import free_port
from v6_pipeline.paper import ControlClient, GatewayConfig, GatewayThread
from v6_pipeline_tests.integration.real_dagster import is_over
from v6_pipeline_tests.integration.v6_program import SECONDS, V6, environment, read_line

pytestmark = pytest.mark.minutes
STREAM_SECONDS = 12
"""Counted from the streamer's start: three are enough on a machine that has time."""
DAEMON_SECONDS = 90
"""Seconds until streams run in a Dagster whose daemon has just been started."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayThread]:
    with GatewayThread(GatewayConfig(as_of=date(2026, 11, 20), tick_seconds=0.2)) as running:
        yield running


@pytest.fixture
def v6(tmp_path: Path, gateway: GatewayThread) -> V6:
    environ = environment(tmp_path / "home") | {"V6_IB_PORT": str(gateway.port), "V6_FLUSH_SECONDS": "0.2"}
    return V6(tmp_path / "home", environ)


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)


def log_says(v6: V6, text: str) -> bool:
    path = v6.home / "logs" / "streamer.log"
    return path.exists() and text in path.read_text()


def test_refresh_then_positions_then_what_is_due(v6: V6) -> None:
    report = v6.ok("refresh", "--all")
    assert (report["held"], report["refreshed"], report["rows"], report["error"]) == (60, 60, 60, None)
    assert report["run_id"].startswith("cli-")
    assert report["delta_versions"]["queued_positions"]
    assert v6.ok("refresh")["refreshed"] == 0, "nothing is due so soon"
    found = v6.ok("positions")
    assert found["total"] == 60
    assert {row["source"] for row in found["positions"]} == {"queue"}
    assert {row["run_id"] for row in found["positions"]} == {report["run_id"]}
    assert v6.ok("queue", "stats")["pending"] == 0


def test_stream_for_some_seconds(v6: V6) -> None:
    assert "no holdings are known yet" in v6("strategies", "add", "s", "--match", "symbol=SPX", 265598).stderr
    report = v6.ok("stream", "--seconds", STREAM_SECONDS)
    assert report["status"]["streamed_contracts"] == 5
    assert report["status"]["writer"]["rows"] > 0
    assert v6.ok("slots")["used"] == 0, "given back"
    assert {row["source"] for row in v6.ok("positions")["positions"]} == {"stream"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stream_ends_cleanly_on_a_signal(v6: V6, number: signal.Signals) -> None:
    with v6.running("stream") as process:
        eventually(lambda: log_says(v6, "positions in"))
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert out.startswith("epoch 1 ended")
    assert "Traceback" not in err


def test_a_streamer_is_stopped_from_elsewhere_and_two_are_refused(v6: V6) -> None:
    with v6.running("stream") as process:
        eventually(lambda: log_says(v6, "positions in"))
        assert f"a streamer runs already (pid {process.pid}" in v6.error("stream")
        stopped = v6.ok("stream", "--stop")
        assert (stopped["stopped"], stopped["pid"]) == (True, process.pid)
        assert process.wait(SECONDS) == 0


def test_a_killed_streamer_does_not_block_the_next(v6: V6) -> None:
    v6("strategies", "add", "s", "--match", "symbol=SPX")
    with v6.running("stream") as process:
        eventually(lambda: log_says(v6, "positions in"))
        eventually(lambda: v6.ok("slots")["streams"] == 4)
        process.kill()
        process.wait()
    assert v6.ok("stream", "--seconds", STREAM_SECONDS)["status"]["streamed_contracts"] == 4


def test_no_gateway(v6: V6) -> None:
    alone = v6.with_port(free_port())
    done = alone("refresh", "--all", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] in done.stderr
    assert "no gateway at 127.0.0.1" in done.stderr
    assert "no gateway at 127.0.0.1" in alone.error("stream")
    assert v6.ok("positions")["total"] == 0


class Greeter(BaseRequestHandler):
    """Answers whatever it hears as a web server does."""

    def handle(self) -> None:
        self.request.recv(100)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_something_else_listens_on_the_port(v6: V6) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.server_address[1]
        try:
            other = v6.with_port(port)
            for command in (("refresh",), ("stream",), ("up", "--port", free_port())):
                assert f"127.0.0.1:{port}" in other.error(*command)
        finally:
            server.shutdown()
            thread.join()


def test_the_client_id_is_in_use(v6: V6, tmp_path: Path) -> None:
    """A streamer of another home has it, which is unknown to this home's lease."""
    with v6.running("--home", tmp_path / "other", "stream"):
        eventually(lambda: log_says(replace(v6, home=tmp_path / "other"), "positions in"))
        assert "a client with id 60" in v6.error("stream")


def test_a_conid_that_the_broker_does_not_know_is_refused(v6: V6) -> None:
    said = v6.error("strategies", "add", "s", 265598, 999999999)
    assert said == "the gateway knows no contract with conid 999999999: check the number; nothing was added"
    assert v6.ok("strategies", "list")["entries"] == []
    assert v6("strategies", "add", "s", 265598).returncode == 0


def test_a_lake_that_is_a_file(v6: V6) -> None:
    v6("init")
    (v6.home / "lake").write_text("mine")
    for command in (("refresh", "--all"), ("stream", "--seconds", 5), ("positions",)):
        assert str(v6.home / "lake") in v6.error(*command)
    assert (v6.home / "lake").read_text() == "mine"


def test_the_gateway_says_where_it_is_and_ends_on_a_signal(v6: V6) -> None:
    with v6.running("gateway", "--port", 0, "--accounts", 3, "--positions", 20) as process:
        said = json.loads(read_line(process))
        assert said["accounts"] == ["SIM0000001", "SIM0000002", "SIM0000003"]
        assert said["positions"] == 20
        with ControlClient("127.0.0.1", said["control_port"]) as control:
            assert control.request("ping")["port"] == said["port"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_gateway_has_the_same_contracts_each_time(v6: V6) -> None:
    seen = []
    for _ in range(2):
        with v6.running("gateway", "--port", 0, "--as-of", "2026-11-20") as process:
            with ControlClient("127.0.0.1", json.loads(read_line(process))["control_port"]) as control:
                seen.append(control.request("positions")["positions"])
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
    assert seen[0] == seen[1]


def test_the_gateway_refuses_bad_and_taken_ports(v6: V6, gateway: GatewayThread) -> None:
    assert "port 70000 is not between" in v6.error("gateway", "--port", 70000)
    assert "choose another --port" in v6.error("gateway", "--port", gateway.port)
    assert "choose another --control-port" in v6.error("gateway", "--port", 0, "--control-port", gateway.port)
    assert "SIM and 1 to 12" in v6.error("gateway", "--port", 0, "--accounts", "U1234567")
    assert "positions must be" in v6.error("gateway", "--port", 0, "--positions", -1)


def test_output_that_nobody_reads_to_the_end_is_no_traceback(v6: V6) -> None:
    with v6.running("strategies", "--help") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_runs_streams_ends_and_runs_again_after_a_kill(v6: V6) -> None:
    """The whole system twice; the first one is killed and leaves its children behind."""
    port, folder = free_port(), v6.home / "demo"
    with v6.running("demo", "--port", port, "--json") as process:
        ready = json.loads(read_line(process))
        assert ready["home"] == str(folder)
        assert ready["pages"]["ui"] == f"http://127.0.0.1:{port}"
        demo = replace(v6, environ=v6.environ | {"V6_HOME": str(folder)}).with_port(ready["gateway"]["port"])
        eventually(lambda: demo.ok("slots")["streams"] == 12, DAEMON_SECONDS)
        process.kill()
        process.wait()
    record = json.loads((folder / "up.json").read_text())
    left = [psutil.Process(child["pid"]) for child in record["children"]]
    with v6.running("demo", "--port", port, "--json") as process:
        ready = json.loads(read_line(process))
        demo = demo.with_port(ready["gateway"]["port"])
        eventually(lambda: demo.ok("slots")["streams"] == 12, DAEMON_SECONDS)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert "of an earlier start that was killed" in err
    assert "Traceback" not in err
    assert all(map(is_over, (*children, *left)))
    assert demo.ok("slots")["used"] == 0
