"""Take the pictures in ``docs/images`` from a running demo: ``python scripts/take_screenshots.py http://127.0.0.1:3000``.

Needs Debian's ``chromium`` (or ``--chromium PATH``) and the extra ``dev``. Waits until the sensor and the schedule have
done their work, so start it beside ``v6 demo``, and backfill the last trading days there first.
"""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from v6_pipeline.calendar import TradingCalendar

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LOCATION = "/locations/v6_pipeline"
PAGES = {
    "asset-graph": ("/asset-groups", "broker"),
    "streamed-positions": ("/assets/streamed_positions?view=overview", "delta_version"),
    "queued-positions": ("/assets/queued_positions?view=partitions&partition={day}", "dagster/partition_row_count"),
    "position-snapshots": (
        "/assets/position_snapshots?view=partitions&partition={past}",
        "dagster/partition_row_count",
    ),
    "portfolio-exposure": ("/assets/portfolio_exposure?view=partitions&partition={past}", "dollar_delta"),
    "history-checks": ("/assets/position_snapshots?view=checks", "snapshot_complete"),
    "sensor": (f"{LOCATION}/sensors/ib_streamer_sensor", "0 runs requested"),
    "schedule": (f"{LOCATION}/schedules/queued_positions_schedule", "1 run requested"),
}
"""File name -> address and a text that shows that the page has loaded."""
_SHORTEN_PATHS = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    walker.currentNode.nodeValue = walker.currentNode.nodeValue.replace(/[^\\s"]*\\/(\\.v6\\/)/g, "$1");
  }
}"""
"""The demo's home is somewhere else on each machine."""
_SETTLE_MILLISECONDS = 4000
"""The graph's layout and the plots are drawn after the text."""


def take(page: Page, base: str, name: str, today: date) -> None:
    """Open one page and keep its picture; past days must have been backfilled."""
    address, text = PAGES[name]
    page.set_viewport_size({"width": 1440, "height": 1250 if name == "asset-graph" else 900})
    past = TradingCalendar().previous_session(today)
    page.goto(base + address.format(day=today, past=past))
    page.get_by_text(text).first.wait_for(timeout=120_000)
    page.wait_for_timeout(_SETTLE_MILLISECONDS)
    if name == "asset-graph":
        page.keyboard.press("Alt+KeyE")  # expands the groups
        page.wait_for_timeout(_SETTLE_MILLISECONDS)
    elif name == "sensor":
        _open_report(page)
    page.evaluate(_SHORTEN_PATHS)
    page.screenshot(path=IMAGES / f"{name}.png")


def _open_report(page: Page) -> None:
    """Show what the newest tick said that reported new versions."""
    results = page.locator("td").get_by_text("0 runs requested")
    # Each row says it twice: as its status, and as the link that opens the report. The first may be the page's header.
    for number in range(results.count() % 2 + 1, results.count(), 2):
        results.nth(number).click()
        page.wait_for_timeout(1000)
        if page.get_by_text("reported versions").count():
            return
        page.get_by_role("button", name="Close").click()
        page.wait_for_timeout(1000)


def main() -> None:
    """Take all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="address of the Dagster UI")
    parser.add_argument("names", nargs="*", default=sorted(PAGES), help="which pictures")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    today = TradingCalendar().trading_day(datetime.now(UTC))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=options.chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page()
        for name in options.names:
            take(page, options.base.rstrip("/"), name, today)
        browser.close()


if __name__ == "__main__":
    main()
