"""Child processes that live and end together, with cheap commands in Dagster's place."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from v6_pipeline.cli.supervise import (
    Children,
    Command,
    StopRequested,
    StopSignals,
    SupervisionError,
    check_unused,
    wait_until,
)

ENDLESS = """
import time
while True:
    print("alive", flush=True)
    time.sleep(0.05)
"""
SLEEPER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
PARENT = (
    f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); "
    "print('two', flush=True); time.sleep(600)"
)


def python(name: str, code: str) -> Command:
    return Command(name, (sys.executable, "-c", code))


def eventually(condition: Callable[[], object]) -> None:
    assert wait_until(lambda: condition() or None, seconds=20, checks=()) is not None


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    made = Children(log_path=tmp_path / "logs" / "log", record_path=tmp_path / "up.json", environ=dict(os.environ))
    yield made
    made.stop(seconds=0.1)


def recorded_pids(tmp_path: Path) -> list[int]:
    return [child["pid"] for child in json.loads((tmp_path / "up.json").read_text())["children"]]


def test_children_run_write_to_the_log_and_end(children: Children, tmp_path: Path) -> None:
    children.start(python("first", "print('hello', flush=True); " + SLEEPER))
    children.start(python("second", SLEEPER))
    pids = recorded_pids(tmp_path)
    eventually(lambda: "hello" in children.log_path.read_text())
    children.check()
    children.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not (tmp_path / "up.json").exists()


def test_what_a_child_started_ends_too(children: Children, tmp_path: Path) -> None:
    children.start(python("parent", PARENT))
    eventually(lambda: "two" in children.log_path.read_text())
    family = psutil.Process(recorded_pids(tmp_path)[0]).children(recursive=True)
    assert len(family) == 1
    children.stop()
    assert not family[0].is_running() or family[0].status() == psutil.STATUS_ZOMBIE


def test_a_child_that_ignores_the_signal_is_killed(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v6_pipeline.cli.supervise.KILL_SECONDS", 2)
    children.start(python("stubborn", STUBBORN))
    eventually(lambda: "deaf" in children.log_path.read_text())
    (pid,) = recorded_pids(tmp_path)
    children.stop(seconds=0.1)
    assert not psutil.pid_exists(pid)


def test_a_child_that_ends_by_itself_is_named_with_the_log(children: Children) -> None:
    children.start(python("daemon", "raise SystemExit(3)"))
    with pytest.raises(SupervisionError, match=r"daemon exited unexpectedly \(exit code 3\): see .*log"):
        wait_until(lambda: None, seconds=20, checks=(children.check,))


def test_a_command_that_is_not_there_is_named(children: Children) -> None:
    with pytest.raises(SupervisionError, match="cannot start webserver"):
        children.start(Command("webserver", ("/no/such/command",)))


def test_what_a_killed_parent_left_is_ended_by_the_next(children: Children, tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from v6_pipeline.cli.supervise import Children, Command\n"
        "folder = Path(sys.argv[1])\n"
        "children = Children(log_path=folder / 'log', record_path=folder / 'up.json', environ={})\n"
        f"children.start(Command('orphan', (sys.executable, '-c', {SLEEPER!r})))\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        (pid,) = recorded_pids(tmp_path)
        with pytest.raises(SupervisionError, match=f"pid {parent.pid}: stop it first"):
            children.take_over()
        with pytest.raises(SupervisionError, match="already"):
            check_unused(tmp_path / "up.json")
        parent.kill()
    assert psutil.pid_exists(pid)
    assert children.take_over() == ["orphan"]
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert children.take_over() == []


def test_a_process_that_took_an_old_number_is_left_alone(children: Children, tmp_path: Path) -> None:
    identity = {"host": "elsewhere", "pid": 2**22, "started_at": "2026-01-01T00:00:00+00:00"}
    other = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    try:
        child = {"name": "old", **identity, "host": os.uname().nodename, "pid": other.pid}
        (tmp_path / "up.json").write_text(
            json.dumps({"parent": identity | {"host": os.uname().nodename}, "children": [child]})
        )
        assert children.take_over() == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parent": 1, "children": []}', '{"children": []}'])
def test_a_torn_record_is_none(children: Children, tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text)
    assert children.take_over() == []


def test_a_long_log_is_put_aside_at_the_start(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("v6_pipeline.cli.supervise._LOG_BYTES", 3)
    children.log_path.parent.mkdir()
    children.log_path.write_text("long")
    children.start(python("child", SLEEPER))
    assert children.log_path.with_name("log.1").read_text() == "long"


def test_the_log_of_running_children_stays_bounded(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child holds the file open: it writes on at the new end, and nothing grows."""
    monkeypatch.setattr("v6_pipeline.cli.supervise._LOG_BYTES", 1_000)
    children.start(python("child", "print('x' * 2_000, flush=True)" + ENDLESS))
    eventually(lambda: children.log_path.stat().st_size > 2_000)

    children.check()

    assert children.log_path.with_name("log.1").read_text().startswith("x" * 2_000)
    eventually(lambda: "alive" in children.log_path.read_text())
    assert "x" not in children.log_path.read_text()
    assert children.log_path.stat().st_size < 1_000


@contextlib.contextmanager
def disposition(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Set this process's reaction to a signal: a test run under nohup inherits SIGHUP as ignored."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait(number: signal.Signals) -> None:
    with disposition(number, signal.default_int_handler):
        with StopSignals() as signals:
            signals.check()
            os.kill(os.getpid(), number)
            with pytest.raises(StopRequested):
                wait_until(lambda: None, seconds=20, checks=(signals.check,))
        assert signal.getsignal(number) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_what_has_started_nothing_yet(number: signal.Signals) -> None:
    with disposition(number, signal.default_int_handler), StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt), signals.interrupting():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt), signals.interrupting():
            pytest.fail("it came before")
        signal.raise_signal(number)  # from then on a flag again


def test_a_hang_up_that_is_ignored_on_purpose_stays_so() -> None:
    """``nohup v6 up`` outlives its terminal."""
    with disposition(signal.SIGHUP, signal.SIG_IGN), StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        signals.check()


def test_children_hear_signals_that_a_shell_had_them_ignore(children: Children) -> None:
    """``v6 up &`` in a script inherits SIGINT as ignored, and would hand that down."""
    with disposition(signal.SIGINT, signal.SIG_IGN), StopSignals():
        children.start(python("child", "import signal; print(signal.getsignal(2), flush=True); " + SLEEPER))
    eventually(lambda: "default_int_handler" in children.log_path.read_text())


def test_a_wait_ends_with_its_answer_or_its_time() -> None:
    answers = iter([None, None, "yes"])
    slept: list[float] = []
    assert wait_until(lambda: next(answers), seconds=20, checks=(), sleep=slept.append) == "yes"
    assert len(slept) == 2
    started = time.monotonic()
    assert wait_until(lambda: None, seconds=0, checks=()) is None
    assert time.monotonic() - started < 5
