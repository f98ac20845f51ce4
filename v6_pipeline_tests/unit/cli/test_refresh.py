"""``v6 refresh`` as far as no gateway is needed: what is said when it fails half-way."""

from __future__ import annotations

import json

import pytest

from v6_pipeline.errors import AccountFeedError
from v6_pipeline.lake.table import Commit
from v6_pipeline.settings import Settings
from v6_pipeline.sync.worker import QueueWorker, RefreshScope
from v6_pipeline_tests.unit.cli.conftest import Run


@pytest.fixture
def scopes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[RefreshScope]:
    """A worker that does one batch of three, and then finds the feed of the other account taken."""
    seen: list[RefreshScope] = []

    async def run(self: QueueWorker, scope: RefreshScope) -> None:
        seen.append(scope)
        self.report.held, self.report.refreshed, self.report.batches, self.report.retried = 5, 3, 2, 2
        self.report.commits.append(Commit(version=7, rows=3))
        raise AccountFeedError("2 items stay in the queue: DU2 is taken")

    monkeypatch.setattr(QueueWorker, "run", run)
    return seen


def test_what_was_done_is_said_and_then_why_it_failed(v6: Run, scopes: list[RefreshScope]) -> None:
    result = v6("refresh")
    assert result.code == 1
    assert result.error == "2 items stay in the queue: DU2 is taken"
    assert "queued_positions: Delta version 7" in result.out
    assert "account_values: nothing written" in result.out
    assert scopes == [RefreshScope(everything=False, interval_seconds=0)]


def test_the_same_in_one_document(v6: Run, scopes: list[RefreshScope]) -> None:
    result = v6("refresh", "--all", "--json")
    assert result.code == 1
    report = json.loads(result.out)
    assert report["error"] == result.error
    assert (report["refreshed"], report["retried"], report["rows"]) == (3, 2, 3)
    assert report["delta_versions"] == {"queued_positions": [7], "account_values": []}
    assert scopes[0].everything
