"""Accounts that IB has no statements of for a part of the days: opened later, or whose statement is still to come."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.flex.archive import fetch_range
from v6_pipeline.history import flex_days
from v6_pipeline.lake.tables import FLEX_STATEMENTS, POSITION_SNAPSHOTS
from v6_pipeline.paper.flex_server import QUERY_ID, TOKEN, Answer, FlexConfig, FlexServer, _refusal
from v6_pipeline_tests.history_runs import FLEX_ASSETS, SNAPSHOTS, Ran, failure, made, run, stored
from v6_pipeline_tests.integration.flex.flex_rig import VirtualTime, past

START, TODAY = date(2026, 10, 22), date(2026, 11, 23)
NOW = datetime.fromisoformat("2026-11-23T17:00:00+00:00")
DAYS = TradingCalendar().sessions_between(START, TODAY)
ALL = (*FLEX_ASSETS, *SNAPSHOTS)


class YoungAccounts(FlexServer):
    """Refuses each range that begins before the accounts were opened, or that contains a refused day."""

    opened = date(2000, 1, 1)
    refused: frozenset[date] = frozenset()

    def answer(self, address: str, user_agent: str) -> Answer:
        given = parse_qs(urlsplit(address).query)
        if "SendRequest" in address:
            first, last = (date.fromisoformat(given[name][0]) for name in ("fd", "td"))
            if first < self.opened or any(first <= day <= last for day in self.refused):
                self.requests["not_available"] += 1
                super().answer(address, user_agent)  # for the rate
                return _refusal(1003)
        return super().answer(address, user_agent)


class Pipeline(PipelineResource):
    """The real resource on the rig's clock."""

    time: ClassVar[VirtualTime]

    def now(self) -> datetime:
        return NOW


@pytest.fixture
def service(time: VirtualTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[YoungAccounts]:
    for name in list(os.environ):
        if name.startswith("V6_"):
            monkeypatch.delenv(name)
    with YoungAccounts(past, FlexConfig(in_progress=0, clock=time.clock, utcnow=time.utcnow)) as running:
        monkeypatch.setenv("V6_HOME", str(tmp_path))
        monkeypatch.setenv("V6_START_DATE", f"{START}")
        monkeypatch.setenv("V6_FLEX_TOKEN", TOKEN)
        monkeypatch.setenv("V6_FLEX_QUERY_ID", QUERY_ID)
        monkeypatch.setenv("V6_FLEX_URL", running.url)
        patient = partial(fetch_range, clock=time.clock, sleep=time.sleep)

        def fetch(*given: object, **options: object) -> object:
            return patient(*given, **{**options, "utcnow": time.utcnow})  # type: ignore[arg-type]

        monkeypatch.setattr(flex_days, "fetch_range", fetch)
        yield running


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def backfill(pipeline: Pipeline, instance: dg.DagsterInstance, first: date = START, last: date = TODAY) -> Ran:
    return run(pipeline, instance, ALL, first, last)


def days_with_statement(pipeline: Pipeline) -> list[date]:
    return sorted(set(stored(pipeline, FLEX_STATEMENTS).get_column("date")))


def test_a_backfill_of_all_days_of_an_account_opened_later_makes_its_days_and_succeeds(
    service: YoungAccounts, pipeline: Pipeline, instance: dg.DagsterInstance
) -> None:
    service.opened = date(2026, 11, 9)
    result = backfill(pipeline, instance)

    assert result.success
    made_days = [day for day in DAYS if service.opened <= day < date(2026, 11, 21)]
    assert days_with_statement(pipeline) == made_days
    assert service.requests["not_available"] < 20
    for asset in ALL:
        events = made(result, asset)
        assert sorted(events) == [f"{day}" for day in DAYS], "Dagster shows each day of the backfill"
        before, today = events[f"{START}"], events[f"{TODAY}"]
        assert before["not_there"].startswith(
            "the Flex Web Service has no statement of 2026-10-22 to 2026-11-06 (error 1003); the first one is of "
            "2026-11-09: the account was opened later"
        )
        assert before["dagster/partition_row_count"] == 0
        assert "no Flex statement of 2026-11-23 yet" in today["not_there"]
        assert "not_there" not in events["2026-11-10"]


def test_an_account_opened_on_the_day_after_a_holiday_has_that_day(
    service: YoungAccounts, pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2026-09-07 is Labor Day: a request that begins on it is refused."""
    monkeypatch.setenv("V6_START_DATE", "2026-09-01")
    service.opened = date(2026, 9, 8)
    assert backfill(pipeline, instance, date(2026, 9, 1), date(2026, 9, 11)).success
    assert days_with_statement(pipeline) == [date(2026, 9, day) for day in (8, 9, 10, 11)]


def test_a_day_that_is_refused_among_others_fails_alone(
    service: YoungAccounts, pipeline: Pipeline, instance: dg.DagsterInstance
) -> None:
    service.refused = frozenset({date(2026, 11, 11)})
    result = backfill(pipeline, instance, date(2026, 11, 9), date(2026, 11, 13))
    assert not result.success
    assert "flex_statements of 2026-11-11: no Flex statement covers 2026-11-11" in failure(result).description
    assert "error 1003" in failure(result).description
    assert days_with_statement(pipeline) == [date(2026, 11, day) for day in (9, 10, 12, 13)]


def test_days_that_are_all_refused_are_a_failure(
    service: YoungAccounts, pipeline: Pipeline, instance: dg.DagsterInstance
) -> None:
    service.opened = date(2027, 1, 1)
    result = backfill(pipeline, instance, date(2026, 11, 9), date(2026, 11, 13))
    assert not result.success
    assert "error 1003, statement is not available" in failure(result).description


def test_a_day_alone_whose_statement_is_to_come_is_a_failure(
    service: YoungAccounts, pipeline: Pipeline, instance: dg.DagsterInstance
) -> None:
    result = backfill(pipeline, instance, TODAY, TODAY)
    assert not result.success
    assert "no Flex statement covers 2026-11-23 yet: IB makes it after the day's end" in failure(result).description


def test_the_snapshots_of_days_before_the_account_are_not_there(
    service: YoungAccounts, pipeline: Pipeline, instance: dg.DagsterInstance
) -> None:
    service.opened = date(2026, 11, 11)
    assert backfill(pipeline, instance, date(2026, 11, 9), date(2026, 11, 13)).success
    assert sorted(set(stored(pipeline, POSITION_SNAPSHOTS).get_column("date"))) == [
        date(2026, 11, day) for day in (11, 12, 13)
    ]


def test_a_fetched_statement_that_cannot_be_read_is_fetched_again_and_the_others_are_not(
    service: YoungAccounts, pipeline: Pipeline, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Its days counted as fetched for ever, so that no correction of the query reached them."""
    first, last = date(2026, 11, 9), date(2026, 11, 11)
    assert backfill(pipeline, instance, first, last).success
    [file] = (tmp_path / "flex").iterdir()
    head, _, rest = file.read_text().partition('fromDate="20261110"')
    file.write_text(f'{head}fromDate="20261110"{rest.replace(" position=", " position=x", 1)}'.replace('=x"', '="x', 1))
    service.requests.clear()

    result = backfill(pipeline, instance, first, last)

    assert result.success
    assert service.requests["SendRequest"] == 1
    names = sorted(one.name.split("-")[2] for one in (tmp_path / "flex").iterdir())
    assert names == ["20261109", "20261110"]
