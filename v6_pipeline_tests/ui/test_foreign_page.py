"""A page of another site in a real browser, against the webserver that ``v6 up`` starts. ``make test-long`` runs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from v6_pipeline_tests.integration.guarded_webserver import MUTATION, GuardedWebserver, guarded_webserver
from v6_pipeline_tests.ui.browser import program

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]
ATTACK = """
async ([url, mutation]) => {
  const address = url + "/graphql?query=" + encodeURIComponent(mutation);
  const body = JSON.stringify({query: mutation});
  const outcomes = {};
  const ask = async (name, options) => {
    try {
      const answer = await fetch(options.address || address, options);
      outcomes[name] = answer.type === "opaque" ? "unreadable" : answer.status;
    } catch (error) { outcomes[name] = "blocked"; }
  };
  await ask("get", {mode: "no-cors"});
  await ask("get with cors", {});
  await ask("post of text", {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain"}, body});
  await ask("post of disguised text",
    {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain; a=application/json"}, body});
  await ask("post without body", {method: "POST", mode: "no-cors"});
  await ask("post of json", {method: "POST", headers: {"Content-Type": "application/json"}, body});
  await ask("report", {
    method: "POST", mode: "no-cors", address: url + "/report_asset_materialization/queued_positions"});
  await new Promise(done => { const image = new Image(); image.onload = image.onerror = done; image.src = address; });
  const load = (frame) => new Promise(done => { frame.onload = done; document.body.append(frame); });
  for (const method of ["get", "post"]) {
    const frame = document.createElement("iframe");
    frame.name = "target-" + method;
    const form = document.createElement("form");
    [form.action, form.method, form.target] = [method === "get" ? url + "/graphql" : address, method, frame.name];
    const field = document.createElement("input");
    [field.name, field.value] = ["query", mutation];
    form.append(field);
    document.body.append(form);
    const loaded = load(frame);
    form.submit();
    await loaded;
  }
  outcomes.websocket = await new Promise(done => {
    const socket = new WebSocket(url.replace("http", "ws") + "/graphql", "graphql-ws");
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  });
  const framed = document.createElement("iframe");
  framed.src = url + "/overview";
  await load(framed);
  return outcomes;
}
"""
OWN = """
async ([url, mutation]) => {
  const body = JSON.stringify({query: mutation});
  const options = {method: "POST", headers: {"Content-Type": "application/json"}, body};
  const answer = await fetch(url + "/graphql", options);
  const websocket = await new Promise(done => {
    const socket = new WebSocket(url.replace("http", "ws") + "/graphql", "graphql-ws");
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  });
  return [answer.status, websocket];
}
"""


class Elsewhere(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html><body></body></html>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Without its sandbox: CI runs as root, in a container. The owner of the name points it to this machine.
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    path = program()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def server() -> Iterator[GuardedWebserver]:
    with guarded_webserver() as running:
        yield running


@pytest.mark.parametrize("site", ["evil.example", "127.0.0.1", "localhost"])
def test_a_page_of_another_origin_changes_nothing(
    server: GuardedWebserver, foreign_port: int, page: Page, site: str
) -> None:
    page.goto(f"http://{site}:{foreign_port}/")

    outcomes = page.evaluate(ATTACK, [server.url, MUTATION])

    assert outcomes.pop("websocket") == "refused"
    assert set(outcomes.values()) == {"unreadable", "blocked"}, outcomes
    assert server.limit() is None
    assert (
        "queued_positions"
        not in server.ask("{ assetRecordsOrError { ... on AssetRecordConnection { assets { key { path } } } } }").text
    )
    # The browser shows neither the frames' pages nor, in the last one, Dagster's UI.
    assert all("Dagster" not in frame.content() for frame in page.frames[1:])


def test_a_link_of_another_origin_opens_the_ui_and_takes_no_mutation(
    server: GuardedWebserver, foreign_port: int, page: Page
) -> None:
    page.goto(f"http://evil.example:{foreign_port}/")
    page.evaluate("url => { location.href = url }", f"{server.url}/graphql?query={MUTATION}")
    page.wait_for_url(f"{server.url}/**")
    assert "GET takes no mutation" in page.content()
    assert server.limit() is None

    page.goto(f"http://evil.example:{foreign_port}/")
    page.evaluate("url => { location.href = url }", f"{server.url}/deployment/concurrency")
    page.get_by_text("Deployment").first.wait_for()


def test_a_name_that_now_points_to_this_machine_gets_one_line(server: GuardedWebserver, page: Page) -> None:
    answer = page.goto(f"http://evil.example:{server.port}/")

    assert answer is not None
    assert answer.status == 403
    assert "not this machine: open the page at 127.0.0.1 or localhost" in page.content()
    assert page.evaluate(OWN, [f"http://evil.example:{server.port}", MUTATION]) == [403, "refused"]
    assert server.limit() is None


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_own_page_does_all_of_it(server: GuardedWebserver, page: Page, name: str) -> None:
    url = f"http://{name}:{server.port}"
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status == 403 else None)
    for path, shown in (("/deployment/concurrency", "Deployment"), ("/runs", "Runs"), ("/assets", "Catalog")):
        page.goto(url + path)
        page.get_by_text(shown).first.wait_for()
    page.goto(f"{url}/graphql")
    page.locator(".graphiql-container").first.wait_for()
    page.goto(f"{url}/runs")
    try:
        assert page.evaluate(OWN, [url, MUTATION]) == [200, "open"]
        assert server.limit() == 0
    finally:
        server.ask(MUTATION.replace("setConcurrency", "deleteConcurrency").replace(", limit: 0", ""))
    assert refused == []
