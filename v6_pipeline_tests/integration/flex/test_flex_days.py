"""Trading days from the Flex Web Service through Dagster's step: what goes wrong fails the run and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

import dagster as dg
import polars as pl
import pytest

from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.flex.archive import fetch_range
from v6_pipeline.flex.exchange import FlexLimits
from v6_pipeline.history import flex_days
from v6_pipeline.lake.tables import FLEX_POSITIONS, FLEX_STATEMENTS, POSITION_SNAPSHOTS
from v6_pipeline.paper.flex_server import QUERY_ID, TOKEN, FlexFault, FlexServer
from v6_pipeline.paper.flex_statements import FlexQuery, Section
from v6_pipeline_tests.history_runs import FLEX_ASSETS, SNAPSHOTS, Ran, failure, made, run, stored
from v6_pipeline_tests.integration.flex.flex_rig import ACCOUNTS, FIRST, LAST, VirtualTime, past, server_of

DAYS = [f"2026-11-{day:02}" for day in range(2, 7)]
ALL = (*FLEX_ASSETS, *SNAPSHOTS)


class Pipeline(PipelineResource):
    """The real resource on the rig's clock."""

    time: ClassVar[VirtualTime]

    def now(self) -> datetime:
        return self.time.utcnow()


@pytest.fixture
def pipeline(time: VirtualTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    for name in list(os.environ):
        if name.startswith("V6_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("V6_HOME", str(tmp_path))
    monkeypatch.setenv("V6_START_DATE", "2026-10-01")
    monkeypatch.setenv("V6_FLEX_TOKEN", TOKEN)
    monkeypatch.setenv("V6_FLEX_QUERY_ID", QUERY_ID)
    monkeypatch.setattr(Pipeline, "time", time, raising=False)
    patient = partial(fetch_range, limits=FlexLimits(deadline=300), clock=time.clock, sleep=time.sleep)
    monkeypatch.setattr(flex_days, "fetch_range", patient)
    return Pipeline()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def fetch(pipeline: Pipeline, instance: dg.DagsterInstance, server: FlexServer, monkeypatch: pytest.MonkeyPatch) -> Ran:
    monkeypatch.setenv("V6_FLEX_URL", server.url)
    return run(pipeline, instance, ALL, FIRST, LAST)


def assert_nothing_was_written(pipeline: Pipeline) -> None:
    for spec in (FLEX_STATEMENTS, FLEX_POSITIONS, POSITION_SNAPSHOTS):
        assert stored(pipeline, spec).is_empty(), spec.name


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (FlexFault.STATEMENT_ERROR, 1019, "gave up after 300 s: error 1019, "),
        (FlexFault.STATEMENT_ERROR, 1018, "gave up after 300 s: error 1018, "),
        (FlexFault.REQUEST_ERROR, 1012, "error 1012, "),
        (FlexFault.HALF_DOCUMENT, 0, "reply is incomplete"),
        (FlexFault.REDIRECT, 0, "redirects us to example.invalid: not followed"),
        (FlexFault.FOREIGN_URL, 0, "sends us to example.invalid, which is not IB's: nothing was sent there"),
        (FlexFault.OTHER_DATES, 0, "the service sent 2026-10-26 to 2026-10-26 of account SIM0000001 instead"),
        (FlexFault.NO_STATEMENTS, 0, "sent none, so positions are unknown"),
        (FlexFault.NO_POSITIONS, 0, "has no section OpenPositions, so its positions are unknown"),
        (FlexFault.WEB_PAGE, 0, "answered with a web page instead of a statement"),
    ],
)
def test_a_failed_download_fails_the_days_with_its_reason(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    server: FlexServer,
    monkeypatch: pytest.MonkeyPatch,
    fault: FlexFault,
    code: int,
    said: str,
) -> None:
    server.faults.flex_fault(fault, code=code)
    result = fetch(pipeline, instance, server, monkeypatch)

    assert not result.success
    description = failure(result).description
    assert f"flex_statements of 5 days from {FIRST} to {LAST}: no Flex statement covers {FIRST}" in description
    assert said in description
    assert "\n" not in description
    assert_nothing_was_written(pipeline)
    assert not any(made(result, asset) for asset in ALL)
    everything = [str(entry) for entry in instance.all_logs(result.run_id)]
    assert not any(TOKEN in line for line in everything), "the token is nowhere"


def test_the_run_after_the_fault_makes_the_days(
    pipeline: Pipeline, instance: dg.DagsterInstance, server: FlexServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults.flex_fault(FlexFault.HALF_DOCUMENT, count=1)
    assert not fetch(pipeline, instance, server, monkeypatch).success

    result = fetch(pipeline, instance, server, monkeypatch)

    assert result.success
    assert sorted(made(result, "position_snapshots")) == DAYS
    held = stored(pipeline, POSITION_SNAPSHOTS).filter(pl.col("position") != 0)
    assert set(held.select("date", "account", "conid", "position").iter_rows()) == {
        (of.day, position.account, position.conid, position.quantity)
        for of in past().between(FIRST, LAST)
        for position in of.positions
    }


def test_an_account_that_is_flat_by_its_own_word_is_taken_for_flat(
    pipeline: Pipeline, instance: dg.DagsterInstance, time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_of(time, query=FlexQuery(empty=frozenset({Section.POSITIONS}))) as server:
        result = fetch(pipeline, instance, server, monkeypatch)

    assert result.success
    assert len(made(result, "position_snapshots")) == 5
    # What the statements book has its row, with position 0.
    assert set(stored(pipeline, POSITION_SNAPSHOTS).get_column("position")) == {0.0}
    assert stored(pipeline, FLEX_STATEMENTS).height == 5 * len(ACCOUNTS)
