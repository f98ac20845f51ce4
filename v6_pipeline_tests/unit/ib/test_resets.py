"""The broker's nightly resets and weekend maintenance, by the clock of each region and over daylight saving."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.model import IBRegion


def at(text: str, zone: str = "America/New_York") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("instant", "region", "reason"),
    [
        (at("2026-03-03T00:14:59"), IBRegion.AMERICA, None),
        (at("2026-03-03T00:15"), IBRegion.AMERICA, "IB's nightly reset"),
        (at("2026-03-03T01:44:59"), IBRegion.AMERICA, "IB's nightly reset"),
        (at("2026-03-03T01:45"), IBRegion.AMERICA, None),
        (at("2026-03-03T12:00"), IBRegion.AMERICA, None),
        (at("2026-03-06T22:59"), IBRegion.AMERICA, None),
        (at("2026-03-06T23:00"), IBRegion.AMERICA, "IB's weekend maintenance"),
        (at("2026-03-07T01:00"), IBRegion.AMERICA, "IB's weekend maintenance"),
        (at("2026-03-07T02:59"), IBRegion.EUROPE, "IB's weekend maintenance"),
        (at("2026-03-07T03:00"), IBRegion.AMERICA, None),
        (at("2026-03-08T00:30"), IBRegion.AMERICA, "IB's nightly reset"),
        (at("2026-03-03T06:24", "Europe/Zurich"), IBRegion.EUROPE, None),
        (at("2026-03-03T06:25", "Europe/Zurich"), IBRegion.EUROPE, "IB's nightly reset"),
        (at("2026-07-03T07:44", "Europe/Zurich"), IBRegion.EUROPE, "IB's nightly reset"),
        (at("2026-07-03T07:45", "Europe/Zurich"), IBRegion.EUROPE, None),
        (at("2026-03-03T05:00", "Asia/Hong_Kong"), IBRegion.ASIA, "IB's nightly reset"),
        (at("2026-03-03T20:30", "Asia/Hong_Kong"), IBRegion.ASIA, "IB's nightly reset"),
        (at("2026-03-07T20:30", "Asia/Hong_Kong"), IBRegion.ASIA, None),
    ],
)
def test_windows_begin_and_end_by_the_regions_clock(instant: datetime, region: IBRegion, reason: str | None) -> None:
    outage = expected_outage(instant, region)
    assert (outage.reason if outage else None) == reason


def test_of_two_windows_the_one_that_ends_last_is_returned() -> None:
    outage = expected_outage(at("2026-03-07T01:00"))
    assert outage is not None
    assert outage.until == at("2026-03-07T03:00")
    assert str(outage) == "IB's weekend maintenance until 08:00 UTC"


@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01"])
def test_the_night_of_a_change_of_clocks_has_its_window(day: str) -> None:
    """The clocks change at 02:00, after the reset."""
    begin = at(f"{day}T00:15").astimezone(UTC)
    inside = [minute for minute in range(180) if expected_outage(begin + timedelta(minutes=minute - 30))]
    assert inside == list(range(30, 120))
