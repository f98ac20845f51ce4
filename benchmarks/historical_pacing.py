"""Historical requests against IB's pacing: ``python benchmarks/historical_pacing.py``.

Several runs at once against one paper gateway, on a virtual clock: hours of pacing in a minute. Judged by the gateway's
statistics alone: violations, requests open at once, and the time taken as a ratio of the least that pacing allows.
Exits with 1 if a rule was broken or the ratio is above 1.1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

MOST = 1.1


def main() -> int:
    """Run, print, judge."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the simulation is part of the tests
    from v6_pipeline_tests.simulation.history import DAYS, closes_of_options, simulate

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contracts", type=int, default=100, help="options per run")
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # IB says of each day without trades that there is no data
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = simulate(closes_of_options(options.runs, options.contracts), Path(folder))
    print(
        f"closes of {options.runs * options.contracts} options on {len(DAYS)} days (half-hour bars), "
        f"{options.runs} runs at once:"
    )
    print(
        f"  {figures.requests} requests, {figures.closes} closes, {figures.violations} violations, "
        f"at most {figures.peak_open} open"
    )
    print(
        f"  {figures.seconds:.0f} s of the virtual clock, bound {figures.bound:.0f} s, ratio {figures.ratio:.3f} "
        f"({time.monotonic() - began:.0f} s of this machine)"
    )
    return 1 if figures.violations or figures.ratio > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
