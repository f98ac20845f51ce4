"""The webserver that ``v6 up`` starts: what a page of another site can make a browser send changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from v6_pipeline_tests.integration.guarded_webserver import (
    JSON,
    MUTATION,
    WEBSOCKET,
    GuardedWebserver,
    guarded_webserver,
)

pytestmark = pytest.mark.slow
IN_QUERY = f"/graphql?query={quote(MUTATION)}"
FOREIGN = {"Origin": "http://evil.example"}
REPORT = "/report_asset_materialization/queued_positions"


@pytest.fixture(scope="module")
def server() -> Iterator[GuardedWebserver]:
    with guarded_webserver() as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "headers", "said"),
    [
        # A link, an image, a form by GET.
        ("GET", IN_QUERY, {}, "GET takes no mutation"),
        ("GET", f"/graphql?query={quote('{ version }')}&query={quote(MUTATION)}", {}, "GET takes no mutation"),
        ("GET", f"/graphql?query={quote('query A { version } ' + MUTATION)}&operationName=", {}, "no mutation"),
        # A form, a fetch without CORS, a page in a sandbox.
        ("POST", IN_QUERY, {"Content-Type": "application/x-www-form-urlencoded"}, "send application/json"),
        ("POST", IN_QUERY, {"Content-Type": "text/plain; a=application/json"}, "send application/json"),
        ("POST", IN_QUERY, {}, "send application/json"),
        ("POST", IN_QUERY, JSON | FOREIGN, "a page of 'http://evil.example'"),
        ("POST", IN_QUERY, JSON | {"Origin": "null"}, "a page of 'null'"),
        ("POST", IN_QUERY, JSON | {"Origin": "http://127.0.0.1:1"}, "a page of 'http://127.0.0.1:1'"),
        ("POST", IN_QUERY, JSON | {"Sec-Fetch-Site": "cross-site"}, "a page of another site"),
        (
            "GET",
            "/",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
            "site",
        ),
        # Dagster takes reports of events with no content type at all.
        ("POST", REPORT, FOREIGN, "a page of 'http://evil.example'"),
        ("POST", REPORT, {}, "send application/json"),
        # A name that now points to this machine.
        ("GET", "/", {"Host": "evil.example"}, "the Host is 'evil.example', not this machine"),
        ("POST", IN_QUERY, JSON | {"Host": "evil.example:3000", "Origin": "http://evil.example:3000"}, "the Host is"),
        ("GET", "/", {"Host": "localhost.evil.example"}, "the Host is"),
        ("GET", "/", {"Host": "127.0.0.1@evil.example"}, "the Host is"),
        ("GET", "/logs/x", {"Host": ""}, "the Host is"),
    ],
)
def test_a_request_of_another_site_is_refused_in_one_line_and_changes_nothing(
    server: GuardedWebserver, method: str, path: str, headers: dict[str, str], said: str
) -> None:
    answer = server.send(method, path, headers, body=None if method == "GET" else "")

    assert answer.status == 403, answer.text
    assert said in answer.text
    assert answer.text.startswith("refused: ")
    assert answer.text.count("\n") == 1
    assert server.limit() is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (FOREIGN, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 101),
        ({}, 101),
    ],
)
def test_a_websocket_opens_for_the_own_pages_only(
    server: GuardedWebserver, headers: dict[str, str], status: int
) -> None:
    assert server.send("GET", "/graphql", WEBSOCKET | headers).status == status


def test_pages_queries_and_programs_are_served_and_no_other_site_frames_them(server: GuardedWebserver) -> None:
    page = server.send("GET", "/overview", {"Accept": "text/html"})
    assert (page.status, page.headers["x-frame-options"]) == (200, "SAMEORIGIN")
    assert "GraphiQL" in server.send("GET", "/graphql", {"Accept": "text/html"}).text
    assert '"version"' in server.send("GET", f"/graphql?query={quote('query A { version }')}").text
    assert server.send("GET", "/runs?query=mutation%20is%20a%20word").status == 200
    assert server.send("GET", "/graphql?query=mutation%20is%20no%20query").status == 400
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert server.send("GET", "/runs", link).status == 200
    assert server.send("OPTIONS", "/graphql", FOREIGN).status == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_mutations_of_the_own_page_and_of_programs_are_taken(server: GuardedWebserver, name: str) -> None:
    try:
        tunnel = {"Host": f"{name}:8080", "Origin": f"http://{name.lower()}:8080", "Sec-Fetch-Site": "same-origin"}
        assert server.ask(MUTATION, tunnel).status == 200
        assert server.limit() == 0
    finally:
        server.ask(MUTATION.replace("limit: 0", "limit: 1"))
        server.ask(MUTATION.replace("setConcurrencyLimit", "deleteConcurrencyLimit").replace(", limit: 0", ""))


def test_refusals_are_logged_once_and_a_signal_ends_the_server(server: GuardedWebserver) -> None:
    for _ in range(3):
        server.send("GET", "/", {"Host": "other.example"})

    server.process.send_signal(signal.SIGTERM)

    server.process.wait(timeout=20)
    text = server.log.read_text(encoding="utf-8")
    assert text.count("Refused a request: the Host is 'other.example'") == 1
    assert "Serving dagster-webserver on" in text
    assert "Traceback" not in text
