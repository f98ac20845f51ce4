"""The source of each position of a day, positions carried forward, and refused days."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from v6_pipeline.errors import SnapshotRefusedError
from v6_pipeline.history.inputs import DayInputs, DayWindow
from v6_pipeline.history.positions import Coverage, coverage, day_positions
from v6_pipeline_tests.unit.history.day_builders import (
    CALENDAR,
    DAY,
    INSTANT,
    NOON,
    WINDOW,
    YESTERDAY,
    by_flex,
    day,
    own,
)


def held(inputs: DayInputs, **options: Any) -> list[tuple[Any, ...]]:
    """(account, conid, position, position_source, carried_forward)"""
    frame = day_positions(inputs, **options)
    return frame.select("account", "conid", "position", "position_source", "carried_forward").rows()


def test_the_newest_row_of_either_feed_gives_the_position() -> None:
    inputs = day(
        [
            own(NOON, conid=1, position=1.0),
            own(NOON + INSTANT, conid=1, position=2.0, source="queue"),
            own(NOON, conid=2, position=3.0, source="queue"),
            own(NOON, conid=2, position=4.0, source="stream"),
        ]
    )
    assert held(inputs) == [("DU1", 1, 2.0, "queue", False), ("DU1", 2, 4.0, "stream", False)]


def test_a_row_of_the_cut_off_counts_and_one_of_an_instant_later_does_not() -> None:
    at = WINDOW.cut_off
    assert held(day([own(at, position=1.0), own(at + INSTANT, position=2.0)])) == [("DU1", 1, 1.0, "stream", False)]


def test_a_position_closed_that_day_is_kept() -> None:
    assert held(day([own(position=0.0)])) == [("DU1", 1, 0.0, "stream", False)]


def test_an_open_position_without_a_row_that_day_is_carried_forward_until_it_expires() -> None:
    earlier = [
        own(YESTERDAY, conid=1, position=1.0),
        own(YESTERDAY, conid=2, position=0.0),
        own(YESTERDAY, conid=3, expiry=DAY, source="queue"),
        own(YESTERDAY, conid=4, expiry=DAY - timedelta(days=1)),
        own(YESTERDAY, conid=5),
        own(YESTERDAY, conid=6, expiry=DAY - timedelta(days=1), sec_type="OPT", trading_class="SPX"),
        own(YESTERDAY, conid=7, expiry=DAY - timedelta(days=1), sec_type="OPT", trading_class="SPXW"),
    ]
    inputs = day([own(conid=5, position=0.0)], earlier=earlier)
    assert held(inputs) == [
        ("DU1", 1, 1.0, "stream", True),
        ("DU1", 3, 10.0, "queue", True),
        ("DU1", 5, 0.0, "stream", False),
        ("DU1", 6, 10.0, "stream", True),
    ]


def test_one_row_of_an_account_of_any_log_covers_it() -> None:
    inputs = day(values=[{"timestamp": NOON}], earlier=[own(YESTERDAY)])
    assert held(inputs) == [("DU1", 1, 10.0, "stream", True)]


def test_a_flex_statement_outranks_own_rows_and_carries_nothing_forward() -> None:
    inputs = by_flex({"conid": 7, "position": 3.0}, observed=[own(conid=1)], earlier=[own(YESTERDAY, conid=2)])
    assert held(inputs) == [("DU1", 7, 3.0, "flex", False)]


def test_currencies_that_a_statement_leaves_out_are_our_own() -> None:
    """They are among its cash: gone for a day a position was new the day after, and all of its profit that day's."""
    inputs = by_flex(
        {"conid": 7, "position": 3.0},
        {"conid": 3, "position": 4.0, "sec_type": "CASH"},
        observed=[own(conid=1), own(conid=2, sec_type="CASH"), own(conid=3, sec_type="CASH")],
        earlier=[
            own(YESTERDAY, conid=4, sec_type="CASH"),
            own(YESTERDAY, conid=3, sec_type="CASH"),
            own(YESTERDAY, conid=5),
        ],
    )
    assert held(inputs) == [
        ("DU1", 2, 10.0, "stream", False),
        ("DU1", 3, 4.0, "flex", False),
        ("DU1", 4, 10.0, "stream", True),
        ("DU1", 7, 3.0, "flex", False),
    ]


def test_an_empty_statement_is_a_flat_account() -> None:
    assert held(by_flex(earlier=[own(YESTERDAY)])) == []


def test_each_account_has_its_own_source() -> None:
    inputs = day(
        [own(account="DU2")],
        statements=[{"account": "DU1"}],
        flex=[{"account": "DU1", "source": "flex"}],
        accounts=["DU1", "DU2"],
    )
    covered = coverage(inputs)
    assert covered == Coverage(flex=frozenset({"DU1"}), own=frozenset({"DU2"}))
    assert [(row[0], row[3]) for row in held(inputs)] == [("DU1", "flex"), ("DU2", "stream")]


def test_a_known_account_that_nothing_covers_is_refused_with_the_remedy_and_no_other() -> None:
    inputs = day([own(account="DU1")], earlier=[own(YESTERDAY, account="DU2")], accounts=["DU1", "DU2", "DU3"])
    assert {row[0] for row in held(inputs)} == {"DU1"}
    covered = coverage(inputs)
    assert (set(covered.own), set(covered.refused)) == ({"DU1"}, {"DU2", "DU3"})
    assert covered.reason == (
        "2026-03-06: no source has the positions of DU2, DU3: no Flex statement, and in streamed_positions, "
        "queued_positions and account_values no row until 2026-03-06 21:35:00 UTC; drop a Flex "
        "statement of that day into V6_FLEX_DIR, or set V6_FLEX_TOKEN and V6_FLEX_QUERY_ID, then "
        "materialize flex_positions for it"
    )


def test_rows_after_the_cut_off_cover_nothing() -> None:
    with pytest.raises(SnapshotRefusedError, match="no source has the positions of DU1"):
        day_positions(day([own(WINDOW.cut_off + INSTANT)], values=[{"timestamp": WINDOW.cut_off + INSTANT}]))


def test_a_day_of_which_nothing_at_all_is_known_is_refused() -> None:
    with pytest.raises(SnapshotRefusedError, match="no source has the positions of any account"):
        day_positions(day(accounts=[]))


def test_a_day_of_which_every_account_is_refused_is_refused() -> None:
    with pytest.raises(SnapshotRefusedError, match="no source has the positions of DU2, DU3"):
        day_positions(day(accounts=["DU2", "DU3"]))


def test_accounts_that_are_not_selected_are_left_out_and_not_missed() -> None:
    inputs = day([own(account="DU1")], accounts=["DU1", "DU2"])
    assert len(held(inputs, accounts=["DU1"])) == 1
    assert coverage(inputs, accounts=["DU1"]).refused == {}
    assert set(coverage(inputs, accounts=["DU1", "DU2"]).refused) == {"DU2"}


def test_a_download_of_an_account_that_holds_nothing_covers_it() -> None:
    inputs = day([own(account="DU1")], values=[{"account": "DU2", "timestamp": NOON}], accounts=["DU1", "DU2"])
    assert coverage(inputs).refused == {}
    assert {row[0] for row in held(inputs)} == {"DU1"}


def test_an_incomplete_statement_refuses_its_account_and_no_other() -> None:
    inputs = day(
        [own(account="DU2")],
        statements=[{"positions": 5}],
        flex=[{"source": "flex"}],
        accounts=["DU1", "DU2"],
    )
    assert {row[0] for row in held(inputs)} == {"DU2"}
    assert coverage(inputs).refused == {
        "DU1": "2026-03-06: the Flex statement of DU1 has 5 positions, flex_positions has 1: materialize "
        "flex_positions for that day again"
    }


def test_a_statement_without_all_of_its_positions_is_refused() -> None:
    """A run was killed between the two tables."""
    inputs = day(statements=[{"positions": 5}], flex=[{"source": "flex"}])
    with pytest.raises(SnapshotRefusedError, match="of DU1 has 5 positions, flex_positions has 1: materialize"):
        day_positions(inputs)


def test_flex_rows_without_a_statement_do_not_count() -> None:
    with pytest.raises(SnapshotRefusedError, match="no source has the positions of DU1"):
        day_positions(day(flex=[{"source": "flex"}]))


def test_an_early_close_cuts_off_early() -> None:
    window = DayWindow.of(CALENDAR, date(2026, 11, 27))
    rows = [own(window.cut_off, position=1.0), own(window.cut_off + INSTANT, position=2.0)]
    assert [row[2] for row in held(day(rows, window=window))] == [1.0]
