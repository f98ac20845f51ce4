"""The latency of the gateway costs neither quotes nor streams, and a limit that falls still draws a few 101s."""

from __future__ import annotations

from pathlib import Path

import pytest

from v6_pipeline.state.slots.allocation import UNCONFIRMED_LINES, UNCONFIRMED_PER_SECOND
from v6_pipeline_tests.simulation.round_trip import CEILING, Figures, World, over_a_wire
from v6_pipeline_tests.unit.state.databases import sqlite_template

__all__ = ["sqlite_template"]

QUOTES, STREAMS = 150, 80


@pytest.mark.parametrize(("round_trip", "least"), [(0.1, 0.85), (0.4, 0.7)])
def test_quotes_are_bound_by_messages_whatever_the_round_trip(
    round_trip: float, least: float, tmp_path: Path, sqlite_template: Path
) -> None:
    """Two lines at a time that await their confirmation gave 0.3 of the quotes at 400 ms. The last quote's two round
    trips are part of the time."""
    near = over_a_wire(0.0, tmp_path, sqlite_template, lambda world: world.quotes(QUOTES))
    far = over_a_wire(round_trip, tmp_path, sqlite_template, lambda world: world.quotes(QUOTES))

    assert (near.served, far.served, far.exhausted) == (QUOTES, QUOTES, 0)
    assert far.per_second / near.per_second >= least


def test_streams_start_within_seconds_over_a_long_wire(tmp_path: Path, sqlite_template: Path) -> None:
    figures = over_a_wire(0.4, tmp_path, sqlite_template, lambda world: world.streams(STREAMS))

    assert (figures.served, figures.exhausted) == (STREAMS, 0)
    assert figures.seconds < 6, "16 s with two unconfirmed lines"


@pytest.mark.parametrize("round_trip", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("lines", [0, 5])
def test_a_limit_that_falls_draws_only_the_requests_that_are_on_their_way(
    round_trip: float, lines: int, tmp_path: Path, sqlite_template: Path
) -> None:
    """TWS opens windows; what the ledger learns holds for all further requests."""

    async def quote(world: World) -> Figures:
        return await world.quotes(QUOTES, drop_after=4.0, lines=lines)

    figures = over_a_wire(round_trip, tmp_path, sqlite_template, quote)

    assert figures.exhausted <= UNCONFIRMED_LINES + UNCONFIRMED_PER_SECOND * round_trip
    assert figures.served == QUOTES or lines == 0, "with five lines all are quoted"


def test_the_gateway_counts_at_most_fifty_messages_in_any_second_while_it_stalls(
    tmp_path: Path, sqlite_template: Path
) -> None:
    """IB counts a message when the gateway reads it: with the former spacing it was up to 53."""
    figures = over_a_wire(0.002, tmp_path, sqlite_template, lambda world: world.flood(stall_seconds=0.25))

    assert 45 < figures.peak_rate <= 50


def test_all_kinds_of_processes_together_keep_to_fifty_messages(tmp_path: Path, sqlite_template: Path) -> None:
    """A streamer, four refreshes, a history run and a doctor that connects anew."""
    figures = over_a_wire(0.02, tmp_path, sqlite_template, lambda world: world.everything(stall_seconds=0.25))

    assert figures.peak_rate <= 50
    assert figures.peak_lines <= CEILING


def test_lines_that_tws_holds_from_the_start_cost_one_round_of_requests(tmp_path: Path, sqlite_template: Path) -> None:
    """The ledger knows nothing of them; the streams that do not fit wait."""

    async def start(world: World) -> Figures:
        world.gateway.contract_faults.set_tws_lines(60)
        return await world.quotes(QUOTES)

    figures = over_a_wire(0.4, tmp_path, sqlite_template, start)

    assert figures.served == QUOTES
    assert figures.exhausted <= UNCONFIRMED_LINES + UNCONFIRMED_PER_SECOND * 0.4
    assert figures.peak_lines <= 40
