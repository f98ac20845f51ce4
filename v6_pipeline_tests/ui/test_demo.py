"""``v6 demo`` as a newcomer sees it: in a browser, with real clicks. ``make test-long`` runs it, for it takes minutes.

The pictures that it takes are those of the documents: ``make pictures`` renews ``docs/images`` with them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.cli.dagster_processes import free_port
from v6_pipeline.history.trace import trace
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import last_rows
from v6_pipeline.lake.tables import POSITION_SNAPSHOTS
from v6_pipeline.paper import ControlClient
from v6_pipeline.settings import load_settings
from v6_pipeline_tests.integration.real_dagster import DagsterApi, wait_for
from v6_pipeline_tests.integration.v6_program import SECONDS, V6, environment, read_line
from v6_pipeline_tests.ui.browser import Browser, opened, program
from v6_pipeline_tests.ui.picture_home import made_anew

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
RENEW = "RENEW_PICTURES"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURE_HOME = Path("/tmp/v6")
MINUTE = 60.0


@dataclass(frozen=True)
class Demo:
    """A running demo, and where pictures of it go."""

    v6: V6
    port: int
    said: dict[str, Any]
    pictures: Path

    @property
    def home(self) -> Path:
        return Path(self.said["home"])

    @property
    def api(self) -> DagsterApi:
        return DagsterApi(self.said["pages"]["ui"])

    @property
    def inside(self) -> V6:
        """``v6`` in the demo's home."""
        return replace(self.v6, environ=self.v6.environ | {"V6_HOME": str(self.home)})

    def gateway(self, command: str, **fields: Any) -> None:
        with ControlClient("127.0.0.1", self.said["gateway"]["control_port"]) as control:
            control.request(command, **fields)

    def made(self, asset: str) -> set[str]:
        """Partitions of an asset that were materialized."""
        return set(self.api.materializations(asset))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    renew = os.environ.get(RENEW) == "1"
    folder = made_anew(PICTURE_HOME) if renew else tmp_path_factory.mktemp("demo")
    v6, port = V6(folder / "home", environment(folder / "home")), free_port()
    with v6.running("demo", "--port", port, "--json") as process:
        said = json.loads(read_line(process))
        try:
            yield Demo(v6, port, said, IMAGES if renew else folder)
        finally:
            process.send_signal(signal.SIGINT)  # killed it would leave its children behind
            process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def browser(demo: Demo) -> Iterator[Browser]:
    with opened(program(), demo.said["pages"]["ui"]) as window:
        yield window


def test_the_demo_says_where_it_is_and_streams(demo: Demo) -> None:
    assert demo.home == demo.v6.home / "demo"
    assert demo.said["pages"]["ui"] == f"http://127.0.0.1:{demo.port}"
    wait_for("twelve streams", lambda: demo.inside.ok("slots")["streams"] == 12, MINUTE)


def test_the_graph_shows_where_snapshots_come_from(demo: Demo, browser: Browser) -> None:
    browser.page.goto("/")
    browser.navigate("Lineage")
    for group in ("broker", "live", "batch", "history"):
        browser.sees(group)

    browser.open_asset("position_snapshots", "Lineage")

    for asset in ("streamed_positions", "queued_positions", "flex_positions", "strategy_registry"):
        browser.sees(asset)
    browser.picture(demo.pictures / "asset-graph.png")


def test_a_refresh_is_launched_from_the_asset(demo: Demo, browser: Browser) -> None:
    browser.open_asset("queued_positions", "Partitions")
    browser.materialize("Latest")

    browser.rest()
    wait_for("the run", lambda: _statuses(demo) == {"SUCCESS"}, 2 * MINUTE)
    wait_for("the day's rows", lambda: demo.made("queued_positions"), MINUTE)
    browser.open_asset("queued_positions", "Partitions")
    browser.sees("Materialized (1)")
    browser.picture(demo.pictures / "queued-positions.png")


def test_sensor_and_schedule_say_what_they_do(demo: Demo, browser: Browser) -> None:
    wait_for("a report", lambda: demo.made("streamed_positions"), 2 * MINUTE)
    for name, says in (("ib_streamer_sensor", "Owns the IB streamer"), ("queued_positions_schedule", "Every minute")):
        browser.navigate("Automation")
        browser.click_link(name)
        browser.sees(says)
        browser.picture(demo.pictures / ("sensor.png" if "sensor" in name else "schedule.png"))


def test_past_days_are_backfilled_by_the_job_and_every_row_has_its_trace(demo: Demo, browser: Browser) -> None:
    settings, calendar = load_settings(demo.home), TradingCalendar()
    begun = calendar.sessions_between(settings.start_date, calendar.trading_day(dt.datetime.now(dt.UTC)))
    days = [day.isoformat() for day in begun]
    browser.navigate("Jobs")
    browser.click_link("import_flex_statements")
    browser.materialize("All")

    browser.rest()
    wait_for("all days", lambda: demo.made("position_snapshots") >= set(days), 3 * MINUTE)
    browser.open_asset("position_snapshots", "Partitions")
    browser.page.get_by_text(days[-2], exact=True).first.click()
    browser.sees("market_value")
    browser.picture(demo.pictures / "position-snapshots.png")

    lake = Lake.from_settings(settings)
    for day in (days[0], days[-1]):  # from Flex, and from what was streamed and queued
        _every_row_has_its_trace(lake, calendar, day)


def test_a_check_fails_while_another_client_holds_the_account_feed_and_passes_after(
    demo: Demo, browser: Browser
) -> None:
    demo.gateway("refuse_account_feed", count=1000)
    try:
        browser.open_asset("account_values", "Checks")
        browser.materialize("Latest")
        browser.open_asset("account_values", "Checks")
        browser.sees("could not be downloaded", seconds=2 * MINUTE)
        browser.picture(demo.pictures / "check-failed.png")
    finally:
        demo.gateway("heal")
    browser.materialize("Latest")
    browser.open_asset("account_values", "Checks")
    browser.sees("downloads of 2 accounts succeed", seconds=3 * MINUTE)


def test_figures_are_plotted_and_slots_drawn(demo: Demo, browser: Browser) -> None:
    browser.open_asset("account_values", "Overview")
    browser.click_button("Plots")
    browser.click_button("Events")
    browser.page.locator("canvas").nth(3).wait_for()
    browser.page.locator("canvas").nth(2).scroll_into_view_if_needed()
    for name in ("daily_pnl_usd", "net_liquidation_usd", "unrealized_pnl_usd"):
        browser.sees(name)
    browser.picture(demo.pictures / "account-values.png")

    drawn_at = wait_for("a picture", lambda: _with_picture(demo), 3 * MINUTE)[0]
    browser.open_event("streamed_positions", drawn_at)
    browser.sees("slots_over_the_day")
    browser.picture(demo.pictures / "streamed-positions.png")

    browser.page.get_by_text("[Show Markdown]").first.click()
    drawn = browser.page.get_by_alt_text("Market-data lines in use over the day")
    drawn.wait_for()
    browser.page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=drawn.element_handle())
    browser.picture(demo.pictures / "slots.png")


def _with_picture(demo: Demo) -> list[int]:
    """Return the times of the stream's materializations that have a picture, the newest first."""
    events = demo.api.labels("streamed_positions")
    return [at for at, labels in events.items() if "slots_over_the_day" in labels]


def _statuses(demo: Demo) -> set[str]:
    """Return the statuses of the runs that were launched from an asset's page."""
    return {run["status"] for run in demo.api.runs("__ASSET_JOB")}


def _every_row_has_its_trace(lake: Lake, calendar: TradingCalendar, day: str) -> None:
    date = dt.date.fromisoformat(day)
    rows = last_rows(lake.table(POSITION_SNAPSHOTS), rows=1000, day=date)
    conids = rows.get_column("conid").unique().to_list()
    traced = [item for conid in conids for item in trace(lake, calendar, conid, day=date, always=True)]
    assert len(traced) == rows.height
    assert rows.height > 20
    for item in traced:
        assert item.agrees, item
        assert item.writer.commit is not None
        assert item.sources
        assert all(source.writer is not None and source.writer.commit is not None for source in item.sources)
