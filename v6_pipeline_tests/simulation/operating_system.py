"""What simulated processes ask the operating system: who am I, does that one live, end it.

The only places where the product is patched: a pid of the simulation is none of the machine's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

from ib_async import Ticker

from v6_pipeline.sync import streamer_control
from v6_pipeline.sync.leases import ProcessIdentity, StreamerLeaseState
from v6_pipeline.sync.streamer import IBPositionStreamer
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
        # By default a hash is a memory address, and with it the order of a set of tickers: another in each run.
        patch.object(Ticker, "__hash__", hash_of),
        patch.object(IBPositionStreamer, "_in_process", False),
    ):
        yield


def forget_other_streamers() -> None:
    """'One streamer per process' is kept in a class, which all simulated processes share: call before starting one."""
    IBPositionStreamer._in_process = False
