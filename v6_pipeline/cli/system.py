"""The whole system in the foreground: Dagster over one home, started in order, watched, and ended in order.

Used by ``v6 up`` on the configured gateway and by ``v6 demo`` on the paper gateway, which each bring their own.
"""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from v6_pipeline.cli import dagster_processes, home, output, supervise
from v6_pipeline.cli.dagster_processes import HOST, LoadState, LocationStatus
from v6_pipeline.cli.supervise import Children, StopRequested, StopSignals, SupervisionError, wait_until
from v6_pipeline.errors import GatewayUnreachableError, UsageError
from v6_pipeline.settings import StreamerMode
from v6_pipeline.streaming import control

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings

RECORD_FILE = "up.json"
CODE_SECONDS = 180.0
"""The code server loads everything first: 10 to 16 s on a busy machine."""
WEB_SECONDS = 120.0
STREAMER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pages:
    """Addresses in the UI."""

    ui: str
    assets: str
    sensor: str
    schedule: str
    snapshots: str
    history: str
    runs: str

    @classmethod
    def at(cls, url: str) -> Pages:
        """The pages of the webserver at ``url``."""
        location = f"{url}/locations/{dagster_processes.LOCATION}"
        return cls(
            ui=url,
            assets=f"{url}/asset-groups",
            sensor=f"{location}/sensors/ib_streamer_sensor",
            schedule=f"{location}/schedules/queued_positions_schedule",
            snapshots=f"{url}/assets/position_snapshots?view=partitions",
            history=f"{location}/jobs/import_flex_statements",
            runs=f"{url}/runs",
        )


def check_port(port: int) -> None:
    """See that the UI can listen there.

    Raises:
        UsageError: there is no such port.
        SupervisionError: it is taken.
    """
    if not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not between 1 and 65535")
    if not dagster_processes.is_port_free(port):
        raise SupervisionError(f"port {port} of {HOST} is taken: choose another with --port")


def check_unused(folder: Path) -> None:
    """See that the system does not run in a home already."""
    supervise.check_unused(folder / RECORD_FILE)


def prepare_by_doctor(settings: Settings, clock: Callable[[], datetime]) -> None:
    """Make and migrate what is missing in the home, then see that ``v6 doctor`` finds no fault; warnings are told.

    Args:
        settings: of the home.
        clock: UTC now.

    Raises:
        StateError: the state database cannot be used.
        LakeError: the lake cannot.
        ExaminationError: what else is at fault.
    """
    from v6_pipeline.cli import examination

    _open_parts(settings)
    home.prepare_dagster_home(settings)
    examination.require(settings, clock)


def check_parts(settings: Settings) -> None:
    """See that state and lake can be opened and the gateway answers.

    Raises:
        StateError: the state database cannot be used.
        LakeError: the lake cannot.
        GatewayUnreachableError: no IB gateway is there.
    """
    from v6_pipeline.ib.probe import PROBE_SECONDS, explain, probe

    _open_parts(settings)
    found = asyncio.run(probe(settings.ib_host, settings.ib_port, PROBE_SECONDS))
    reason = explain(found, settings.ib_address)
    if reason is not None:
        raise GatewayUnreachableError(reason)


def _open_parts(settings: Settings) -> None:
    home.prepare_state(settings)
    home.open_lake(settings)


def run(
    settings: Settings,
    *,
    port: int,
    prepare: Callable[[], None],
    on_ready: Callable[[Pages], None],
    seconds: float | None = None,
) -> None:
    """Run Dagster over the home of ``settings`` until a signal comes, or for ``seconds`` from when it is ready.

    Args:
        settings: of the home; what differs from its file is in the environment.
        port: of the UI.
        prepare: called before anything is started and once nothing else runs in the home; a signal interrupts it.
        on_ready: called once the UI shows the code location.
        seconds: how long.

    Raises:
        SupervisionError: the port is taken, the location does not load, or a process ended by itself; the rest is
            stopped.
        V6Error: what ``prepare`` raises.
    """
    home.prepare_log_folder(settings)
    children = Children(
        log_path=settings.log_dir / "dagster.log",
        record_path=settings.home / RECORD_FILE,
        environ=dagster_processes.environment(settings, os.environ),
    )
    with StopSignals() as signals:
        for name in children.take_over():
            output.notice(f"ended the {name} of an earlier start that was killed")
        check_port(port)
        with signals.interrupting():
            prepare()
        home.prepare_dagster_home(settings)
        _ready_streamer(settings)
        try:
            _start(settings, children, signals, port)
            on_ready(Pages.at(f"http://{HOST}:{port}"))
            wait_until(lambda: None, seconds=seconds, checks=(signals.check, children.check))
        except StopRequested:
            pass
        finally:
            output.notice("stopping: streamer, then Dagster")
            _stop(settings, children)


def _start(settings: Settings, children: Children, signals: StopSignals, port: int) -> None:
    checks = (signals.check, children.check)
    output.notice(f"starting Dagster; its log is {children.log_path}")
    grpc_port = dagster_processes.free_port()
    workspace = dagster_processes.write_workspace(settings, grpc_port)
    children.start(dagster_processes.code_server(settings, grpc_port))
    # The others look for it once, when they start.
    listening = wait_until(
        lambda: dagster_processes.accepts_connections(grpc_port) or None, seconds=CODE_SECONDS, checks=checks
    )
    if listening is None:
        raise SupervisionError(f"the code server did not come up within {CODE_SECONDS:g} s: see {children.log_path}")
    children.start(dagster_processes.webserver(workspace, port))
    children.start(dagster_processes.daemon(workspace))
    status = wait_until(lambda: _settled(f"http://{HOST}:{port}"), seconds=WEB_SECONDS, checks=checks)
    if status is None:
        raise SupervisionError(f"the webserver did not answer within {WEB_SECONDS:g} s: see {children.log_path}")
    if status.state is LoadState.FAILED:
        reason = textwrap.shorten(status.error, 300, placeholder="...") or "no reason given"
        raise SupervisionError(f"Dagster cannot load {dagster_processes.MODULE}: {reason}; see {children.log_path}")


def _settled(url: str) -> LocationStatus | None:
    status = dagster_processes.location_status(url)
    return None if status is None or status.state is LoadState.LOADING else status


def _ready_streamer(settings: Settings) -> None:
    """A streamer of an earlier start is on that one's settings; a request to stop was for then."""
    from v6_pipeline.state.leases.streamer import StreamerLease

    with home.open_state(settings) as database:
        if settings.streamer is StreamerMode.SPAWN:
            control.end_spawned(settings, database, seconds=STREAMER_SECONDS)
        StreamerLease(database).request_run()


def _stop(settings: Settings, children: Children) -> None:
    """The streamer first, while Dagster can still be asked; it would otherwise live until its lease ends."""
    from v6_pipeline.state.leases.streamer import StreamerLease

    try:
        with home.open_state(settings) as database:
            spawned = settings.streamer is StreamerMode.SPAWN  # a supervised one is its supervisor's to stop
            if spawned:
                # Asked for even if none runs: the sensor must not start one now.
                StreamerLease(database).request_stop()
                control.end_spawned(settings, database, seconds=STREAMER_SECONDS)
            children.stop()
            if spawned:
                # A tick may have claimed the lease in the instant of the request.
                control.end_spawned(settings, database, seconds=STREAMER_SECONDS)
                StreamerLease(database).request_run()
    finally:
        children.stop()
