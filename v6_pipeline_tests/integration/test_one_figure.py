"""The day's profit is one figure: the broker's, the exposure's after a backfill of all days, and price minus close."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from v6_pipeline.history.context import Failed, HistoryContext
from v6_pipeline.history.flex_days import FLEX_TABLES
from v6_pipeline.history.make import make_history
from v6_pipeline.ib.connection import ConnectionPolicy
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import HISTORICAL_CLOSES, PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS
from v6_pipeline.paper import GatewayConfig, GatewayThread, PaperGateway
from v6_pipeline.paper.contracts import Holding
from v6_pipeline.paper.flex_statements import AS_IB, statements
from v6_pipeline.paper.past import Past
from v6_pipeline.refresh.worker import QueueWorker, RefreshScope
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.history_days import CALENDAR
from v6_pipeline_tests.unit.state.databases import ManualClock

NOW = datetime(2026, 11, 19, 20, 30, tzinfo=UTC)
TODAY, FIRST = date(2026, 11, 19), date(2026, 11, 9)
DAYS = [FIRST + timedelta(days=number) for number in range(11)]
SESSIONS = [day for day in DAYS if CALENDAR.is_session(day)]
TABLES = [
    *(spec.name for spec in FLEX_TABLES),
    HISTORICAL_CLOSES.name,
    POSITION_SNAPSHOTS.name,
    PORTFOLIO_EXPOSURE.name,
]


NOT_IN_STATEMENTS = {"EUR"}
"""A currency, which no statement lists: on the first day after one its profit is unknown, and said to be."""


class MovingClock(ManualClock):
    """Never returns the same instant twice, like a real one."""

    def __call__(self) -> datetime:
        return self.advance(0.000_001)


@pytest.fixture(params=[False, True], ids=["demo", "with unusual contracts"])
def thread(request: pytest.FixtureRequest) -> Iterator[GatewayThread]:
    """The demo's world, on a day between holidays."""
    config = GatewayConfig(
        control_port=None,
        positions=60,
        seed=1,
        unusual=request.param,
        as_of=TODAY,
        tick_seconds=None,
        message_rate=100_000,
        history_rate=100_000,
        utcnow=lambda: NOW,
    )
    with GatewayThread(config) as running:
        yield running


@pytest.fixture
def context(thread: GatewayThread, tmp_path: Path) -> Iterator[HistoryContext]:
    folder = tmp_path / "statements"
    folder.mkdir()

    def write(gateway: PaperGateway) -> None:
        past = Past(gateway.universe).with_live(gateway.book.ledger)
        pieces = statements(past, FIRST, TODAY - timedelta(days=1), AS_IB, generated=NOW)
        folder.joinpath("all.xml").write_text("".join(pieces), encoding="utf-8")

    thread.call(write, timeout=60)
    settings = Settings(
        home=tmp_path / "home", ib_port=thread.port, messages_per_second=1_000, flex_dir=folder, start_date=FIRST
    )
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state", migrate=True)
    clock = MovingClock(NOW)
    yield HistoryContext(
        settings=settings,
        database=database,
        lake=Lake.from_settings(settings),
        calendar=CALENDAR,
        run_id="run-1",
        now=clock,
        say=lambda _: None,
    )
    database.close()


def refresh(context: HistoryContext) -> None:
    worker = QueueWorker(
        context.settings,
        context.database,
        context.lake,
        run_id="run-1",
        trading_day=CALENDAR.trading_day,
        clock=context.now,
        policy=ConnectionPolicy(messages_per_second=1_000, connect_timeout=5, request_timeout=20),
    )
    asyncio.run(worker.run(RefreshScope(everything=True)))


def rows(context: HistoryContext, day: date) -> pl.DataFrame:
    handle = context.lake.table(PORTFOLIO_EXPOSURE).load()
    assert handle is not None
    return pl.scan_delta(handle).filter(pl.col("date") == day).collect()


def held_by(gateway: PaperGateway, account: str, left_out: set[str]) -> list[Holding]:
    contracts = gateway.universe.contracts
    return [row for row in gateway.book.held(account) if contracts[row.conid].symbol not in left_out]


def brokers(thread: GatewayThread, left_out: set[str]) -> dict[str, float]:
    """The daily profit that reqPnL has."""
    return thread.call(
        lambda gateway: {
            account: gateway.book.pnl(held_by(gateway, account, left_out))[0] for account in gateway.universe.accounts
        }
    )


def price_minus_close(thread: GatewayThread, left_out: set[str]) -> dict[str, float]:
    def of(gateway: PaperGateway, account: str) -> float:
        total = 0.0
        for row in held_by(gateway, account, left_out):
            contract, quote = gateway.universe.contracts[row.conid], gateway.market.quote(row.conid)
            rate = gateway.market.exchange_rate(contract.currency)
            total += row.quantity * (quote.mark - quote.close) * contract.value_per_point * rate
        return total

    return thread.call(lambda gateway: {account: of(gateway, account) for account in gateway.universe.accounts})


def test_the_days_profit_is_one_figure_whoever_is_asked(context: HistoryContext, thread: GatewayThread) -> None:
    thread.call(lambda gateway: gateway.market.advance(gateway.universe.contracts))
    refresh(context)

    outcomes = list(make_history(context, TABLES, SESSIONS))

    assert [item for item in outcomes if isinstance(item, Failed)] == []
    found = rows(context, TODAY)
    unknown = found.filter(pl.col("daily_pnl_coverage") < 100)
    assert set(unknown.get_column("underlying")) == NOT_IN_STATEMENTS
    assert all("does not list contracts of this kind" in reason for reason in unknown.get_column("daily_pnl_unknown"))
    by_account = dict(found.group_by("account").agg(pl.col("daily_pnl").sum()).iter_rows())
    left_out = NOT_IN_STATEMENTS
    assert by_account == pytest.approx(brokers(thread, left_out), abs=0.05)
    assert by_account == pytest.approx(price_minus_close(thread, left_out), abs=0.05)
