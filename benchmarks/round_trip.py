"""Quotes and streams a second at several round trips to the gateway: ``python benchmarks/round_trip.py``.

In virtual time, at the default of 45 messages a second and 90 lines: figures depend on the product alone, not on the
machine. Ratios are to the figures without latency. The last columns are the 101s that a limit draws which falls to no
line, and to five, while quotes are collected.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.simulation.round_trip import over_a_wire

ROUND_TRIPS = (0.0, 0.1, 0.4, 1.0)
QUOTES, STREAMS = 300, 80


def main() -> int:
    """Run and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "template.db"
        StateDatabase.open(f"sqlite:///{template}", name_for_messages="template", migrate=True).close()
        base = None
        for seconds in ROUND_TRIPS:
            quotes = over_a_wire(seconds, folder, template, lambda world: world.quotes(QUOTES))
            streams = over_a_wire(seconds, folder, template, lambda world: world.streams(STREAMS))
            fallen = [
                over_a_wire(
                    seconds, folder, template, lambda world, left=left: world.quotes(100, drop_after=4.0, lines=left)
                ).exhausted
                for left in (0, 5)
            ]
            base = base or (quotes.per_second, streams.per_second)
            print(
                f"{1000 * seconds:5.0f} ms: {quotes.per_second:4.1f} quotes/s ({quotes.per_second / base[0]:.2f}), "
                f"{streams.per_second:4.1f} streams/s ({streams.per_second / base[1]:.2f}), "
                f"{quotes.peak_lines} lines, {quotes.peak_rate} messages in a second, 101s {fallen}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
