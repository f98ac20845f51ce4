"""A headless Chromium on Dagster's UI, and what a person does there, by what stands on the page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1600, 1000
PATIENCE = 60_000
"""Milliseconds for what a page shows by itself, on a busy machine."""
SETTLES = 1500
"""Milliseconds in which a page draws itself: for pictures alone, nothing is judged by it."""


def program() -> str:
    """The browser of this machine; without one the test is left out."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed")


@contextmanager
def opened(chromium: str, url: str) -> Iterator[Browser]:
    """A window of the program on the UI at ``url``."""
    with sync_playwright() as playwright:
        # Without its sandbox: CI runs as root, in a container.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, base_url=url)
            page.set_default_timeout(PATIENCE)
            yield Browser(page)
        finally:
            browser.close()


class Browser:
    """Actions of a person in Dagster's UI."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def navigate(self, to: str) -> None:
        """Click an entry of the navigation on the left, by its last word: an icon's name stands before it."""
        if self.page.url == "about:blank":
            self.page.goto("/")
        self.page.get_by_role("link").filter(has_text=re.compile(rf"{to}$")).first.click()

    def click_link(self, text: str) -> None:
        """Click the link with this text."""
        self.page.get_by_role("link").filter(has_text=text).last.click()

    def click_button(self, text: str) -> None:
        """Click the last button with this text on the page."""
        button = self.page.get_by_role("button").filter(has_text=text).last
        button.scroll_into_view_if_needed()
        button.click()

    def open_asset(self, name: str, tab: str) -> None:
        """Open a tab of an asset's page."""
        self.page.goto(f"/assets/{name}")
        self.page.get_by_role("tab").or_(self.page.get_by_role("link")).filter(
            has_text=re.compile(rf"^{tab}$")
        ).last.click()

    def open_event(self, name: str, at: int) -> None:
        """Open an asset's event on the page *Events*, by its timestamp: newer events may precede it."""
        self.page.goto(f"/assets/{name}?view=events&time={at}")

    def materialize(self, partitions: str) -> None:
        """*Materialize* of an asset's or a job's page: choose days, launch."""
        self.page.get_by_role("button").filter(has_text=re.compile(r"Materialize( all)?( \(\d+\))?…")).first.click()
        selection, sure = self.page.get_by_text("Partition selection"), self.page.get_by_text("Confirm", exact=True)
        expect(selection.or_(sure)).to_be_visible(timeout=PATIENCE)
        if sure.is_visible():  # what lies upstream was not materialized
            sure.click()
        expect(selection).to_be_visible(timeout=PATIENCE)
        # The page behind the dialog has buttons of the same names; the dialog's stand last.
        self.page.get_by_role("button", name=partitions, exact=True).last.click()
        launch = self.page.get_by_role("button").filter(has_text="Launch").last
        expect(launch).to_be_enabled(timeout=PATIENCE)
        launch.click()
        expect(selection).to_be_hidden(timeout=PATIENCE)

    def sees(self, text: str, *, seconds: float = PATIENCE / 1000) -> None:
        """Wait until the page shows a text."""
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=seconds * 1000)

    def rest(self) -> None:
        """An empty page, for one of Dagster's asks and draws all the time."""
        self.page.goto("about:blank")

    def picture(self, path: Path) -> None:
        """Keep what is seen now, once what it needs is loaded."""
        self.page.wait_for_timeout(SETTLES)
        self.page.screenshot(path=path, animations="disabled")
