"""Historical bars and daily closes over the paper gateway's socket: the requests, and the meaning of each refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import GatewayError, HistoryRefusedError, RequestTimeoutError
from v6_pipeline.ib.close_plan import CloseWindow, bar_types, close_window
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.ib.historical_pacing import HistoricalPacer
from v6_pipeline.ib.history import BarsRequest, daily_closes, request_bars
from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.paper import PaperGateway
from v6_pipeline.paper.prices import daily_close
from v6_pipeline.state.account.closes import FetchedClose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.pacing.historical import BACK_OFF
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")

AAPL, SPX, EURUSD = 265598, 416904, 12087792
NOW = datetime(2026, 11, 30, 22, tzinfo=UTC)
DAYS = [date(2026, 11, 24), date(2026, 11, 25), date(2026, 11, 27), date(2026, 11, 30)]
CALENDAR = TradingCalendar()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def pacer(database: StateDatabase, clock: ManualClock) -> AsyncIterator[HistoricalPacer]:
    pacer = HistoricalPacer(database, "gateway:4002", holder="test", clock=clock, rate=10_000)
    async with pacer.permits(8):
        yield pacer


def windows(days: list[date] | None = None) -> list[CloseWindow]:
    return [close_window(CALENDAR, day) for day in days or DAYS]


def an_option(gateway: PaperGateway, symbol: str = "SPX", index: int = 0) -> int:
    found = [c.conid for c in gateway.universe.contracts.values() if (c.symbol, c.sec_type) == (symbol, "OPT")]
    return found[index]


async def closes(
    connection: IBConnectionManager,
    pacer: HistoricalPacer,
    conid: int,
    clock: ManualClock,
    *,
    days: list[date] | None = None,
    seconds: float = 5,
) -> list[FetchedClose]:
    spec = await qualify(connection, conid)
    return await daily_closes(connection, pacer, spec, windows(days), clock=clock, timeout=seconds)


def asked(gateway: PaperGateway) -> list[tuple[str, str, str]]:
    """Bar size, data and duration of each request, in order."""
    return [(bar_size, what, duration) for _, _, bar_size, what, _, duration in gateway.statistics.history.log]


# The closes of each kind of contract


async def test_a_stocks_closes_are_one_request(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    found = await closes(connection, pacer, AAPL, clock)

    assert [item.close for item in found] == [daily_close(gateway.universe, AAPL, day) for day in DAYS]
    assert [item.bar_time for item in found] == [CALENDAR.session(day).closes_at for day in DAYS]
    assert asked(gateway) == [("1 day", "TRADES", "7 D")]


@pytest.mark.parametrize("conid", [SPX, EURUSD])
async def test_an_index_has_trades_and_a_currency_middles(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock, conid: int
) -> None:
    found = await closes(connection, pacer, conid, clock)

    assert [item.close for item in found] == [daily_close(gateway.universe, conid, day) for day in DAYS]
    assert len(asked(gateway)) == 1


async def test_an_options_closes_are_the_middles_of_half_an_hour_however_early_it_last_traded(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    for index in range(6):
        option = an_option(gateway, index=80 + index)
        found = await closes(connection, pacer, option, clock)
        assert [item.close for item in found] == [daily_close(gateway.universe, option, day) for day in DAYS]
        assert all(item.bar_time and item.bar_time <= CALENDAR.session(item.day).cut_off for item in found)
        assert {item.what_to_show for item in found} == {"MIDPOINT"}

    assert {bar_size for bar_size, _, _ in asked(gateway)} == {"30 mins"}


async def test_days_missing_in_one_kind_of_bars_are_requested_from_the_next(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    pacer: HistoricalPacer,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trades first, of options that did not trade each day."""
    monkeypatch.setattr("v6_pipeline.ib.history.bar_types", lambda _: bar_types(SecType.FUTURE))
    seen: set[str | None] = set()
    for index in range(6):
        option = an_option(gateway, index=80 + index)
        found = await closes(connection, pacer, option, clock)
        assert [item.close for item in found] == [daily_close(gateway.universe, option, day) for day in DAYS]
        seen |= {item.what_to_show for item in found}

    assert seen == {"TRADES", "MIDPOINT"}


async def test_a_future_closes_by_the_cut_off_although_its_session_continues(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    future = next(c.conid for c in gateway.universe.contracts.values() if c.symbol == "ES" and c.sec_type == "FUT")

    found = await closes(connection, pacer, future, clock, days=DAYS[-1:])

    assert found[0].close == daily_close(gateway.universe, future, DAYS[-1])
    assert found[0].bar_time == CALENDAR.session(DAYS[-1]).closes_at + timedelta(minutes=30)


async def test_an_expired_option_costs_no_request(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    spec = ContractSpec(
        conid=1, symbol="SPX", sec_type=SecType.OPTION, currency="USD", expiry=date(2026, 11, 27), exchange="SMART"
    )

    found = await daily_closes(connection, pacer, spec, windows(), clock=clock)

    assert {item.reason for item in found} == {"expired"}
    assert asked(gateway) == []


async def test_a_day_that_is_not_over_has_no_close_yet(
    connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    clock.now = datetime(2026, 11, 30, 18, tzinfo=UTC)

    found = await closes(connection, pacer, AAPL, clock)

    assert [item.close is None for item in found] == [False, False, False, True]
    assert found[-1].reason == "no_data"


# Refusals


@pytest.mark.parametrize(
    ("action", "fields", "reason", "requests"),
    [
        ("deny", {}, "no_permission", 1),
        ("unqualify", {}, "unknown_contract", 0),
        ("refuse_history", {"why": "no_data", "count": 2}, "no_data", 2),
        ("refuse_history", {"why": "failed", "count": 2}, "no_answer", 2),
    ],
)
async def test_a_refusal_becomes_the_reason(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    pacer: HistoricalPacer,
    clock: ManualClock,
    action: str,
    fields: dict[str, object],
    reason: str,
    requests: int,
) -> None:
    spec = await qualify(connection, AAPL)
    gateway.perform(action, **(fields or {"conids": [AAPL]}))

    found = await daily_closes(connection, pacer, spec, windows(), clock=clock, timeout=5)

    assert {item.reason for item in found} == {reason}
    assert len(asked(gateway)) == requests


async def test_an_empty_exchange_ends_at_once_with_its_refusal(
    connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    spec = ContractSpec(conid=AAPL, symbol="AAPL", sec_type=SecType.STOCK, currency="USD")
    request = BarsRequest(contract=spec, bar_type=bar_types(SecType.STOCK)[0], end=NOW, seconds=5 * 86_400)

    with pytest.raises(HistoryRefusedError, match=r"321 .*exchange") as refused:
        await request_bars(connection, request, timeout=60)
    assert refused.value.code == 321


async def test_a_request_refused_as_too_fast_is_repeated_at_half_the_rate(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_pause = replace(BACK_OFF, pause=timedelta(0))
    monkeypatch.setattr("v6_pipeline.state.pacing.historical.BACK_OFF", without_pause)
    gateway.perform("refuse_history", why="pacing")
    pacer = HistoricalPacer(database, "gateway:4002", holder="test", clock=clock, rate=100)
    async with pacer.permits(1):
        found = await closes(connection, pacer, AAPL, clock)

    assert [item.close for item in found] == [daily_close(gateway.universe, AAPL, day) for day in DAYS]
    assert (pacer.refusals, pacer.made) == (1, 2)


async def test_an_unanswered_request_is_cancelled_and_made_once_more(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    gateway.perform("ignore_history")

    found = await closes(connection, pacer, AAPL, clock, seconds=0.1)

    assert {item.reason for item in found} == {None}
    assert (len(asked(gateway)), gateway.statistics.history.open_now) == (2, 0)


async def test_silence_is_no_answer_and_leaves_nothing_open(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    gateway.perform("ignore_history", count=100)

    found = await closes(connection, pacer, AAPL, clock, seconds=0.05)

    assert {item.reason for item in found} == {"no_answer"}
    await eventually(lambda: gateway.statistics.history.open_now == 0)
    assert not connection.ib.wrapper._futures


async def test_a_late_answer_and_a_cancel_of_what_has_ended_are_harmless(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    client: Any = connection.ib.client
    client.cancelHistoricalData(4_711)
    await connection.round_trip()

    assert connection.error_counts[366] == 1
    assert {item.reason for item in await closes(connection, pacer, AAPL, clock)} == {None}


async def test_a_lost_connection_ends_the_request(
    gateway: PaperGateway, connection: IBConnectionManager, pacer: HistoricalPacer, clock: ManualClock
) -> None:
    spec = await qualify(connection, AAPL)
    gateway.perform("ignore_history")
    asking = asyncio.create_task(daily_closes(connection, pacer, spec, windows(), clock=clock))
    await eventually(lambda: gateway.statistics.history.open_now)
    gateway.perform("drop")

    with pytest.raises(GatewayError, match="closed"):
        await asking
    assert pacer.open_now == 0


async def test_a_request_that_times_out_names_its_bars(gateway: PaperGateway, connection: IBConnectionManager) -> None:
    gateway.perform("ignore_history")
    spec = await qualify(connection, AAPL)
    request = BarsRequest(contract=spec, bar_type=bar_types(SecType.STOCK)[0], end=NOW, seconds=5 * 86_400)

    with pytest.raises(RequestTimeoutError, match=r"1 day TRADES bars of contract 265598.*within 0.05 s"):
        await request_bars(connection, request, timeout=0.05)


# Permits


async def test_no_more_requests_are_open_than_there_are_permits(
    gateway: PaperGateway, connection: IBConnectionManager, database: StateDatabase, clock: ManualClock
) -> None:
    pacer = HistoricalPacer(database, "gateway:4002", holder="test", clock=clock, rate=10_000)
    gateway.perform("ignore_history", count=100)
    spec = await qualify(connection, AAPL)
    async with pacer.permits(3):
        asking = [
            asyncio.create_task(daily_closes(connection, pacer, spec, windows([day]), clock=clock))
            for day in [*DAYS, *DAYS]
        ]
        await eventually(lambda: gateway.statistics.history.open_now == 3)
        await connection.round_trip()
        assert (pacer.open_now, pacer.waiting) == (3, 5)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    assert gateway.statistics.history.peak_open == 3
    assert (pacer.open_now, pacer.waiting) == (0, 0)
    await eventually(lambda: gateway.statistics.history.open_now == 0, "requests given up are cancelled")
