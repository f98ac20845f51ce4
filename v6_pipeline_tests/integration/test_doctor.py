"""Findings of ``v6 doctor`` at a gateway: each fault by its name; no line or client id stays taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from v6_pipeline.cli.app import run
from v6_pipeline.doctor.findings import Finding, Verdict
from v6_pipeline.doctor.gateway import KNOWN_STOCK, examine_gateway
from v6_pipeline.doctor.quotes import TrialTimeouts
from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.model import SlotPurpose
from v6_pipeline.paper import GatewayConfig, GatewayThread, PaperGateway, simulated_accounts
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.client_ids import ClientIds
from v6_pipeline_tests.integration.scripted_gateway import ScriptedGateway
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import START, ManualClock

PATIENCE = TrialTimeouts(lines=0.5, quotes=0.5)
ROOT = Path(__file__).parents[2]
IN_THE_RESET = datetime(2026, 3, 3, 5, 30, tzinfo=UTC)
"""00:30 in New York."""
BEFORE_0006 = (
    "DROP TABLE account_downloads; DROP TABLE slot_samples; DROP TABLE contract_units; "
    "UPDATE v6_schema_version SET version_num = '0005'"
)


class Examined(dict[str, Finding]):
    """Findings by what was looked at."""

    @property
    def faults(self) -> set[str]:
        return {what for what, finding in self.items() if finding.verdict is Verdict.FAULT}

    def verdict(self, what: str) -> str:
        return self[what].verdict


Examine = Callable[..., Awaitable[Examined]]


@pytest.fixture
def examine(settings: Settings, database: StateDatabase, clock: ManualClock) -> Examine:
    async def examined(
        *, chosen: Settings = settings, state: StateDatabase | None = database, at: ManualClock = clock
    ) -> Examined:
        found = [finding async for finding in examine_gateway(chosen, state, at, PATIENCE)]
        assert len({finding.what for finding in found}) == len(found), "each thing is told once"
        assert all("\n" not in finding.says + finding.remedy for finding in found)
        return Examined({finding.what: finding for finding in found})

    return examined


@pytest.fixture
def gateway_config(gateway_config: GatewayConfig) -> GatewayConfig:
    """It ticks: quotes come by themselves."""
    return replace(gateway_config, tick_seconds=0.05)


async def test_a_good_gateway(
    examine: Examine, gateway: PaperGateway, database: StateDatabase, settings: Settings, clock: ManualClock
) -> None:
    found = await examine()

    assert {finding.verdict for finding in found.values()} == {Verdict.OK}, found
    assert list(found) == [
        *("gateway", "client ids", "accounts", "clock", "read-only", "positions", "market-data lines", "market data")
    ]
    assert found["positions"].says == "60 are held"
    assert "prices of 4 of 4 contracts came" in found["market data"].says
    statistics = gateway.statistics
    assert (statistics.order_messages, statistics.lines, statistics.unknown_messages) == (0, 0, {})
    assert statistics.peak_lines <= 4
    assert StepLedger.from_settings(settings, database, clock).usage().slots == ()
    assert ClientIds(database, settings.run_client_ids, clock).leased() == {}


async def test_nobody_listens(examine: Examine, settings: Settings, unused_tcp_port: int) -> None:
    found = await examine(chosen=settings.model_copy(update={"ib_port": unused_tcp_port}))

    assert found.faults == set(found) == {"gateway"}
    assert f"no gateway at 127.0.0.1:{unused_tcp_port}: start IB Gateway" in found["gateway"].says


async def test_nobody_listens_while_the_broker_resets(
    examine: Examine, settings: Settings, clock: ManualClock, unused_tcp_port: int
) -> None:
    clock.now = IN_THE_RESET

    found = await examine(chosen=settings.model_copy(update={"ib_port": unused_tcp_port}))

    assert {what: finding.verdict for what, finding in found.items()} == {"gateway": "warning", "session": "skipped"}
    assert found["gateway"].says.endswith("; this is expected in IB's nightly reset until 06:45 UTC")


@pytest.mark.parametrize(("instant", "verdict"), [(IN_THE_RESET, "warning"), (START, "fault")])
async def test_the_gateway_lets_nobody_in(
    examine: Examine,
    settings: Settings,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    instant: datetime,
    verdict: str,
) -> None:
    """It greets, and has no link to IB to log in over."""

    async def refuse(connection: IBConnectionManager) -> None:
        raise GatewayError("the gateway does not answer")

    monkeypatch.setattr(IBConnectionManager, "connect", refuse)
    clock.now = instant

    found = await examine()

    assert (found.verdict("gateway"), found.verdict("session")) == ("ok", verdict)


@pytest.mark.parametrize("instant", [IN_THE_RESET, START])
async def test_a_web_server_listens(
    examine: Examine, settings: Settings, clock: ManualClock, instant: datetime
) -> None:
    clock.now = instant

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await examine(chosen=settings.model_copy(update={"ib_port": port}))

    assert found.faults == set(found) == {"gateway"}
    assert "does not speak IB's protocol: set V6_IB_PORT" in found["gateway"].says


async def test_a_gateway_that_is_too_old(examine: Examine, settings: Settings) -> None:
    async with ScriptedGateway(version=156) as scripted:
        found = await examine(chosen=settings.model_copy(update={"ib_port": scripted.port}))

    assert found.faults == set(found) == {"gateway"}
    assert "speaks version 156 of IB's protocol, at least 157 is needed: update" in found["gateway"].says


async def test_the_streamers_client_id_is_taken(examine: Examine, gateway: PaperGateway, settings: Settings) -> None:
    gateway.perform("occupy_client_id", client_id=settings.ib_client_id, seconds=60)

    found = await examine()

    assert found.faults == {"client ids"}
    assert f"client id {settings.ib_client_id}, the streamer's, is in use" in found["client ids"].says
    assert "V6_IB_CLIENT_ID" in found["client ids"].remedy
    assert found.verdict("market data") == "ok", "the rest is looked at under another id"


async def test_a_runs_client_id_is_taken(examine: Examine, gateway: PaperGateway, settings: Settings) -> None:
    first, last = settings.run_client_ids[0], settings.run_client_ids[-1]
    gateway.perform("occupy_client_id", client_id=first, seconds=60)

    found = await examine()

    assert found.verdict("client ids") == "warning"
    assert found["client ids"].says == f"{first} of {settings.ib_client_id} to {last} are in use by other programs"
    assert found.verdict("market data") == "ok"


async def test_an_id_that_we_use_ourselves_is_not_tried(
    examine: Examine, gateway: PaperGateway, settings: Settings, database: StateDatabase, clock: ManualClock
) -> None:
    ids = ClientIds(database, settings.run_client_ids, clock)
    mine = ids.acquire("a run", ttl_seconds=60)
    assert mine is not None
    gateway.perform("occupy_client_id", client_id=mine, seconds=60)

    found = await examine()

    assert found.verdict("client ids") == "ok"
    assert "except 1 that v6 itself uses now" in found["client ids"].says


class TestOrdersAreTaken:
    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig) -> GatewayConfig:
        return replace(gateway_config, read_only=False)

    async def test_a_gateway_that_is_not_read_only(self, examine: Examine, gateway: PaperGateway) -> None:
        found = await examine()

        assert found.verdict("read-only") == "warning"
        assert "tick 'Read-Only API'" in found["read-only"].remedy
        assert gateway.statistics.order_messages == 0


async def test_a_read_only_gateway_says_so(examine: Examine) -> None:
    found = await examine()

    assert found["read-only"].says == "the gateway refuses order messages, and this client sends none"


async def test_no_permission_for_market_data(examine: Examine, gateway: PaperGateway) -> None:
    gateway.contract_faults.deny([contract.conid for contract in gateway.universe.contracts.values()])

    found = await examine()

    assert found.faults == {"market data"}
    assert "354" in found["market data"].says
    assert "Market Data Subscriptions" in found["market data"].remedy
    assert gateway.statistics.lines == 0


@pytest.mark.parametrize(
    ("code", "remedy"), [(200, "has expired"), (321, "no subscription changes"), (322, "look again in a minute")]
)
async def test_a_refusal_that_no_subscription_helps(
    examine: Examine, gateway: PaperGateway, code: int, remedy: str
) -> None:
    stocks = [contract.conid for contract in gateway.universe.contracts.values() if contract.sec_type == "STK"]
    # What is refused with 321 is asked for again, without the mark price.
    gateway.perform("reject_market_data", code=code, count=2, conids=stocks)

    found = await examine()

    assert found.verdict("market data") == "warning"
    assert f": {code} " in found["market data"].says
    assert "live prices of" in found["market data"].says, "of the others"
    assert remedy in found["market data"].remedy
    assert "subscribe" not in found["market data"].remedy


async def test_part_of_the_data_is_not_subscribed_and_comes_all_the_same(
    examine: Examine, gateway: PaperGateway
) -> None:
    gateway.perform("advise", code=10090)

    found = await examine()

    assert found.verdict("market data") == "ok"


async def test_no_data_but_the_advice_to_subscribe(examine: Examine, gateway: PaperGateway) -> None:
    gateway.perform("advise", code=10089)
    gateway.perform("quiet")

    found = await examine()

    assert found.faults == {"market data"}
    assert ": 10089 Requested market data requires additional subscription" in found["market data"].says
    assert "Market Data Subscriptions" in found["market data"].remedy


@pytest.mark.parametrize("hours", [0, 12], ids=["open", "closed"])
async def test_another_login_has_the_data(
    examine: Examine, gateway: PaperGateway, clock: ManualClock, hours: int
) -> None:
    clock.advance(hours * 3600)
    gateway.perform("competing_session")

    found = await examine()

    assert found.verdict("market data") == "warning"
    assert found["market data"].says.startswith("another login has this user's data: 10197 No market data during")
    assert "log out of TWS" in found["market data"].remedy


async def test_silence_tells_nothing_while_the_market_is_closed(
    examine: Examine, gateway: PaperGateway, clock: ManualClock
) -> None:
    gateway.perform("quiet")

    found = await examine()

    assert found.verdict("market data") == "warning"
    assert "came although the market is open" in found["market data"].says

    clock.advance(12 * 3600)

    found = await examine()

    assert found.verdict("market data") == "skipped"
    assert "came while the market is closed, so that data permissions are not known" in found["market data"].says
    assert found["market data"].remedy == "look again while the market is open"


async def test_an_option_that_has_expired_is_not_tried(
    examine: Examine, gateway: PaperGateway, clock: ManualClock
) -> None:
    """It is held until IB has settled it, and its definition is in the cache."""
    await examine()
    options = {contract.conid for contract in gateway.universe.contracts.values() if contract.sec_type == "OPT"}
    clock.advance(timedelta(days=3 * 366).total_seconds())
    before = gateway.statistics.subscriptions_total.copy()

    found = await examine()

    tried = gateway.statistics.subscriptions_total - before
    assert found["positions"].says == "60 are held"
    assert tried
    assert not options & set(tried)


async def test_no_line_is_left(examine: Examine, gateway: PaperGateway) -> None:
    gateway.perform("lines", lines=0)

    found = await examine()

    assert found.faults == {"market-data lines"}
    assert "error 101" in found["market-data lines"].says
    assert "close TWS windows" in found["market-data lines"].remedy
    assert found.verdict("market data") == "skipped"


async def test_a_learned_ceiling_is_told(
    examine: Examine, gateway: PaperGateway, settings: Settings, database: StateDatabase, clock: ManualClock
) -> None:
    ledger = StepLedger.from_settings(settings, database, clock)
    ledger.acquire([1], holder="a run", purpose=SlotPurpose.BATCH, ttl_seconds=60)
    ledger.report_exhausted("a run", 1)

    found = await examine()

    assert found.verdict("market-data lines") == "warning"
    assert "learned from errors 101" in found["market-data lines"].says


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(3, "ok"), (-3, "ok"), (10, "warning"), (60, "fault"), (-60, "fault")]
)
async def test_the_clock(examine: Examine, clock: ManualClock, seconds: int, verdict: str) -> None:
    found = await examine(at=ManualClock(clock.now + timedelta(seconds=seconds)))

    assert found.verdict("clock") == verdict
    if verdict != "ok":
        side = "ahead of" if seconds > 0 else "behind"
        assert f"{side} the gateway's" in found["clock"].says
        assert "NTP" in found["clock"].remedy


async def test_an_account_that_the_login_does_not_manage(examine: Examine, settings: Settings) -> None:
    found = await examine(chosen=settings.model_copy(update={"ib_accounts": ("SIM9",)}))

    assert found.faults == {"accounts"}
    assert "does not manage SIM9" in found["accounts"].says


async def test_without_state_only_the_handshake_is_tried(examine: Examine, gateway: PaperGateway) -> None:
    found = await examine(state=None)

    assert (found.verdict("gateway"), found.verdict("session")) == ("ok", "skipped")
    assert "positions and market data were not examined" in found["session"].says
    assert "correct the state as shown above" in found["session"].remedy
    assert gateway.statistics.messages_total == 0


async def test_a_stock_is_asked_for_where_nothing_is_held(examine: Examine, gateway: PaperGateway) -> None:
    for holding in list(gateway.book.held()):
        gateway.perform("close", account=holding.account, conid=holding.conid)

    found = await examine()

    assert found["positions"].says == "0 are held"
    assert found.verdict("market data") == "ok"
    assert gateway.statistics.subscriptions_total[KNOWN_STOCK] == 1


def test_the_command_tells_all_of_it_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
    with GatewayThread(GatewayConfig(control_port=None, tick_seconds=0.1)) as gateway:
        monkeypatch.setenv("V6_IB_PORT", str(gateway.port))
        assert run(["doctor"]) == 1, "there is no home yet"
        out = capsys.readouterr().out
        assert "-> run 'v6 init'" in out
        assert not load_settings().home.exists(), "nothing is created"
        assert run(["init"]) == 0
        capsys.readouterr()

        # A process: here pytest would catch what the parts log, which otherwise comes between the findings.
        command = (sys.executable, "-m", "v6_pipeline.cli", "doctor", "--json")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

        assert (done.returncode, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        assert (told["faults"], told["warnings"]) == (0, 0), told
        assert [finding["what"] for finding in told["findings"]] == [
            *("settings", "home", "state", "lake", "calendar", "Dagster"),
            *("gateway", "client ids", "accounts", "clock", "read-only", "positions"),
            *("market-data lines", "market data"),
        ]
        (load_settings().dagster_home / "dagster.yaml").write_text("storage:\n  nonsense: 1\n")

        assert run(["doctor"]) == 1

        out = capsys.readouterr().out
        assert "fault    Dagster" in out
        assert 'unexpected config entry "nonsense"' in out
        assert "1 fault, 0 warnings, 0 not examined" in out


class TestALoginOfManyAccounts:
    @pytest.fixture
    def gateway_config(self, gateway_config: GatewayConfig) -> GatewayConfig:
        return replace(gateway_config, accounts=simulated_accounts(51))

    async def test_its_positions_are_requested_account_by_account(
        self, examine: Examine, gateway: PaperGateway
    ) -> None:
        found = await examine()

        assert found["positions"].says == f"{len(gateway.book.held())} are held"
        assert found.faults == set()

    async def test_refused_altogether_the_doctor_says_what_to_set_and_blames_no_setting_of_the_api(
        self, examine: Examine, gateway: PaperGateway
    ) -> None:
        gateway._dispatcher.handlers[74] = lambda session, _fields: session.error(-1, 10275, "not for this login")

        found = await examine()

        assert found.faults == {"positions"}
        line = found["positions"].says + found["positions"].remedy
        assert "10275 not for this login" in line
        assert "set V6_IB_ACCOUNTS" in line
        assert "ActiveX" not in line


def test_a_migration_that_is_due_leaves_the_session_unexamined_until_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
    with GatewayThread(GatewayConfig(control_port=None, tick_seconds=0.1)) as gateway:
        monkeypatch.setenv("V6_IB_PORT", str(gateway.port))
        assert run(["init"]) == 0
        text = (load_settings().home / "v6.toml").read_text()
        with contextlib.closing(sqlite3.connect(load_settings().home / "state.db")) as state, state:
            state.executescript(BEFORE_0006)
        capsys.readouterr()

        assert run(["doctor"]) == 0, "nothing is at fault"

        out = capsys.readouterr().out
        assert "-> run 'v6 init', which migrates it" in out
        assert "skipped  session" in out
        assert out.endswith("0 faults, 1 warning, 1 not examined\n")

        assert run(["init"]) == 0
        assert (load_settings().home / "v6.toml").read_text() == text
        capsys.readouterr()
        assert run(["doctor", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["faults"], told["warnings"], told["skipped"]) == (0, 0, 0), told
