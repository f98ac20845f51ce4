"""Fixtures for Dagster definitions: a home of their own, a clock that is set, a real ephemeral instance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import dagster as dg
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase

# A Friday, in session.
FRIDAY_NOON = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)


class Clock:
    """The current time of ``ClockedPipeline``; a class of its own, because pydantic guards a resource's attributes."""

    instant: ClassVar[datetime] = FRIDAY_NOON

    @classmethod
    def forward(cls, seconds: float) -> None:
        cls.instant += timedelta(seconds=seconds)


class ClockedPipeline(PipelineResource):
    """The real resource with a clock that a test sets."""

    def now(self) -> datetime:
        return Clock.instant


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("V6_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("V6_HOME", str(tmp_path))
    # A supervised streamer is started by others: ticks here start no process.
    monkeypatch.setenv("V6_STREAMER", "supervised")
    monkeypatch.setattr(Clock, "instant", FRIDAY_NOON)
    return tmp_path


@pytest.fixture
def pipeline() -> ClockedPipeline:
    return ClockedPipeline()


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings()


@pytest.fixture
def calendar() -> TradingCalendar:
    return TradingCalendar()


@pytest.fixture
def database(pipeline: ClockedPipeline) -> StateDatabase:
    return pipeline.database()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def flex_dir(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "statements"
    folder.mkdir()
    monkeypatch.setenv("V6_FLEX_DIR", str(folder))
    monkeypatch.setenv("V6_START_DATE", "2026-10-01")
    return folder
