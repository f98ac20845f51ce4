"""A trading day as it is read: up to the instant, at one state of the lake, and only the rows that can matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.inputs import DayInputs, DayWindow, LakeDays, observed_until, thin
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.replace import replace
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
    STREAMED_POSITIONS,
)
from v6_pipeline.model import AccountValues, PositionUpdate, UpdateSource
from v6_pipeline_tests.unit.lake.builders import NOON, by_run, no_fsync
from v6_pipeline_tests.unit.lake.test_replace import lineage, rows

CALENDAR = TradingCalendar()
FRIDAY, MONDAY = date(2026, 3, 6), date(2026, 3, 9)
"""New York's clock goes forward in between: Friday's cut-off is 21:35 UTC, Monday's 20:35."""
FRIDAY_CUT_OFF = datetime(2026, 3, 6, 21, 35, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


def update(at: datetime, conid: int = 1, account: str = "DU1", **values: Any) -> PositionUpdate:
    base = PositionUpdate(
        account=account, conid=conid, symbol="SPX", sec_type="OPT", currency="USD", position=2.0, timestamp=at
    )
    return changed(base, **values)


def log(lake: Lake, *updates: PositionUpdate, spec: TableSpec = QUEUED_POSITIONS) -> None:
    """Append observations to the log of a feed, each to the trading day of its timestamp."""
    frame = position_rows(
        updates,
        spec=spec,
        trading_day=CALENDAR.trading_day,
        source=UpdateSource.QUEUE if spec is QUEUED_POSITIONS else UpdateSource.STREAM,
        ingested_at=NOON,
        run_id="run-1",
        epoch=1,
    )
    lake.table(spec).append(frame, by_run())


def log_values(lake: Lake, *values: AccountValues) -> None:
    frame = account_rows(
        values,
        spec=ACCOUNT_VALUES,
        trading_day=CALENDAR.trading_day,
        source=UpdateSource.QUEUE,
        run_id="run-1",
        ingested_at=NOON,
    )
    lake.table(ACCOUNT_VALUES).append(frame, by_run())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), fsync=no_fsync)


def friday(lake: Lake, **options: Any) -> DayInputs:
    return LakeDays(lake, CALENDAR).day(DayWindow.of(CALENDAR, FRIDAY), **options)


def monday(lake: Lake) -> DayInputs:
    return LakeDays(lake, CALENDAR).day(DayWindow.of(CALENDAR, MONDAY))


def test_the_window_of_a_day() -> None:
    begins_at = datetime(2026, 3, 6, 9, tzinfo=UTC)
    assert DayWindow.of(CALENDAR, FRIDAY) == DayWindow(FRIDAY, date(2026, 3, 5), begins_at, FRIDAY_CUT_OFF)
    assert DayWindow.of(CALENDAR, FRIDAY, always=True).cut_off == datetime(2026, 3, 9, 8, tzinfo=UTC)
    early = DayWindow.of(CALENDAR, date(2026, 11, 27))
    assert early.cut_off == datetime(2026, 11, 27, 18, 35, tzinfo=UTC)
    assert early.until(early.cut_off + INSTANT) == early.cut_off
    assert early.until(early.cut_off - INSTANT) == early.cut_off - INSTANT


def test_a_lake_without_tables_is_a_day_without_rows(lake: Lake) -> None:
    inputs = friday(lake)
    frames = (inputs.observed, inputs.earlier, inputs.account_values, inputs.statements, inputs.flex_positions)
    assert [frame.height for frame in (*frames, inputs.activity, inputs.closes)] == [0] * 7
    assert inputs.accounts == frozenset()
    assert inputs.versions["streamed_version"] is None
    assert LakeDays(lake, CALENDAR).table(POSITION_SNAPSHOTS).version is None
    assert not Path(lake.root).exists()


def test_an_observation_counts_until_the_cut_off_and_not_an_instant_longer(lake: Lake) -> None:
    log(lake, update(FRIDAY_CUT_OFF, 1), update(FRIDAY_CUT_OFF + INSTANT, 2))
    assert friday(lake).observed["conid"].to_list() == [1]
    earlier = FRIDAY_CUT_OFF - timedelta(minutes=1)
    assert friday(lake, until=earlier).observed.is_empty()
    assert friday(lake, until=FRIDAY_CUT_OFF + timedelta(days=1)).observed.height == 1


def test_a_price_from_after_the_cut_off_is_gone_with_all_that_came_with_it(lake: Lake) -> None:
    """The clock was set back between the tick and the row."""
    late: dict[str, Any] = {"price_time": FRIDAY_CUT_OFF + INSTANT, "market_price": 7.0, "market_value": 7.0}
    late |= {"bid": 7.0, "delta": 7.0, "unrealized_pnl": 7.0, "market_data_type": 1}
    log(lake, update(FRIDAY_CUT_OFF, average_cost=3.0, **late))
    [row] = friday(lake).observed.to_dicts()
    assert (row["position"], row["average_cost"]) == (2.0, 3.0)
    assert {row[name] for name in late} == {None}


def test_days_before_are_known_to_their_end_and_back_to_the_lookback(lake: Lake) -> None:
    """Saturday's assignment is Friday's last row, and what Monday begins with."""
    log(
        lake,
        update(NOON - timedelta(days=20), 1),
        update(NOON, 2),
        update(FRIDAY_CUT_OFF, 2, position=3.0),
        update(FRIDAY_CUT_OFF + timedelta(hours=20), 3, position=0.0),
        update(datetime(2026, 3, 9, 13, tzinfo=UTC), 4),
    )
    log(lake, update(FRIDAY_CUT_OFF + timedelta(hours=1), 2, position=4.0), spec=STREAMED_POSITIONS)
    assert monday(lake).earlier.sort("conid").select("conid", "position").rows() == [(2, 4.0), (3, 0.0)]
    assert friday(lake).earlier.select("conid", "position").rows() == [(2, 2.0)]


def test_reading_days_in_order_or_alone_is_the_same(lake: Lake) -> None:
    days = CALENDAR.sessions_between(date(2026, 7, 1), MONDAY)
    for number, day in enumerate(days):
        at = DayWindow.of(CALENDAR, day).cut_off - timedelta(hours=1)
        log(lake, update(at, number % 7, f"DU{number % 3}"), update(at + timedelta(hours=number % 4), 9))
    in_order = LakeDays(lake, CALENDAR)
    for day in days:
        window = DayWindow.of(CALENDAR, day)
        one, other = in_order.day(window), LakeDays(lake, CALENDAR).day(window)
        assert one.earlier.sort("account", "conid").equals(other.earlier.sort("account", "conid"))
        assert one.accounts == other.accounts


def test_one_state_of_the_lake_is_read_though_more_is_written(lake: Lake) -> None:
    log(lake, update(NOON, 1))
    replace(lake.table(FLEX_POSITIONS), rows(FLEX_POSITIONS, {"date": FRIDAY}), [(FRIDAY, "x")], lineage())
    days = LakeDays(lake, CALENDAR)
    before = days.day(DayWindow.of(CALENDAR, FRIDAY))
    log(lake, update(FRIDAY_CUT_OFF, 2))
    compact(lake.table(QUEUED_POSITIONS))
    replace(lake.table(FLEX_POSITIONS), rows(FLEX_POSITIONS), [(FRIDAY, "x")], lineage())

    after = days.day(DayWindow.of(CALENDAR, FRIDAY))

    assert after.observed.equals(before.observed)
    assert after.flex_positions.height == 1
    assert after.versions == before.versions
    assert (after.versions["queued_version"], after.versions["flex_version"]) == (1, 1)
    assert friday(lake).flex_positions.is_empty()


def test_only_the_days_that_are_needed_are_read(lake: Lake) -> None:
    log(lake, update(NOON - timedelta(days=30)))
    [needless] = Path(lake.uri(QUEUED_POSITIONS)).glob("date=*/*.parquet")
    log(lake, update(FRIDAY_CUT_OFF))
    needless.unlink()
    assert friday(lake).observed.height == 1


def test_other_tables_are_also_read_up_to_the_instant(lake: Lake) -> None:
    before, after = FRIDAY_CUT_OFF, FRIDAY_CUT_OFF + INSTANT
    log_values(lake, *(AccountValues(account="DU1", base_currency="USD", timestamp=at) for at in (before, after)))
    closes = rows(
        HISTORICAL_CLOSES,
        {"date": FRIDAY, "conid": 1, "close": 1.0, "bar_time": before},
        {"date": FRIDAY, "conid": 2, "close": 1.0, "bar_time": after},
        {"date": FRIDAY, "conid": 3, "reason": "expired"},
    )
    replace(lake.table(HISTORICAL_CLOSES), closes, [(FRIDAY,)], lineage(), accounts=["DU1"])
    of_day = {"date": FRIDAY, "account": "DU1"}
    activity = rows(
        FLEX_ACTIVITY,
        of_day | {"ordinal": 0, "activity_date": FRIDAY},
        of_day | {"ordinal": 1, "activity_date": date(2026, 3, 7)},
    )
    replace(lake.table(FLEX_ACTIVITY), activity, [(FRIDAY, "DU1")], lineage())

    inputs = friday(lake)

    assert inputs.account_values["timestamp"].to_list() == [before]
    assert inputs.closes["conid"].sort().to_list() == [1, 3]
    assert inputs.activity["ordinal"].to_list() == [0]


def test_every_account_with_a_row_is_known_even_after_the_cut_off(lake: Lake) -> None:
    log(lake, update(NOON, account="DU1"), update(FRIDAY_CUT_OFF + INSTANT, account="DU2"))
    log(
        lake,
        update(NOON - timedelta(days=20), account="DU3"),
        update(datetime(2026, 3, 9, 12, tzinfo=UTC), account="DU4"),
    )
    log_values(lake, AccountValues(account="DU5", base_currency="USD", timestamp=NOON))
    statement = rows(FLEX_STATEMENTS, {"date": FRIDAY, "account": "DU6", "positions": 0})
    replace(lake.table(FLEX_STATEMENTS), statement, [(FRIDAY, "DU6")], lineage())
    assert friday(lake).accounts == {"DU1", "DU2", "DU5", "DU6"}


# --- thinning ---


def observed(*updates: PositionUpdate) -> pl.LazyFrame:
    frame = position_rows(
        updates,
        spec=QUEUED_POSITIONS,
        trading_day=CALENDAR.trading_day,
        source=UpdateSource.QUEUE,
        ingested_at=NOON,
        run_id="run-1",
    )
    return frame.lazy()


def seconds_kept(updates: Sequence[PositionUpdate]) -> list[int]:
    kept = thin(observed(*updates)).collect()
    return sorted(int((at - NOON).total_seconds()) for at in kept["timestamp"])


def test_the_newest_row_of_each_known_part_is_kept() -> None:
    def at(second: int, **values: Any) -> PositionUpdate:
        return update(NOON + timedelta(seconds=second), **values)

    stale, fresh = NOON - timedelta(hours=1), NOON + timedelta(seconds=1)
    kept = seconds_kept(
        [
            at(0, delta=0.5),
            at(1, market_price=1.0, price_time=fresh),
            at(2, market_price=1.0, price_time=fresh),
            at(3, market_price=2.0, price_time=stale),
            at(4, market_price=2.0, price_time=stale),
            at(5, last=1.0),
            at(6, realized_pnl=1.0),
            at(7, base_currency="USD", fx_rate_to_base=1.0),
            at(8, base_currency="USD"),
            at(9),
            at(10),
        ]
    )
    assert kept == [0, 2, 4, 5, 6, 7, 8, 10]


def test_contracts_accounts_and_feeds_are_thinned_apart() -> None:
    rows_of_three = observed(update(NOON, 1), update(NOON, 2), update(NOON, 1, "DU2"))
    assert thin(rows_of_three).collect().height == 3


def test_nothing_is_left_to_cut_off_twice() -> None:
    lazy = observed_until(observed(update(NOON), update(NOON + INSTANT)), NOON)
    assert observed_until(lazy, NOON).collect().equals(lazy.collect())
