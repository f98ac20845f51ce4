"""The control port and the gateway in a thread, as the command line and synchronous tests use them."""

import json
import math
import socket
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import ControlClient, GatewayConfig, GatewayThread
from v6_pipeline.paper.control import MAX_LINE_BYTES
from v6_pipeline.paper.market import Market

FIRST = "SIM0000001"
AAPL, IBM, SPX = 265598, 8314, 416904


@pytest.fixture
def running() -> Iterator[GatewayThread]:
    with GatewayThread(GatewayConfig(as_of=date(2026, 11, 20), tick_seconds=None, positions=10)) as thread:
        yield thread


@pytest.fixture
def control(running: GatewayThread) -> Iterator[ControlClient]:
    with ControlClient("127.0.0.1", running.control_port) as client:
        yield client


def market(running: GatewayThread) -> Market:
    return running.gateway.market


def positions(control: ControlClient, account: str = FIRST) -> dict[int, float]:
    rows: Any = control.request("positions", account=account)["positions"]
    return {row["conid"]: row["quantity"] for row in rows}


def test_ping_returns_the_port(running: GatewayThread, control: ControlClient) -> None:
    assert control.request("ping") == {"ok": True, "port": running.port, "accounts": [FIRST, "SIM0000002"]}


def test_a_position_is_opened_resized_and_closed(control: ControlClient) -> None:
    reply = control.request("open", account=FIRST, conid=IBM, quantity=5, average_cost=100)
    assert reply == {"ok": True, "account": FIRST, "conid": IBM, "quantity": 5.0, "average_cost": 100.0}
    assert positions(control)[IBM] == 5
    control.request("resize", account=FIRST, conid=IBM, quantity=-2)
    assert positions(control)[IBM] == -2
    control.request("close", account=FIRST, conid=IBM)
    assert IBM not in positions(control)


def test_contracts_are_listed_by_symbol_and_type(control: ControlClient) -> None:
    rows: Any = control.request("contracts", symbol="SPX", sec_type="OPT")["contracts"]
    assert len(rows) == 4 * 21 * 2
    assert {row["symbol"] for row in rows} == {"SPX"}
    everything: Any = control.request("contracts")["contracts"]
    assert len(everything) > 2000


def test_contracts_are_silenced_and_resumed(running: GatewayThread, control: ControlClient) -> None:
    control.request("quiet", conids=[AAPL])
    assert market(running).is_quiet(AAPL)
    assert not market(running).is_quiet(IBM)
    control.request("quiet")
    assert market(running).is_quiet(IBM)
    control.request("resume")
    assert not market(running).is_quiet(AAPL)


def test_contracts_are_denied_and_allowed(running: GatewayThread, control: ControlClient) -> None:
    control.request("deny", conids=[AAPL, IBM])
    control.request("allow", conids=[IBM])
    assert market(running).conditions.denied == {AAPL}


def test_limits_and_rules_can_be_changed(running: GatewayThread, control: ControlClient) -> None:
    control.request("lines", lines=7)
    assert market(running).lines == 7
    assert control.request("account_conflict", mode="refuse")["mode"] == "refuse"


def test_statistics_are_json(control: ControlClient) -> None:
    statistics: Any = control.request("statistics")["statistics"]
    assert statistics["lines"] == 0
    assert statistics["last_values"] == {}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"nonsense", "not JSON"),
        (b"[1]", "JSON object"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "unknown command None"),
        (b'{"command": ["open"]}', "unknown command"),
        (b'{"command": "explode"}', "unknown command 'explode'"),
        (b'{"command": "open", "account": "SIM0000001"}', "conid is missing"),
        (b'{"command": "open", "account": "SIM0000001", "conid": "1", "quantity": 1}', "conid must be an integer"),
        (b'{"command": "open", "account": "SIM0000001", "conid": true, "quantity": 1}', "conid must be an integer"),
        (b'{"command": "open", "account": "SIM0000001", "conid": 8314, "quantity": NaN}', "quantity must be a number"),
        (b'{"command": "open", "account": "SIM0000001", "conid": 8314, "quantity": 1e99}', "quantity must be a number"),
        (b'{"command": "open", "account": "SIM0000001", "conid": 8314, "quantity": 1, "x": 1}', "unknown field x"),
        (b'{"command": "open", "account": "SIM0000001", "conid": 1, "quantity": 1}', "knows no contract 1"),
        (b'{"command": "open", "account": "U1", "conid": 8314, "quantity": 1}', "no account U1"),
        (b'{"command": "open", "account": "SIM0000001", "conid": 265598, "quantity": 1}', "already holds"),
        (b'{"command": "close", "account": "SIM0000001", "conid": 8314}', "holds nothing"),
        (b'{"command": "quiet", "conids": [265598, 1]}', "knows no contract 1"),
        (b'{"command": "deny"}', "conids is missing"),
        (b'{"command": "deny", "conids": [265598, 1]}', "knows no contract 1"),
        (b'{"command": "lines", "lines": -1}', "lines cannot be -1"),
        (b'{"command": "account_conflict", "mode": "fight"}', "mode must be one of evict, refuse"),
        (b'{"command": "ping", "loud": true}', "unknown field loud"),
    ],
)
def test_bad_input_is_one_clear_error_and_changes_nothing(
    running: GatewayThread, control: ControlClient, line: bytes, error: str
) -> None:
    before = positions(control)
    with socket.create_connection(("127.0.0.1", running.control_port), 20) as connection:
        connection.sendall(line + b"\n" + b'{"command": "ping"}\n')
        with connection.makefile("rb") as replies:
            reply = json.loads(replies.readline())
            assert reply["ok"] is False
            assert error in reply["error"]
            assert "\n" not in reply["error"]
            assert json.loads(replies.readline())["ok"] is True, "the connection stays"
    assert positions(control) == before
    assert market(running).conditions.denied == set()
    assert not market(running).is_quiet(AAPL)
    assert market(running).lines == 100


def test_an_endless_line_is_refused_and_the_gateway_goes_on(running: GatewayThread, control: ControlClient) -> None:
    with socket.create_connection(("127.0.0.1", running.control_port), 20) as connection:
        try:
            connection.sendall(b"x" * (MAX_LINE_BYTES + (1 << 20)))
            assert b"longer than" in connection.recv(1 << 16)
        except ConnectionError:
            pass  # cut off while still sending
    assert control.request("ping")["ok"] is True


def test_a_refused_command_is_an_error_of_the_client(control: ControlClient) -> None:
    with pytest.raises(GatewayError, match=r"refused 'lines': lines must be an integer"):
        control.request("lines", lines="many")


def test_a_port_without_a_listener_is_an_error_with_a_remedy() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(GatewayError, match="v6 gateway"):
        ControlClient("127.0.0.1", port)


def test_stop_ends_the_gateway_and_its_thread() -> None:
    thread = GatewayThread(GatewayConfig(tick_seconds=None, positions=0))
    with thread:
        control_port = thread.control_port
        with ControlClient("127.0.0.1", control_port) as control:
            control.request("stop")
        thread._thread.join(20)
        assert not thread._thread.is_alive()
    with pytest.raises(GatewayError):
        ControlClient("127.0.0.1", control_port)


def test_a_failed_start_is_raised_in_the_thread_that_requested_it(running: GatewayThread) -> None:
    with (
        pytest.raises(GatewayError, match=f"127.0.0.1:{running.port}"),
        GatewayThread(GatewayConfig(port=running.port)),
    ):
        pytest.fail("it started")


def test_a_call_runs_in_the_gateways_loop(running: GatewayThread) -> None:
    holding = running.call(lambda gateway: gateway.account_faults.open_position(FIRST, IBM, 3))
    assert holding.quantity == 3
    assert math.isclose(holding.average_cost, running.gateway.market.quote(IBM).mark)
    with pytest.raises(GatewayError, match="index"):
        running.call(lambda gateway: gateway.account_faults.open_position(FIRST, SPX, 3))


def test_a_request_of_a_browser_executes_nothing_of_its_body(running: GatewayThread, control: ControlClient) -> None:
    """A page of any site can post text to a port of this machine, one line of which may be a command."""
    body = b'{"command": "refuse_account_feed", "count": 1000}\n{"command": "stop"}\n'
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", running.control_port), 20) as raw:
        raw.sendall(head + body)
        answers = raw.makefile("rb").read().splitlines()

    assert [json.loads(answer) for answer in answers] == [
        {"ok": False, "error": "this port takes JSON lines, not HTTP"}
    ]
    assert control.request("ping")["ok"] is True
