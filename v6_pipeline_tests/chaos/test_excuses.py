"""Effects that a fault excuses, for no longer than the product needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline_tests.chaos.excuses import CLIMB_SECONDS, GRACE_SECONDS, PROBES, Excuses
from v6_pipeline_tests.chaos.faults import AtGateway, FewerLines
from v6_pipeline_tests.chaos.scale import Scale

STREAMS, BATCH_LINES = 30, 4
FEW = 20 - BATCH_LINES - 1


class Clock:
    """Set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def excuses(clock: Clock) -> Excuses:
    return Excuses(clock)


def seen(clock: Clock, code: int, *at: float) -> dict[str, Any]:
    """Statistics of a gateway that was started 900 s before the clock's beginning."""
    return {"seconds": clock.now - 100.0, "error_times": {str(code): [moment - 100.0 for moment in at]}}


def test_a_code_is_explained_while_its_fault_lasts_and_for_its_grace(clock: Clock, excuses: Excuses) -> None:
    excuses.codes_begin((354,))
    clock.now += 500
    assert excuses.explained(seen(clock, 354, 1001, 1499)) == {354}
    excuses.codes_end((354,))
    ended, clock.now = clock.now, clock.now + 500

    grace = GRACE_SECONDS[354]
    assert excuses.explained(seen(clock, 354, 1001, ended + grace - 0.1)) == {354}
    assert excuses.explained(seen(clock, 354, 1001, ended + grace + 0.1)) == set(), "long after its end"
    assert excuses.explained(seen(clock, 354, 999, 1001)) == set(), "before it began"
    assert excuses.explained(seen(clock, 101, 1001)) == set(), "another one"


def test_a_fault_that_may_begin_late_is_not_ended_by_the_next(clock: Clock, excuses: Excuses) -> None:
    excuses.codes_begin((354,))
    excuses.codes_begin((354,))
    excuses.codes_end((354,))
    clock.now += 500
    assert excuses.explained(seen(clock, 354, 1400)) == {354}


def test_what_is_on_sale_again_must_stream_after_the_next_login(excuses: Excuses) -> None:
    excuses.denied([1, 2])
    excuses.logged_in(7)
    assert excuses.unsold == {1, 2}
    excuses.on_sale([1], logins=7)
    excuses.logged_in(7)
    assert excuses.unsold == {1, 2}
    excuses.logged_in(8)
    assert excuses.unsold == {2}


def test_rejections_that_wait_for_a_request_excuse_for_good(excuses: Excuses) -> None:
    excuses.rejected([1])
    excuses.denied([1])
    excuses.on_sale([1], logins=1)
    excuses.logged_in(9)
    assert excuses.unsold == {1}


def test_fewer_streams_are_expected_until_the_next_attempt_has_found_the_lines(clock: Clock, excuses: Excuses) -> None:
    assert excuses.capacity(STREAMS, BATCH_LINES) == STREAMS
    excuses.fewer_lines(20)
    clock.now += 10
    assert excuses.capacity(STREAMS, BATCH_LINES) == FEW
    excuses.lines_are_back()
    clock.now += PROBES[0] + CLIMB_SECONDS - 1
    assert excuses.capacity(STREAMS, BATCH_LINES) == FEW
    clock.now += 1
    assert excuses.capacity(STREAMS, BATCH_LINES) == STREAMS


def test_an_attempt_that_was_in_vain_makes_the_next_one_later(clock: Clock, excuses: Excuses) -> None:
    for lasted, wait in ((30, PROBES[1]), (1, PROBES[2]), (1, PROBES[2])):
        excuses.fewer_lines(20)
        clock.now += lasted
        excuses.lines_are_back()
        clock.now += wait + CLIMB_SECONDS - 1
        assert excuses.capacity(STREAMS, BATCH_LINES) == FEW
        clock.now += 1
        assert excuses.capacity(STREAMS, BATCH_LINES) == STREAMS


def test_the_fewest_lines_count_until_they_are_back(clock: Clock, excuses: Excuses) -> None:
    excuses.fewer_lines(20)
    excuses.lines_are_back()
    excuses.fewer_lines(30)
    assert excuses.capacity(STREAMS, BATCH_LINES) == FEW
    excuses.lines_are_back()
    clock.now += 10_000
    excuses.fewer_lines(30)
    assert excuses.capacity(STREAMS, BATCH_LINES) == 30 - BATCH_LINES - 1


class StandingGateway:
    """One that does not answer until it is woken."""

    def __init__(self) -> None:
        self.answers = False

    def request(self, _command: str, **_arguments: object) -> dict[str, Any]:
        if not self.answers:
            raise GatewayError("did not answer within 3 s")
        return {}


@pytest.fixture
def world(excuses: Excuses) -> Any:
    return SimpleNamespace(
        excuses=excuses,
        gateway=StandingGateway(),
        scale=Scale(),
        truth=SimpleNamespace(held=lambda: {("SIM1", 7): 1.0}),
        streamer_logins=lambda: 3,
    )


def denial() -> AtGateway:
    return AtGateway("denied", 1.0, (("deny", {}),), (("allow", {}),), (354,), (0.0,), "held", True)


def test_the_end_of_a_fault_ends_its_excuses(world: Any, clock: Clock) -> None:
    world.gateway.answers = True
    for fault in (denial(), FewerLines(0.5, 1.0)):
        fault.begin(world)
        fault.end(world)
    world.excuses.logged_in(4)
    clock.now += 1000

    assert world.excuses.unsold == set()
    assert world.excuses.explained(seen(clock, 354, 1500)) == set()
    assert world.excuses.explained(seen(clock, 101, 1500)) == set()
    assert world.excuses.capacity(STREAMS, BATCH_LINES) == STREAMS


def test_a_fault_that_the_gateway_may_carry_out_later_excuses_for_ever(world: Any, clock: Clock) -> None:
    faults = (denial(), FewerLines(0.5, 1.0))
    for fault in faults:
        with pytest.raises(GatewayError, match="did not answer"):
            fault.begin(world)
    world.gateway.answers = True
    for fault in faults:
        fault.end(world)
    world.excuses.logged_in(4)
    clock.now += 10_000

    assert world.excuses.unsold == {7}
    assert world.excuses.explained(seen(clock, 354, 9000)) == {354}
    assert world.excuses.explained(seen(clock, 101, 9000)) == {101}
    assert world.excuses.capacity(STREAMS, BATCH_LINES) == FEW
