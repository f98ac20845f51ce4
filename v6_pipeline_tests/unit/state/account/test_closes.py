"""IB's answers about closes, kept so that they are not requested again."""

from __future__ import annotations

from datetime import date

from v6_pipeline.state.account import closes
from v6_pipeline.state.account.closes import FetchedClose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.unit.state.databases import START, ManualClock

MONDAY, TUESDAY = date(2026, 3, 2), date(2026, 3, 3)


def test_an_answer_is_found_by_contract_and_day(database: StateDatabase) -> None:
    close = FetchedClose(
        conid=1, day=MONDAY, close=3.5, bar_size="30 mins", what_to_show="TRADES", bar_time=START, fetched_at=START
    )
    none = FetchedClose(conid=2, day=TUESDAY, reason="no_data", fetched_at=START)
    with database.write() as connection:
        closes.save(connection, [close, none])

    with database.read() as connection:
        assert closes.find(connection, [1, 2, 3], first=MONDAY, last=TUESDAY) == {close.key: close, none.key: none}
        assert closes.find(connection, [1, 2], first=TUESDAY, last=TUESDAY) == {none.key: none}


def test_a_newer_answer_replaces_an_older(database: StateDatabase, clock: ManualClock) -> None:
    with database.write() as connection:
        closes.save(connection, [FetchedClose(conid=1, day=MONDAY, reason="no_answer", fetched_at=clock())])
        newer = FetchedClose(conid=1, day=MONDAY, close=2.0, fetched_at=clock.advance(5))
        closes.save(connection, [newer])

    with database.read() as connection:
        assert closes.find(connection, [1], first=MONDAY, last=MONDAY) == {newer.key: newer}
