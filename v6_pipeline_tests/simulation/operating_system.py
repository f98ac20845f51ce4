"""The operating system of simulated processes: process ids, signals, and the opening of databases.

The only places where the product is patched: a pid of the simulation is none of the machine's, and a power cut, for
which the database flushes to the disk, is tested elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

from ib_async import Ticker
from sqlalchemy import URL, Engine, event

from v6_pipeline.refresh import quotes
from v6_pipeline.refresh.quotes import QuoteTimeouts
from v6_pipeline.state import database, engines
from v6_pipeline.state.instants import DatabaseClock
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import StreamerLeaseState
from v6_pipeline.streaming import control as streamer_control
from v6_pipeline.streaming import stream_lines
from v6_pipeline.streaming.streamer import IBPositionStreamer
from v6_pipeline_tests.simulation.loop import PROCESS, SimulatedProcess, VirtualLoop

HERE, ELSEWHERE = "here", "elsewhere"
_DAEMON_PID = 1


def identity_of(process: SimulatedProcess | None, loop: VirtualLoop) -> ProcessIdentity:
    """A process as leases name it; outside of any it is Dagster's daemon."""
    if process is None:
        return ProcessIdentity(host=HERE, pid=_DAEMON_PID, started_at=loop.utc_begin)
    host = HERE if process.reachable else ELSEWHERE
    return ProcessIdentity(host=host, pid=process.pid, started_at=process.started_at)


@contextlib.contextmanager
def simulated_operating_system(loop: VirtualLoop) -> Iterator[None]:
    """Let the product see the loop's processes instead of the machine's."""

    def find(pid: int | None) -> SimulatedProcess | None:
        return next((process for process in loop.processes if process.pid == pid), None)

    def current() -> ProcessIdentity:
        return identity_of(PROCESS.get(), loop)

    def is_alive(identity: ProcessIdentity) -> bool | None:
        process = find(identity.pid)
        if identity.host != HERE:
            return None
        return process is not None and process.is_alive

    def end_process(lease: StreamerLeaseState) -> bool:
        process = find(lease.pid)
        if process is None or lease.host != HERE:
            return False
        loop.kill_process(process)
        return True

    def hash_of(ticker: Ticker) -> int:
        return ticker.contract.conId if ticker.contract else 0

    with (
        patch.object(ProcessIdentity, "current", staticmethod(current)),
        patch.object(ProcessIdentity, "is_alive", is_alive),
        patch.object(streamer_control, "_end_process", end_process),
        _one_engine(),
        # A look at the ledger takes longer than most answers of the gateway do here: four of five find nothing new.
        patch.object(quotes, "QuoteTimeouts", partial(QuoteTimeouts, confirmation_poll=0.25, poll=1.0)),
        patch.object(stream_lines, "CONFIRMATION_POLL_SECONDS", 0.25),
        # By default a hash is a memory address, and with it the order of a set of tickers: another in each run.
        patch.object(Ticker, "__hash__", hash_of),
        patch.object(IBPositionStreamer, "_in_process", False),
    ):
        yield


@contextlib.contextmanager
def _one_engine() -> Iterator[None]:
    """Let all processes share one engine and its compiled SQL: compiling it in each takes a third of a day's cost."""
    made: dict[str, Engine] = {}
    make = engines._engine

    def engine_of(url: URL, busy_seconds: float, clock: DatabaseClock) -> Engine:
        name = url.render_as_string(hide_password=False)
        if name not in made:
            made[name] = make(url, busy_seconds, clock)
            event.listen(made[name], "connect", _never_flush)
        return made[name]

    try:
        with patch.object(engines, "_engine", engine_of), patch.object(database.StateDatabase, "close", _keep_open):
            yield
    finally:
        for engine in made.values():
            engine.dispose()


def _keep_open(_database: database.StateDatabase) -> None:
    """The engine is closed with the world."""


def _never_flush(raw: Any, _record: object) -> None:
    raw.execute("PRAGMA synchronous=OFF")


def forget_other_streamers() -> None:
    """'One streamer per process' is kept in a class, which all simulated processes share: call before starting one."""
    IBPositionStreamer._in_process = False
