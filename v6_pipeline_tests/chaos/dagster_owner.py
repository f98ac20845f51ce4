"""A real Dagster as the streamer's owner: code server and daemon, restarted as a service manager would.

Stands in for ``processes.Sensor`` where the code server itself is to be killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Self

import psutil

from v6_pipeline.cli import dagster_processes, home
from v6_pipeline.cli.supervise import Command
from v6_pipeline.errors import StateError
from v6_pipeline.settings import Settings
from v6_pipeline.state.leases.streamer import StreamerLease
from v6_pipeline_tests.chaos.processes import end_process, open_state

CODE_SERVER_SECONDS = 120.0
WATCH_SECONDS = 0.3
_RUN = "execute_run"


class DagsterOwner:
    """Code server and daemon over the home of ``settings``; the sensor in them owns the streamer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._port = dagster_processes.free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Command] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="service manager", daemon=True)
        self.streamers: dict[int, psutil.Process] = {}
        self.epoch = 0
        self.actions: Counter[str] = Counter()
        self.failed_ticks = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        home.prepare_log_folder(self._settings)
        home.prepare_dagster_home(self._settings)
        self._output: BinaryIO = (Path(self._settings.log_dir) / "dagster.log").open("ab")
        workspace = dagster_processes.write_workspace(self._settings, self._port)
        self._commands["code server"] = dagster_processes.code_server(self._settings, self._port)
        self._commands["daemon"] = dagster_processes.daemon(workspace)
        self._start("code server")
        deadline = time.monotonic() + CODE_SERVER_SECONDS
        while not dagster_processes.accepts_connections(self._port):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the code server did not come up: see {self._settings.log_dir / 'dagster.log'}")
            time.sleep(WATCH_SECONDS)
        self._start("daemon")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for name in ("daemon", "code server"):
            if name in self._processes:
                children = _children(self._processes[name])
                end_process(self._processes[name])
                for child in children:
                    _kill(child)
        self._output.close()

    @property
    def streamer(self) -> psutil.Process | None:
        """The streamer of the newest epoch, if it runs."""
        process = self.streamers.get(self.epoch)
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    @property
    def runs(self) -> list[psutil.Process]:
        """Processes of Dagster runs."""
        process = self._processes["code server"]
        return [child for child in _children(process) if _RUN in _words(child)]

    @property
    def is_served(self) -> bool:
        """True if the code server accepts connections."""
        return dagster_processes.accepts_connections(self._port)

    def kill_code_server(self) -> None:
        """kill -9 of the code server and of the process in which it keeps the code; runs are left alone."""
        process = self._processes["code server"]
        for child in [item for item in _children(process) if "grpc" in _words(item)]:
            _kill(child)
        process.kill()

    def pause(self) -> None:
        """Dagster goes for good: no tick renews the lease any more."""
        self._stop.set()
        self._thread.join()
        for name in ("daemon", "code server"):
            end_process(self._processes[name])

    def resume(self) -> None:
        """It does not come back: nothing in this scenario asks for it."""
        raise NotImplementedError

    def _start(self, name: str) -> None:
        self._processes[name] = subprocess.Popen(
            self._commands[name].arguments,
            env=dagster_processes.environment(self._settings, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _watch(self) -> None:
        database = open_state(self._settings)
        try:
            lease = StreamerLease(database)
            while not self._stop.wait(WATCH_SECONDS):
                for name, process in list(self._processes.items()):
                    if process.poll() is not None:
                        self.actions[f"{name} restarted"] += 1
                        self._start(name)
                with contextlib.suppress(StateError, psutil.NoSuchProcess):
                    state = lease.read()
                    self.epoch = state.epoch
                    if state.pid is not None and state.epoch not in self.streamers:
                        self.streamers[state.epoch] = psutil.Process(state.pid)
        except BaseException as error:  # noqa: BLE001  (the run's verdict says it)
            self.failure = error
        finally:
            database.close()


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
