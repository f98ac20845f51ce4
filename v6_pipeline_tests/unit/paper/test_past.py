"""The accounts' past: every change of a quantity has a deed that explains it, and the end meets the universe."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest

from v6_pipeline.paper.contracts import Universe
from v6_pipeline.paper.ledger import CASH_DEEDS, Deed
from v6_pipeline.paper.past import Past, PastDay
from v6_pipeline.paper.prices import daily_close
from v6_pipeline.paper.trading_hours import is_trading_day, session_before
from v6_pipeline.paper.universe import build_universe

from .conftest import ACCOUNTS, AS_OF


@pytest.fixture(scope="module")
def past(universe: Universe) -> Past:
    return Past(universe)


def quantities(day: PastDay) -> dict[tuple[str, int], float]:
    return {(row.account, row.conid): row.quantity for row in day.positions}


def all_days(past: Past) -> list[PastDay]:
    return past.between(past.sessions[0], past.sessions[-1])


def test_the_last_session_holds_what_the_universe_begins_with(past: Past, universe: Universe) -> None:
    [last] = past.between(AS_OF, AS_OF)
    beginning = {
        (row.account, row.conid): row.quantity
        for row in universe.holdings
        if universe.contracts[row.conid].sec_type != "CASH"
    }
    assert quantities(last) == beginning


def test_changes_explain_every_difference_between_two_sessions(past: Past) -> None:
    for before, after in pairwise(all_days(past)):
        explained = Counter(quantities(before))
        for change in after.changes:
            if change.deed is not Deed.CONVERSION and change.quantity:
                explained[change.account, change.conid] += change.quantity  # type: ignore[assignment]
        assert {key: quantity for key, quantity in explained.items() if quantity} == quantities(after)


def test_every_kind_of_deed_occurs(past: Past) -> None:
    deeds = Counter(change.deed for day in all_days(past) for change in day.changes)
    assert deeds.keys() == set(Deed)
    assert deeds[Deed.TRADE] > deeds[Deed.EXPIRATION] > deeds[Deed.ASSIGNMENT] > 0


def test_nothing_is_held_after_it_expired_and_everything_held_has_a_close(past: Past) -> None:
    for day in all_days(past):
        for row in day.positions:
            # On a holiday of the exchange the last mark is that of the session before.
            marked = day.day if is_trading_day(day.day) else session_before(day.day)
            assert daily_close(past.universe, row.conid, marked) is not None


def test_profits_are_what_was_paid_and_received(past: Past) -> None:
    """Cash that came in, less what the rest cost, is what was realized: nothing is lost in averaging."""
    cash = realized = 0.0
    days = all_days(past)
    start = sum(row.quantity * row.average_cost for row in days[0].positions)
    for day in days[1:]:
        for change in day.changes:
            realized += change.realized_pnl
            if change.deed is Deed.SETTLEMENT:
                cash += change.flows[0][1]
            elif change.deed not in {*CASH_DEEDS, Deed.CONVERSION, Deed.SPLIT, Deed.RENAME, Deed.TRANSFER}:
                points = past.universe.contracts[change.conid].value_per_point
                cash += change.commission - change.quantity * change.price * points
    end = sum(row.quantity * row.average_cost for row in days[-1].positions)
    assert realized == pytest.approx(cash + end - start)


def test_the_past_is_the_same_each_time_and_another_with_another_seed(past: Past) -> None:
    again = Past(build_universe(seed=7, as_of=AS_OF, accounts=ACCOUNTS, positions=60))
    other = Past(build_universe(seed=8, as_of=AS_OF, accounts=ACCOUNTS, positions=60))
    assert all_days(again) == all_days(past)
    assert all_days(other) != all_days(past)


def test_sessions_may_be_given(universe: Universe) -> None:
    """A caller with a better calendar leaves out a day of mourning."""
    past = Past(universe)
    given = [day for day in past.sessions if day != AS_OF - timedelta(days=10)]
    found = [day.day for day in Past(universe, given).between(given[0], AS_OF)]
    assert [day for day in found if is_trading_day(day)] == given
