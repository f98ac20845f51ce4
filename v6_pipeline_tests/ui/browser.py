"""A headless Chromium on Dagster's UI, and what a person does there, by what stands on the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1600, 1000
SECONDS = 60_000
"""As milliseconds: a page of a busy machine."""


def program() -> str:
    """The browser of this machine; without one the test is left out."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed")


@contextmanager
def opened(url: str) -> Iterator[Page]:
    """A window at ``url``."""
    with sync_playwright() as playwright:
        # Without its sandbox: CI runs as root, in a container.
        browser = playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, base_url=url)
            page.set_default_timeout(SECONDS)
            page.goto("/")
            yield page
        finally:
            browser.close()


def picture(page: Page, folder: Path, name: str) -> None:
    """Keep what is seen now."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=folder / f"{name}.png")
