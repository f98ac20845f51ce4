"""A week of trading days from every source, made by the real writers: Flex, the streamer's writer, the queue's rows.

Monday and Tuesday are from Flex; Wednesday from the stream, a contract in euros among it; Thursday and Friday from the
queue, where on Friday one contract is carried forward and has a historical close.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from v6_pipeline.history.context import HistoryContext
from v6_pipeline.history.flex_days import flex_days
from v6_pipeline.history.snapshot_days import snapshot_days
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.replace import replace
from v6_pipeline.lake.rows import account_rows
from v6_pipeline.lake.tables import ACCOUNT_VALUES, HISTORICAL_CLOSES, POSITION_SNAPSHOTS, STREAMED_POSITIONS
from v6_pipeline.model import AccountValues, PositionUpdate, PriceSource, UpdateSource
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.streaming.writer import DeltaLakePositionWriter
from v6_pipeline_tests.history_days import ACCOUNTS, CALENDAR, POSITIONS, drop, observe
from v6_pipeline_tests.unit.lake.builders import no_fsync

WEEK = CALENDAR.sessions_between(date(2026, 11, 9), date(2026, 11, 13))
MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = WEEK
NOW = datetime(2026, 11, 20, 17, tzinfo=UTC)
EPOCH = 7
GATEWAY = "192.0.2.7:4001"
"""The streamer's gateway; the commits of the queue name none, like those of older versions."""
EUROS = 2
"""Contract in another currency on Wednesday; the account's own values have its rate."""
CARRIED = 3
"""Contract without a row on Friday."""

_TRADE = (
    '<Trade conid="{conid}" symbol="S{conid}" currency="USD" fxRateToBase="1" tradeDate="{when}" '
    'reportDate="{when}" quantity="{quantity}" tradePrice="60" fifoPnlRealized="{realized}" transactionID="{id}" />'
)
_FRIDAY_BEFORE = "20261106"


def _trades() -> str:
    """Two sales of contract 1 and one that the day before counts already, a purchase of contract 2, none of 3."""
    of_day = "{day:%Y%m%d}"
    rows = (
        (1, of_day, -3, "30.1"),
        (1, of_day, -2, "-10.2"),
        (1, _FRIDAY_BEFORE, -1, "1000"),
        (2, of_day, 5, "0"),
    )
    trades = "".join(
        _TRADE.format(conid=conid, when=when, quantity=quantity, realized=realized, id=number)
        for number, (conid, when, quantity, realized) in enumerate(rows)
    )
    return f"<Trades>{trades}</Trades>"


def fill(lake: Lake, statements: Path) -> None:
    """Everything that snapshots are made from, except what Flex statements say, whose file is dropped."""
    drop(statements / "statements.xml", [MONDAY, TUESDAY], quantity=10, made="210000", activity=_trades())
    asyncio.run(stream(lake, WEDNESDAY))
    _values(lake, WEDNESDAY)
    observe(lake, [THURSDAY])
    observe(lake, [FRIDAY], conids=[1, 2])
    _close(lake, FRIDAY)


async def stream(lake: Lake, day: date, *, epoch: int = EPOCH) -> None:
    """Three flushes by the streamer's writer: a quote, then prices alone, then the same prices once more."""
    noon = datetime(day.year, day.month, day.day, 17, tzinfo=UTC)
    at = noon
    writer = DeltaLakePositionWriter(
        lake.table(STREAMED_POSITIONS),
        epoch=epoch,
        gateway=GATEWAY,
        trading_day=CALENDAR.trading_day,
        clock=lambda: at,
        flush_seconds=3,
    )
    await writer.open()
    for flush in range(3):
        at = noon + timedelta(seconds=3 * flush)
        priced_at = noon + timedelta(seconds=min(3 * flush, 3))
        for account in ACCOUNTS:
            for conid in range(1, POSITIONS + 1):
                await writer.on_position_update(_streamed(account, conid, at, priced_at, quoted=flush == 0))
        await writer.flush()


def _streamed(account: str, conid: int, at: datetime, priced_at: datetime, *, quoted: bool) -> PositionUpdate:
    price = 50.0 + conid + priced_at.second
    return PositionUpdate(
        account=account,
        conid=conid,
        symbol=f"S{conid}",
        sec_type="STK",
        currency="EUR" if conid == EUROS else "USD",
        position=5.0 * conid,
        average_cost=40.0,
        timestamp=at,
        market_price=price,
        market_value=5.0 * conid * price,
        price_source=PriceSource.MARK,
        price_time=priced_at,
        bid=price - 1 if quoted else None,
        ask=price + 1 if quoted else None,
        delta=0.5 if quoted else None,
    )


def _values(lake: Lake, day: date) -> None:
    at = datetime(day.year, day.month, day.day, 17, tzinfo=UTC)
    values = [
        AccountValues(account=account, base_currency="USD", timestamp=at, exchange_rates={"EUR": 1.1, "USD": 1.0})
        for account in ACCOUNTS
    ]
    frame = account_rows(
        values,
        spec=ACCOUNT_VALUES,
        trading_day=CALENDAR.trading_day,
        source=UpdateSource.QUEUE,
        run_id="values",
        ingested_at=at,
    )
    lineage = CommitLineage(asset=ACCOUNT_VALUES.name, source="queue", code_version="0", run_id="values")
    lake.table(ACCOUNT_VALUES).append(frame, lineage)


def _close(lake: Lake, day: date) -> None:
    at = CALENDAR.session(day).closes_at
    row = {
        "date": day,
        "conid": CARRIED,
        "symbol": f"S{CARRIED}",
        "sec_type": "STK",
        "currency": "USD",
        "close": 33.5,
        "bar_size": "1 day",
        "what_to_show": "TRADES",
        "bar_time": at,
        "timestamp": at,
        "source": "history",
        "run_id": "closes",
        "ingested_at": NOW,
    }
    lineage = CommitLineage(asset=HISTORICAL_CLOSES.name, source="history", code_version="0", run_id="closes")
    frame = pl.DataFrame([row], schema_overrides=HISTORICAL_CLOSES.schema).with_columns(
        pl.lit(None, dtype=dtype).alias(name) for name, dtype in HISTORICAL_CLOSES.schema.items() if name not in row
    )
    replace(
        lake.table(HISTORICAL_CLOSES),
        frame.select(HISTORICAL_CLOSES.column_names),
        [(day,)],
        lineage,
        accounts=ACCOUNTS,
    )


def make_week(settings: Settings, statements: Path, *, run_id: str = "week") -> Lake:
    """The lake of ``settings`` with the week and its snapshots."""
    lake = Lake(settings.lake_root, fsync=no_fsync)
    fill(lake, statements)
    make_days(settings.model_copy(update={"flex_dir": statements}), lake, WEEK, run_id=run_id, flex=[MONDAY, TUESDAY])
    return lake


def make_days(settings: Settings, lake: Lake, days: list[date], *, run_id: str, flex: list[date] | None = None) -> None:
    """Make trading days as a run of history does."""
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    try:
        context = HistoryContext(
            settings=settings,
            database=database,
            lake=lake,
            calendar=CALENDAR,
            run_id=run_id,
            now=lambda: NOW,
            say=lambda _: None,
        )
        if flex:
            list(flex_days(context, flex))
        list(snapshot_days(context, days))
    finally:
        database.close()


def snapshots(lake: Lake) -> pl.DataFrame:
    """Every row of ``position_snapshots``."""
    handle = lake.table(POSITION_SNAPSHOTS).load()
    assert handle is not None
    return pl.scan_delta(handle).sort("date", "account", "conid").collect()
