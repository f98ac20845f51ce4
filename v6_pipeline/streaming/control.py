"""Who starts and renews the streamer: the control plane behind ``ib_streamer_sensor``.

``decide`` is a pure function of the lease and the process; ``StreamerControl`` carries it out. No Dagster here, so that
another scheduler could own the streamer in the same way.
"""

from __future__ import annotations

import enum
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psutil

import v6_pipeline
from v6_pipeline.errors import StateError
from v6_pipeline.settings import Settings, StreamerMode
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.leases.leases import (
    DesiredState,
    GrantedBy,
    ProcessIdentity,
    StreamerLease,
    StreamerLeaseState,
)
from v6_pipeline.state.slots.ledger import SlotLedger, stream_holder
from v6_pipeline.streaming.status import StreamerStatus

log = logging.getLogger(__name__)

START_DEADLINE = timedelta(seconds=60)
"""A started process says which one it is within two seconds; one that has not by then did not come up."""
HUNG_AFTER = timedelta(seconds=60)
"""A living streamer reports each second; one that has not for so long is stopped or hung."""
RESTART_PAUSE = timedelta(seconds=20)
"""A streamer that failed is started again no sooner after its start: it would be started six times a minute."""
CLOSING = timedelta(seconds=15)
"""A streamer whose lease ran out cancels, flushes and ends within that; one that is still there stands still."""

KILL_SECONDS = 1
"""A killed process is gone within milliseconds; a tick must not wait longer for one that is not."""

Spawn = Callable[[Settings, int], None]


class Action(enum.StrEnum):
    """What a tick does."""

    START = "start"
    """Claim the lease and start the process."""
    RENEW = "renew"
    GRANT = "grant"
    """Renew, or offer the lease to the streamer that a supervisor keeps running."""
    REPLACE = "replace"
    """The owner is dead or hung: end its lease, then start or grant."""
    LEAVE = "leave"
    """A streamer that runs without Dagster: not ours."""
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why in words that a tick can show."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class ControlOutcome:
    """What a tick did, and the lease after it."""

    decision: Decision
    lease: StreamerLeaseState


def decide(lease: StreamerLeaseState, *, alive: bool | None, mode: StreamerMode, now: datetime) -> Decision:
    """What the streamer needs now.

    Args:
        lease: as it is.
        alive: whether the owner's process runs; None if it has not said which it is, or is on another host.
        mode: who starts the streamer.
        now: UTC.
    """
    if lease.is_live(now) and lease.granted_by is GrantedBy.SELF:
        return Decision(
            Action.LEAVE, f"a streamer runs without Dagster (pid {lease.pid} on {lease.host}); it is left be"
        )
    if lease.desired_state is DesiredState.STOP:
        return Decision(Action.WAIT, "stopped on request; 'v6 stream --start' lets it run again")
    if lease.is_live(now):
        fault = _fault(lease, alive=alive, now=now)
        if fault is not None and _starts_too_often(lease, now):
            return Decision(Action.WAIT, f"{fault}; it is started again in {_rest(lease, now)} s")
        if fault is not None:
            return Decision(Action.REPLACE, fault)
        action = Action.GRANT if mode is StreamerMode.SUPERVISED else Action.RENEW
        return Decision(action, f"renewed epoch {lease.epoch}")
    return _decide_without_lease(lease, alive=alive, mode=mode, now=now)


def _decide_without_lease(
    lease: StreamerLeaseState, *, alive: bool | None, mode: StreamerMode, now: datetime
) -> Decision:
    """What a streamer needs that nobody owns, or whose lease ran out."""
    if mode is StreamerMode.SUPERVISED:
        return Decision(Action.GRANT, "lease offered; 'v6 stream --owned' takes it")
    if alive and lease.granted_by is GrantedBy.SENSOR:
        # Its connection keeps the client id, so that the next one could never connect.
        silence = now - (lease.heartbeat_at or lease.claimed_at or now)
        who = f"streamer of epoch {lease.epoch} (pid {lease.pid})"
        if silence <= CLOSING:
            return Decision(Action.WAIT, f"{who} is closing: its lease ran out")
        return Decision(Action.REPLACE, f"{who} outlived its lease and has not reported for {_seconds(silence)} s")
    error = StreamerStatus.parse(lease.status).error
    if error is not None and _starts_too_often(lease, now):
        return Decision(Action.WAIT, f"the streamer failed: {error}; it is started again in {_rest(lease, now)} s")
    return Decision(Action.START, f"started; before that it failed: {error}" if error else "started")


def _fault(lease: StreamerLeaseState, *, alive: bool | None, now: datetime) -> str | None:
    """Why the owner of a live lease is no good."""
    if lease.pid is None:
        claimed_at = lease.claimed_at or now
        return (
            f"epoch {lease.epoch} did not come up: see streamer.out in the logs"
            if now - claimed_at > START_DEADLINE
            else None
        )
    if alive is False:
        return f"streamer of epoch {lease.epoch} (pid {lease.pid}) has died"
    seen = lease.heartbeat_at or lease.claimed_at or now
    if now - seen > HUNG_AFTER:
        return f"streamer of epoch {lease.epoch} (pid {lease.pid}) has not reported for {_seconds(now - seen)} s"
    return None


def _seconds(span: timedelta) -> int:
    return round(span.total_seconds())


def _starts_too_often(lease: StreamerLeaseState, now: datetime) -> bool:
    return lease.claimed_at is not None and now - lease.claimed_at < RESTART_PAUSE


def _rest(lease: StreamerLeaseState, now: datetime) -> int:
    claimed_at = lease.claimed_at or now
    return max(0, round((claimed_at + RESTART_PAUSE - now).total_seconds()))


class StreamerControl:
    """Carries out one decision per ``tick``; well under a second, and never waits for the broker.

    Args:
        settings: of this home.
        database: state.
        clock: UTC now.
        spawn: starts the streamer's process for an epoch.
    """

    def __init__(self, settings: Settings, database: StateDatabase, clock: Clock, spawn: Spawn | None = None) -> None:
        self._settings = settings
        self._lease = StreamerLease(database, clock)
        self._ledger = SlotLedger.from_settings(settings, database, clock)
        self._clock = clock
        self._spawn = spawn or spawn_streamer

    def tick(self) -> ControlOutcome:
        """Look, decide, act.

        Raises:
            StateError: the state database cannot be used, or the process cannot be started.
        """
        lease = self._lease.read()
        alive = _is_alive(lease)
        decision = decide(lease, alive=alive, mode=self._settings.streamer, now=self._clock())
        is_gone = alive is False
        if decision.action is Action.REPLACE:
            # The epoch ends before anything else: from here on the old owner can write nothing, even if it wakes.
            self._lease.release(lease.epoch)
            is_gone = _end_process(lease)
        if is_gone and decision.action in {Action.START, Action.REPLACE, Action.GRANT}:
            # It has no connection any more, so IB has its lines back: they need not wait to expire. One whose lease ran
            # out while Dagster was away is started anew and not replaced, and left its slots all the same.
            self._ledger.release(stream_holder(lease.epoch))
        seconds = self._settings.lease_seconds
        if decision.action is Action.RENEW:
            self._lease.renew(lease.epoch, ttl_seconds=seconds)
        elif decision.action in {Action.START, Action.REPLACE, Action.GRANT}:
            if self._settings.streamer is StreamerMode.SUPERVISED:
                self._lease.grant(ttl_seconds=seconds)
            else:
                self._start(seconds)
        return ControlOutcome(decision, self._lease.read())

    def _start(self, seconds: float) -> None:
        owner = f"sensor/{ProcessIdentity.current().owner}"
        epoch = self._lease.claim(owner, granted_by=GrantedBy.SENSOR, ttl_seconds=seconds)
        if epoch is None:  # another daemon's tick was first
            return
        try:
            self._spawn(self._settings, epoch)
        except BaseException as error:
            self._lease.release(epoch)
            if isinstance(error, OSError):
                raise StateError(f"cannot start the streamer: {error}") from error
            raise


def _identity(lease: StreamerLeaseState) -> ProcessIdentity | None:
    if lease.host is None or lease.pid is None or lease.pid_started_at is None:
        return None
    return ProcessIdentity(host=lease.host, pid=lease.pid, started_at=lease.pid_started_at)


def _is_alive(lease: StreamerLeaseState) -> bool | None:
    identity = _identity(lease)
    return None if identity is None else identity.is_alive()


def _end_process(lease: StreamerLeaseState) -> bool:
    """End an owner's process, where pid and start time both match, for pids are reused; whether it is gone for sure."""
    identity = _identity(lease)
    if identity is None:
        return False
    if identity.is_alive():
        log.warning("killing hung streamer, pid %d", identity.pid)
        try:
            psutil.Process(identity.pid).kill()
        except psutil.Error as error:
            log.warning("killing pid %d: %s", identity.pid, error)
    # Looked at and not waited for: a wait would take the exit status from whoever started it.
    deadline = time.monotonic() + KILL_SECONDS
    while identity.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    return identity.is_alive() is False


_children: list[subprocess.Popen[bytes]] = []
"""Started by this process: polled at each start, or a dead one would stay a zombie under a living code server."""


def spawn_streamer(settings: Settings, epoch: int) -> None:
    """Start ``python -m v6_pipeline.streamer`` detached: it outlives the code server, and its lease ends it.

    Raises:
        OSError: the process or its log file cannot be created.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    # Dagster's variables would tie the child to an instance that it has no business with.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    environment["V6_HOME"] = str(settings.home)
    package_root = str(Path(v6_pipeline.__file__).parents[1])
    paths = [package_root, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    with (settings.log_dir / "streamer.out").open("ab") as output:
        _children.append(
            subprocess.Popen(
                [sys.executable, "-m", "v6_pipeline.streamer", "--epoch", str(epoch)],
                # In this process's folder: relative paths in the settings and modules of V6_HANDLERS count from it.
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                close_fds=True,
                start_new_session=True,
            )
        )
