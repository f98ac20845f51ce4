"""``CloseFetcher`` against the paper gateway: each close is asked for once, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import GatewayError
from v6_pipeline.history.close_days import close_rows
from v6_pipeline.history.closes import ASK_AGAIN_AFTER, CloseFetcher, CloseReport, FetchProgress, holds
from v6_pipeline.ib.close_plan import close_window
from v6_pipeline.ib.connection import ConnectionPolicy
from v6_pipeline.lake.tables import HISTORICAL_CLOSES
from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.paper import GatewayConfig, GatewayThread, PaperGateway
from v6_pipeline.paper.prices import daily_close
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import closes as store
from v6_pipeline.state.account.closes import FetchedClose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.unit.state.databases import ManualClock

AAPL, SPY, UNKNOWN = 265598, 756733, 1
NOW = datetime(2026, 11, 30, 22, tzinfo=UTC)
DAYS = [date(2026, 11, 25), date(2026, 11, 27), date(2026, 11, 30)]
CALENDAR = TradingCalendar()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@dataclass
class Rig:
    """A fetcher's surroundings."""

    gateway: PaperGateway
    settings: Settings
    database: StateDatabase
    clock: ManualClock
    slept: list[float]

    def fetcher(self, **changes: Any) -> CloseFetcher:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        options: dict[str, Any] = {
            "run_id": "run-1",
            "calendar": CALENDAR,
            "clock": self.clock,
            "policy": ConnectionPolicy(messages_per_second=1_000, connect_timeout=5, request_timeout=5),
            "sleep": sleep,
            "rate": 10_000,
            "answer_seconds": 5,
        }
        return CloseFetcher(self.settings, self.database, **(options | changes))

    async def fetch(self, conids: list[int], days: list[date] | None = None, **options: Any) -> CloseReport:
        return await self.fetcher().fetch(dict.fromkeys(conids, days or DAYS), {}, **options)

    def options(self, count: int) -> list[int]:
        """Options of the universe, of several underlyings."""
        found = [item.conid for item in self.gateway.universe.contracts.values() if item.sec_type == "OPT"]
        return found[:: len(found) // count][:count]

    def kept(self, conid: int) -> dict[tuple[int, date], FetchedClose]:
        """Return the state database's answers for a contract."""
        with self.database.read() as connection:
            return store.find(connection, [conid], first=DAYS[0], last=DAYS[-1])

    def requests(self) -> Counter[tuple[object, ...]]:
        """Count each request."""
        return Counter(tuple(item[1:]) for item in self.gateway.statistics.history.log)


@pytest.fixture
def rig(gateway: PaperGateway, settings: Settings, database: StateDatabase, clock: ManualClock) -> Rig:
    return Rig(gateway, settings, database, clock, [])


async def test_every_contract_and_day_has_a_close_or_a_reason(rig: Rig) -> None:
    conids = [AAPL, SPY, *rig.options(20), UNKNOWN]
    seen: list[FetchProgress] = []

    report = await rig.fetch(conids, progress=seen.append)

    assert report.entries.keys() == {(conid, day) for conid in conids for day in DAYS}
    for (conid, day), entry in report.entries.items():
        expected = None if conid == UNKNOWN else daily_close(rig.gateway.universe, conid, day)
        assert (entry.close, entry.reason) == (expected, "unknown_contract" if conid == UNKNOWN else None)
    assert (seen[-1].contracts_done, seen[-1].contracts, seen[-1].closes) == (23, 23, 66)
    assert [item.contracts_done for item in seen] == list(range(1, 24))
    assert rig.gateway.statistics.history.violations == 0
    assert rig.gateway.statistics.order_messages == 0


async def test_a_second_run_asks_nothing_and_does_not_even_connect(rig: Rig) -> None:
    first = await rig.fetch([AAPL, *rig.options(3)])
    asked = rig.requests()
    logins = rig.gateway.statistics.connections.total()

    second = await rig.fetch([AAPL, *rig.options(3)])

    assert second.entries == first.entries
    assert (second.reused, second.requests) == (12, 0)
    assert rig.requests() == asked
    assert rig.gateway.statistics.connections.total() == logins


async def test_a_longer_range_asks_for_the_new_days_alone(rig: Rig) -> None:
    await rig.fetch([AAPL], DAYS[:2])
    report = await rig.fetch([AAPL], DAYS)

    assert [item[-1] for item in rig.gateway.statistics.history.log] == ["3 D", "1 D"]
    assert len(report.entries) == 3


async def test_refetch_asks_again(rig: Rig) -> None:
    await rig.fetch([AAPL])
    rig.clock.advance(60)
    report = await rig.fetch([AAPL], refetch=True)

    assert (report.reused, report.requests) == (0, 1)
    assert rig.gateway.statistics.history.asked[AAPL] == 2
    assert {entry.fetched_at for entry in rig.kept(AAPL).values()} == {rig.clock.now}


async def test_a_known_close_outlives_the_expiry_of_its_option(rig: Rig) -> None:
    """IB has no history of expired options: a refetch put that reason in the place of the close."""
    options = [item for item in rig.gateway.universe.contracts.values() if item.sec_type == "OPT"]
    option = min(options, key=lambda item: item.expiry)
    first = await rig.fetch([option.conid])
    asked = rig.requests()
    rig.clock.now = datetime.fromisoformat(option.expiry).replace(tzinfo=UTC) + timedelta(days=3)

    again = await rig.fetch([option.conid], refetch=True)

    assert all(entry.close is not None for entry in first.entries.values())
    assert again.entries == first.entries == rig.kept(option.conid)
    assert (again.requests, rig.requests()) == (0, asked)


async def test_a_close_that_was_asked_for_before_the_cut_off_does_not_outlive_its_option(rig: Rig) -> None:
    [option] = rig.options(1)
    rig.clock.now = CALENDAR.session(DAYS[-1]).closes_at + timedelta(minutes=1)
    first = await rig.fetch([option], [DAYS[-1]])
    rig.clock.advance(400 * 24 * 3600)

    again = await rig.fetch([option], [DAYS[-1]])

    assert [entry.close is None for entry in first.entries.values()] == [False]
    assert [entry.reason for entry in again.entries.values()] == ["expired"]


@pytest.mark.parametrize("why", ["no_data", "failed"])
async def test_a_known_close_outlives_a_refetch_that_brings_none(rig: Rig, why: str) -> None:
    first = await rig.fetch([AAPL])
    rig.clock.advance(60)
    rig.gateway.perform("refuse_history", why=why, count=2, conids=[AAPL])

    again = await rig.fetch([AAPL], refetch=True)

    assert again.requests == 2
    assert again.entries == first.entries == rig.kept(AAPL)
    assert again.unanswered == []


async def test_expired_options_need_no_gateway(rig: Rig) -> None:
    await rig.gateway.stop()
    expired = ContractSpec(
        conid=5, symbol="SPX", sec_type=SecType.OPTION, currency="USD", expiry=date(2026, 11, 27), strike=1.0
    )

    report = await rig.fetcher().fetch({5: DAYS}, {5: expired})

    assert {entry.reason for entry in report.entries.values()} == {"expired"}


async def test_without_a_gateway_there_is_one_clear_line(rig: Rig) -> None:
    await rig.gateway.stop()

    with pytest.raises(GatewayError, match="no gateway at") as failed:
        await rig.fetch([AAPL])
    assert "\n" not in str(failed.value)
    assert rig.slept == []


# Crashes and outages


async def test_a_lost_connection_is_restored_and_no_answered_request_is_repeated(rig: Rig) -> None:
    conids = rig.options(30)
    done_before: list[int] = []

    def progress(seen: FetchProgress) -> None:
        if seen.contracts_done == 10:
            rig.gateway.perform("drop")
            with rig.database.read() as connection:
                found = store.find(connection, conids, first=DAYS[0], last=DAYS[-1])
            done_before.extend({conid for conid, _ in found})
            asked_before.update(rig.gateway.statistics.history.asked)

    asked_before: Counter[int] = Counter()
    report = await rig.fetcher(at_once=4).fetch(dict.fromkeys(conids, DAYS), {}, progress=progress)

    assert all(entry.close is not None for entry in report.entries.values())
    assert (report.connections, len(rig.slept)) == (2, 1)
    assert len(done_before) >= 10
    assert {conid: rig.gateway.statistics.history.asked[conid] for conid in done_before} == {
        conid: asked_before[conid] for conid in done_before
    }


async def test_a_gateway_that_stays_away_ends_the_run_and_answers_are_kept(rig: Rig) -> None:
    stopping: list[asyncio.Task[None]] = []

    def progress(seen: FetchProgress) -> None:
        if seen.contracts_done == 3:
            stopping.append(asyncio.create_task(rig.gateway.stop()))

    with pytest.raises(GatewayError):
        await rig.fetcher(at_once=1).fetch(dict.fromkeys(rig.options(30), DAYS), {}, progress=progress)

    await asyncio.gather(*stopping)
    assert len(rig.slept) == 8
    with rig.database.read() as connection:
        assert len(store.find(connection, rig.options(30), first=DAYS[0], last=DAYS[-1])) >= 9


async def test_a_farm_that_is_down_ends_the_run_with_one_line(rig: Rig) -> None:
    rig.gateway.perform("farm_broken", farm="ushmds")

    with pytest.raises(GatewayError, match="answered no historical request of 20 contracts") as failed:
        await rig.fetcher(answer_seconds=0.01).fetch(dict.fromkeys(rig.options(40), DAYS), {})
    assert "2106" in str(failed.value)


async def test_a_request_that_failed_is_asked_again_by_the_next_run(rig: Rig) -> None:
    rig.gateway.perform("refuse_history", why="failed", count=2, conids=[AAPL])

    first = await rig.fetch([AAPL, SPY])
    assert {entry.conid for entry in first.unanswered} == {AAPL}
    second = await rig.fetch([AAPL, SPY])

    assert second.unanswered == []
    assert rig.gateway.statistics.history.asked == {AAPL: 3, SPY: 1}


_CHILD = """
import asyncio, os, sys, json
from datetime import UTC, date, datetime
from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.settings import load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.history.closes import CloseFetcher

conids, die_after, at_once = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
settings = load_settings()
database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
now = datetime(2026, 11, 30, 22, tzinfo=UTC)
fetcher = CloseFetcher(
    settings, database, run_id="child", calendar=TradingCalendar(), clock=lambda: now, rate=10_000, at_once=at_once
)

def progress(seen):
    if seen.contracts_done == die_after:
        os._exit(9)

days = [date(2026, 11, 25), date(2026, 11, 27), date(2026, 11, 30)]
report = asyncio.run(fetcher.fetch({conid: days for conid in conids}, {}, progress=progress))
print(len([entry for entry in report.entries.values() if entry.close is not None]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 4])
def test_a_killed_run_asks_nothing_again_that_was_answered(
    at_once: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was under way in the moment of the kill is repeated: with one request at a time, nothing."""
    config = GatewayConfig(
        control_port=None, as_of=NOW.date(), tick_seconds=None, message_rate=100_000, utcnow=lambda: NOW
    )
    with GatewayThread(config) as gateway:
        monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("V6_IB_PORT", str(gateway.port))
        monkeypatch.setenv("V6_MESSAGES_PER_SECOND", "1000")
        conids = gateway.call(
            lambda paper: [c.conid for c in paper.universe.contracts.values() if c.sec_type == "OPT"][:24]
        )

        def run(die_after: int) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", _CHILD, json.dumps(conids), str(die_after), str(at_once)]
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        assert run(12).returncode == 9
        gateway.call(lambda paper: paper.perform("drop"))
        ended = run(0)

        assert (ended.returncode, ended.stdout.strip()) == (0, "72"), ended.stderr
        asked = gateway.call(lambda paper: Counter(tuple(item[1:]) for item in paper.statistics.history.log))
        repeated = [request for request, count in asked.items() if count > 1]
        assert len({request[0] for request in asked}) == 24
        assert len({request[0] for request in repeated}) <= at_once - 1


async def test_two_runs_at_once_share_permits_and_client_ids(rig: Rig) -> None:
    rig.gateway.perform("delay_history", seconds=0.02)
    halves = rig.options(40)[::2], rig.options(40)[1::2]

    reports = await asyncio.gather(
        *(
            rig.fetcher(run_id=f"run-{number}", at_once=30).fetch(dict.fromkeys(half, DAYS), {})
            for number, half in enumerate(halves)
        )
    )

    assert all(len(report.entries) == 60 for report in reports)
    assert rig.gateway.statistics.history.peak_open <= 40
    assert rig.gateway.statistics.history.violations == 0
    assert len(rig.gateway.statistics.connections) == 2


# What holds


def entry(reason: str | None, *, at: datetime) -> FetchedClose:
    return FetchedClose(conid=1, day=DAYS[0], close=None if reason else 1.0, reason=reason, fetched_at=at)


CUT_OFF = close_window(CALENDAR, DAYS[0]).cut_off


@pytest.mark.parametrize(
    ("reason", "age", "held"),
    [
        (None, timedelta(days=300), True),
        ("no_data", timedelta(days=300), True),
        ("expired", timedelta(days=300), True),
        ("no_permission", ASK_AGAIN_AFTER - timedelta(seconds=1), True),
        ("no_permission", ASK_AGAIN_AFTER, False),
        ("unknown_contract", ASK_AGAIN_AFTER, False),
        ("no_answer", timedelta(0), False),
    ],
)
def test_an_answer_holds_as_long_as_it_cannot_change(reason: str | None, age: timedelta, held: bool) -> None:
    found = entry(reason, at=CUT_OFF)

    assert holds(found, close_window(CALENDAR, DAYS[0]), now=CUT_OFF + age) is held


def test_an_answer_from_before_the_cut_off_does_not_hold() -> None:
    found = entry(None, at=CUT_OFF - timedelta(seconds=1))

    assert not holds(found, close_window(CALENDAR, DAYS[0]), now=CUT_OFF)


# Rows


async def test_rows_are_those_of_the_day_in_the_tables_schema(rig: Rig) -> None:
    report = await rig.fetch([SPY, AAPL, UNKNOWN])
    session = CALENDAR.session(DAYS[1])

    frame = close_rows(session, report.entries.values(), report.contracts, run_id="run-1", ingested_at=NOW)

    assert frame.schema == HISTORICAL_CLOSES.schema
    assert frame.get_column("conid").to_list() == [UNKNOWN, AAPL, SPY]
    assert frame.get_column("date").unique().to_list() == [DAYS[1]]
    assert frame.select(pl.col(HISTORICAL_CLOSES.required).null_count()).sum_horizontal().item() == 0
    unknown, apple, _ = frame.to_dicts()
    assert (unknown["reason"], unknown["close"], unknown["timestamp"]) == (
        "unknown_contract",
        None,
        session.closes_at,
    )
    assert (apple["symbol"], apple["sec_type"], apple["bar_size"]) == ("AAPL", "STK", "1 day")
    assert apple["bar_time"] <= session.cut_off


def test_a_day_without_entries_has_no_rows() -> None:
    frame = close_rows(CALENDAR.session(DAYS[0]), [], {}, run_id="run-1", ingested_at=NOW)

    assert (frame.schema, frame.height) == (HISTORICAL_CLOSES.schema, 0)
