"""Historical data: a real client asks for bars, too many, too fast, and for what IB does not have."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from v6_pipeline.paper import GatewayConfig, PaperGateway
from v6_pipeline.paper.prices import daily_close
from v6_pipeline_tests.integration.paper.client import (
    AAPL,
    NOW,
    SPX,
    Client,
    Clock,
    Connect,
    an_option,
    contract_of,
    settled,
)

if TYPE_CHECKING:
    from ib_async import BarDataList

YESTERDAY = date(2026, 11, 19)


@pytest.fixture
async def client(connect: Connect) -> Client:
    connected: Client = await connect()
    return connected


async def ask(
    client: Client,
    conid: int,
    bar_size: str = "1 day",
    what: str = "TRADES",
    *,
    exchange: str = "SMART",
    end: Any = "20261119 21:35:00 UTC",
    duration: str = "3 D",
    rth: bool = True,
    form: int = 2,
    expired: bool = False,
) -> "BarDataList":
    contract = contract_of(conid, exchange)
    contract.includeExpired = expired
    return await client.ib.reqHistoricalDataAsync(contract, end, duration, bar_size, what, rth, form, timeout=20)


def start(client: Client, conid: int, number: int = 0, bar_size: str = "30 secs", what: str = "TRADES") -> int:
    """Send a request without waiting; ``number`` makes its end differ from others."""
    api: Any = client.ib.client
    request_id: int = api.getReqId()
    api.reqHistoricalData(
        request_id, contract_of(conid), f"20261119-15:{number:02d}:00", "600 S", bar_size, what, 1, 2, False, []
    )
    return request_id


async def test_daily_bars_close_where_the_day_did(client: Client, gateway: PaperGateway) -> None:
    bars = await ask(client, AAPL)

    assert [bar.date for bar in bars] == [date(2026, 11, 17), date(2026, 11, 18), YESTERDAY]
    assert [bar.close for bar in bars] == [daily_close(gateway.universe, AAPL, bar.date) for bar in bars]
    assert (gateway.statistics.history.answers, gateway.statistics.history.open_now) == (1, 0)


async def test_both_date_forms_name_the_same_instants(client: Client) -> None:
    by_epoch = await ask(client, AAPL, "1 hour", duration="1 D")
    by_text = await ask(client, AAPL, "1 hour", duration="1 D", form=1)

    assert by_epoch[0].date == datetime(2026, 11, 19, 14, 30, tzinfo=UTC)
    assert [bar.date for bar in by_epoch] == [bar.date for bar in by_text]


@pytest.mark.parametrize("end", ["20261119-21:35:00", "20261119 16:35:00", "20261119 16:35:00 US/Eastern"])
async def test_the_end_has_several_forms(client: Client, end: str) -> None:
    assert [bar.date for bar in await ask(client, AAPL, end=end)][-1] == YESTERDAY


async def test_an_empty_end_is_now_and_nothing_lies_after_it(client: Client) -> None:
    for end in ("", "20271119-21:35:00"):
        bars = await ask(client, AAPL, "5 mins", end=end, duration="1 D")
        assert max(bar.date for bar in bars) == datetime(2026, 11, 20, 15, 30, tzinfo=UTC)


async def test_an_options_midpoint_comes_from_intraday_bars_alone(client: Client, gateway: PaperGateway) -> None:
    option = an_option(gateway)

    assert len(await ask(client, option, "1 day")) == 0
    assert "no data" in client.text(162)
    bars = await ask(client, option, "30 mins", "MIDPOINT", duration="1 D")
    assert bars[-1].close == daily_close(gateway.universe, option, YESTERDAY)


async def test_an_expired_option_is_unknown_and_an_expired_future_is_not(
    connect: Connect, stack: Any, clock: Clock
) -> None:
    now = NOW + timedelta(days=200)
    config = GatewayConfig(as_of=NOW.date(), tick_seconds=None, clock=clock, utcnow=lambda: now)
    gateway = await stack.enter_async_context(PaperGateway(config))
    client = await connect(to=gateway)
    future = next(item for item in gateway.universe.contracts.values() if item.sec_type == "FUT")

    await ask(client, an_option(gateway), "30 mins", "MIDPOINT")
    await ask(client, future.conid, exchange=future.exchanges[0])
    assert client.codes() == [200, 200]
    served = await ask(client, future.conid, exchange=future.exchanges[0], expired=True)
    assert served[-1].close == daily_close(gateway.universe, future.conid, YESTERDAY)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"bar_size": "7 mins"}, 321, "bar size setting is invalid"),
        ({"duration": "3 X"}, 321, "duration is invalid"),
        ({"duration": "400 D"}, 321, "must be made in years"),
        ({"what": "NONSENSE"}, 321, "Incorrect"),
        ({"exchange": ""}, 321, "Please enter exchange"),
        ({"end": "yesterday"}, 10314, "correct format"),
        ({"end": "20261119 16:35:00 Mars/Phobos"}, 10314, "correct format"),
        ({"bar_size": "30 mins", "duration": "2 M"}, 162, "Time length exceed max"),
        ({"bar_size": "1 day", "duration": "2 Y"}, 162, "Time length exceed max"),
        ({"bar_size": "30 secs", "duration": "600 S", "end": "20260401-15:00:00"}, 162, "no data"),
    ],
)
async def test_what_cannot_be_asked_draws_ibs_error(
    client: Client, changes: dict[str, Any], code: int, text: str
) -> None:
    contract = contract_of(AAPL, changes.get("exchange", "SMART"))
    api: Any = client.ib.client
    api.reqHistoricalData(
        7,
        contract,
        changes.get("end", ""),
        changes.get("duration", "1 D"),
        changes.get("bar_size", "1 hour"),
        changes.get("what", "TRADES"),
        1,
        2,
        False,
        [],
    )
    await settled(client)

    assert client.codes() == [code]
    assert text in client.text(code)


async def test_small_bars_too_fast_are_a_violation(client: Client, gateway: PaperGateway, clock: Clock) -> None:
    for number in range(6):
        start(client, AAPL, number)
    await settled(client)
    assert client.codes() == [162]
    assert "pacing violation" in client.text(162)

    clock.now += 15
    start(client, AAPL, 0)
    await settled(client)
    assert gateway.statistics.history.violations == 1


async def test_bars_of_a_minute_are_none(client: Client, gateway: PaperGateway) -> None:
    for number in range(10):
        start(client, AAPL, number, "1 min")
    await settled(client)

    assert gateway.statistics.history.violations == 0


async def test_the_fifty_first_open_request_is_refused(client: Client, gateway: PaperGateway) -> None:
    gateway.perform("ignore_history", count=51)
    ids = [start(client, AAPL, number, "1 min") for number in range(51)]
    await settled(client)

    assert [error[:2] for error in client.errors if error[1] == 322] == [(ids[-1], 322)]
    assert (gateway.statistics.history.peak_open, gateway.statistics.history.violations) == (50, 1)


async def test_a_cancel_ends_an_open_request_and_no_other(client: Client, gateway: PaperGateway) -> None:
    gateway.perform("ignore_history")
    request_id = start(client, AAPL, 0, "1 min")
    api: Any = client.ib.client
    api.cancelHistoricalData(request_id)
    api.cancelHistoricalData(request_id)
    await settled(client)

    assert client.codes() == [162, 366]
    assert "cancelled" in client.text(162)
    assert gateway.statistics.history.open_now == 0


async def test_a_client_that_goes_leaves_no_open_request(
    client: Client, gateway: PaperGateway, connect: Connect
) -> None:
    other = await connect(2)
    gateway.perform("ignore_history", count=2)
    start(client, AAPL, 0, "1 min")
    start(other, AAPL, 1, "1 min")
    await settled(client)
    await settled(other)
    client.ib.disconnect()
    await ask(other, AAPL)

    assert gateway.statistics.history.open_now == 1


async def test_large_bars_asked_faster_than_they_are_served_come_later(
    connect: Connect, stack: Any, clock: Clock
) -> None:
    config = GatewayConfig(
        as_of=NOW.date(), tick_seconds=None, clock=clock, utcnow=lambda: NOW, history_rate=100, history_seconds=0.01
    )
    gateway = await stack.enter_async_context(PaperGateway(config))
    client = await connect(to=gateway)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ids = [start(client, AAPL, number, "1 min") for number in range(10)]
    await ask(client, AAPL)

    assert loop.time() - began >= 0.1
    assert len(ids) == gateway.statistics.history.answers - 1


@pytest.mark.parametrize(
    ("action", "fields", "text"),
    [
        ("deny", {"conids": [AAPL]}, "No market data permissions"),
        ("refuse_history", {"why": "permission"}, "No market data permissions"),
        ("refuse_history", {"why": "pacing"}, "pacing violation"),
        ("refuse_history", {"why": "no_data", "conids": [AAPL]}, "no data"),
        ("refuse_history", {"why": "failed"}, "failed"),
    ],
)
async def test_faults_on_command(
    client: Client, gateway: PaperGateway, action: str, fields: dict[str, Any], text: str
) -> None:
    gateway.perform(action, **fields)

    assert len(await ask(client, AAPL)) == 0
    assert text in client.text(162)
    gateway.heal()
    assert len(await ask(client, AAPL)) == 3


async def test_without_its_farm_nothing_is_answered(client: Client, gateway: PaperGateway) -> None:
    gateway.perform("farm_broken", farm="ushmds")
    start(client, AAPL, 0, "1 min")
    await settled(client)

    assert gateway.statistics.history.open_now == 1
    assert 162 not in client.codes()


async def test_a_delay_comes_on_top(client: Client, gateway: PaperGateway) -> None:
    gateway.perform("delay_history", seconds=1_000)
    start(client, SPX, 0, "1 min")
    await settled(client)
    assert gateway.statistics.history.open_now == 0  # refused at once: SPX is not on SMART

    start(client, AAPL, 0, "1 min")
    await settled(client)
    assert gateway.statistics.history.open_now == 1
