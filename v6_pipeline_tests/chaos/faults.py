"""The faults: how each begins and ends. When they come is in ``schedule``.

A fault is drawn as a ``Planned``: its parameters are numbers, so that a seed gives the same plan whatever the processes
do in the meantime; ``which``, a fraction, selects among the processes of the moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import secrets
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import psutil

from v6_pipeline.errors import FencedError, StateError
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import StreamerLease
from v6_pipeline_tests.chaos.processes import wake
from v6_pipeline_tests.chaos.world import World

T = TypeVar("T")


class Fault(ABC):
    """One thing that goes wrong, or changes, or both.

    ``begin`` and ``end`` are called once each, ``end`` even if the world has gone on by itself.

    ``happened`` is false where there was nothing to break.
    """

    name: ClassVar[str]
    breaks: ClassVar[bool] = True
    """False for what is everyday life, after which nothing has to recover."""
    seconds: float = 0.0
    happened: bool = True

    @abstractmethod
    def begin(self, world: World) -> None:
        """Break something."""

    def step(self, world: World, elapsed: float) -> None:  # noqa: B027  (most only begin and end)
        """Called now and then while it lasts; ``elapsed`` seconds since its begin."""

    def end(self, world: World) -> None:  # noqa: B027  (what happens at once has no end)
        """Heal it."""


@dataclass(slots=True)
class KillStreamer(Fault):
    """kill -9 of the streamer."""

    name = "kill streamer"

    def begin(self, world: World) -> None:
        process = world.sensor.streamer
        self.happened = process is not None
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass(slots=True)
class StopStreamer(Fault):
    """SIGSTOP of the streamer, SIGCONT after ``seconds``."""

    name = "stop streamer"
    seconds: float
    _process: psutil.Process | None = None

    def begin(self, world: World) -> None:
        self._process = world.sensor.streamer
        self.happened = self._process is not None
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.suspend()

    def end(self, world: World) -> None:  # noqa: ARG002
        if self._process is not None:
            wake(self._process)


@dataclass(slots=True)
class StallPastLease(Fault):
    """The streamer stands still while Dagster is away, past its lease: the next one begins, and the old one wakes.

    As if on another host, where the sensor can neither see nor end it: only the fences keep the two apart.
    """

    name = "stall past lease"
    seconds: float
    overlap: float = 6.0
    """Seconds from Dagster's return, which starts the next streamer, until the old one wakes."""
    lease_left: float | None = None
    """Seconds left of the lease at the begin, so that a test need not wait for it; None leaves it unchanged."""
    _process: psutil.Process | None = None

    def begin(self, world: World) -> None:
        self._process = world.sensor.streamer
        self.happened = self._process is not None
        world.sensor.pause()
        if self._process is not None:
            _stall(world, self._process, self.lease_left, elsewhere=True)

    def step(self, world: World, elapsed: float) -> None:
        if elapsed >= self.seconds - self.overlap:
            world.sensor.resume()

    def end(self, world: World) -> None:
        world.sensor.resume()
        if self._process is not None:
            wake(self._process)


@dataclass(slots=True)
class HangPastLease(Fault):
    """The streamer hangs for good while Dagster is away; its connection keeps the client id from the next one."""

    name = "hang past lease"
    seconds: float
    lease_left: float | None = None
    """See ``StallPastLease``."""

    def begin(self, world: World) -> None:
        process = world.sensor.streamer
        self.happened = process is not None
        world.sensor.pause()
        if process is not None:
            _stall(world, process, self.lease_left, elsewhere=False)

    def end(self, world: World) -> None:
        world.sensor.resume()


def _stall(world: World, process: psutil.Process, lease_left: float | None, *, elsewhere: bool) -> None:
    """SIGSTOP, outside of the streamer's write transactions: SQLite's lock would stay with it and block all others.

    A lease that another fault has ended already needs nothing more.

    Raises:
        StateError: the database is locked by something else.
    """
    lease, epoch = StreamerLease(world.database), world.sensor.epoch
    for attempts_left in (2, 1, 0):
        try:
            with world.database.write():
                process.suspend()
                await_stopped(process)
            if elsewhere:
                lease.attach(epoch, replace(ProcessIdentity.of(process.pid), host="elsewhere"))
            if lease_left is not None:
                lease.renew(epoch, ttl_seconds=lease_left)
        except StateError:  # it got the lock before it stood still
            process.resume()
            if not attempts_left:
                raise
        except (psutil.NoSuchProcess, FencedError):
            return
        else:
            return


def await_stopped(process: psutil.Process, seconds: float = 30.0) -> None:
    """Wait until each thread is stopped: after the signal, one on another core may continue for a moment.

    Raises:
        TimeoutError: it runs on.
        psutil.NoSuchProcess: it ended.
    """
    deadline = time.monotonic() + seconds
    while any(_thread_state(process.pid, thread.id) not in {"T", "t", "X", "Z"} for thread in process.threads()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {process.pid} received SIGSTOP and still runs")
        time.sleep(0.001)


def _thread_state(pid: int, thread: int) -> str:
    """Return the kernel's letter for a thread; X, as if dead, for one that has ended, or without /proc."""
    try:
        stat = Path(f"/proc/{pid}/task/{thread}/stat").read_text()
    except OSError:
        return "X"
    return stat.rpartition(")")[2].split()[0]  # the name before it may hold anything


@dataclass(slots=True)
class SensorAway(Fault):
    """Dagster is down: the streamer's lease is not renewed."""

    name = "dagster away"
    seconds: float

    def begin(self, world: World) -> None:
        world.sensor.pause()

    def end(self, world: World) -> None:
        world.sensor.resume()


@dataclass(slots=True)
class KillWorker(Fault):
    """kill -9 of a refreshing worker."""

    name = "kill worker"
    which: float

    def begin(self, world: World) -> None:
        process = pick(world.workers.running, self.which)
        self.happened = process is not None
        if process is not None:
            world.workers.kill(process)


@dataclass(slots=True)
class StopWorker(Fault):
    """SIGSTOP of a refreshing worker, SIGCONT after ``seconds``."""

    name = "stop worker"
    which: float
    seconds: float
    _process: psutil.Process | None = None

    def begin(self, world: World) -> None:
        self._process = pick(world.workers.running, self.which)
        self.happened = self._process is not None
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.suspend()

    def end(self, world: World) -> None:  # noqa: ARG002
        if self._process is not None:
            wake(self._process)


@dataclass(slots=True)
class StopGateway(Fault):
    """SIGSTOP of the gateway: sockets stay open and nothing answers."""

    name = "stop gateway"
    seconds: float

    def begin(self, world: World) -> None:
        psutil.Process(world.gateway.process.pid).suspend()

    def end(self, world: World) -> None:
        psutil.Process(world.gateway.process.pid).resume()


@dataclass(slots=True)
class LakeAway(Fault):
    """The lake cannot be reached: a file stands where its folder was.

    A file, so that nothing can begin a second lake there, as nothing could on a share that is gone. Both change places
    in one step: between two, a process in the middle of a commit would create the folder again, and lose that commit.
    """

    name = "lake away"
    seconds: float
    _folder: Path | None = None

    def begin(self, world: World) -> None:
        folder = Path(world.settings.lake_root)
        if not folder.is_dir():
            self.happened = False
            return
        aside = _aside(folder)
        aside.touch()
        if exchange(folder, aside):
            self._folder = folder
        else:
            aside.unlink()
            self.happened = False

    def end(self, world: World) -> None:
        folder = self._folder
        if folder is None:
            return
        if folder.is_dir():
            world.violations.add("no second lake", f"{folder} was created while the lake was away")
        aside = _aside(folder)
        exchange(folder, aside)
        if aside.is_dir():  # kept to be looked at, where the next one does not take it for its file
            aside.rename(folder.with_name(f"lake.second-{secrets.token_hex(4)}"))
        elif aside.is_file():
            aside.unlink()


def _aside(folder: Path) -> Path:
    return folder.with_name("lake.away")


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system cannot (``renameat2`` is Linux's)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL}:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def can_exchange(folder: Path) -> bool:
    """Return True if two paths in this folder can be exchanged, which depends on the disk, not only on the system."""
    with tempfile.TemporaryDirectory(dir=folder) as probe:
        one, other = Path(probe, "one"), Path(probe, "other")
        one.touch()
        other.touch()
        return exchange(one, other)


@dataclass(slots=True)
class StateTrouble(Fault):
    """The state database fails, in a way of ``StateStore``."""

    seconds: float
    _trouble: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False, repr=False)

    def end(self, world: World) -> None:  # noqa: ARG002
        self._trouble.close()


@dataclass(slots=True)
class StateLocked(StateTrouble):
    """Another process holds the state database's write lock."""

    name = "state locked"

    def begin(self, world: World) -> None:
        self._trouble.enter_context(world.store.locked(self.seconds))


@dataclass(slots=True)
class StateHangs(StateTrouble):
    """The state database answers nothing for longer than the streamer's lease."""

    name = "state hangs"

    def begin(self, world: World) -> None:
        self._trouble.enter_context(world.store.hangs())


@dataclass(slots=True)
class AtGateway(Fault):
    """A fault that the paper gateway makes: actions at the begin and, where it lasts, at the end.

    Args:
        name: for the figures.
        seconds: how long it lasts; 0 is over at once.
        begin_with: actions of the control port with their fields.
        end_with: likewise.
        codes: message codes that this fault explains.
        which: contracts that ``conids`` of the actions are, as fractions of ``among``.
        among: ``wanted`` (those to be streamed) or ``held``.
        unsold: whether the product may leave these contracts alone until it logs in again after the fault's end; where
            it has none, for ever.
    """

    name: str  # type: ignore[misc]  # of the instance here
    seconds: float = 0.0
    begin_with: tuple[tuple[str, dict[str, object]], ...] = ()
    end_with: tuple[tuple[str, dict[str, object]], ...] = ()
    codes: tuple[int, ...] = ()
    which: tuple[float, ...] = ()
    among: str = "wanted"
    unsold: bool = False
    _conids: tuple[int, ...] = ()
    _begun: bool = False
    """False while the gateway has not said so, which may carry it out later, even after the end."""

    def begin(self, world: World) -> None:
        if self.which:
            held = {conid for _, conid in world.truth.held()}
            self._conids = picks(sorted(world.wanted() if self.among == "wanted" else held), self.which)
            self.happened = bool(self._conids)
            if not self.happened:
                return
        world.excuses.codes_begin(self.codes)
        if self.unsold:
            excuse = world.excuses.denied if self.end_with else world.excuses.rejected
            excuse(self._conids)
        self._perform(world, self.begin_with)
        self._begun = True

    def end(self, world: World) -> None:
        if not self.happened:
            return
        self._perform(world, self.end_with)
        if not self._begun:
            return
        if self.unsold and self.end_with:
            world.excuses.on_sale(self._conids, logins=world.streamer_logins())
        world.excuses.codes_end(self.codes)

    def _perform(self, world: World, actions: tuple[tuple[str, dict[str, object]], ...]) -> None:
        for command, fields in actions:
            conids = {"conids": list(self._conids)} if self._conids else {}
            world.gateway.request(command, **fields, **conids)


@dataclass(slots=True)
class FewerLines(Fault):
    """TWS windows take lines: the gateway grants only a share of them, and sends error 101."""

    name = "fewer lines"
    share: float
    seconds: float
    _begun: bool = False
    """See ``AtGateway``."""

    def begin(self, world: World) -> None:
        lines = int(world.scale.market_data_lines * self.share)
        world.excuses.codes_begin((101,))
        world.excuses.fewer_lines(lines)
        world.gateway.request("lines", lines=lines)
        self._begun = True

    def end(self, world: World) -> None:
        world.gateway.request("lines", lines=world.scale.market_data_lines)
        if self._begun:
            world.excuses.codes_end((101,))
            world.excuses.lines_are_back()


def pick(items: Sequence[T], which: float) -> T | None:
    """The item at a fraction of the way; None of none."""
    return items[int(which * len(items))] if items else None


def picks(items: Sequence[T], which: Sequence[float]) -> tuple[T, ...]:
    """Different items at these fractions."""
    return tuple(dict.fromkeys(items[int(at * len(items))] for at in which)) if items else ()


def fractions(draw: random.Random, most: int) -> tuple[float, ...]:
    """One to ``most`` numbers in [0, 1)."""
    return tuple(draw.random() for _ in range(draw.randint(1, most)))
