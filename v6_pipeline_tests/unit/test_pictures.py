"""Pictures: that they are PNGs of what they are given, small enough for an event log, whatever the numbers."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from v6_pipeline.pictures import as_markdown, exposure_by_underlying, slots_over_time
from v6_pipeline.state.slots.samples import SlotSample

BEGIN = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
BLUE, ORANGE = (59, 111, 212), (230, 159, 60)
LARGEST = 60_000
"""Bytes that Dagster keeps for each."""


def opened(png: bytes) -> Image.Image:
    assert len(png) < LARGEST
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return image.convert("RGB")


def day(minutes: int) -> list[SlotSample]:
    return [
        SlotSample(at=BEGIN + timedelta(minutes=minute), streams=60, batches=minute % 20, ceiling=90)
        for minute in range(minutes)
    ]


@pytest.mark.parametrize("minutes", [1, 2, 390])
def test_slots_over_time(minutes: int) -> None:
    image = opened(slots_over_time(day(minutes), configured=90, timezone="America/New_York"))

    assert image.width > 2 * image.height


def test_the_picture_of_the_slots_shows_streams_batches_and_the_ceiling() -> None:
    idle = [SlotSample(at=sample.at, streams=0, batches=0, ceiling=90) for sample in day(60)]
    without = slots_over_time(idle, configured=90, timezone="UTC")
    shown = slots_over_time(day(60), configured=90, timezone="UTC")

    # The legend has a patch of each; 60 of 103.5 units of the axis stream.
    assert share(shown, BLUE) > 0.3
    assert share(without, BLUE) < 0.01
    assert share(shown, ORANGE) > 0.02
    assert share(without, ORANGE) < 0.01


def test_time_goes_on_where_summer_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Friday's trading day lasts until Monday: its picture may have the hour that comes twice."""
    drawn: list[list[float]] = []
    stackplot = Axes.stackplot

    def noted(self: Axes, at: Any, *args: Any, **options: Any) -> Any:
        drawn.append(list(at))
        return stackplot(self, at, *args, **options)

    monkeypatch.setattr(Axes, "stackplot", noted)
    begin = datetime(2026, 11, 1, 5, 0, tzinfo=UTC)
    samples = [SlotSample(at=begin + timedelta(minutes=30 * n), streams=1, batches=0, ceiling=90) for n in range(6)]

    opened(slots_over_time(samples, configured=90, timezone="America/New_York"))

    [at] = drawn
    assert at == sorted(set(at))


def share(png: bytes, colour: tuple[int, int, int]) -> float:
    """Return the points of the picture that have this colour."""
    image = opened(png)
    counted = image.getcolors(image.width * image.height) or []
    return sum(count for count, found in counted if found == colour) / (image.width * image.height)


def test_exposure_by_underlying_grows_with_the_underlyings_and_ends_somewhere() -> None:
    few = opened(exposure_by_underlying({"SPX": -1e6, "AAPL": 5e4}, currency="USD", title="Exposure"))
    many = opened(
        exposure_by_underlying({f"U{index}": index - 50.0 for index in range(100)}, currency="USD", title="Exposure")
    )

    assert few.height < many.height < 600


def test_markdown_holds_the_picture_itself() -> None:
    text = as_markdown(b"png", "what it shows")

    assert text.startswith("![what it shows](data:image/png;base64,")
    assert base64.b64decode(text.partition("base64,")[2].rstrip(")")) == b"png"


def test_symbols_with_dollar_signs_are_no_formulas() -> None:
    """Matplotlib fails at one that it cannot read, and the report had no picture."""
    opened(exposure_by_underlying({"$\\frac$": 1.0, "A$B": -2.0}, currency="USD", title="exposure"))


def test_the_title_of_a_picture_is_no_markdown() -> None:
    assert as_markdown(b"", "a](http://x) ![b").startswith(r"![a\](http://x) !\[b](data:image/png;base64,")
