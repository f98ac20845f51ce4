"""``v6`` as a program that tests run: a process of its own, or within theirs where that makes no difference."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from v6_pipeline.cli import main

SECONDS = 60
IN_THIS_PROCESS = {"init", "slots", "queue", "positions", "strategies"}
"""Commands that need no process of their own, because a process costs a second."""


def environment(home: Path) -> dict[str, str]:
    """That of the tests, with this home and no other setting."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("V6_")}
    return kept | {"V6_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}


@dataclass(frozen=True)
class V6:
    """Runs ``v6`` with a home and an environment."""

    home: Path
    environ: dict[str, str]

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        if arguments[0] in IN_THIS_PROCESS:
            return self._here(*map(str, arguments))
        return subprocess.run(
            self._command(*arguments),
            env=self.environ,
            cwd=self.home.parent,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    @contextmanager
    def running(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """Start a command in the background; it is killed at the end if it still runs."""
        with subprocess.Popen(
            self._command(*arguments),
            env=self.environ,
            cwd=self.home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def ok(self, *arguments: object) -> Any:
        """The JSON document of a command that succeeds."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def error(self, *arguments: object) -> str:
        """The one line of a command that fails, its log lines aside."""
        done = self(*arguments)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("error: ") == 1, done.stderr
        return done.stderr.splitlines()[-1].removeprefix("error: ")

    def with_port(self, port: int) -> V6:
        return replace(self, environ=self.environ | {"V6_IB_PORT": str(port)})

    def _here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with patch.dict(os.environ, self.environ, clear=True), redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def _command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "v6_pipeline.cli", *map(str, arguments)]


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
