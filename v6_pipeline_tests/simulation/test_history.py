"""IB's pacing of historical requests over all runs: never broken, and no slower than it has to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from v6_pipeline_tests.simulation.history import DAYS, Body, closes_of_options, simulate, small_bars


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "requests"),
    [(closes_of_options(2, 130, DAYS[-5:]), 260), (small_bars(3, 70), 70)],
    ids=["closes of options", "bars of 30 seconds"],
)
def test_pacing_is_kept_and_costs_no_more_than_it_must(body: Body, requests: int, tmp_path: Path) -> None:
    figures = simulate(body, tmp_path)

    assert figures.requests >= requests
    assert figures.violations == 0
    assert figures.peak_open <= 40
    assert figures.ratio <= 1.1
