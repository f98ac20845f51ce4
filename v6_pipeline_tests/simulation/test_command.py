"""Many days, shared out to processes."""

from __future__ import annotations

import operator

from v6_pipeline_tests.simulation.command import DAYS_PER_PROCESS, in_processes


def test_more_days_than_processes_live_for_are_all_simulated() -> None:
    """Fifty days once ended after sixteen, without a word and without an end."""
    seeds = range(2 * DAYS_PER_PROCESS + 1)

    assert sorted(in_processes(operator.neg, seeds, jobs=2)) == sorted(-seed for seed in seeds)
