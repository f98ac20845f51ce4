"""``v6 up`` and ``v6 demo`` up to the point where Dagster starts; and the whole of it with cheap commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from v6_pipeline.cli import dagster_processes, system
from v6_pipeline.cli.commands import demo
from v6_pipeline.cli.dagster_processes import LoadState, LocationStatus
from v6_pipeline.cli.supervise import Command, SupervisionError
from v6_pipeline.doctor import gateway as gateway_examination
from v6_pipeline.errors import ExaminationError
from v6_pipeline.ib.resets import ExpectedOutage, expected_outage
from v6_pipeline.model import ContractSpec, Holding, IBRegion, SecType
from v6_pipeline.paper import GatewayConfig, GatewayThread
from v6_pipeline.paper.gateway import PaperGateway
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline_tests.unit.cli.conftest import Run

LISTENER = (
    "import socket, sys, time; server = socket.socket(); server.bind(('127.0.0.1', int(sys.argv[1]))); "
    "server.listen(); time.sleep(600)"
)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Commands in Dagster's place, and what the webserver is to answer."""

    def use(status: LocationStatus, *, daemon: str = "import time; time.sleep(600)") -> None:
        def listener(name: str, port: int) -> Command:
            return Command(name, (sys.executable, "-c", LISTENER, str(port)))

        def command(name: str, code: str) -> Command:
            return Command(name, (sys.executable, "-c", code))

        monkeypatch.setattr(dagster_processes, "code_server", lambda _, port: listener("code server", port))
        monkeypatch.setattr(dagster_processes, "webserver", lambda _, port: listener("webserver", port))
        monkeypatch.setattr(dagster_processes, "daemon", lambda _: command("daemon", daemon))
        monkeypatch.setattr(dagster_processes, "location_status", lambda _: status)

    return use


def run(settings: Settings, **changes: Any) -> list[str]:
    seen: list[str] = []
    options: dict[str, Any] = {
        "port": dagster_processes.free_port(),
        "prepare": lambda: seen.append("prepared"),
        "on_ready": lambda _: seen.append("ready"),
        **changes,
    }
    system.run(settings, **options)
    return seen


def test_from_start_to_end(settings: Settings, cheap: Callable[..., None]) -> None:
    cheap(LocationStatus(LoadState.LOADED))
    pids: list[int] = []

    def on_ready(pages: system.Pages) -> None:
        assert pages.sensor.endswith("/locations/v6_pipeline/sensors/ib_streamer_sensor")
        record = json.loads((settings.home / "up.json").read_text())
        assert [child["name"] for child in record["children"]] == ["code server", "webserver", "daemon"]
        pids.extend(child["pid"] for child in record["children"])
        os.kill(os.getpid(), signal.SIGTERM)

    run(settings, on_ready=on_ready)
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_it_ends_by_itself_after_some_seconds(settings: Settings, cheap: Callable[..., None]) -> None:
    cheap(LocationStatus(LoadState.LOADED))
    assert run(settings, seconds=0.01) == ["prepared", "ready"]


def test_a_location_that_does_not_load_is_one_line(settings: Settings, cheap: Callable[..., None]) -> None:
    cheap(LocationStatus(LoadState.FAILED, "DagsterImportError: no module\n  at line 1\n" + "x " * 500))
    with pytest.raises(
        SupervisionError, match=r"cannot load v6_pipeline\.definitions: DagsterImportError: no module"
    ) as e:
        run(settings)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600
    assert str(e.value).endswith("dagster.log")


def test_a_child_that_dies_ends_the_rest(settings: Settings, cheap: Callable[..., None]) -> None:
    cheap(LocationStatus(LoadState.LOADED), daemon="raise SystemExit(1)")
    with pytest.raises(SupervisionError, match="daemon exited unexpectedly"):
        run(settings)
    assert not (settings.home / "up.json").exists()


def test_a_stop_request_is_taken_back_at_the_start_and_none_is_left_at_the_end(
    settings: Settings, cheap: Callable[..., None]
) -> None:
    cheap(LocationStatus(LoadState.LOADED))
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    lease = StreamerLease(database)
    lease.request_stop()
    desired: list[DesiredState] = []
    run(settings, seconds=0.01, on_ready=lambda _: desired.append(lease.read().desired_state))
    desired.append(lease.read().desired_state)
    assert desired == [DesiredState.RUN, DesiredState.RUN]
    database.close()


def test_a_port_in_use_is_reported_before_anything_starts(v6: Run, settings: Settings, taken_port: int) -> None:
    result = v6("up", "--port", taken_port)
    assert (result.code, result.error) == (1, f"port {taken_port} of 127.0.0.1 is in use: choose another with --port")
    assert not (settings.log_dir / "dagster.log").exists()


def test_a_port_that_cannot_be_is_wrong_use(v6: Run, settings: Settings) -> None:
    assert v6("up", "--port", 0).code == 2


IN_THE_RESET = datetime(2026, 11, 20, 5, 30, tzinfo=UTC)
"""00:30 in New York."""


@pytest.fixture(autouse=True)
def outside_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hour is at which the tests run: a gateway that is away within a reset is no fault."""

    def outage(instant: datetime, region: IBRegion) -> ExpectedOutage | None:
        return expected_outage(instant, region) if instant == IN_THE_RESET else None

    monkeypatch.setattr(gateway_examination, "expected_outage", outage)


def test_up_says_every_fault_in_a_line_of_its_own_and_starts_nothing(
    v6: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_IB_PORT", str(dagster_processes.free_port()))
    monkeypatch.setenv("V6_HANDLERS", "nomod:make")
    monkeypatch.setenv("V6_FLEX_DIR", str(settings.home / "none"))

    result = v6("up", "--port", dagster_processes.free_port())

    assert (result.code, result.out) == (1, "")
    warning, handler, gateway = result.err.splitlines()
    assert warning.startswith("warning: settings: V6_FLEX_DIR: there is no folder")
    assert handler.startswith("error: settings: V6_HANDLERS: cannot load nomod:make")
    assert handler.endswith("or correct V6_HANDLERS")
    assert gateway.startswith("error: gateway: no gateway at 127.0.0.1:")
    assert not (settings.log_dir / "dagster.log").exists()


def test_up_without_the_doctor_looks_at_no_more_than_it_needs(
    v6: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_IB_PORT", str(dagster_processes.free_port()))
    monkeypatch.setenv("V6_HANDLERS", "nomod:make")

    result = v6("up", "--no-doctor", "--port", dagster_processes.free_port())

    assert result.code == 1
    assert result.error.startswith("no gateway at 127.0.0.1:")


def test_a_gateway_that_is_away_in_the_nightly_reset_does_not_keep_up_from_starting(
    settings: Settings,
    cheap: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cheap(LocationStatus(LoadState.LOADED))
    monkeypatch.setenv("V6_IB_PORT", str(dagster_processes.free_port()))
    chosen = load_settings()

    assert run(chosen, seconds=0.01, prepare=lambda: system.prepare_by_doctor(chosen, lambda: IN_THE_RESET)) == [
        "ready"
    ]

    printed = capsys.readouterr().err
    assert "warning: gateway: no gateway at" in printed
    assert "expected in IB's nightly reset until 06:45 UTC; run 'v6 doctor' after it" in printed
    assert "skipped: session:" in printed


def test_up_makes_a_home_and_finds_no_fault_in_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with GatewayThread(GatewayConfig(control_port=None, tick_seconds=0.1)) as gateway:
        monkeypatch.setenv("V6_IB_PORT", str(gateway.port))
        settings = load_settings()

        system.prepare_by_doctor(settings, utc_now)

    assert (settings.dagster_home / "dagster.yaml").exists()
    assert (home / "state.db").exists()


def test_a_streamer_of_ours_that_still_runs_is_no_fault(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        closing(StateDatabase.open(settings.state_database_url, name_for_messages="state")) as database,
        GatewayThread(GatewayConfig(control_port=None, tick_seconds=0.1)) as gateway,
    ):
        monkeypatch.setenv("V6_IB_PORT", str(gateway.port))
        chosen = load_settings()
        gateway.call(lambda paper: paper.perform("occupy_client_id", client_id=chosen.ib_client_id, seconds=60))
        with pytest.raises(ExaminationError, match=r"client ids: client id 60, the streamer's, is in use"):
            system.prepare_by_doctor(chosen, utc_now)
        StreamerLease(database).claim("one", granted_by=GrantedBy.SENSOR, ttl_seconds=60)

        system.prepare_by_doctor(chosen, utc_now)


def test_up_without_a_gateway_says_what_to_start(v6: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V6_IB_PORT", str(dagster_processes.free_port()))
    result = v6("up", "--port", dagster_processes.free_port())
    assert result.code == 1
    assert 'or run "v6 gateway", a simulated account' in result.error
    assert not (settings.log_dir / "dagster.log").exists()


def test_a_lake_that_is_a_file_is_reported_before_anything_starts(v6: Run, settings: Settings) -> None:
    Path(settings.lake_root).write_text("")
    result = v6("up", "--port", dagster_processes.free_port())
    assert result.code == 1
    assert "is a file" in result.error


def test_the_demo_forgets_settings_of_a_real_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V6_LAKE_URI", "s3://real")
    monkeypatch.setenv("V6_IB_PORT", "4001")
    demo._leave_environment(home / "demo")
    settings = load_settings()
    assert settings.home == home / "demo"
    assert settings.lake_root == str(home / "demo" / "lake")
    assert "V6_LAKE_URI" not in os.environ


def test_the_demo_explains_the_backfill_as_the_readme_does(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway: Any = SimpleNamespace(port=4711, control_port=4712)
    demo._show(settings, gateway, system.Pages.at("http://127.0.0.1:3000"), as_json=False)
    [said] = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] == "history"]
    readme = Path(__file__).parents[3].joinpath("README.md").read_text(encoding="utf-8")
    [row] = [line for line in readme.splitlines() if line.startswith("| **Jobs → import_flex_statements** |")]
    address, _, words = said.partition(": click ")
    assert address.endswith("http://127.0.0.1:3000/locations/v6_pipeline/jobs/import_flex_statements")
    assert words in row.replace("*", "")


def test_the_demo_file_names_the_addresses_of_each_start(v6: Run, home: Path) -> None:
    v6("init")
    for port in (4711, 4712):
        url = f"http://127.0.0.1:{port}/flex"
        token = {"flex_token": '"SIM"', "flex_query_id": '"1"'}
        demo._set(home / "v6.toml", {"ib_port": str(port), "flex_url": f'"{url}"'} | token)
        settings = load_settings()
        assert (settings.ib_port, settings.flex_url, settings.flex_query_id) == (port, url, "1")


def test_a_demo_file_of_an_older_version_is_given_the_lines_that_it_lacks(home: Path) -> None:
    file = home / "v6.toml"
    home.mkdir()
    file.write_text("ib_port = 1\n")
    demo._set(file, {"ib_port": "4711", "queue_batch": "7"})
    settings = load_settings()
    assert (settings.ib_port, settings.queue_batch) == (4711, 7)


def test_the_demo_is_seeded_once(settings: Settings) -> None:
    demo._seed(settings)
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    registry = StrategyRegistry(database)
    registry.remove_active("spx-puts")
    demo._seed(settings)
    assert {entry.strategy for entry in registry.entries()} == {"iron-condors"}
    database.close()


@pytest.mark.parametrize("as_of", ["2026-11-22", "2027-01-05", "2028-02-29"])
def test_twelve_contracts_of_the_demo_stream_on_any_day(as_of: str) -> None:
    """And the second strategy adds none."""
    universe = PaperGateway(GatewayConfig(as_of=date.fromisoformat(as_of))).universe
    selectors = [Selector.parse(text) for _, texts in demo.STRATEGIES.values() for text in texts]
    streamed = set()
    for held in universe.holdings:
        contract = universe.contracts[held.conid]
        holding = Holding(
            account=held.account,
            contract=ContractSpec(
                conid=contract.conid,
                symbol=contract.symbol,
                sec_type=SecType(contract.sec_type),
                currency=contract.currency,
                right=contract.right or None,
            ),
            position=held.quantity,
            average_cost=None,
            observed_at=datetime(2026, 11, 22, tzinfo=UTC),
        )
        if any(selector.matches(holding) for selector in selectors):
            streamed.add(contract.conid)
    assert len(universe.holdings) == 60
    assert len(streamed) == 12
