"""Size and deadlines of a run: one profile for minutes of chaos, one for the tests that run with every change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Sizes, and times in seconds.

    ``restart_pause``, ``hung_after`` and ``closing`` stand in for the sensor's own constants, which count where these
    are None. The lease is what the sensor grants; below the setting's minimum only in tests, whose faults are short.
    """

    accounts: int = 2
    positions: int = 160
    active: int = 34
    market_data_lines: int = 40
    reserved_lines: int = 6
    batch_lines: int = 4
    workers: int = 2
    tick_seconds: float = 0.5
    flush_seconds: float = 1.0
    sensor_seconds: float = 2.0
    lease_seconds: int = 15
    restart_pause: float | None = None
    hung_after: float | None = None
    closing: float | None = None
    refresh_seconds: int = 86_400
    """Beyond the run's end, so that an item is served because it is in the queue, and none because it is old."""

    @property
    def ceiling(self) -> int:
        """Lines that streams and batches may use together."""
        return self.market_data_lines - self.reserved_lines

    @property
    def stream_capacity(self) -> int:
        """Lines that streams may use."""
        return self.ceiling - self.batch_lines


LONG = Scale()
"""For ``make chaos``: the sensor's own restart pause and patience, the shortest lease that can be set."""

SHORT = Scale(
    positions=40,
    active=8,
    market_data_lines=20,
    reserved_lines=4,
    batch_lines=4,
    workers=1,
    tick_seconds=0.2,
    flush_seconds=0.3,
    sensor_seconds=0.3,
    lease_seconds=10,
    restart_pause=0.5,
    hung_after=20.0,
    closing=4.0,
)
"""For tests: everything that only waits is short."""
