"""Schedules: the same seed gives the same faults everywhere, and each kind of fault can be drawn and ends."""

from __future__ import annotations

import itertools
import random

import pytest

from v6_pipeline_tests.chaos.schedule import CATALOGUE, WEIGHTS, Round, rounds

LONGEST_SECONDS = 60.0


def first(seed: int, count: int = 40) -> list[Round]:
    return list(itertools.islice(rounds(seed, CATALOGUE, WEIGHTS), count))


def test_a_seed_gives_the_same_rounds_each_time() -> None:
    assert repr(first(7)) == repr(first(7))
    assert repr(first(7)) != repr(first(8))


def test_rounds_break_something_and_are_over_soon() -> None:
    for current in first(1, 200):
        assert any(item.fault.breaks for item in current.faults)
        assert current.seconds <= LONGEST_SECONDS
        assert [item.at for item in current.faults] == sorted(item.at for item in current.faults)


def test_every_kind_of_fault_comes_up() -> None:
    seen = {item.fault.name for current in first(3, 600) for item in current.faults}
    assert {CATALOGUE[name](random.Random(1)).name for name in CATALOGUE} - {"farm broken (dead)"} <= seen


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_drawn_fault_has_a_name_and_an_end(name: str) -> None:
    fault = CATALOGUE[name](random.Random(2))
    assert fault.name in {name, f"{name} (dead)"}
    assert 0 <= fault.seconds <= LONGEST_SECONDS
