"""The table of error codes: IB's documented ones, each retried or fatal as the facts say."""

from __future__ import annotations

import pytest

from v6_pipeline.flex.service import REACTIONS, reaction_to

RETRIED = (1001, 1004, 1005, 1006, 1007, 1008, 1009, 1018, 1019, 1021)
FATAL = (1003, 1010, 1011, 1012, 1013, 1014, 1015, 1016, 1017, 1020)


def test_the_table_has_every_documented_code_and_no_other() -> None:
    assert sorted(REACTIONS) == sorted([*RETRIED, *FATAL])
    assert all(code == row.code for code, row in REACTIONS.items())


@pytest.mark.parametrize("code", RETRIED)
def test_what_passes_is_asked_again(code: int) -> None:
    assert not reaction_to(code).is_fatal
    assert 5 <= (reaction_to(code).retry_after or 0) <= 60


@pytest.mark.parametrize("code", [*FATAL, 1000, 1002, 1022, 0])
def test_a_fatal_code_has_a_remedy(code: int) -> None:
    assert reaction_to(code).is_fatal
    assert reaction_to(code).remedy


def test_an_unknown_code_is_reported_as_unknown() -> None:
    assert reaction_to(1022).meaning == "unknown error code"
