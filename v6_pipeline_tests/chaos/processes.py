"""The processes under test, each a real one: gateway, streamer as the sensor would keep it, refreshing workers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from v6_pipeline.errors import GatewayError, StateError
from v6_pipeline.paper import ControlClient
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now
from v6_pipeline.streaming import control as streamer_control
from v6_pipeline.streaming.control import StreamerControl
from v6_pipeline_tests.chaos.scale import Scale
from v6_pipeline_tests.chaos.violations import Violations

WORKER_SECONDS = 300
"""A drain of a short queue; one that takes longer hangs."""
_PATIENCE = {"RESTART_PAUSE": "restart_pause", "HUNG_AFTER": "hung_after", "CLOSING": "closing"}
"""The sensor's constants -> what stands in for them in a ``Scale``."""
_PACKAGE_ROOT = str(Path(__file__).parents[2])


@contextlib.contextmanager
def v6_environment(values: dict[str, str]) -> Iterator[None]:
    """This process's environment with these ``V6_`` variables and no others, for itself and what it starts."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("V6_"):
            del os.environ[name]
    os.environ |= values | {"PYTHONPATH": _PACKAGE_ROOT}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Gateway:
    """``v6 gateway`` in a process of its own, and its control port."""

    def __init__(self, scale: Scale, seed: int, folder: Path) -> None:
        self._log = (folder / "gateway.err").open("ab")
        words = {
            "port": 0,
            "control-port": 0,
            "accounts": scale.accounts,
            "positions": scale.positions,
            "seed": seed,
            "lines": scale.market_data_lines,
            "tick-seconds": scale.tick_seconds,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "v6_pipeline.cli", "gateway", "--unusual"]
            + [text for name, value in words.items() for text in (f"--{name}", str(value))],
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise GatewayError(f"the paper gateway did not start: see {folder / 'gateway.err'}")
        said = json.loads(line)
        self.port: int = said["port"]
        self._control_port: int = said["control_port"]
        self._client: ControlClient | None = None

    def request(self, command: str, **arguments: object) -> dict[str, Any]:
        """Ask the control port.

        Raises:
            GatewayError: no answer (the process may be stopped), or refused.
        """
        if self._client is None:
            self._client = ControlClient("127.0.0.1", self._control_port, timeout=3.0)
        try:
            return self._client.request(command, **arguments)
        except GatewayError as error:
            if "refused" not in str(error):
                # A late answer would be taken for the next command's.
                self._client.close()
                self._client = None
            raise

    def statistics(self) -> dict[str, Any]:
        """Return the gateway's statistics of its clients."""
        return dict(self.request("statistics")["statistics"])

    def close(self) -> None:
        """End the process."""
        if self._client is not None:
            self._client.close()
        end_process(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


class Owner(Protocol):
    """Starts the streamer and renews its lease."""

    streamers: dict[int, psutil.Process]
    """Every streamer there ever was, by epoch."""
    epoch: int
    actions: Counter[str]
    failed_ticks: int
    failure: BaseException | None

    @property
    def streamer(self) -> psutil.Process | None:
        """The streamer of the newest epoch, if it runs."""

    def pause(self) -> None:
        """Renew no lease from now on."""

    def resume(self) -> None:
        """Go on."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""


class Sensor:
    """Ticks ``StreamerControl`` in a thread as ``ib_streamer_sensor`` does in a code server."""

    def __init__(self, scale: Scale, settings: Settings) -> None:
        self._scale = scale
        self._settings = settings.model_copy(update={"lease_seconds": scale.lease_seconds})
        self._stop = threading.Event()
        self._paused = threading.Event()
        self._ticking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="sensor", daemon=True)
        self.streamers: dict[int, psutil.Process] = {}
        """Every streamer there ever was, by epoch."""
        self.epoch = 0
        self.actions: Counter[str] = Counter()
        self.failed_ticks = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._patience = {name: getattr(streamer_control, name) for name in _PATIENCE}
        for name, field in _PATIENCE.items():
            seconds = getattr(self._scale, field)
            if seconds is not None:
                setattr(streamer_control, name, timedelta(seconds=seconds))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for name, value in self._patience.items():
            setattr(streamer_control, name, value)

    @property
    def streamer(self) -> psutil.Process | None:
        """The streamer of the newest epoch, if it runs."""
        process = self.streamers.get(self.epoch)
        return process if process is not None and _runs(process) else None

    def pause(self) -> None:
        """Dagster is down: from now on no tick renews the lease."""
        self._paused.set()
        with self._ticking:
            pass

    def resume(self) -> None:
        """Dagster is back."""
        self._paused.clear()

    def _run(self) -> None:
        database = open_state(self._settings)
        try:
            control = StreamerControl(self._settings, database, utc_now)
            while not self._stop.is_set():
                with self._ticking:
                    if not self._paused.is_set():
                        self._tick(control)
                self._stop.wait(self._scale.sensor_seconds)
        except BaseException as error:  # noqa: BLE001  (the run's verdict says it)
            self.failure = error
        finally:
            database.close()

    def _tick(self, control: StreamerControl) -> None:
        try:
            outcome = control.tick()
        except StateError:  # a tick of Dagster's fails in red, and the next one comes
            self.failed_ticks += 1
            return
        self.actions[outcome.decision.action.value] += 1
        lease = outcome.lease
        self.epoch = lease.epoch
        if lease.pid is not None and lease.epoch not in self.streamers:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.streamers[lease.epoch] = psutil.Process(lease.pid)


@dataclass(slots=True)
class _Run:
    process: subprocess.Popen[bytes]
    started: float
    err: Path
    killed: bool = False


class Workers:
    """Seats in each of which one ``v6 refresh`` follows another, as scheduled runs would."""

    def __init__(self, seats: int, seed: int, folder: Path, violations: Violations) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._violations = violations
        self._seats: list[_Run | None] = [None] * seats
        self._not_before = [0.0] * seats
        self._number = 0
        self.enabled = True
        self.ended: Counter[str] = Counter()
        self.peak_rss = 0

    @property
    def running(self) -> list[psutil.Process]:
        """Processes that run now."""
        found = []
        for run in self._seats:
            if run is not None and run.process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(run.process.pid))
        return found

    @property
    def idle(self) -> bool:
        """True if no worker runs."""
        return all(run is None for run in self._seats)

    def kill(self, process: psutil.Process) -> None:
        """End one with SIGKILL, which is no fault of its own."""
        for run in self._seats:
            if run is not None and run.process.pid == process.pid:
                run.killed = True
                run.process.kill()

    def step(self) -> None:
        """Take in what has ended and start what is due."""
        now = time.monotonic()
        for seat, run in enumerate(self._seats):
            if run is None:
                if self.enabled and now >= self._not_before[seat]:
                    self._seats[seat] = self.start(everything=self._random.random() < 0.15)
            elif run.process.poll() is not None:
                self._judge(run)
                self._seats[seat] = None
                self._not_before[seat] = now + self._random.uniform(0.2, 2.0)
            elif now - run.started > WORKER_SECONDS:
                self._violations.add("a worker ends", f"pid {run.process.pid} ran for {WORKER_SECONDS} s: {run.err}")
                self.kill(psutil.Process(run.process.pid))

    def start(self, *, everything: bool) -> _Run:
        """One ``v6 refresh``, ``--all`` if ``everything``."""
        self._number += 1
        err = self._folder / f"refresh-{self._number}.err"
        command = [sys.executable, "-m", "v6_pipeline.cli", "refresh", *(["--all"] if everything else [])]
        with err.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        return _Run(process, time.monotonic(), err)

    def close(self) -> None:
        """End all."""
        self.enabled = False
        for run in self._seats:
            if run is not None:
                run.killed = True
                end_process(run.process, signal.SIGKILL)

    def _judge(self, run: _Run) -> None:
        text = run.err.read_text(errors="replace")
        code = run.process.returncode
        if run.killed:
            self.ended["killed"] += 1
        elif code == 0:
            self.ended["done"] += 1
        elif code == 1 and text.count("error: ") >= 1 and "Traceback" not in text:
            self.ended["failed"] += 1
        else:
            self._violations.add("a worker fails in one line", f"exit code {code}, see {run.err}")


def open_state(settings: Settings, url: str = "") -> StateDatabase:
    """The state database of the settings, or that of another address."""
    return StateDatabase.open(url or settings.state_database_url, name_for_messages=settings.safe_state_url)


def settings_of(home: Path, gateway: Gateway, scale: Scale) -> dict[str, str]:
    """The ``V6_`` variables of every process of a run."""
    return {
        "V6_HOME": str(home),
        "V6_IB_PORT": str(gateway.port),
        "V6_MARKET_DATA_LINES": str(scale.market_data_lines),
        "V6_RESERVED_LINES": str(scale.reserved_lines),
        "V6_BATCH_LINES": str(scale.batch_lines),
        "V6_FLUSH_SECONDS": str(scale.flush_seconds),
        "V6_REFRESH_SECONDS": str(scale.refresh_seconds),
        "V6_LEASE_SECONDS": str(max(scale.lease_seconds, 15)),
        "V6_QUEUE_BATCH": "20",
        # Dead feeds are detected by their silence, which means nothing while the exchange is closed.
        "V6_MARKET_HOURS": "always",
    }


def load() -> Settings:
    """The settings of this process's environment."""
    return load_settings()


def wake(process: psutil.Process) -> None:
    """SIGCONT, if it is still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def rss_megabytes(process: psutil.Process) -> float | None:
    """Resident memory; None if it is gone."""
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_process(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """End it and wait until it has; with SIGKILL if it does not hear."""
    if process.poll() is None:
        # A stopped process hears of no signal but these two.
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
