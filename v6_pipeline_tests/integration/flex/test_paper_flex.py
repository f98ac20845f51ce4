"""The simulated Flex Web Service keeps IB's rules: asked with plain HTTP, without the product's client."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import requests

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import ControlClient, GatewayConfig, GatewayThread
from v6_pipeline.paper.flex_server import QUERY_ID, TOKEN, FlexConfig, FlexFault, FlexServer
from v6_pipeline_tests.integration.flex.flex_rig import VirtualTime, past, server_of

DAYS = {"fd": "20261102", "td": "20261106"}
ASK = {"t": TOKEN, "q": QUERY_ID, "v": "3", **DAYS}


def get(server: FlexServer, question: str = "SendRequest", /, **changes: str | None) -> ET.Element:
    parameters = {**ASK, **changes}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"{server.url}/{question}", params=parameters, timeout=10)
    return ET.fromstring(answer.content)


def code(answer: ET.Element) -> str | None:
    return answer.findtext("ErrorCode")


def test_a_statement_is_ordered_and_then_fetched(server: FlexServer, time: VirtualTime) -> None:
    order = get(server)
    assert order.findtext("Status") == "Success"
    assert order.findtext("Url") == f"{server.url}/GetStatement"
    reference = order.findtext("ReferenceCode")
    time.sleep(1)
    assert code(get(server, "GetStatement", q=reference)) == "1019"
    time.sleep(1)
    assert get(server, "GetStatement", q=reference).tag == "FlexQueryResponse"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"t": "other"}, "1015"),
        ({"t": None}, "1015"),
        ({"q": "5"}, "1014"),
        ({"v": "2"}, "1020"),
        ({"v": None}, "1020"),
        ({"fd": None}, "1020"),
        ({"fd": "2026-11-02"}, "1020"),
        ({"fd": "20261107"}, "1020"),
        ({"fd": "20251101"}, "1020"),
        ({"fd": "20261107", "td": "20261108"}, "1003"),
        ({"fd": "20261121", "td": "20261122"}, "1003"),
        ({"fd": "20200102", "td": "20200103"}, "1003"),
    ],
)
def test_a_request_that_ib_would_refuse_is_refused(
    server: FlexServer, changes: dict[str, str | None], expected: str
) -> None:
    assert code(get(server, "SendRequest", **changes)) == expected


def test_an_unknown_reference_is_refused(server: FlexServer) -> None:
    assert code(get(server, "GetStatement", q="1")) == "1017"


def test_a_request_without_a_user_agent_is_forbidden(server: FlexServer) -> None:
    assert server.answer("/AccountManagement/FlexWebService/SendRequest", "").status == 403
    assert server.answer("/elsewhere", "x").status == 404


def test_there_is_one_request_a_second_and_ten_a_minute(server: FlexServer, time: VirtualTime) -> None:
    assert code(get(server)) is None
    time.sleep(0.9)
    assert code(get(server)) == "1018"
    for _ in range(9):
        time.sleep(1.0)
        assert code(get(server)) is None
    time.sleep(50)
    assert code(get(server)) == "1018"
    time.sleep(2)
    assert code(get(server)) is None
    assert server.requests["refused"] == 2


def test_todays_statement_is_there_tomorrow(time: VirtualTime) -> None:
    def last_days(server: FlexServer) -> set[str | None]:
        reference = get(server, fd="20261119", td="20261120").findtext("ReferenceCode")
        time.sleep(1)
        return {row.get("toDate") for row in get(server, "GetStatement", q=reference).iter("FlexStatement")}

    with server_of(time, in_progress=0) as running:
        time.seconds = -10 * 3_600  # 21:00 in New York, after the session
        assert last_days(running) == {"20261119"}
        time.sleep(4 * 3_600)  # 01:00 of the next day
        assert last_days(running) == {"20261119", "20261120"}


def test_a_fault_happens_as_often_as_it_was_ordered(server: FlexServer, time: VirtualTime) -> None:
    server.faults.flex_fault(FlexFault.REQUEST_ERROR, code=1009, count=2)
    codes = []
    for _ in range(3):
        codes.append(code(get(server)))
        time.sleep(2)
    server.faults.flex_fault(FlexFault.REQUEST_ERROR, code=1012)
    codes.append(code(get(server)))
    time.sleep(2)
    server.faults.heal()
    codes.append(code(get(server)))
    assert codes == ["1009", "1009", None, "1012", None]


def test_a_taken_port_is_named(server: FlexServer) -> None:
    with pytest.raises(GatewayError, match="--flex-port"):
        FlexServer(past, FlexConfig(port=server.port)).start()


def test_a_defect_of_the_service_is_raised_when_it_stops() -> None:
    def broken() -> Any:
        raise ZeroDivisionError

    server = FlexServer(broken, FlexConfig())
    server.start()
    with pytest.raises(requests.ConnectionError):
        get(server)
    with pytest.raises(ZeroDivisionError):
        server.stop()


def test_the_gateway_serves_statements_of_its_own_accounts() -> None:
    config = GatewayConfig(as_of=date(2026, 11, 20), tick_seconds=None, positions=10, flex_port=0)
    with GatewayThread(config) as running, ControlClient("127.0.0.1", running.control_port) as control:
        flex = running.gateway.flex
        assert running.gateway.flex.port not in {running.port, running.control_port}
        control.request("flex_fault", fault="request_error", code=1012, count=1)
        assert code(get(flex)) == "1012"
        control.request("flex_fault", fault="request_error", code=1012)
        control.request("heal")
        flex.wait(1.05)
        assert code(get(flex)) is None


def test_the_command_prints_what_the_settings_have_to_be(tmp_path: Path) -> None:
    command = (
        sys.executable,
        "-m",
        "v6_pipeline.cli",
        "gateway",
        "--port",
        "0",
        "--positions",
        "10",
        "--flex-port",
        "0",
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said["flex_url"] == f"http://127.0.0.1:{said['flex_port']}/AccountManagement/FlexWebService"
            answer = requests.get(
                f"{said['flex_url']}/SendRequest",
                params={
                    "t": said["flex_token"],
                    "q": said["flex_query_id"],
                    "v": "3",
                    "fd": "20260105",
                    "td": "20260106",
                },
                timeout=20,
            )
            assert ET.fromstring(answer.content).findtext("Status") == "Success"
            with ControlClient("127.0.0.1", said["control_port"]) as control:
                control.request("stop")
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_range_that_begins_before_the_account_was_opened_is_refused_as_a_whole(time: VirtualTime) -> None:
    config = FlexConfig(opened_on=date(2026, 11, 4), clock=time.clock, utcnow=time.utcnow)
    with FlexServer(past, config) as server:
        assert code(get(server)) == "1003"
        time.sleep(1)
        assert get(server, fd="20261104").findtext("Status") == "Success"
