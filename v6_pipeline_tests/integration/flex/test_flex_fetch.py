"""Ranges of trading days from the Flex Web Service into the archive: asked for once, at the service's rate."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.archive import FlexFetch, fetch_range
from v6_pipeline.paper.flex_server import QUERY_ID, TOKEN, Answer, FlexConfig, FlexFault, FlexServer
from v6_pipeline.paper.flex_server import _refusal as refusal
from v6_pipeline.paper.flex_statements import FlexQuery
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.integration.flex.flex_rig import ACCOUNTS, FIRST, LAST, VirtualTime, past, server_of


@pytest.fixture
def database(tmp_path: Path) -> Iterator[StateDatabase]:
    opened = StateDatabase.open(f"sqlite:///{tmp_path / 'state.db'}", name_for_messages="state")
    yield opened
    opened.close()


@pytest.fixture
def settings(server: FlexServer, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, flex_url=server.url, flex_token=SecretStr(TOKEN), flex_query_id=QUERY_ID)


class Fetcher:
    """``fetch_range`` with the rig's clock."""

    def __init__(self, settings: Settings, database: StateDatabase, time: VirtualTime) -> None:
        self.settings, self.database, self.time = settings, database, time

    def __call__(self, first: date = FIRST, last: date = LAST, accounts: Any = None, **options: Any) -> FlexFetch:
        return fetch_range(
            self.settings,
            self.database,
            first,
            last,
            accounts,
            utcnow=self.time.utcnow,
            clock=self.time.clock,
            sleep=self.time.sleep,
            **options,
        )

    @property
    def archive(self) -> list[Path]:
        return sorted(self.settings.flex_archive.iterdir())


@pytest.fixture
def fetch(settings: Settings, database: StateDatabase, time: VirtualTime) -> Fetcher:
    return Fetcher(settings, database, time)


def test_a_range_is_one_request_and_one_file(fetch: Fetcher, server: FlexServer) -> None:
    fetched = fetch()

    assert fetched.asked == ((FIRST, LAST),)
    assert fetched.not_covered == ()
    assert list(fetched.files) == fetch.archive
    [file] = fetched.files
    assert file.name == f"flex-{QUERY_ID}-20261102-20261106-20261121T120000000000Z.xml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert server.requests == {"SendRequest": 1, "GetStatement": 2}


def test_days_that_the_archive_covers_are_not_requested_again(fetch: Fetcher, server: FlexServer) -> None:
    fetch(FIRST + timedelta(days=1), LAST - timedelta(days=1))
    server.requests.clear()

    fetched = fetch()

    assert fetched.asked == ((FIRST, FIRST), (LAST, LAST))
    assert fetch().files == ()
    assert server.requests["SendRequest"] == 2


def test_refetch_asks_for_everything(fetch: Fetcher) -> None:
    fetch()

    assert fetch(refetch=True).asked == ((FIRST, LAST),)
    assert len(fetch.archive) == 2


def test_days_that_another_folder_covers_are_not_requested(fetch: Fetcher) -> None:
    fetched = fetch(covered=[FIRST + timedelta(days=2)])

    assert fetched.asked == ((FIRST, FIRST + timedelta(days=1)), (FIRST + timedelta(days=3), LAST))


def test_statements_of_another_query_do_not_count(fetch: Fetcher) -> None:
    fetch()
    [file] = fetch.archive
    file.rename(file.with_name(file.name.replace(QUERY_ID, "2000002")))

    assert len(fetch().files) == 1


def test_two_years_are_requested_in_spans_of_a_year(fetch: Fetcher, server: FlexServer) -> None:
    fetched = fetch(date(2025, 1, 2), date(2026, 11, 20))

    assert [(last - first).days for first, last in fetched.asked] == [364, 322]
    assert fetched.not_covered == ()
    assert server.requests["refused"] == 0


def test_the_first_day_of_an_account_is_found_in_two_years_within_six_minutes(
    settings: Settings, database: StateDatabase, time: VirtualTime
) -> None:
    """IB refuses a range that begins before it as a whole: 476 days failed for one such answer."""

    class Young(FlexServer):
        def answer(self, address: str, user_agent: str) -> Answer:
            self.requests["asked"] += 1
            given = super().answer(address, user_agent)
            is_early = "SendRequest" in address and "&fd=2026060" not in address and "&fd=2025" in address
            is_early |= any(f"&fd=20260{month}" in address for month in range(1, 6))
            return refusal(1003) if is_early else given

    with Young(past, FlexConfig(in_progress=0, clock=time.clock, utcnow=time.utcnow)) as server:
        young = settings.model_copy(update={"flex_url": server.url})
        fetched = Fetcher(young, database, time)(date(2025, 1, 2), date(2026, 11, 20))

    days = TradingCalendar().sessions_between(date(2025, 1, 2), date(2026, 11, 20))
    assert list(fetched.refused) == [day for day in days if day < date(2026, 6, 1)]
    assert fetched.not_covered == ()
    assert server.requests["asked"] <= 60, "at ten a minute"
    assert time.seconds < 360


def test_a_collapsed_range_is_reported_and_its_missing_days_are_requested_next_time(
    fetch: Fetcher, server: FlexServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    server.faults.flex_fault(FlexFault.COLLAPSED, count=1)

    fetched = fetch()

    assert fetched.not_covered == tuple(FIRST + timedelta(days=number) for number in range(4))
    assert "sent no statement of 4 trading days (2026-11-02, 2026-11-03, 2026-11-04, ...)" in caplog.text
    assert fetch().asked == ((FIRST, LAST - timedelta(days=1)),)


def test_a_query_that_does_not_break_out_by_day_is_asked_day_by_day(
    time: VirtualTime, settings: Settings, database: StateDatabase
) -> None:
    with server_of(time, query=FlexQuery(by_day=False)) as server:
        fetch = Fetcher(settings.model_copy(update={"flex_url": server.url}), database, time)
        fetched = fetch()
        again = fetch()

    assert fetched.not_covered == ()
    assert fetched.asked == ((FIRST, LAST),)
    assert [file.name[13:30] for file in fetched.files] == [
        "20261102-20261106",
        "20261102-20261102",
        "20261103-20261103",
        "20261104-20261104",
        "20261105-20261105",
    ]
    assert (server.requests["SendRequest"], server.requests["refused"]) == (5, 0)
    assert again.files == ()


def test_accounts_that_the_query_leaves_out_are_missed(fetch: Fetcher) -> None:
    assert fetch(accounts=ACCOUNTS).not_covered == ()
    assert len(fetch(accounts=["U7654321"]).not_covered) == 5


def test_what_was_fetched_before_a_failure_stays(fetch: Fetcher, server: FlexServer) -> None:
    server.faults.flex_fault(FlexFault.HALF_DOCUMENT, count=1)
    with pytest.raises(FlexServiceError):
        fetch(LAST, LAST)
    fetch(FIRST, FIRST)
    server.faults.flex_fault(FlexFault.OTHER_DATES, count=1)
    with pytest.raises(FlexServiceError):
        fetch()

    assert [file.name[13:30] for file in fetch.archive] == ["20261102-20261102"]
    assert fetch().asked == ((FIRST + timedelta(days=1), LAST),)


def test_a_damaged_archive_is_named_and_not_overlooked(fetch: Fetcher) -> None:
    [file] = fetch().files
    file.write_bytes(file.read_bytes()[:-20])

    with pytest.raises(FlexServiceError, match=f"{file.name} is not a complete Flex statement: remove it"):
        fetch()


def test_several_processes_keep_one_rate(fetch: Fetcher, settings: Settings, server: FlexServer) -> None:
    """Each day by itself, by two processes in turn, and none of the requests is refused."""
    other = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    processes = [fetch, Fetcher(settings, other, fetch.time)]
    for number in range(13):
        processes[number % 2](date(2026, 10, 1) + timedelta(days=number), date(2026, 10, 1) + timedelta(days=number))
    other.close()

    assert server.requests["refused"] == 0
    assert sum(server.requests.values()) == 3 * 9
    assert fetch.time.seconds < 3 * 61, "27 requests at ten a minute"


def test_the_state_database_does_not_hold_the_token(fetch: Fetcher, tmp_path: Path) -> None:
    fetch()

    for file in tmp_path.rglob("*"):
        assert TOKEN not in file.name
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()


def test_without_a_token_the_error_names_the_setting(fetch: Fetcher) -> None:
    fetch.settings = fetch.settings.model_copy(update={"flex_token": None})

    with pytest.raises(FlexServiceError, match="set V6_FLEX_TOKEN and V6_FLEX_QUERY_ID"):
        fetch()
