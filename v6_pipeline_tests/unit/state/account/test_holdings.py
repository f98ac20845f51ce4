"""Holdings: the newest observation counts, and only ``mark_closed`` closes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from v6_pipeline.model import Holding
from v6_pipeline.state import revisions
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.revisions import Revision
from v6_pipeline_tests.unit.state.databases import START
from v6_pipeline_tests.unit.state.samples import holding, option, stock

LATER = START + timedelta(seconds=60)


def _put(database: StateDatabase, *observed: Holding) -> None:
    with database.write() as connection:
        holdings.upsert_holdings(connection, observed)


def _open(database: StateDatabase, account: str | None = None) -> tuple[Holding, ...]:
    with database.read() as connection:
        return holdings.list_open(connection, account=account)


def _revision(database: StateDatabase) -> int:
    with database.read() as connection:
        return revisions.read(connection)[Revision.HOLDINGS]


def test_a_holding_comes_back_with_all_facts_of_its_contract(database: StateDatabase) -> None:
    held = holding(option(7))

    _put(database, held)

    assert _open(database) == (held,)


def test_open_holdings_can_be_asked_for_by_account(database: StateDatabase) -> None:
    mine, other = holding(stock(1), account="SIM1"), holding(stock(1), account="SIM2")
    _put(database, mine, other)

    assert _open(database) == (mine, other)
    assert _open(database, "SIM2") == (other,)


def test_a_newer_observation_replaces_an_older_one_and_not_the_reverse(database: StateDatabase) -> None:
    newer = holding(stock(1), position=12, observed_at=LATER)
    _put(database, newer)

    _put(database, holding(stock(1), position=5, observed_at=START))

    assert _open(database) == (newer,)


def test_of_two_observations_at_once_the_newer_counts(database: StateDatabase) -> None:
    newer = holding(stock(1), position=12, observed_at=LATER)

    _put(database, newer, holding(stock(1), position=5, observed_at=START))

    assert _open(database) == (newer,)


def test_a_complete_download_names_what_it_misses_and_closes_nothing(database: StateDatabase) -> None:
    gone, kept, other = holding(stock(1)), holding(stock(2)), holding(stock(1), account="SIM2")
    _put(database, gone, kept, other)
    seen_again = holding(stock(2), position=11, observed_at=LATER)

    with database.write() as connection:
        missing = holdings.replace_account(connection, "SIM1", [seen_again], observed_at=LATER)

    assert missing == (gone,)
    assert _open(database) == (gone, seen_again, other)


def test_a_holding_opened_during_the_download_is_not_missing(database: StateDatabase) -> None:
    """The position feed is faster than the download that began before."""
    _put(database, holding(stock(1), observed_at=LATER))

    with database.write() as connection:
        assert holdings.replace_account(connection, "SIM1", [], observed_at=START) == ()


def test_a_download_of_several_accounts_stores_each_and_names_what_it_misses(database: StateDatabase) -> None:
    gone, flat, unasked = holding(stock(1)), holding(stock(1), account="SIM2"), holding(stock(1), account="SIM3")
    _put(database, gone, flat, unasked)
    seen = holding(stock(2), observed_at=LATER)

    missing = holdings.replace_accounts(database, ["SIM1", "SIM2"], [seen, unasked], observed_at=LATER)

    assert missing == (gone, flat)
    assert _open(database) == (gone, seen, flat, unasked)


def test_a_download_with_rows_of_another_account_is_refused(database: StateDatabase) -> None:
    with database.write() as connection, pytest.raises(ValueError, match="SIM2"):
        holdings.replace_account(connection, "SIM1", [holding(stock(1), account="SIM2")], observed_at=START)


def test_closing_leaves_the_row_with_position_0(database: StateDatabase) -> None:
    _put(database, holding(stock(1)), holding(stock(2)))

    with database.write() as connection:
        closed = holdings.mark_closed(connection, [("SIM1", 1), ("SIM1", 99)], closed_at=LATER)
        stored = holdings.find(connection, [("SIM1", 1)])["SIM1", 1]

    assert closed == 1
    assert (stored.holding.position, stored.closed_at) == (0, LATER)
    assert [item.contract.conid for item in _open(database)] == [2]


def test_what_was_observed_after_the_close_began_is_not_closed(database: StateDatabase) -> None:
    _put(database, holding(stock(1), observed_at=LATER))

    with database.write() as connection:
        assert holdings.mark_closed(connection, [("SIM1", 1)], closed_at=START) == 0

    assert len(_open(database)) == 1


@pytest.mark.parametrize(("position", "is_open"), [(3.0, True), (0.0, False)])
def test_a_closed_holding_opens_again_only_with_a_position(
    database: StateDatabase, position: float, is_open: bool
) -> None:
    _put(database, holding(stock(1)))
    with database.write() as connection:
        holdings.mark_closed(connection, [("SIM1", 1)], closed_at=LATER)

    _put(database, holding(stock(1), position=position, observed_at=LATER + timedelta(seconds=1)))

    assert bool(_open(database)) is is_open


def test_an_observation_from_before_the_close_does_not_open_it_again(database: StateDatabase) -> None:
    _put(database, holding(stock(1)))
    with database.write() as connection:
        holdings.mark_closed(connection, [("SIM1", 1)], closed_at=LATER)

    _put(database, holding(stock(1), observed_at=LATER - timedelta(seconds=1)))

    assert _open(database) == ()


def test_the_time_of_the_last_row_never_goes_back(database: StateDatabase) -> None:
    _put(database, holding(stock(1)))
    with database.write() as connection:
        for moment in (LATER, START):
            holdings.set_refreshed(connection, [("SIM1", 1)], refreshed_at=moment)
        stored = holdings.find(connection, [("SIM1", 1)])["SIM1", 1]

    assert stored.refreshed_at == LATER


def test_an_update_keeps_the_time_of_the_last_row(database: StateDatabase) -> None:
    _put(database, holding(stock(1)))
    with database.write() as connection:
        holdings.set_refreshed(connection, [("SIM1", 1)], refreshed_at=START)

    _put(database, holding(stock(1), position=12, observed_at=LATER))

    with database.read() as connection:
        assert holdings.find(connection, [("SIM1", 1)])["SIM1", 1].refreshed_at == START


def test_the_revision_counts_openings_and_closings_but_not_positions(database: StateDatabase) -> None:
    """The registry reads all holdings again at each change of the counter, and positions change all the time."""
    _put(database, holding(stock(1)))
    opened = _revision(database)
    _put(database, holding(stock(1), position=12, observed_at=LATER))
    changed = _revision(database)
    with database.write() as connection:
        holdings.mark_closed(connection, [("SIM1", 1)], closed_at=LATER)
    closed = _revision(database)

    assert 0 < opened == changed < closed


def test_thousands_of_holdings_are_taken_in_at_once(database: StateDatabase) -> None:
    many = [holding(stock(conid)) for conid in range(1, 3001)]

    _put(database, *many)

    with database.read() as connection:
        assert len(holdings.find(connection, [item.key for item in many])) == 3000
