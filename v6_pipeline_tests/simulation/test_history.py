"""IB's pacing of historical requests over all runs: never broken, and no slower than it has to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from v6_pipeline_tests.simulation.history import DAYS, closes_of_options, simulate


@pytest.mark.slow
def test_pacing_is_kept_and_costs_no_more_than_it_must(tmp_path: Path) -> None:
    figures = simulate(closes_of_options(2, 130, DAYS[-5:]), tmp_path)

    assert figures.requests >= 260
    assert figures.violations == 0
    assert figures.peak_open <= 40
    assert figures.ratio <= 1.1
