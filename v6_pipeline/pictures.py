"""Pictures for Dagster's pages: PNGs in a metadata entry of Markdown.

matplotlib is imported with the first picture: it takes a second. Pictures are small: Dagster stores them in its event
log. https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from v6_pipeline.foreign_text import escaped_markdown
from v6_pipeline.state.slots.samples import SlotSample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, DOTS_PER_INCH = 6.4, 2.6, 80
MARGINS = (0.75, 0.5, 0.15, 0.3)
"""Left, bottom, right, top, in inches: room for a symbol or a number, the ticks with their offset, the title."""
BARS = 20
"""Underlyings in a picture of the exposure, the largest exposures first."""
_GREY, _BLUE, _ORANGE, _RED, _GREEN = "#8a8f98", "#3b6fd4", "#e69f3c", "#c44536", "#2f8f5b"


def slots_over_time(samples: Sequence[SlotSample], *, configured: int, timezone: str) -> bytes:
    """Return a PNG of the market-data lines in use, streams and batches stacked, under their ceiling.

    Args:
        samples: oldest first, at least one.
        configured: lines that streams and batches may use together by the settings.
        timezone: of the axis.
    """
    from matplotlib.dates import date2num

    zone = ZoneInfo(timezone)
    local = [sample.at.astimezone(zone) for sample in samples]
    at = date2num(local)
    streams, batches = [sample.streams for sample in samples], [sample.batches for sample in samples]
    axes, render = _axes(f"Market-data lines in use, {samples[-1].at.astimezone(zone):%Y-%m-%d %H:%M %Z}")
    axes.stackplot(at, streams, batches, labels=("streams", "batches"), colors=(_BLUE, _ORANGE), step="post")
    axes.step(at, [sample.ceiling for sample in samples], where="post", color=_RED, linewidth=1.5, label="ceiling")
    axes.axhline(configured, color=_GREY, linewidth=0.8, linestyle="--", label="by the settings")
    axes.set_ylim(0, max(configured, *(sample.ceiling for sample in samples)) * 1.15)
    if at[0] < at[-1]:
        axes.set_xlim(float(at[0]), float(at[-1]))
    axes.legend(loc="upper left", ncols=4, fontsize=7, frameon=False)
    _dates(axes, local)
    return render()


def exposure_by_underlying(dollar_delta: Mapping[str, float], *, currency: str, title: str) -> bytes:
    """Return a PNG of the dollar delta by underlying symbol, in the base ``currency``, the largest first."""
    largest = sorted(dollar_delta.items(), key=lambda item: -abs(item[1]))[:BARS]
    axes, render = _axes(title, height=max(HEIGHT, 0.8 + 0.22 * len(largest)))
    # Matplotlib reads what stands between two dollar signs as a formula.
    symbols, values = [symbol.replace("$", r"\$") for symbol, _ in largest], [value for _, value in largest]
    axes.barh(symbols, values, color=[_GREEN if value >= 0 else _RED for value in values])
    axes.invert_yaxis()
    axes.axvline(0, color=_GREY, linewidth=0.8)
    axes.set_xlabel(f"dollar delta, {currency}", fontsize=8)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return render()


def as_markdown(png: bytes, text: str) -> str:
    """Embed a picture in Markdown, so that a page shows it without a request."""
    return f"![{escaped_markdown(text)}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def _axes(title: str, *, height: float = HEIGHT) -> tuple[Axes, Callable[[], bytes]]:
    from matplotlib.figure import Figure  # without pyplot, whose state threads would share

    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH)
    # Margins in inches: a computed layout would draw everything twice.
    left, bottom, right, top = MARGINS
    axes = figure.add_axes(
        (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
    )
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)

    def render() -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    return axes, render


def _dates(axes: Axes, at: Sequence[datetime]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    # With their zone: local time alone goes backwards at the end of summer time.
    locator = AutoDateLocator(tz=at[0].tzinfo)
    axes.xaxis.set_major_locator(locator)
    show_offset = at[0].date() != at[-1].date()
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=at[0].tzinfo, show_offset=show_offset))
