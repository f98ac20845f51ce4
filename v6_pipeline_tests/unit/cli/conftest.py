"""A home of its own for each test, and ``v6`` run in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.cli import main
from v6_pipeline.settings import Settings, load_settings


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr."""
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").rstrip("\n")


Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the future home; it does not exist yet, and the environment has no other settings."""
    for name in os.environ:
        if name.startswith("V6_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("V6_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def v6(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def settings(home: Path, v6: Run) -> Settings:
    """Settings of a home that ``v6 init`` created."""
    assert v6("init").code == 0
    return load_settings()
