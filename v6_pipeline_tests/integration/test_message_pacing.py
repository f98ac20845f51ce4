"""Messages of all processes together: the rate at the gateway, a pacing error, and a database that fails."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.errors import RequestTimeoutError
from v6_pipeline.ib import allowance
from v6_pipeline.ib.allowance import SharedAllowance, steady_now
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.pacing import MessagePacer
from v6_pipeline.ib.session import leased_connection
from v6_pipeline.paper import GatewayConfig, GatewayThread, PaperGateway
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now
from v6_pipeline.state.pacing import messages as pacing
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import ScriptedGateway
from v6_pipeline_tests.unit.state.databases import START, ManualClock, copy_of, sqlite_url

CURRENT_TIME, MARKET_DATA_TYPE = 49, 59
TIME = {CURRENT_TIME: [(49, 1, 1772461800)]}
GATEWAY = "gateway:4002"


def report(database: StateDatabase) -> pacing.PacingReport:
    with database.read() as connection:
        return pacing.describe(connection, now=utc_now())[0]


def send_many(connection: IBConnectionManager, count: int) -> None:
    client: Any = connection.ib.client
    for _ in range(count):
        client.reqMarketDataType(1)


# All processes together

_CHILD = """
import asyncio, json, sys, time
from v6_pipeline.ib.allowance import SharedAllowance
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.pacing import MessagePacer
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now

url, port, client_id = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
database = StateDatabase.open(url, name_for_messages="state")
pacer = MessagePacer(SharedAllowance(database, "gateway", 45, utc_now))

async def main():
    connection = IBConnectionManager(host="127.0.0.1", port=port, client_id=client_id, pacer=pacer)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, cpu = time.monotonic(), time.process_time()
    await connection.connect()
    for _ in range(30):
        connection.ib.client.reqMarketDataType(1)
    for _ in range(29):
        await connection.round_trip()
    figures = [pacer.sent, pacer.asked, pacer.wasted, time.monotonic() - began, time.process_time() - cpu]
    await connection.close()
    print(json.dumps(figures), flush=True)

asyncio.run(main())
"""


def run_processes(url: str, port: int, count: int) -> list[list[float]]:
    """Each connects and sends 60 messages; their (sent, grants, wasted, seconds, CPU seconds)."""
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, url, str(port), str(number)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        for number in range(1, count + 1)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    figures = []
    for child in children:
        output, errors = child.communicate(timeout=60)
        assert errors == ""
        figures.append(json.loads(output))
    return figures


def test_four_processes_together_keep_to_the_rate(sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "state.db")
    config = GatewayConfig(control_port=None, tick_seconds=None, message_rate=50)
    with GatewayThread(config) as gateway:
        figures = run_processes(sqlite_url(tmp_path / "state.db"), gateway.port, 4)
        statistics = gateway.call(lambda running: running.statistics)

    assert statistics.messages_total == 240
    assert statistics.peak_rate <= 50
    assert statistics.errors[100] == 0
    assert max(item[3] for item in figures) < 30, "seconds, 6 on a machine that has time: the allowance is used"
    assert sum(item[1] for item in figures) < 240 / 2, "grants, a transaction each; some 60 if there is time"


async def test_a_process_that_connects_through_a_lease_shares_the_allowance(
    settings: Settings, database: StateDatabase
) -> None:
    async with leased_connection(settings, database, owner="run", clock=utc_now) as connection:
        await connection.round_trip()

    assert (report(database).gateway, report(database).configured_rate) == (settings.ib_address, 1000)


# Deadlines


async def test_a_deadline_begins_when_the_request_has_left(open_connection: OpenConnection) -> None:
    async with ScriptedGateway(TIME) as scripted:
        connection = await open_connection(port=scripted.port, messages_per_second=50)
        send_many(connection, 150)

        await connection.round_trip(timeout=2)  # which is less than those before it take

        assert scripted.count(MARKET_DATA_TYPE) == 150


async def test_a_deadline_that_has_begun_ends(open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted:
        connection = await open_connection(port=scripted.port)
        send_many(connection, 5)

        with pytest.raises(RequestTimeoutError, match=r"its time within 0\.1 s"):
            await connection.round_trip(timeout=0.1)


async def test_a_heartbeat_does_not_wait_behind_hundreds_of_messages(open_connection: OpenConnection) -> None:
    async with ScriptedGateway(TIME) as scripted:
        connection = await open_connection(port=scripted.port, messages_per_second=45)
        send_many(connection, 500)
        waiting = asyncio.create_task(connection.round_trip())
        await asyncio.sleep(0)

        await connection.heartbeat(timeout=5)

        assert scripted.count(MARKET_DATA_TYPE) < 250, "of 500, which take 11 s"
        assert not waiting.done(), "the answer was the heartbeat's"
        waiting.cancel()


async def test_answers_to_heartbeat_and_round_trip_are_matched_by_order(open_connection: OpenConnection) -> None:
    async with ScriptedGateway(TIME) as scripted:
        connection = await open_connection(port=scripted.port, messages_per_second=45)
        send_many(connection, 20)
        round_trip = asyncio.create_task(connection.round_trip())
        await asyncio.sleep(0)
        await connection.heartbeat()
        await round_trip

        assert scripted.count(MARKET_DATA_TYPE) == 20


async def test_an_abandoned_request_does_not_take_the_next_answer(open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted:
        connection = await open_connection(port=scripted.port)
        with pytest.raises(RequestTimeoutError):
            await connection.round_trip(timeout=0.05)
        second = asyncio.create_task(connection.round_trip(timeout=5))
        await eventually(lambda: scripted.count(CURRENT_TIME) == 2)

        scripted.say(49, 1, 1772461800)
        await connection.ib.updateEvent
        await asyncio.sleep(0)
        assert not second.done()
        scripted.say(49, 1, 1772461800)
        await second


async def test_after_close_nothing_is_sent_and_requests_end(open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted, asyncio.timeout(10):
        connection = await open_connection(port=scripted.port, messages_per_second=20)
        send_many(connection, 100)
        waiting = asyncio.create_task(connection.round_trip())
        await eventually(lambda: scripted.count(MARKET_DATA_TYPE) >= 2)
        outbox = connection.ib.outbox
        await connection.close()
        sent = scripted.count(MARKET_DATA_TYPE)

        with pytest.raises(Exception, match="closed during the request for its time"):
            await waiting
        assert len(outbox) == 0
        assert scripted.count(MARKET_DATA_TYPE) <= sent + 1  # one may be on the wire


async def test_requests_end_when_the_peer_hangs_up_before_they_have_left(open_connection: OpenConnection) -> None:
    async with ScriptedGateway() as scripted, asyncio.timeout(10):
        connection = await open_connection(port=scripted.port, messages_per_second=20)
        send_many(connection, 100)
        waiting = asyncio.create_task(connection.round_trip())
        await eventually(lambda: scripted.count(MARKET_DATA_TYPE) >= 2)
        scripted.hang_up()

        with pytest.raises(Exception, match="closed during the request for its time"):
            await waiting


# Too fast


@pytest.mark.parametrize(
    ("code", "text", "rate"),
    [
        (100, "Max rate of messages per second has been exceeded:max=50 rec=51 (1)", 22.5),
        (162, "Historical Market Data Service error message:API historical data query pacing violation", 22.5),
        (162, "Historical Market Data Service error message:HMDS query returned no data", 45),
        (420, "Invalid Real-time Query:Historical data request pacing violation", 22.5),
        (420, "Invalid Real-time Query:No market data permissions for ISLAND STK", 45),
    ],
)
async def test_a_pacing_error_slows_every_process(
    code: int, text: str, rate: float, gateway: PaperGateway, database: StateDatabase
) -> None:
    connections = []
    for client_id in (1, 2):
        pacer = MessagePacer(SharedAllowance(database, GATEWAY, 45, utc_now))
        connections.append(IBConnectionManager(host="127.0.0.1", port=gateway.port, client_id=client_id, pacer=pacer))
        await connections[-1].connect()
    slowed, other = connections
    reported = asyncio.Event()
    slowed.add_error_listener(lambda _req_id, received, _text: reported.set() if received == code else None)
    began = time.monotonic()
    gateway._sessions[1].error(-1, code, text)
    await reported.wait()
    await asyncio.sleep(0)
    await eventually(lambda: not slowed._pacer._reporting)
    await other.round_trip()

    assert report(database).current_rate == rate
    assert rate == 45 or time.monotonic() - began > 0.9, "no process sends for a second"
    for connection in connections:
        await connection.close()


# The database away


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another writer that does not end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_without_the_database_a_process_sends_at_its_share(
    database: StateDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shared = SharedAllowance(database, GATEWAY, 160, utc_now)
    await shared.take(1)
    caplog.clear()
    monkeypatch.setattr(allowance, "SLOW_SECONDS", 0.1)
    began = asyncio.get_running_loop().time()
    with locked(settings.home / "state.db"):
        instants = [(await shared.take(10))[0] for _ in range(5)]

        assert instants[-1] - began >= 4 * 16 / 160, "a sixteenth of 160 a second"
        assert caplog.text.count("this process now sends its share of 10.0 a second") == 1

    # The ask that was under way ends by itself now.
    deadline = asyncio.get_running_loop().time() + 10
    while "answers again" not in caplog.text:
        assert asyncio.get_running_loop().time() < deadline
        await shared.take(1)
        await asyncio.sleep(0.01)
    with database.read() as connection:
        assert pacing.describe(connection, now=utc_now())[0].current_rate == 160


async def test_a_failing_database_is_not_queried_for_every_message(
    sqlite_template: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = copy_of(sqlite_template, tmp_path / "state.db")
    shared = SharedAllowance(database, GATEWAY, 45, utc_now)
    database.close()
    (tmp_path / "state.db").write_bytes(b"no database any more" * 1000)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"state.db{suffix}").unlink(missing_ok=True)
    for _ in range(3):
        await shared.take(1)

    assert shared._request is None
    assert caplog.text.count("message allowance:") == 1
    database.close()


async def test_a_take_that_is_cancelled_loses_nothing_but_its_instants(database: StateDatabase) -> None:
    shared = SharedAllowance(database, GATEWAY, 45, utc_now)
    asking = asyncio.create_task(shared.take(5))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert await shared.take(1)


# Clocks


async def test_a_clock_that_stands_still_does_not_stop_the_pacing(database: StateDatabase, clock: ManualClock) -> None:
    loop = asyncio.get_running_loop()
    first = steady_now(loop, clock)
    await asyncio.sleep(0.02)

    assert first == START
    assert START + timedelta(seconds=0.01) < steady_now(loop, clock) < START + timedelta(seconds=1)


async def test_a_clock_that_is_set_forward_is_followed_at_once_and_back_slowly(clock: ManualClock) -> None:
    loop = asyncio.get_running_loop()
    steady_now(loop, clock)
    later: datetime = clock.advance(60)
    assert steady_now(loop, clock) == later

    clock.advance(-30)
    assert later <= steady_now(loop, clock) < later + timedelta(seconds=1)
