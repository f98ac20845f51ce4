"""``historical_closes`` of trading days: the closes of what was held, asked of the paper gateway and written by day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.history.close_days import close_days
from v6_pipeline.history.context import Failed, HistoryContext, Made, Outcome
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import HISTORICAL_CLOSES
from v6_pipeline.paper import GatewayConfig, GatewayThread, PaperGateway
from v6_pipeline.paper.prices import daily_close
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.history_days import CALENDAR, observe

AAPL, SPY, UNKNOWN = 265598, 756733, 1
IN_PENCE, BELOW_0, SPREAD_IN_CENTS = 698_000_003, 698_000_013, 698_000_011
NOW = datetime(2026, 11, 30, 22, tzinfo=UTC)
WEDNESDAY, FRIDAY, MONDAY = date(2026, 11, 25), date(2026, 11, 27), date(2026, 11, 30)


@pytest.fixture
def thread() -> Iterator[GatewayThread]:
    """Make closes in a thread of its own: each call of ``close_days`` runs a loop."""
    config = GatewayConfig(
        control_port=None, as_of=NOW.date(), tick_seconds=None, message_rate=100_000, utcnow=lambda: NOW
    )
    with GatewayThread(config) as running:
        yield running


@pytest.fixture
def context(thread: GatewayThread, tmp_path: Path) -> Iterator[HistoryContext]:
    settings = Settings(home=tmp_path, ib_port=thread.port, messages_per_second=1_000)
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    yield HistoryContext(
        settings=settings,
        database=database,
        lake=Lake.from_settings(settings),
        calendar=CALENDAR,
        run_id="run-1",
        now=lambda: NOW,
        say=lambda _: None,
    )
    database.close()


def made(outcomes: list[Outcome]) -> dict[date, Made]:
    return {item.day: item for item in outcomes if isinstance(item, Made)}


def failed(outcomes: list[Outcome]) -> list[Failed]:
    return [item for item in outcomes if isinstance(item, Failed)]


def closes(context: HistoryContext) -> dict[tuple[date, int], tuple[float | None, str | None]]:
    handle = context.lake.table(HISTORICAL_CLOSES).load()
    if handle is None:
        return {}
    rows = pl.scan_delta(handle).select("date", "conid", "close", "reason").collect()
    return {(day, conid): (close, reason) for day, conid, close, reason in rows.iter_rows()}


def asked(thread: GatewayThread) -> dict[int, int]:
    return thread.call(lambda gateway: dict(gateway.statistics.history.asked))


def test_each_held_contract_has_a_close_or_a_reason_and_a_day_without_source_stops_no_other(
    context: HistoryContext, thread: GatewayThread
) -> None:
    observe(context.lake, [WEDNESDAY], [AAPL, UNKNOWN])
    observe(context.lake, [FRIDAY], [AAPL, SPY])

    outcomes = list(close_days(context, [date(2026, 11, 24), WEDNESDAY, FRIDAY]))

    [refused] = failed(outcomes)
    assert refused.days == (date(2026, 11, 24),)
    assert "no source has the positions of any account" in refused.reason
    universe = thread.call(lambda gateway: gateway.universe)
    assert closes(context) == {
        (WEDNESDAY, AAPL): (daily_close(universe, AAPL, WEDNESDAY), None),
        (WEDNESDAY, UNKNOWN): (None, "unknown_contract"),
        (FRIDAY, AAPL): (daily_close(universe, AAPL, FRIDAY), None),
        (FRIDAY, SPY): (daily_close(universe, SPY, FRIDAY), None),
        (FRIDAY, UNKNOWN): (None, "unknown_contract"),  # no row shows its end
    }
    by_day = made(outcomes)
    assert {day: (item.rows, item.changed, item.numbers["closes"]) for day, item in by_day.items()} == {
        WEDNESDAY: (2, True, 1),
        FRIDAY: (3, True, 2),
    }
    assert by_day[WEDNESDAY].numbers["without_close_unknown_contract"] == 1
    assert asked(thread) == {AAPL: 1, SPY: 1}, "a contract of several accounts and days is asked for once"


def test_a_second_run_asks_and_commits_nothing(context: HistoryContext, thread: GatewayThread) -> None:
    observe(context.lake, [WEDNESDAY, FRIDAY], [AAPL, SPY])
    first = made(list(close_days(context, [WEDNESDAY, FRIDAY])))
    before = asked(thread)

    second = made(list(close_days(context, [WEDNESDAY, FRIDAY])))

    assert asked(thread) == before
    assert [item.changed for item in second.values()] == [False, False]
    assert {day: item.version for day, item in second.items()} == {day: item.version for day, item in first.items()}


def test_unanswered_requests_fail_their_days_and_only_they_are_repeated(
    context: HistoryContext, thread: GatewayThread
) -> None:
    observe(context.lake, [WEDNESDAY], [AAPL, SPY])
    thread.call(lambda gateway: gateway.perform("refuse_history", why="failed", count=2, conids=[AAPL]))

    [refused] = failed(list(close_days(context, [WEDNESDAY])))

    assert refused.days == (WEDNESDAY,)
    assert refused.reason.startswith("1 closes were not answered in time: materialize those days again")
    assert closes(context)[WEDNESDAY, SPY][0] is not None

    again = list(close_days(context, [WEDNESDAY]))

    assert failed(again) == []
    assert closes(context)[WEDNESDAY, AAPL][0] is not None
    assert asked(thread) == {AAPL: 3, SPY: 1}


def test_without_a_gateway_nothing_is_written(context: HistoryContext, thread: GatewayThread) -> None:
    observe(context.lake, [WEDNESDAY], [AAPL])
    thread.call(PaperGateway.request_stop)

    with pytest.raises(GatewayError, match="no gateway at"):
        list(close_days(context, [WEDNESDAY]))
    assert closes(context) == {}


def test_a_day_on_which_nothing_was_held_needs_no_gateway(context: HistoryContext, thread: GatewayThread) -> None:
    thread.call(PaperGateway.request_stop)
    observe(context.lake, [MONDAY], [])

    [outcome] = close_days(context, [MONDAY])

    assert isinstance(outcome, Made)
    assert outcome.rows == 0


def test_closes_are_in_the_currency_whatever_the_contract_is_quoted_in(
    context: HistoryContext, thread: GatewayThread
) -> None:
    """A stock in pence, a future below 0 in dollars, and a spread of futures below 0 in cents."""
    conids = {IN_PENCE: 100, BELOW_0: 1, SPREAD_IN_CENTS: 100}
    observe(context.lake, [MONDAY], list(conids))

    assert MONDAY in made(list(close_days(context, [MONDAY])))

    handle = context.lake.table(HISTORICAL_CLOSES).load()
    assert handle is not None
    rows = {row["conid"]: row for row in pl.scan_delta(handle).collect().to_dicts()}
    universe = thread.gateway.universe
    for conid, magnifier in conids.items():
        quoted = daily_close(universe, conid, MONDAY)
        assert quoted is not None
        assert rows[conid]["close"] == pytest.approx(quoted / magnifier)
        assert rows[conid]["price_magnifier"] == magnifier
    assert rows[BELOW_0]["close"] < 0
