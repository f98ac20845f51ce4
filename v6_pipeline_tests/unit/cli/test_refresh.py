"""``v6 refresh`` as far as no gateway is needed: what is said when it fails half-way."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest

from v6_pipeline.cli import progress
from v6_pipeline.cli.commands import refresh
from v6_pipeline.errors import AccountFeedError
from v6_pipeline.lake.table import Commit
from v6_pipeline.refresh.worker import QueueWorker, RefreshReport, RefreshScope
from v6_pipeline.settings import Settings
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


@pytest.mark.parametrize(
    ("enqueued", "refreshed", "closed", "expected"),
    [(0, 0, 0, (0, None)), (5, 0, 0, (0, 5)), (5, 2, 1, (3, 5)), (2, 2, 1, (3, 3))],
    ids=["nothing known yet", "queued", "under way", "what was queued before counts too"],
)
def test_how_far_it_is(enqueued: int, refreshed: int, closed: int, expected: progress.Done) -> None:
    assert refresh._done(RefreshReport(enqueued=enqueued, refreshed=refreshed, closed=closed)) == expected


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bar_follows_the_report(
    v6: Run, scopes: list[RefreshScope], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    bars = []

    def bar(label: str, done: Callable[[], progress.Done], *, shown: bool) -> AbstractContextManager[None]:
        bars.append((label, done, shown))
        return nullcontext()

    monkeypatch.setattr(progress, "bar", bar)
    v6("refresh", *(["--json"] if as_json else []))

    [(label, done, shown)] = bars
    assert (label, done(), shown) == ("holdings refreshed", (3, 3), not as_json)
