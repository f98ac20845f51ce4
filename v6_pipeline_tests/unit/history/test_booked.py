"""A contract that a statement books and does not hold has its row that day, and leads back to its bookings."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from v6_pipeline.history.context import HistoryContext
from v6_pipeline.history.flex_days import flex_days
from v6_pipeline.history.snapshot_days import exposure_days, snapshot_days
from v6_pipeline.history.trace import trace
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.history_days import ACCOUNTS, CALENDAR, drop
from v6_pipeline_tests.traced_week import MONDAY, NOW, TUESDAY
from v6_pipeline_tests.unit.history.day_builders import BEFORE, DAY, by_flex, own, snapshot
from v6_pipeline_tests.unit.lake.builders import no_fsync

DAY_TRADED, SOLD, OPTION = 77, 78, 79
_TRADE = (
    '<Trade conid="{conid}" symbol="{symbol}" {more} currency="EUR" fxRateToBase="1.25" tradeDate="{{day:%Y%m%d}}" '
    'reportDate="{{day:%Y%m%d}}" quantity="{quantity}" tradePrice="60" fifoPnlRealized="{realized}" '
    'transactionID="{conid}{quantity}" />'
)


def booking(quantity: float, realized: float | None, **values: Any) -> dict[str, Any]:
    given = {"assetCategory": "STK", "multiplier": "1"} | values.pop("given", {})
    attributes = [{"name": name, "value": value} for name, value in given.items()]
    common = {"conid": 5, "currency": "USD", "fx_rate_to_base": 1.0, "kind": "trade", "symbol": "NVDA"}
    return common | {"quantity": quantity, "realized_pnl": realized, "attributes": attributes} | values


def rows_by_conid(*args: Any, **options: Any) -> dict[int, dict[str, Any]]:
    return {row["conid"]: row for row in snapshot(by_flex(*args, **options))}


def test_a_day_trade_has_its_row_with_what_it_realized() -> None:
    rows = rows_by_conid({"conid": 1}, activity=[booking(100, 0.0), booking(-100, 500.0, ordinal=1)])
    row = rows[5]
    assert (row["position"], row["realized_pnl"], row["market_value"]) == (0.0, 500.0, 0.0)
    assert (row["position_source"], row["symbol"], row["sec_type"]) == ("flex", "NVDA", "STK")
    assert (row["realized_table"], row["fx_rate_to_base"], row["fx_table"]) == ("flex_activity", 1.0, "flex_activity")


def test_an_own_closed_row_stays_on_a_day_with_a_statement() -> None:
    closed = own(conid=5, position=0.0, source="queue", realized_pnl=490.0)
    stale = own(conid=6, position=10.0, source="queue", realized_pnl=0.0)
    known = rows_by_conid({"conid": 1}, observed=[closed, stale], activity=[booking(-100, 500.0)])
    assert known.keys() == {1, 5}
    assert (known[5]["position_source"], known[5]["realized_pnl"]) == ("queue", 500.0)
    without_trades = rows_by_conid({"conid": 1}, observed=[closed])
    assert (without_trades[5]["realized_pnl"], without_trades[5]["realized_table"]) == (490.0, "queued_positions")


def test_a_closed_option_and_a_closed_future_are_described_by_their_bookings() -> None:
    given = {
        "assetCategory": "FSFOP",
        "multiplier": "1,000",
        "strike": "70",
        "expiry": "20260306",
        "putCall": "P",
        "underlyingSymbol": "CL",
        "underlyingConid": "9",
    }
    row = rows_by_conid({"conid": 1}, activity=[booking(-1, 20.0, symbol="LO H6 P7000", given=given)])[5]
    assert (row["sec_type"], row["symbol"], row["local_symbol"]) == ("FOP", "CL", "LO H6 P7000")
    assert (row["strike"], row["right"], row["expiry"]) == (70.0, "P", DAY)
    assert (row["multiplier"], row["underlying_conid"]) == (1000.0, 9)


@pytest.mark.parametrize(
    "booked",
    [
        pytest.param(booking(100, 0.0, kind="conversion"), id="conversion"),
        pytest.param(booking(100, 0.0, given={"assetCategory": "CASH"}), id="currency"),
        pytest.param(booking(100, 0.0, activity_date=BEFORE), id="of the session before"),
        pytest.param(booking(100, 0.0, account="DU2"), id="of an account without a statement"),
    ],
)
def test_what_is_no_position_of_the_day_has_no_row(booked: dict[str, Any]) -> None:
    assert rows_by_conid({"conid": 1}, activity=[booked]).keys() == {1}


def _context(settings: Settings, database: StateDatabase, lake: Lake) -> HistoryContext:
    return HistoryContext(
        settings=settings,
        database=database,
        lake=lake,
        calendar=CALENDAR,
        run_id="run",
        now=lambda: NOW,
        say=lambda _: None,
    )


def _rows(lake: Lake, spec: Any, day: date) -> pl.DataFrame:
    handle = lake.table(spec).load()
    assert handle is not None
    return pl.scan_delta(handle).filter(pl.col("date") == day).collect()


def test_a_day_trade_of_a_statement_is_in_the_exposure_and_its_trace_agrees(tmp_path: Path) -> None:
    folder = tmp_path / "statements"
    folder.mkdir()
    (tmp_path / "home").mkdir()
    settings = Settings(home=tmp_path / "home", flex_dir=folder)
    trades = (
        (DAY_TRADED, "ADS", 100, 0),
        (DAY_TRADED, "ADS", -100, 400),
        (SOLD, "SAP", -5, 8),
        (OPTION, "P ADS", -1, ""),
    )
    more = {OPTION: 'assetCategory="OPT" underlyingSymbol="ADS" strike="50" putCall="P" expiry="20261120"'}
    rows = "".join(
        _TRADE.format(conid=conid, symbol=symbol, quantity=quantity, realized=realized, more=more.get(conid, ""))
        for conid, symbol, quantity, realized in trades
    )
    drop(folder / "one.xml", [MONDAY, TUESDAY], quantity=10, made="210000", activity=f"<Trades>{rows}</Trades>")
    lake = Lake(settings.lake_root, fsync=no_fsync)
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    try:
        context = _context(settings, database, lake)
        list(flex_days(context, [MONDAY, TUESDAY]))
        list(snapshot_days(context, [MONDAY, TUESDAY]))
        list(exposure_days(context, [TUESDAY]))
    finally:
        database.close()
    found = _rows(lake, POSITION_SNAPSHOTS, TUESDAY).filter(pl.col("account") == ACCOUNTS[0])
    closed = found.filter(pl.col("position") == 0).sort("conid")
    assert closed.select("conid", "realized_pnl", "fx_rate_to_base").rows() == [
        (DAY_TRADED, 400.0, 1.25),
        (SOLD, 8.0, 1.25),
        (OPTION, None, 1.25),
    ]
    for conid in found.get_column("conid"):
        [traced] = trace(lake, CALENDAR, conid, day=TUESDAY, account=ACCOUNTS[0])
        assert traced.agrees, conid
    exposed = _rows(lake, PORTFOLIO_EXPOSURE, TUESDAY).filter(
        (pl.col("account") == ACCOUNTS[0]) & (pl.col("underlying") == "ADS") & pl.col("daily_pnl").is_not_null()
    )
    assert exposed.get_column("daily_pnl").to_list() == [500.0]
