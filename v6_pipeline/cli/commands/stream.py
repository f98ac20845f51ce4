"""``v6 stream``: the streamer in the foreground; ``--stop`` and ``--start`` for the one of the sensor."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import FencedError, UsageError

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings

STOP_SECONDS = 30


def stream(
    *,
    seconds: Annotated[
        float | None, typer.Option(help="End after this many seconds. Default: at Ctrl-C.", show_default=False)
    ] = None,
    owned: Annotated[
        bool, typer.Option("--owned", help="For a supervisor: stream whenever ib_streamer_sensor grants the lease.")
    ] = False,
    stop: Annotated[
        bool,
        typer.Option("--stop", help="Stop the running streamer; the sensor starts none until --start."),
    ] = False,
    start: Annotated[
        bool, typer.Option("--start", help="Withdraw --stop: the sensor may start a streamer again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stream the contracts of active strategies into the lake, without Dagster, until Ctrl-C."""
    if stop + start + (owned or seconds is not None) > 1:
        raise UsageError("--stop and --start cannot be combined with other options")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"--seconds {seconds:g} is not greater than 0")
    settings = home.load()
    if stop:
        _stop(settings, as_json=as_json)
    elif start:
        _start(settings, as_json=as_json)
    else:
        _stream(settings, owned=owned, seconds=seconds, as_json=as_json)


def _stream(settings: Settings, *, owned: bool, seconds: float | None, as_json: bool) -> None:
    from v6_pipeline.state.leases.streamer import StreamerLease
    from v6_pipeline.streamer import Authority, log_to_file, run_process
    from v6_pipeline.streaming import control
    from v6_pipeline.streaming.status import StreamerStatus

    with home.disk_faults():
        log_to_file(settings.log_dir)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    with home.open_state(settings) as database:
        control.await_unseen(database)
        control.clear_dead(settings, database)
        run_process(settings, authority=Authority.OWNED if owned else Authority.ALONE, seconds=seconds)
        state = StreamerLease(database).read()
    status = StreamerStatus.parse(state.status)
    writer = status.writer
    if as_json:
        output.document({"epoch": state.epoch, "status": state.status})
    else:
        output.line(
            f"epoch {state.epoch} ended: {status.streamed_contracts or 0} contracts streamed, "
            f"{writer.rows} rows in {writer.commits} commits, last Delta version {writer.last_version}"
        )
        if writer.last_compaction_error is not None:
            output.notice(f"compaction fails, the rows are safe: {writer.last_compaction_error}")


def _stop(settings: Settings, *, as_json: bool) -> None:
    from v6_pipeline.state.leases.streamer import StreamerLease
    from v6_pipeline.streaming import control

    with home.open_state(settings, must_exist=True) as database:
        dead = control.clear_dead(settings, database)
        running = control.live_lease(database)
        if running is None:
            StreamerLease(database).request_stop()
        elif not control.stop_and_wait(database, running.epoch, seconds=STOP_SECONDS, sleep=time.sleep):
            raise FencedError(
                f"the streamer, pid {running.pid} on {running.host}, did not stop within {STOP_SECONDS} s: "
                f"see {settings.log_dir}/streamer.log, then end this process"
            )
    if as_json:
        of_process = {name: getattr(running, name, None) for name in ("pid", "host", "epoch")}
        output.document({"stopped": running is not None, **of_process, "desired_state": "stop"})
        return
    if running is not None:
        output.line(f"stopped the streamer, pid {running.pid} on {running.host}")
    elif dead is not None:
        output.line(f"no streamer runs: pid {dead.pid} had died; its lease is released")
    else:
        output.line("no streamer runs")
    output.notice("ib_streamer_sensor starts no streamer until 'v6 stream --start'")


def _start(settings: Settings, *, as_json: bool) -> None:
    from v6_pipeline.state.leases.streamer import StreamerLease

    with home.open_state(settings, must_exist=True) as database:
        StreamerLease(database).request_run()
    said = "the stop request is withdrawn: ib_streamer_sensor starts the streamer at its next tick"
    output.result({"desired_state": "run"}, said, as_json=as_json)
