"""Ending a streamer from the command line. The streamer is a bare process here: only its lease matters."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from v6_pipeline.model import SlotPurpose
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease
from v6_pipeline.streaming import control
from v6_pipeline.streaming.status import StreamerStatus, WriterStatus
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.cli.conftest import Run
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.streaming.control_doubles import in_another_container


@pytest.fixture
def database(settings: Settings) -> Iterator[StateDatabase]:
    opened = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    yield opened
    opened.close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ignores a stop request."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as started:
        yield started
        started.kill()


def claim(database: StateDatabase, pid: int, granted_by: GrantedBy = GrantedBy.SENSOR) -> int:
    identity = ProcessIdentity.of(pid)
    epoch = StreamerLease(database).claim(identity.owner, granted_by=granted_by, ttl_seconds=120, process=identity)
    assert epoch is not None
    return epoch


def test_the_lease_and_lines_of_a_dead_streamer_are_cleared(
    settings: Settings, database: StateDatabase, process: subprocess.Popen[bytes]
) -> None:
    epoch = claim(database, process.pid)
    ledger = StepLedger(database, ceiling=90, batch_floor=10)
    ledger.acquire([1, 2], holder=f"streamer/{epoch}", purpose=SlotPurpose.STREAM, ttl_seconds=60)
    assert control.clear_dead(settings, database) is None
    process.kill()
    process.wait()
    cleared = control.clear_dead(settings, database)
    assert cleared is not None
    assert cleared.pid == process.pid
    assert control.live_lease(database) is None
    assert ledger.usage().slots == ()


@pytest.mark.parametrize("silence", [15, 16])
def test_one_of_an_earlier_container_is_cleared_once_it_is_silent_for_long(
    settings: Settings, database: StateDatabase, monkeypatch: pytest.MonkeyPatch, silence: int
) -> None:
    """A restarted container was refused its lease for two minutes; its lines wait for the next connection."""
    clock = ManualClock()
    lease = StreamerLease(database, clock)
    process = in_another_container()
    epoch = lease.claim(process.owner, granted_by=GrantedBy.SELF, ttl_seconds=120, process=process)
    assert epoch is not None
    lease.heartbeat(epoch, {})
    ledger = StepLedger(database, ceiling=90, batch_floor=10)
    ledger.acquire([1, 2], holder=f"streamer/{epoch}", purpose=SlotPurpose.STREAM, ttl_seconds=60)
    clock.advance(silence)
    monkeypatch.setattr(database, "now", clock)

    cleared = control.clear_dead(settings, database)

    assert (cleared is not None) is (silence > 15)
    assert (lease.read().owner is None) is (silence > 15)
    assert len(ledger.usage().slots) == 2


@pytest.mark.parametrize("lives", [True, False])
def test_a_start_waits_until_an_unseen_streamer_reports_or_is_silent_for_long(
    settings: Settings, database: StateDatabase, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    clock = ManualClock()
    lease = StreamerLease(database, clock)
    process = in_another_container()
    epoch = lease.claim(process.owner, granted_by=GrantedBy.SELF, ttl_seconds=120, process=process)
    assert epoch is not None
    lease.heartbeat(epoch, {})
    clock.advance(3)
    monkeypatch.setattr(database, "now", clock)
    waits = 0

    def sleep(_seconds: float) -> None:
        nonlocal waits
        waits += 1
        clock.advance(1)
        if lives:
            lease.heartbeat(epoch, {})

    control.await_unseen(database, sleep=sleep)

    assert waits == (1 if lives else 13)
    assert (control.clear_dead(settings, database) is None) is lives


def test_a_streamer_that_does_not_stop_is_killed(
    settings: Settings, database: StateDatabase, process: subprocess.Popen[bytes]
) -> None:
    claim(database, process.pid)
    ended = control.end_spawned(settings, database, seconds=0)
    assert ended is not None
    assert process.wait(5) == -signal.SIGKILL
    assert control.live_lease(database) is None


def test_one_that_runs_without_dagster_is_left_running(
    settings: Settings, database: StateDatabase, process: subprocess.Popen[bytes]
) -> None:
    claim(database, process.pid, GrantedBy.SELF)
    assert control.end_spawned(settings, database, seconds=0) is None
    assert process.poll() is None
    assert control.live_lease(database) is not None


def test_waiting_ends_when_the_lease_is_given_back(database: StateDatabase) -> None:
    epoch = claim(database, os.getpid())
    lease = StreamerLease(database)

    def obey(_seconds: float) -> None:
        assert lease.read().desired_state is DesiredState.STOP
        lease.release(epoch)

    assert control.stop_and_wait(database, epoch, seconds=10, sleep=obey)


def test_stop_and_start_without_a_streamer(v6: Run, database: StateDatabase) -> None:
    stopped = v6("stream", "--stop")
    assert (stopped.code, stopped.out) == (0, "no streamer runs\n")
    assert "v6 stream --start" in stopped.err
    assert StreamerLease(database).read().desired_state is DesiredState.STOP
    assert v6("stream", "--start", "--json").document == {"desired_state": "run"}
    assert StreamerLease(database).read().desired_state is DesiredState.RUN


def test_a_streamer_that_does_not_stop_in_time_is_named(
    v6: Run, database: StateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v6_pipeline.cli.commands.stream.STOP_SECONDS", 0)
    claim(database, os.getpid())
    result = v6("stream", "--stop")
    assert result.code == 1
    assert f"pid {os.getpid()}" in result.error
    assert "did not stop within 0 s" in result.error


def test_a_failed_compaction_is_shown_at_the_end(
    v6: Run, database: StateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_process(_settings: Settings, **_: object) -> None:
        lease = StreamerLease(database)
        epoch = claim(database, os.getpid(), GrantedBy.SELF)
        writer = WriterStatus(rows=3, commits=1, last_version=7, last_compaction_error="no space left")
        lease.heartbeat(epoch, StreamerStatus(streamed_contracts=2, writer=writer).as_json())
        lease.release(epoch)

    monkeypatch.setattr("v6_pipeline.streamer.run_process", run_process)
    monkeypatch.setattr("v6_pipeline.streamer.log_to_file", lambda _folder: None)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    result = v6("stream", "--seconds", "1")

    assert result.code == 0
    assert result.out.endswith(" ended: 2 contracts streamed, 3 rows in 1 commits, last Delta version 7\n")
    assert result.err == "compaction fails, the rows are safe: no space left\n"
