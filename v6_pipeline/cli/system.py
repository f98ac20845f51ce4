"""The whole system in the foreground, for ``v6 up`` and ``v6 demo``: Dagster over one home.

Belongs here: the order in which its processes start, are watched and end. Their command lines are in
``dagster_processes``; child processes as such are in ``supervise``.
"""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from v6_pipeline.cli import dagster_processes, home, output
from v6_pipeline.cli.dagster_processes import HOST, LoadState, LocationStatus
from v6_pipeline.cli.supervise import Children, StopRequested, StopSignals, SupervisionError, wait_until
from v6_pipeline.errors import GatewayUnreachableError, UsageError
from v6_pipeline.settings import StreamerMode
from v6_pipeline.streaming import control

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings

RECORD_FILE = "up.json"
CODE_SECONDS = 180.0
"""The code server first loads everything, which takes 10 to 16 s on a busy machine."""
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
        """Return the pages of the webserver at ``url``."""
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
    """Check that the UI can listen on ``port``.

    Raises:
        UsageError: there is no such port.
        SupervisionError: it is in use.
    """
    if not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not between 1 and 65535")
    if not dagster_processes.is_port_free(port):
        raise SupervisionError(f"port {port} of {HOST} is in use: choose another with --port")


def prepare_by_doctor(settings: Settings, clock: Callable[[], datetime]) -> None:
    """Create and migrate what is missing in the home, then check that ``v6 doctor`` finds no fault.

    Raises:
        StateError: the state database cannot be used.
        LakeError: the lake cannot be used.
        ExaminationError: the examination found faults.
    """
    from v6_pipeline.cli import examination

    _open_parts(settings)
    home.prepare_dagster_home(settings)
    examination.require(settings, clock)


def check_parts(settings: Settings) -> None:
    """Check that state and lake can be opened and that the gateway answers.

    Raises:
        StateError: the state database cannot be used.
        LakeError: the lake cannot be used.
        GatewayUnreachableError: no IB gateway answers.
    """
    from v6_pipeline.ib.probe import PROBE_SECONDS, explain, probe

    _open_parts(settings)
    found = asyncio.run(probe(settings.ib_host, settings.ib_port, PROBE_SECONDS))
    reason = explain(found, settings.ib_address)
    if reason is not None:
        raise GatewayUnreachableError(reason)


def _open_parts(settings: Settings) -> None:
    for step in (home.close_to_others(settings), home.prepare_state(settings)):
        if step is not None and step.note:
            output.notice(f"{step.action} {step.what} {step.path} {step.note}")
    home.open_lake(settings)


def run(
    settings: Settings,
    *,
    port: int,
    prepare: Callable[[], None],
    on_ready: Callable[[Pages], None],
    seconds: float | None = None,
) -> None:
    """Run Dagster over the home of ``settings`` until a signal, or for ``seconds`` after it is ready.

    ``prepare`` is called before the first start, when nothing else runs in the home; a signal interrupts it.
    ``on_ready`` is called once the UI shows the code location. Settings that differ from the home's file are in the
    environment.

    Raises:
        SupervisionError: the port is in use, the location does not load, or a process exited unexpectedly; the others
            are then stopped.
        V6Error: raised by ``prepare``.
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
    # The others look for it only when they start.
    listening = wait_until(
        lambda: dagster_processes.accepts_connections(grpc_port) or None, seconds=CODE_SECONDS, checks=checks
    )
    if listening is None:
        raise SupervisionError(f"the code server did not come up within {CODE_SECONDS:g} s: see {children.log_path}")
    children.start(dagster_processes.webserver(workspace, port))
    children.start(dagster_processes.daemon(workspace))
    status = wait_until(lambda: _loaded_or_failed(f"http://{HOST}:{port}"), seconds=WEB_SECONDS, checks=checks)
    if status is None:
        raise SupervisionError(f"the webserver did not answer within {WEB_SECONDS:g} s: see {children.log_path}")
    if status.state is LoadState.FAILED:
        reason = textwrap.shorten(status.error, 300, placeholder="...") or "no reason given"
        raise SupervisionError(f"Dagster cannot load {dagster_processes.MODULE}: {reason}; see {children.log_path}")


def _loaded_or_failed(url: str) -> LocationStatus | None:
    status = dagster_processes.location_status(url)
    return None if status is None or status.state is LoadState.LOADING else status


def _ready_streamer(settings: Settings) -> None:
    """End the streamer of an earlier start, which has that start's settings, and withdraw a stop request."""
    from v6_pipeline.state.leases.streamer import StreamerLease

    with home.open_state(settings) as database:
        if settings.streamer is StreamerMode.SPAWN:
            control.end_spawned(settings, database, seconds=STREAMER_SECONDS)
        StreamerLease(database).request_run()


def _stop(settings: Settings, children: Children) -> None:
    """Stop the streamer, then Dagster; without this the streamer would run until its lease expires."""
    from v6_pipeline.state.leases.streamer import StreamerLease

    try:
        with home.open_state(settings) as database:
            spawned = settings.streamer is StreamerMode.SPAWN  # its supervisor stops a supervised one
            if spawned:
                # Requested even if none runs: the sensor must not start one now.
                StreamerLease(database).request_stop()
                control.end_spawned(settings, database, seconds=STREAMER_SECONDS)
            children.stop()
            if spawned:
                # A tick may have claimed the lease at the moment of the request.
                control.end_spawned(settings, database, seconds=STREAMER_SECONDS)
                StreamerLease(database).request_run()
    finally:
        children.stop()
