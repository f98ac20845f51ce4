"""Control of the streamer's process from outside: start, renew, replace and end it.

Belongs here: ``decide``, a pure function of the lease and the process; ``StreamerControl``, which carries its decision
out for ``ib_streamer_sensor``; and the ending of a streamer for the command line. No Dagster here, so that another
scheduler could own the streamer in the same way. The process's own work is in ``v6_pipeline.streamer``.
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
from v6_pipeline.state.leases.process import ProcessIdentity, space_of
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease, StreamerLeaseState
from v6_pipeline.state.slots.ledger import SlotLedger, stream_holder
from v6_pipeline.streaming.status import StreamerStatus

log = logging.getLogger(__name__)

START_DEADLINE = timedelta(seconds=60)
"""A started process registers in the lease within two seconds; one that has not after this long failed to start."""
HUNG_AFTER = timedelta(seconds=60)
"""A running streamer reports every second; one that has been silent for this long is stopped or hung."""
UNSEEN_AFTER = timedelta(seconds=15)
"""The same for a process that cannot be seen from here, such as one of the container before this one: it may be dead.
If it lives after all, its epoch is over and its next report, which it makes every second, ends it. A report proves
life; another boot of the machine proves no death, as two machines may have the same host name."""
RESTART_PAUSE = timedelta(seconds=20)
"""Shortest time between two starts; without it a streamer that fails would be started six times a minute."""
CLOSING = timedelta(seconds=15)
"""A streamer whose lease expired cancels, flushes and ends within this time; one that still runs then is hung."""

KILL_SECONDS = 1
"""A killed process ends within milliseconds; a tick must not wait longer for one that does not."""
POLL_SECONDS = 0.2

Spawn = Callable[[Settings, int], None]
"""Starts the streamer's process for an epoch."""


class Action(enum.StrEnum):
    """Action of a tick."""

    START = "start"
    """Claim the lease and start the process."""
    RENEW = "renew"
    GRANT = "grant"
    """Renew the lease, or offer it to the streamer that a supervisor keeps running."""
    REPLACE = "replace"
    """End the lease of an owner that is dead or hung, then start or grant."""
    LEAVE = "leave"
    """Leave alone a streamer that runs without Dagster."""
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action and its reason, which the tick shows."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class ControlOutcome:
    """The decision that a tick carried out, and the lease after it."""

    decision: Decision
    lease: StreamerLeaseState


def decide(lease: StreamerLeaseState, *, alive: bool | None, mode: StreamerMode, now: datetime) -> Decision:
    """Decide what the streamer needs now; ``alive`` is None if its process has not registered or is on another host."""
    if lease.is_live(now) and lease.granted_by is GrantedBy.SELF:
        return Decision(
            Action.LEAVE, f"a streamer runs without Dagster (pid {lease.pid} on {lease.host}); it is left running"
        )
    if lease.desired_state is DesiredState.STOP:
        return Decision(Action.WAIT, "stopped on request; start it again with 'v6 stream --start'")
    if lease.is_live(now):
        fault = _reason_to_replace(lease, alive=alive, now=now)
        if fault is not None:
            return _after_pause(Decision(Action.REPLACE, fault), fault, lease, now)
        action = Action.GRANT if mode is StreamerMode.SUPERVISED else Action.RENEW
        return Decision(action, f"renewed epoch {lease.epoch}")
    return _decide_without_lease(lease, alive=alive, mode=mode, now=now)


def _decide_without_lease(
    lease: StreamerLeaseState, *, alive: bool | None, mode: StreamerMode, now: datetime
) -> Decision:
    if mode is StreamerMode.SUPERVISED:
        return Decision(Action.GRANT, "lease offered to a process of 'v6 stream --owned'")
    if alive and lease.granted_by is GrantedBy.SENSOR:
        # While this streamer runs, its connection holds the client id, and the next streamer cannot connect.
        silence = _silence(lease, now)
        who = f"streamer of epoch {lease.epoch} (pid {lease.pid})"
        if silence <= CLOSING:
            return Decision(Action.WAIT, f"{who} is closing: its lease expired")
        return Decision(
            Action.REPLACE, f"{who} still runs after its lease expired and has not reported for {_seconds(silence)} s"
        )
    error = StreamerStatus.parse(lease.status).error
    if error is None:
        return Decision(Action.START, "started")
    start = Decision(Action.START, f"started; before that it failed: {error}")
    return _after_pause(start, f"the streamer failed: {error}", lease, now)


def _after_pause(decision: Decision, fault: str, lease: StreamerLeaseState, now: datetime) -> Decision:
    """Return ``decision``, or a wait while the last start is less than ``RESTART_PAUSE`` ago."""
    pause = timedelta() if lease.claimed_at is None else lease.claimed_at + RESTART_PAUSE - now
    if pause <= timedelta():
        return decision
    return Decision(Action.WAIT, f"{fault}; the next start is in {_seconds(pause)} s")


def _reason_to_replace(lease: StreamerLeaseState, *, alive: bool | None, now: datetime) -> str | None:
    if lease.pid is None:
        is_late = now - (lease.claimed_at or now) > START_DEADLINE
        return f"the streamer of epoch {lease.epoch} did not come up: see streamer.out in the logs" if is_late else None
    if alive is False:
        return f"streamer of epoch {lease.epoch} (pid {lease.pid}) has died"
    silence = _silence(lease, now)
    if silence > (UNSEEN_AFTER if _is_unseen(lease, alive=alive) else HUNG_AFTER):
        return f"streamer of epoch {lease.epoch} (pid {lease.pid}) has not reported for {_seconds(silence)} s"
    return None


def _silence(lease: StreamerLeaseState, now: datetime) -> timedelta:
    return now - (lease.heartbeat_at or lease.claimed_at or now)


def _is_unseen(lease: StreamerLeaseState, *, alive: bool | None) -> bool:
    """Return True if only reports can show that the owner's process, which has registered and reported, lives."""
    return alive is None and lease.pid is not None and lease.heartbeat_at is not None


def _seconds(span: timedelta) -> int:
    return round(span.total_seconds())


class StreamerControl:
    """Carries out one decision per ``tick``, which takes well under a second and never waits for the broker."""

    def __init__(self, settings: Settings, database: StateDatabase, clock: Clock, spawn: Spawn | None = None) -> None:
        self._settings = settings
        self._lease = StreamerLease(database, clock)
        self._ledger = SlotLedger.from_settings(settings, database, clock)
        self._clock = clock
        self._spawn = spawn or spawn_streamer

    def tick(self) -> ControlOutcome:
        """Read the lease, decide and act.

        Raises:
            StateError: the state database cannot be used, or the process cannot be started.
        """
        lease = self._lease.read()
        alive = _is_alive(lease)
        decision = decide(lease, alive=alive, mode=self._settings.streamer, now=self._clock())
        is_gone = alive is False
        if decision.action is Action.REPLACE:
            # Revoke the epoch first: from here on the old owner cannot write, even if it wakes up.
            self._lease.release(lease.epoch)
            is_gone = _end_process(lease)
        if is_gone and decision.action in {Action.START, Action.REPLACE, Action.GRANT}:
            # Its connection is gone, so IB has its lines back and the slots need not wait to expire. The same is
            # true if its lease expired while Dagster was away, although the action is then START and not REPLACE.
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


def process_of(lease: StreamerLeaseState) -> ProcessIdentity | None:
    """Return the identity of the owner's process; None until it has registered."""
    if lease.host is None or lease.pid is None or lease.pid_started_at is None:
        return None
    return ProcessIdentity(host=lease.host, pid=lease.pid, started_at=lease.pid_started_at, space=space_of(lease.owner))


def _is_alive(lease: StreamerLeaseState) -> bool | None:
    identity = process_of(lease)
    return None if identity is None else identity.is_alive()


def _end_process(lease: StreamerLeaseState) -> bool:
    """Kill an owner's process if pid and start time both match, as pids are reused; True if it is certainly gone."""
    identity = process_of(lease)
    if identity is None:
        return False
    if identity.is_alive():
        log.warning("killing hung streamer, pid %d", identity.pid)
        try:
            psutil.Process(identity.pid).kill()
        except psutil.Error as error:
            log.warning("killing pid %d: %s", identity.pid, error)
    # Polled, because waiting for it would take the exit status from its parent.
    deadline = time.monotonic() + KILL_SECONDS
    while identity.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    return identity.is_alive() is False


# For the command line


def live_lease(database: StateDatabase) -> StreamerLeaseState | None:
    """Return the lease of the streamer that may stream now; None if there is none."""
    lease = StreamerLease(database).read()
    return lease if lease.is_live(database.now()) else None


def clear_dead(settings: Settings, database: StateDatabase) -> StreamerLeaseState | None:
    """Release the lease of a streamer that died; return that lease, None if there is none.

    The lines of one that died on this host are free with it. One that cannot be seen from here counts as dead once it
    has not reported for ``UNSEEN_AFTER``; its lines stay until the next streamer has its client id.
    """
    lease = live_lease(database)
    if lease is None:
        return None
    alive = _is_alive(lease)
    if alive is False:
        _release(settings, database, lease)
        return lease
    if _is_unseen(lease, alive=alive) and _silence(lease, database.now()) > UNSEEN_AFTER:
        StreamerLease(database).release(lease.epoch)
        return lease
    return None


def await_unseen(database: StateDatabase, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until the owner of a live lease, if it cannot be seen from here, reports again or has been silent too long.

    In a container that was restarted after a crash, the last report of the dead streamer is a few seconds old.
    """
    first = live_lease(database)
    if first is None or not _is_unseen(first, alive=_is_alive(first)):
        return
    deadline = time.monotonic() + UNSEEN_AFTER.total_seconds() + 1
    while time.monotonic() < deadline:
        lease = live_lease(database)
        if lease is None or (lease.epoch, lease.heartbeat_at) != (first.epoch, first.heartbeat_at):
            return
        if _silence(lease, database.now()) > UNSEEN_AFTER:
            return
        sleep(POLL_SECONDS)


def stop_and_wait(database: StateDatabase, epoch: int, *, seconds: float, sleep: Callable[[float], None]) -> bool:
    """Request a stop and wait until ``epoch`` no longer has a lease; False if it still has one after ``seconds``."""
    StreamerLease(database).request_stop()
    deadline = time.monotonic() + seconds
    while True:
        lease = live_lease(database)
        if lease is None or lease.epoch != epoch:
            return True
        if time.monotonic() >= deadline:
            return False
        sleep(POLL_SECONDS)


def end_spawned(settings: Settings, database: StateDatabase, *, seconds: float) -> StreamerLeaseState | None:
    """End the streamer that the sensor of this home started, by force after ``seconds``; return its lease.

    One that runs without Dagster or on another host belongs to someone else and is left running.
    """
    clear_dead(settings, database)
    lease = live_lease(database)
    if lease is None or lease.granted_by is not GrantedBy.SENSOR:
        return None
    if lease.host is not None and _is_alive(lease) is None:
        return None
    if not stop_and_wait(database, lease.epoch, seconds=seconds, sleep=time.sleep):
        if process_of(lease) is None or _end_process(lease):
            _release(settings, database, lease)
        else:
            log.warning("the streamer still runs: its lease and its lines stay until they expire")
    return lease


def _release(settings: Settings, database: StateDatabase, lease: StreamerLeaseState) -> None:
    """End the lease of a dead streamer; its connection is gone, so its lines are free."""
    SlotLedger.from_settings(settings, database).release(stream_holder(lease.epoch))
    StreamerLease(database).release(lease.epoch)


# The process


_children: list[subprocess.Popen[bytes]] = []
"""Started by this process; polled at each start, or dead ones would stay zombies while the code server lives."""


def spawn_streamer(settings: Settings, epoch: int) -> None:
    """Start ``python -m v6_pipeline.streamer`` detached: it outlives the code server and ends with its lease.

    Raises:
        OSError: the process or its log file cannot be created.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    # With Dagster's variables the child would use another instance than its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    environment["V6_HOME"] = str(settings.home)
    package_root = str(Path(v6_pipeline.__file__).parents[1])
    paths = [package_root, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    with (settings.log_dir / "streamer.out").open("ab") as output:
        _children.append(
            subprocess.Popen(
                [sys.executable, "-m", "v6_pipeline.streamer", "--epoch", str(epoch)],
                # In this process's folder: relative paths in the settings and modules of V6_HANDLERS start from it.
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                close_fds=True,
                start_new_session=True,
            )
        )
