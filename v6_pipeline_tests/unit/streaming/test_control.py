"""Start, renewal and replacement of the streamer."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import v6_pipeline
from v6_pipeline.defs.streamer_sensor import TICK_SECONDS
from v6_pipeline.errors import StateError
from v6_pipeline.model import SlotPurpose
from v6_pipeline.settings import Settings, StreamerMode
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease, StreamerLeaseState
from v6_pipeline.state.slots.ledger import stream_holder
from v6_pipeline.streaming import control as streamer_control
from v6_pipeline.streaming.control import (
    CLOSING,
    HUNG_AFTER,
    KILL_SECONDS,
    RESTART_PAUSE,
    START_DEADLINE,
    UNSEEN_AFTER,
    Action,
    Decision,
    StreamerControl,
    decide,
    spawn_streamer,
)
from v6_pipeline.streaming.policy import SLOT_RENEWAL
from v6_pipeline.streaming.stream_lines import (
    CANCEL_SECONDS,
    GIVE_UP_SECONDS,
    RENEWAL_SECONDS,
    SLOT_TTL_SECONDS,
    give_up_seconds,
)
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.streaming.control_doubles import Spawned, dead, elsewhere, in_another_container

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SPAWN, SUPERVISED = StreamerMode.SPAWN, StreamerMode.SUPERVISED


def lease(**changes: Any) -> StreamerLeaseState:
    """Return the lease of a healthy streamer: claimed ten minutes ago, last report a second ago."""
    values: dict[str, Any] = {
        "epoch": 3,
        "owner": "sensor/host:1",
        "host": "host",
        "pid": 42,
        "pid_started_at": NOW - timedelta(minutes=10),
        "claimed_at": NOW - timedelta(minutes=10),
        "expires_at": NOW + timedelta(seconds=110),
        "granted_by": GrantedBy.SENSOR,
        "heartbeat_at": NOW - SECOND,
    }
    return StreamerLeaseState(**(values | changes))


def free(**changes: Any) -> StreamerLeaseState:
    """Return a lease without an owner, after a streamer that ended."""
    return lease(owner=None, host=None, pid=None, pid_started_at=None, expires_at=None, granted_by=None, **changes)


def decided(state: StreamerLeaseState, *, alive: bool | None = True, mode: StreamerMode = SPAWN) -> Decision:
    return decide(state, alive=alive, mode=mode, now=NOW)


# The decision


@pytest.mark.parametrize(("mode", "action"), [(SPAWN, Action.RENEW), (SUPERVISED, Action.GRANT)])
@pytest.mark.parametrize("alive", [True, None])
def test_a_streamer_that_is_well_is_renewed(mode: StreamerMode, action: Action, alive: bool | None) -> None:
    assert decided(lease(), alive=alive, mode=mode) == Decision(action, "renewed epoch 3")


@pytest.mark.parametrize("state", [StreamerLeaseState(), free(), lease(expires_at=NOW)])
def test_without_a_streamer_one_is_started(state: StreamerLeaseState) -> None:
    assert decided(state, alive=None) == Decision(Action.START, "started")
    assert decided(state, alive=None, mode=SUPERVISED).action is Action.GRANT


@pytest.mark.parametrize("mode", [SPAWN, SUPERVISED])
@pytest.mark.parametrize("state", [lease(), free(), lease(expires_at=NOW - SECOND), lease(pid=None)])
@pytest.mark.parametrize("alive", [True, False, None])
def test_a_request_to_stop_is_respected(mode: StreamerMode, state: StreamerLeaseState, alive: bool | None) -> None:
    decision = decided(replace(state, desired_state=DesiredState.STOP), alive=alive, mode=mode)

    assert decision.action is Action.WAIT
    assert "stopped on request" in decision.reason


@pytest.mark.parametrize("mode", [SPAWN, SUPERVISED])
@pytest.mark.parametrize("alive", [True, False, None])
def test_a_streamer_without_dagster_is_left_running(mode: StreamerMode, alive: bool | None) -> None:
    decision = decided(lease(granted_by=GrantedBy.SELF, heartbeat_at=NOW - HUNG_AFTER * 2), alive=alive, mode=mode)

    assert decision == Decision(Action.LEAVE, "a streamer runs without Dagster (pid 42 on host); it is left running")


def test_once_it_has_ended_dagster_takes_over() -> None:
    assert decided(lease(granted_by=GrantedBy.SELF, expires_at=NOW)).action is Action.START


def test_one_that_outlives_its_lease_is_waited_for_and_then_ended() -> None:
    """Hung while Dagster was away, it would keep the client id from every next one."""
    closing = lease(expires_at=NOW, heartbeat_at=NOW - CLOSING)
    hung = replace(closing, heartbeat_at=NOW - CLOSING - SECOND)

    assert decided(closing) == Decision(Action.WAIT, "streamer of epoch 3 (pid 42) is closing: its lease expired")
    assert decided(hung) == Decision(
        Action.REPLACE, "streamer of epoch 3 (pid 42) still runs after its lease expired and has not reported for 16 s"
    )
    for ended in (False, None):
        assert decided(closing, alive=ended).action is Action.START
    assert decided(hung, mode=SUPERVISED).action is Action.GRANT, "its supervisor's business"
    assert decided(replace(hung, granted_by=GrantedBy.SELF)).action is Action.START, "a person's business"


def test_a_dead_streamer_is_replaced() -> None:
    assert decided(lease(), alive=False) == Decision(Action.REPLACE, "streamer of epoch 3 (pid 42) has died")


def test_one_that_dies_right_after_its_start_is_not_started_six_times_a_minute() -> None:
    young = lease(claimed_at=NOW - timedelta(seconds=10))

    assert decided(young, alive=False) == Decision(
        Action.WAIT, "streamer of epoch 3 (pid 42) has died; the next start is in 10 s"
    )
    assert decided(replace(young, claimed_at=NOW - RESTART_PAUSE), alive=False).action is Action.REPLACE


def test_one_that_cannot_be_seen_is_replaced_once_its_report_is_old() -> None:
    """The streamer of the container before this one was renewed six times after it had died."""
    old = lease(heartbeat_at=NOW - UNSEEN_AFTER)
    older = replace(old, heartbeat_at=NOW - UNSEEN_AFTER - SECOND)

    assert decided(old, alive=None).action is Action.RENEW
    assert decided(older, alive=True).action is Action.RENEW, "it is seen: only a long silence shows that it hangs"
    for mode in (SPAWN, SUPERVISED):
        assert decided(older, alive=None, mode=mode) == Decision(
            Action.REPLACE, "streamer of epoch 3 (pid 42) has not reported for 16 s"
        )
    assert decided(replace(older, granted_by=GrantedBy.SELF), alive=None).action is Action.LEAVE


@pytest.mark.parametrize("alive", [True, None])
def test_a_streamer_that_does_not_report_is_replaced(alive: bool | None) -> None:
    longest = HUNG_AFTER if alive else UNSEEN_AFTER
    assert decided(lease(heartbeat_at=NOW - longest), alive=alive).action is Action.RENEW
    assert decided(lease(heartbeat_at=NOW - HUNG_AFTER - SECOND), alive=alive) == Decision(
        Action.REPLACE, "streamer of epoch 3 (pid 42) has not reported for 61 s"
    )
    assert "for 86401 s" in decided(lease(heartbeat_at=NOW - timedelta(days=1, seconds=1)), alive=alive).reason


def test_one_that_never_reported_counts_from_its_claim() -> None:
    assert decided(lease(heartbeat_at=None, claimed_at=NOW - HUNG_AFTER)).action is Action.RENEW
    assert decided(lease(heartbeat_at=None, claimed_at=NOW - HUNG_AFTER - SECOND)).action is Action.REPLACE


def test_one_that_does_not_come_up_is_replaced() -> None:
    coming_up = lease(pid=None, host=None, heartbeat_at=None, claimed_at=NOW - START_DEADLINE)

    assert decided(coming_up, alive=None).action is Action.RENEW
    assert decided(replace(coming_up, claimed_at=NOW - START_DEADLINE - SECOND), alive=None) == Decision(
        Action.REPLACE, "the streamer of epoch 3 did not come up: see streamer.out in the logs"
    )


def test_one_that_failed_is_started_again_after_a_pause() -> None:
    failed = free(status={"error": "no gateway"}, claimed_at=NOW - timedelta(seconds=10))

    assert decided(failed, alive=None) == Decision(
        Action.WAIT, "the streamer failed: no gateway; the next start is in 10 s"
    )
    assert decided(replace(failed, claimed_at=NOW - RESTART_PAUSE), alive=None) == Decision(
        Action.START, "started; before that it failed: no gateway"
    )


# Carrying it out


@pytest.fixture
def spawned(sqlite_database: StateDatabase, clock: ManualClock) -> Spawned:
    return Spawned(sqlite_database, clock)


@pytest.fixture
def streamer_lease(sqlite_database: StateDatabase, clock: ManualClock) -> StreamerLease:
    return StreamerLease(sqlite_database, clock)


MakeControl = Callable[..., StreamerControl]


@pytest.fixture
def make_control(sqlite_database: StateDatabase, clock: ManualClock, spawned: Spawned, tmp_path: Path) -> MakeControl:
    def make(mode: StreamerMode = SPAWN) -> StreamerControl:
        return StreamerControl(Settings(home=tmp_path, streamer=mode), sqlite_database, clock, spawned)

    return make


@pytest.fixture
def control(make_control: MakeControl) -> StreamerControl:
    return make_control()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing for a long time."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_the_lease_is_claimed_before_the_process_is_started(
    control: StreamerControl, spawned: Spawned, clock: ManualClock
) -> None:
    outcome = control.tick()

    assert outcome.decision.action is Action.START
    assert spawned.epochs == [1]
    assert (outcome.lease.epoch, outcome.lease.granted_by) == (1, GrantedBy.SENSOR)
    assert outcome.lease.expires_at == clock.now + timedelta(seconds=120)


@pytest.mark.parametrize("process", [elsewhere(), in_another_container()], ids=["host", "container"])
def test_each_tick_renews(
    control: StreamerControl,
    spawned: Spawned,
    streamer_lease: StreamerLease,
    clock: ManualClock,
    process: ProcessIdentity,
) -> None:
    """A sensor in another PID namespace, under the same host name, declared the streamer dead again and again."""
    control.tick()
    streamer_lease.attach(1, process)
    for _ in range(30):
        clock.advance(10)
        streamer_lease.heartbeat(1, {})
        assert control.tick().decision.action is Action.RENEW

    assert spawned.epochs == [1]
    assert streamer_lease.read().expires_at == clock.now + timedelta(seconds=120)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (FileNotFoundError(2, "No such file", "python"), StateError),
        (ValueError("embedded null byte"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_a_process_that_cannot_be_started_leaves_the_lease_free(
    error: BaseException,
    raised: type[BaseException],
    control: StreamerControl,
    spawned: Spawned,
    streamer_lease: StreamerLease,
    clock: ManualClock,
) -> None:
    spawned.error = error
    with pytest.raises(raised):
        control.tick()
    assert streamer_lease.read().owner is None

    spawned.error = None
    control.tick()
    assert spawned.epochs == [2]


def test_a_dead_process_is_replaced(
    control: StreamerControl, spawned: Spawned, streamer_lease: StreamerLease, clock: ManualClock
) -> None:
    control.tick()
    streamer_lease.attach(1, dead())
    clock.advance(RESTART_PAUSE.total_seconds())

    outcome = control.tick()

    assert outcome.decision.action is Action.REPLACE
    assert spawned.epochs == [1, 2]
    assert (outcome.lease.epoch, outcome.lease.pid) == (2, None)


def test_a_hung_process_loses_its_lease_and_is_killed(
    control: StreamerControl,
    spawned: Spawned,
    streamer_lease: StreamerLease,
    clock: ManualClock,
    sleeper: subprocess.Popen[bytes],
) -> None:
    control.tick()
    streamer_lease.attach(1, ProcessIdentity.of(sleeper.pid))
    streamer_lease.heartbeat(1, {})
    clock.advance(HUNG_AFTER.total_seconds())
    assert control.tick().decision.action is Action.RENEW
    assert sleeper.poll() is None

    clock.advance(1)
    assert control.tick().decision.action is Action.REPLACE

    assert sleeper.wait(20) < 0
    assert spawned.epochs == [1, 2]


def test_one_that_hangs_is_killed_while_its_lines_are_its_own_in_the_ledger() -> None:
    """Lines stay taken while the gateway has them: another process that took them would exceed the limit."""
    killed_after = HUNG_AFTER.total_seconds() + 2 * TICK_SECONDS + KILL_SECONDS
    assert SLOT_TTL_SECONDS - SLOT_RENEWAL.total_seconds() > killed_after
    assert GIVE_UP_SECONDS + RENEWAL_SECONDS <= SLOT_TTL_SECONDS


@pytest.mark.parametrize(("lines", "seconds"), [(0, 80), (9, 80), (80, 63), (90, 59), (1000, 30)])
def test_lines_that_cannot_be_renewed_are_cancelled_before_they_expire(lines: int, seconds: float) -> None:
    """Cut off from the database a process sends at its share of the rate: 80 cancels take half a minute."""
    assert give_up_seconds(lines) == pytest.approx(seconds)
    assert lines > 150 or seconds + lines * CANCEL_SECONDS <= SLOT_TTL_SECONDS


@pytest.mark.parametrize("seconds", [RESTART_PAUSE.total_seconds(), 121.0], ids=["replaced", "its lease expired"])
def test_the_lines_of_a_dead_streamer_are_free_for_the_next_one(
    control: StreamerControl,
    streamer_lease: StreamerLease,
    sqlite_database: StateDatabase,
    clock: ManualClock,
    tmp_path: Path,
    seconds: float,
) -> None:
    """Otherwise its contracts cannot be streamed again before its slots expire."""
    control.tick()
    streamer_lease.attach(1, dead())
    clock.advance(seconds)
    ledger = StepLedger.from_settings(Settings(home=tmp_path), sqlite_database, clock)
    ledger.acquire([7], holder=stream_holder(1), purpose=SlotPurpose.STREAM, ttl_seconds=60)

    control.tick()

    assert ledger.usage().slots == ()


def test_a_process_with_a_reused_pid_is_not_killed(
    control: StreamerControl,
    streamer_lease: StreamerLease,
    clock: ManualClock,
    sleeper: subprocess.Popen[bytes],
) -> None:
    control.tick()
    identity = ProcessIdentity.of(sleeper.pid)
    streamer_lease.attach(1, replace(identity, started_at=identity.started_at - timedelta(hours=1)))
    clock.advance(RESTART_PAUSE.total_seconds())

    assert control.tick().decision.action is Action.REPLACE
    assert sleeper.poll() is None


def test_a_supervised_streamer_is_granted_and_never_started(
    make_control: MakeControl, spawned: Spawned, streamer_lease: StreamerLease, clock: ManualClock
) -> None:
    control = make_control(SUPERVISED)
    assert control.tick().decision.action is Action.GRANT
    epoch = streamer_lease.claim_grant("supervised", elsewhere())
    assert epoch == 1

    clock.advance(60)
    streamer_lease.heartbeat(epoch, {})
    outcome = control.tick()

    assert outcome.decision == Decision(Action.GRANT, "renewed epoch 1")
    assert outcome.lease.expires_at == clock.now + timedelta(seconds=120)
    assert spawned.epochs == []


def test_the_lease_of_a_hung_supervised_streamer_is_offered_again(
    make_control: MakeControl, spawned: Spawned, streamer_lease: StreamerLease, clock: ManualClock
) -> None:
    control = make_control(SUPERVISED)
    control.tick()
    streamer_lease.claim_grant("supervised", elsewhere())
    clock.advance(HUNG_AFTER.total_seconds() + 1)

    assert control.tick().decision.action is Action.REPLACE

    assert streamer_lease.claim_grant("supervised", elsewhere(2)) == 2
    assert spawned.epochs == []


def test_a_stopped_streamer_stays_stopped(
    control: StreamerControl, spawned: Spawned, streamer_lease: StreamerLease, clock: ManualClock
) -> None:
    control.tick()
    streamer_lease.attach(1, elsewhere())
    streamer_lease.request_stop()
    expires_at = streamer_lease.read().expires_at
    for _ in range(20):
        clock.advance(10)
        assert control.tick().decision.action is Action.WAIT
    assert spawned.epochs == [1]
    assert streamer_lease.read().expires_at == expires_at

    streamer_lease.request_run()
    control.tick()
    assert spawned.epochs == [1, 2]


def test_of_two_daemons_one_starts_it(make_control: MakeControl, spawned: Spawned) -> None:
    assert make_control().tick().decision.action is Action.START
    assert make_control().tick().decision.action is Action.RENEW
    assert spawned.epochs == [1]


# The process


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for Python")
def test_the_process_is_detached_and_knows_its_home_and_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(
        '#!/bin/sh\necho "arguments $*"\necho "folder $(pwd)"\nenv\necho "session $(ps -o sid= -p $$)"\n'
    )
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.setattr(streamer_control, "_children", [])
    monkeypatch.setenv("DAGSTER_HOME", "/not/for/the/child")
    monkeypatch.setenv("PYTHONPATH", "/extra/modules")
    monkeypatch.chdir(tmp_path)

    spawn_streamer(Settings(home=tmp_path / "home"), 7)
    (child,) = streamer_control._children
    assert os.getsid(child.pid) == child.pid
    assert child.wait(20) == 0

    said = (tmp_path / "home" / "logs" / "streamer.out").read_text().splitlines()
    assert "arguments -m v6_pipeline.streamer --epoch 7" in said
    assert f"V6_HOME={tmp_path / 'home'}" in said
    # Relative paths in the settings mean the same folder to it.
    assert f"folder {tmp_path}" in said
    package_root = Path(v6_pipeline.__file__).parents[1]
    assert f"PYTHONPATH={package_root}{os.pathsep}/extra/modules" in said
    assert not [line for line in said if line.startswith("DAGSTER_")]


def test_a_process_that_cannot_be_created_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))

    with pytest.raises(OSError, match="absent"):
        spawn_streamer(Settings(home=tmp_path / "home"), 7)
