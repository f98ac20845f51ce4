"""What a process knows by itself about its lease."""

from __future__ import annotations

import pytest

from v6_pipeline.errors import FencedError
from v6_pipeline.state.leases.held import HeldLease, elapsed_seconds


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def held(seconds: Seconds) -> HeldLease:
    return HeldLease(7, asked_at=100.0, seconds=60.0, elapsed=seconds)


def test_a_lease_ends_without_a_word_of_the_database(seconds: Seconds, held: HeldLease) -> None:
    seconds.now = 159.0
    held.check()
    seconds.now = 160.0
    with pytest.raises(FencedError, match=r"epoch 7 was last confirmed 60 s ago and has ended"):
        held.check()


def test_a_slow_answer_prolongs_the_lease_from_the_question_on(seconds: Seconds, held: HeldLease) -> None:
    """The database wrote the expiry at some instant between question and answer: the earliest is the safe one."""
    seconds.now = 119.0
    held.renewed(asked_at=101.0, seconds=60.0)
    assert held.seconds_left == 42.0


def test_an_answer_that_another_one_has_overtaken_counts_no_more(seconds: Seconds, held: HeldLease) -> None:
    held.renewed(asked_at=120.0, seconds=60.0)
    held.renewed(asked_at=110.0, seconds=600.0)
    seconds.now = 130.0
    assert held.seconds_left == 50.0


def test_a_shortened_lease_is_believed(seconds: Seconds, held: HeldLease) -> None:
    held.renewed(asked_at=110.0, seconds=5.0)
    seconds.now = 116.0
    assert held.seconds_left == -1.0


def test_the_clock_goes_forward() -> None:
    assert elapsed_seconds() <= elapsed_seconds()
