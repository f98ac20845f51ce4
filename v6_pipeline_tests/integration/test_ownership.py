"""Who owns the streamer, under a real Dagster: a reload leaves it be, a stopped sensor or a dead code server end it.

Guards against orphans that hold lines, and against two streamers after a reload. The lease is shorter here than by
default (120 s), and still longer than a reload, during which no sensor ticks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest

from v6_pipeline.cli import home
from v6_pipeline.cli.supervise import Children
from v6_pipeline.paper import GatewayConfig, GatewayThread
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases import StreamerLeaseState
from v6_pipeline.sync.leases import StreamerLease
from v6_pipeline.sync.registry import StrategyRegistry
from v6_pipeline_tests.integration.real_dagster import UP_SECONDS, DagsterApi, is_over, running_dagster, wait_for

LEASE_SECONDS = 45
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Owned:
    """The system, and what is asked of it."""

    def __init__(self, settings: Settings, gateway: GatewayThread, api: DagsterApi, children: Children) -> None:
        self.settings, self.gateway, self.api, self.children = settings, gateway, api, children
        self._database = StateDatabase.open(settings.state_database_url, name_for_messages="state")

    def close(self) -> None:
        self._database.close()

    @property
    def lease(self) -> StreamerLeaseState:
        return StreamerLease(self._database).read()

    @property
    def lines(self) -> int:
        """Subscriptions at the gateway, by its own count."""
        return self.gateway.call(lambda gateway: gateway.statistics.lines)

    def streaming(self) -> psutil.Process | None:
        """The streamer's process, once it holds its lines."""
        lease = self.lease
        if lease.pid is None or (lease.status or {}).get("state") != "streaming" or self.lines == 0:
            return None
        return psutil.Process(lease.pid)

    def code_servers(self) -> list[psutil.Process]:
        """The proxy and the process in which it keeps the code."""
        own = psutil.Process(os.getpid()).children(recursive=True)
        return [process for process in own if {"code-server", "grpc"} & set(process.cmdline())]


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owned]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, GatewayThread(GatewayConfig(control_port=None)) as gateway:
        for name in list(os.environ):
            if name.startswith("V6_"):
                patch.delenv(name)
        patch.setenv("V6_HOME", str(folder))
        patch.setenv("V6_IB_PORT", str(gateway.port))
        patch.setenv("V6_LEASE_SECONDS", str(LEASE_SECONDS))
        settings = load_settings()
        home.prepare_state(settings)
        with home.open_state(settings) as database:
            StrategyRegistry(database).add_selector("condors", "symbol=SPX,sec_type=OPT")
        with running_dagster(settings) as (api, children):
            system = Owned(settings, gateway, api, children)
            yield system
            system.close()


def test_a_reload_of_the_code_location_leaves_the_same_one_streamer(owned: Owned) -> None:
    streamer = wait_for("streaming", owned.streaming, UP_SECONDS)
    epoch, before = owned.lease.epoch, set(owned.api.tick_ids("ib_streamer_sensor"))

    owned.api.reload_location()
    wait_for("ticks", lambda: len(set(owned.api.tick_ids("ib_streamer_sensor")) - before) >= 2, UP_SECONDS)

    assert owned.streaming() == streamer
    assert owned.lease.epoch == epoch


def test_stopping_the_sensor_ends_the_streamer_within_the_lease_and_starting_it_begins_a_new_one(owned: Owned) -> None:
    streamer = wait_for("streaming", owned.streaming, UP_SECONDS)
    epoch = owned.lease.epoch

    owned.api.stop_sensor("ib_streamer_sensor")
    wait_for("the streamer's end", lambda: is_over(streamer), LEASE_SECONDS + 20)
    assert owned.lines == 0, "its market data is cancelled"

    owned.api.start_sensor("ib_streamer_sensor")
    wait_for("streaming again", owned.streaming, UP_SECONDS)
    assert owned.lease.epoch == epoch + 1


def test_a_code_server_killed_for_good_ends_the_streamer_within_the_lease(owned: Owned) -> None:
    streamer = wait_for("streaming", owned.streaming, UP_SECONDS)

    for process in owned.code_servers():
        process.kill()
    wait_for("the streamer's end", lambda: is_over(streamer), LEASE_SECONDS + 20)

    assert owned.lines == 0, "its market data is cancelled"
