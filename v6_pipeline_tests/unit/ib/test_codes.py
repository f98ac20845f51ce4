"""Message codes: each has the reaction that practice with the broker taught."""

from __future__ import annotations

import pytest

from v6_pipeline.ib.codes import Reaction, is_healthy_notice, reaction_to

EXPECTED: dict[Reaction, list[int]] = {
    Reaction.BACK_OFF: [100, 420],
    Reaction.LINES_EXHAUSTED: [101],
    Reaction.FAIL_REQUEST: [102, 162, 166, 200, 300, 320, 321, 322, 323, 354, 10168, 10186, 10187, 10189, 10190],
    Reaction.UNWANTED: [*range(103, 111), 201, 202, 203, 399, 404, 434, 10147, 10148],
    Reaction.ID_IN_USE: [326],
    Reaction.RECONNECT: [502, 503, 504, 505, 506, 507, 508, 509, 1300, 10182],
    Reaction.LINK_LOST: [1100, 2110],
    Reaction.RESUBSCRIBE: [1101],
    Reaction.VERIFY: [1102],
    Reaction.FEED_LOST: [2100, 2101],
    Reaction.FARM_BROKEN: [2103, 2105, 2157],
    Reaction.COMPETING_SESSION: [10197],
    # 366 answers the cancel of a history request that has ended already; 501 says that all is well.
    Reaction.INFORM: [165, 309, 316, 317, 366, 501, 2104, 2106, 2107, 2108, 2119, 2158, 10225],
}
ADVISORIES = [10089, 10090, 10091, 10167]


@pytest.mark.parametrize(("reaction", "codes"), EXPECTED.items(), ids=lambda value: str(value)[:20])
def test_each_code_has_its_reaction(reaction: Reaction, codes: list[int]) -> None:
    assert {code: reaction_to(code) for code in codes} == dict.fromkeys(codes, reaction)


@pytest.mark.parametrize("code", ADVISORIES)
def test_an_advisory_never_ends_a_stream(code: int) -> None:
    """Part of the data is missing or delayed, and ticks still come: taken for an error it kills a good stream."""
    assert reaction_to(code) is Reaction.INFORM


@pytest.mark.parametrize("code", [0, -1, 999, 2168, 10349, 99999])
def test_a_code_that_nobody_has_heard_of_only_informs(code: int) -> None:
    assert reaction_to(code) is Reaction.INFORM


def test_every_reaction_is_covered_here() -> None:
    assert set(EXPECTED) == set(Reaction)


@pytest.mark.parametrize("code", [2104, 2106, 2107, 2108, 2119, 2158])
def test_the_notices_of_a_healthy_login_are_known(code: int) -> None:
    assert is_healthy_notice(code)


@pytest.mark.parametrize("code", [2103, 2105, 2110, 1100, 354, 101])
def test_what_is_wrong_is_no_healthy_notice(code: int) -> None:
    assert not is_healthy_notice(code)
