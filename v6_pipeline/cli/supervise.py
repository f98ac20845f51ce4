"""Child processes that run and end together, and a parent that ends on a signal.

Belongs here: starting, watching and ending any processes. The processes of ``v6 up`` are in ``dagster_processes``. Each
child leads a process group of its own, so that Ctrl-C in the terminal reaches only the parent, which ends the children
in order. A record in the home names the children, so that the next parent can end those of a parent that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO, Self, TypeVar

import psutil

from v6_pipeline.errors import V6Error
from v6_pipeline.state.leases.process import ProcessIdentity

T = TypeVar("T")

POLL_SECONDS = 0.2
END_SECONDS = 15.0
"""Dagster's processes end within 4 s of a signal on an idle machine."""
KILL_SECONDS = 5.0
_LOG_BYTES = 10_000_000


class SupervisionError(V6Error):
    """A child process could not be started, exited unexpectedly, or belongs to another parent."""


class StopRequested(Exception):  # noqa: N818  (no error: the way out of a wait)
    """A signal requested the end of this process."""


@dataclass(frozen=True, slots=True)
class Command:
    """Name and command line of a child process."""

    name: str
    arguments: tuple[str, ...]


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP as a flag, within its context; a second signal has no further effect.

    With handlers of our own, children start with the default ones. A shell starts background processes with SIGINT
    ignored, and Dagster then ignores SIGTERM too.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # A hang-up that is ignored on purpose (nohup) stays ignored.
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned before

    def check(self) -> None:
        """Raise ``StopRequested`` if a signal arrived."""
        if self.requested:
            raise StopRequested

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal interrupt the block at once; for long work that starts no process.

        Raises:
            KeyboardInterrupt: a signal arrived, now or before.
        """
        self._interrupts = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupts = False

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        # No lock and no output: the main thread may hold any lock.
        self.requested = True
        if self._interrupts:
            raise KeyboardInterrupt


class Children:
    """The child processes of one parent: their output is in ``log_path``; ``record_path`` names them while they run."""

    def __init__(self, *, log_path: Path, record_path: Path, environ: Mapping[str, str]) -> None:
        self.log_path = log_path
        self._record_path = record_path
        self._environ = dict(environ)
        self._running: list[tuple[Command, subprocess.Popen[bytes]]] = []

    def take_over(self) -> list[str]:
        """End the children of a killed parent, before the first start; return their names.

        Raises:
            SupervisionError: that parent still runs.
        """
        check_unused(self._record_path)
        record = _read_record(self._record_path)
        if record is None:
            return []
        _, children = record
        ended = []
        for name, identity in children:
            members = _group_of(identity.pid) if _is_same_group(identity) else []
            if members:
                _end(members, identity.pid)
                ended.append(name)
        self._record_path.unlink(missing_ok=True)
        return ended

    def start(self, command: Command) -> None:
        """Start a child; raise ``SupervisionError`` if that fails."""
        with self._open_log() as log:
            try:
                process = subprocess.Popen(
                    command.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environ,
                    start_new_session=True,
                )
            except OSError as error:
                raise SupervisionError(f"cannot start {command.name}: {error}") from error
        self._running.append((command, process))
        self._write_record()

    def check(self) -> None:
        """Raise ``SupervisionError`` if a child has exited unexpectedly; keep their log small."""
        self._rotate_log()
        for command, process in self._running:
            code = process.poll()
            if code is not None:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise SupervisionError(f"{command.name} exited unexpectedly ({how}): see {self.log_path}")

    def stop(self, seconds: float = END_SECONDS) -> None:
        """End all children with their descendants, the last started first; by force after ``seconds``."""
        members = [member for _, process in self._running for member in _family_of(process.pid)]
        for _, process in reversed(self._running):
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for _, process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        _wait_gone(members, max(0.1, deadline - time.monotonic()))
        for _, process in self._running:
            _end([*_group_of(process.pid), *filter(_runs, members)], process.pid)
            process.wait(KILL_SECONDS)
        self._running.clear()
        self._record_path.unlink(missing_ok=True)

    def _open_log(self) -> BinaryIO:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._rotate_log()
        return self.log_path.open("ab")

    def _rotate_log(self) -> None:
        """Copy a long log aside and empty it.

        Children hold the file open, so that it cannot be replaced by another; they append, and go on at its new end.
        What one of them writes between the copy and its end is lost.
        """
        with contextlib.suppress(OSError):  # a full disk ends neither the children nor their supervision
            if self.log_path.stat().st_size > _LOG_BYTES:
                shutil.copyfile(self.log_path, self.log_path.with_name(self.log_path.name + ".1"))
                os.truncate(self.log_path, 0)

    def _write_record(self) -> None:
        record = {
            "parent": _as_json(ProcessIdentity.current()),
            "children": [
                {"name": command.name, **_as_json(ProcessIdentity.of(process.pid))}
                for command, process in self._running
                if psutil.pid_exists(process.pid)
            ],
        }
        draft = self._record_path.with_suffix(".new")
        draft.write_text(json.dumps(record), encoding="utf-8")
        draft.replace(self._record_path)


def check_unused(record_path: Path) -> None:
    """Raise ``SupervisionError`` if another parent runs children under this record."""
    record = _read_record(record_path)
    if record is not None and record[0].pid != os.getpid() and record[0].is_alive():
        raise SupervisionError(
            f"'v6 up' or 'v6 demo' runs in {record_path.parent} already, pid {record[0].pid}: stop it first, "
            "or use another --home"
        )


def wait_until(
    condition: Callable[[], T | None],
    *,
    seconds: float | None,
    checks: Sequence[Callable[[], None]],
    sleep: Callable[[float], None] = time.sleep,
) -> T | None:
    """Return the first result of ``condition`` that is not None; ``None`` after ``seconds`` (None: no limit).

    The ``checks`` are called before each call of ``condition``; their exceptions end the wait.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        for check in checks:
            check()
        answer = condition()
        if answer is not None:
            return answer
        if deadline is not None and time.monotonic() >= deadline:
            return None
        sleep(POLL_SECONDS)


def _as_json(identity: ProcessIdentity) -> dict[str, object]:
    return {
        "host": identity.host,
        "pid": identity.pid,
        "started_at": identity.started_at.isoformat(),
        "space": identity.space,
    }


def _identity(fields: Mapping[str, object]) -> ProcessIdentity:
    return ProcessIdentity(
        host=str(fields["host"]),
        pid=int(str(fields["pid"])),
        started_at=datetime.fromisoformat(str(fields["started_at"])),
        space=str(fields.get("space", "")),
    )


def _read_record(path: Path) -> tuple[ProcessIdentity, list[tuple[str, ProcessIdentity]]] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        children = [(str(child["name"]), _identity(child)) for child in record["children"]]
        return _identity(record["parent"]), children
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # missing, or torn by a power cut, which ended the processes too


def _is_same_group(identity: ProcessIdentity) -> bool:
    """Return whether the group is still the recorded one: its leader runs, or no later process has its pid."""
    return identity.is_alive() is True or not psutil.pid_exists(identity.pid)


def _family_of(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    return []


def _group_of(pid: int) -> list[psutil.Process]:
    """Return the running processes of a group; on Windows, of a family."""
    if sys.platform == "win32":
        return _family_of(pid)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == pid and _runs(process):
                found.append(process)
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_gone(processes: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 4)


def _end(processes: Sequence[psutil.Process], group: int) -> None:
    """End the remaining processes: by SIGTERM, then by force."""
    if not any(map(_runs, processes)):
        return
    _signal_group(group, signal.SIGTERM)
    _wait_gone(processes, KILL_SECONDS)
    for process in filter(_runs, processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_gone(processes, KILL_SECONDS)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        if sys.platform == "win32":
            psutil.Process(pid).terminate()
        else:
            os.killpg(pid, number)
