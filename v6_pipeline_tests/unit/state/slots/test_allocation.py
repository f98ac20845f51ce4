"""Sharing: who gets how much of what streams leave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.state.slots.allocation import fair_shares


def test_a_share_that_one_does_not_want_goes_to_the_others() -> None:
    assert fair_shares([2, 20, 20], 10) == (2, 4, 4)


def test_what_does_not_divide_goes_to_the_first() -> None:
    assert fair_shares([9, 9, 9, 9], 10) == (3, 3, 2, 2)
    assert fair_shares([5, 5, 5], 2) == (1, 1, 0)


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(-1, 40))
def test_all_that_is_wanted_is_given_and_none_gets_more_than_one_that_wants_more(wants: list[int], total: int) -> None:
    shares = fair_shares(wants, total)

    assert sum(shares) == min(max(total, 0), sum(wants))
    for share, want in zip(shares, wants, strict=True):
        assert 0 <= share <= want
        # Whoever did not get all it wants has at most one less than anyone else.
        assert share == want or share >= max(shares) - 1
