"""The checks of the logs as Dagster shows them: when they pass and fail, how seriously, and with which numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.checks.registry import CHECKS, When
from v6_pipeline.definitions import build_defs
from v6_pipeline.defs.schedules import refresh_decision
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.recovery.durability import log_file
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.model import AccountValues, ContractSpec, PositionUpdate, SlotPurpose, UpdateSource
from v6_pipeline.state.account import contracts, holdings
from v6_pipeline.state.account import downloads as account_downloads
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline_tests.history_runs import evaluated, numbers, run_check
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.defs.conftest import FRIDAY_NOON, Clock, ClockedPipeline
from v6_pipeline_tests.unit.state.samples import holding, option, stock

ACCOUNT = "SIM1"
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
DAY = FRIDAY_NOON.date()
NO_PRICE: dict[str, Any] = {"market_price": None, "market_value": None}


def stock_row(conid: int, **changes: Any) -> PositionUpdate:
    row = PositionUpdate(
        account=ACCOUNT,
        conid=conid,
        symbol="AAPL",
        sec_type="STK",
        currency="USD",
        position=10.0,
        timestamp=FRIDAY_NOON,
        market_price=20.0,
        market_value=200.0,
    )
    return replace(row, **changes)


def option_row(conid: int, **changes: Any) -> PositionUpdate:
    greeks = {"delta": -0.3, "gamma": 0.01, "vega": 1.5, "theta": -0.4}
    of_option = {"symbol": "SPX", "sec_type": "OPT", "expiry": date(2026, 12, 18), "multiplier": 100.0}
    quoted = {"bid": 19.5, "ask": 20.5, "market_value": 20_000.0}
    return stock_row(conid, **{**of_option, **quoted, **greeks, **changes})


class Checked:
    """A lake and a state database, and what a check says of them when a user executes it."""

    def __init__(self, pipeline: ClockedPipeline, instance: dg.DagsterInstance, database: StateDatabase) -> None:
        self.pipeline, self.instance, self.database = pipeline, instance, database
        self.queue = PositionQueue(database, pipeline.now, max_attempts=1)

    def hold(self, *specs: ContractSpec, account: str = ACCOUNT, position: float = 10.0) -> None:
        now = self.pipeline.now()
        with self.database.write() as connection:
            held = [holding(spec, account=account, position=position, observed_at=now) for spec in specs]
            holdings.upsert_holdings(connection, held)

    def refreshed(self, conid: int, at: datetime = FRIDAY_NOON) -> None:
        with self.database.write() as connection:
            holdings.set_refreshed(connection, [(ACCOUNT, conid)], refreshed_at=at)

    def attempted(self, at: datetime, *, succeeds: bool = True) -> None:
        with self.database.write() as connection:
            if succeeds:
                account_downloads.completed(connection, ACCOUNT, at=at)
            else:
                account_downloads.failed(connection, ACCOUNT, at=at, reason="2101 another client")

    def downloaded(self, rates: dict[str, float], account: str = ACCOUNT) -> None:
        with self.database.write() as connection:
            account_downloads.save(
                connection, account, completed_at=self.pipeline.now(), base_currency="USD", rates=rates
            )

    def streams(self, *conids: int, since: datetime = FRIDAY_NOON, for_seconds: float = 60) -> None:
        ledger = StepLedger(self.database, ceiling=90, batch_floor=0, clock=lambda: since, unconfirmed_lines=90)
        ledger.acquire(conids, holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=for_seconds)

    def write(self, *updates: PositionUpdate, to: TableSpec = QUEUED_POSITIONS, run_id: str = "one") -> None:
        streams = to is STREAMED_POSITIONS
        made_by: dict[str, Any] = {"epoch": 1} if streams else {"run_id": run_id}
        source = UpdateSource.STREAM if streams else UpdateSource.QUEUE
        frame = position_rows(
            updates,
            spec=to,
            trading_day=TradingCalendar().trading_day,
            source=source,
            ingested_at=self.pipeline.now(),
            **made_by,
        )
        lineage = CommitLineage(asset=to.name, source=source, code_version="0", **made_by)
        self.pipeline.lake().table(to).append(frame, lineage)

    def write_account(self, account: str, *, run_id: str = "one") -> None:
        values = AccountValues(account=account, base_currency="USD", timestamp=FRIDAY_NOON, net_liquidation=1e6)
        frame = account_rows(
            [values],
            spec=ACCOUNT_VALUES,
            trading_day=TradingCalendar().trading_day,
            source=UpdateSource.QUEUE,
            run_id=run_id,
            ingested_at=self.pipeline.now(),
        )
        lineage = CommitLineage(asset=ACCOUNT_VALUES.name, source=UpdateSource.QUEUE, code_version="0", run_id=run_id)
        self.pipeline.lake().table(ACCOUNT_VALUES).append(frame, lineage)

    def says(self, name: str, asset: str = QUEUED_POSITIONS.name) -> dg.AssetCheckEvaluation:
        result = run_check(self.pipeline, self.instance, asset, name)
        assert result.success
        [said] = evaluated(result).values()
        assert (said.asset_key, said.check_name) == (dg.AssetKey(asset), name)
        return said


@pytest.fixture
def checked(pipeline: ClockedPipeline, instance: dg.DagsterInstance, database: StateDatabase) -> Checked:
    return Checked(pipeline, instance, database)


def failed_with(said: dg.AssetCheckEvaluation) -> tuple[dg.AssetCheckSeverity, str | None]:
    assert not said.passed
    return said.severity, said.description


# --- the queue ---


def test_the_queue_drains(checked: Checked) -> None:
    assert checked.says("queue_drains").description == "the queue is empty"
    checked.queue.insert(1, "AAPL", account=ACCOUNT)
    Clock.forward(300)

    passed = checked.says("queue_drains")
    assert passed.passed
    assert numbers(passed) == {
        "pending": 1,
        "waiting_for_retry": 0,
        "oldest_seconds": 300.0,
        "oldest_allowed_seconds": 300,
        "pending_allowed": 250,
        "overdue": 0,
        "oldest_overdue_seconds": 0.0,
    }

    Clock.forward(1)

    failed = checked.says("queue_drains")
    assert failed_with(failed) == (ERROR, "the oldest of 1 items has waited 301 s, 300 s are allowed")
    assert numbers(failed)["oldest_seconds"] == 301.0


def test_a_queue_without_refreshes_while_the_exchange_is_closed_is_a_warning(checked: Checked) -> None:
    checked.queue.insert(1, "AAPL", account=ACCOUNT)
    Clock.forward(timedelta(days=1).total_seconds())  # Saturday

    severity, description = failed_with(checked.says("queue_drains"))
    assert severity is WARN
    assert (description or "").endswith(
        "no refresh is expected now: the exchange is closed or IB is in its nightly reset"
    )


@pytest.mark.parametrize(
    ("minutes", "serious"), [(260, True), (274, True), (276, False)], ids=["16:20", "16:34", "16:36"]
)
def test_the_check_expects_refreshes_for_as_long_as_the_schedule_makes_them(
    checked: Checked, minutes: int, serious: bool
) -> None:
    """The schedule refreshes until the day's cut-off, 35 minutes after the close."""
    Clock.forward(60 * minutes - 301)
    checked.queue.insert(1, "AAPL", account=ACCOUNT)
    Clock.forward(301)

    severity, description = failed_with(checked.says("queue_drains"))
    refreshes = refresh_decision(checked.instance, checked.pipeline, TradingCalendar(), Clock.instant).refresh

    assert refreshes is serious
    assert severity is (ERROR if serious else WARN)
    assert ("no refresh is expected now" in (description or "")) is not serious


def test_a_queue_that_is_deeper_than_a_worker_drains(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V6_QUEUE_BATCH", "1")
    checked.queue.insert_many([(ACCOUNT, conid, "AAPL", 5) for conid in range(1, 6)])
    assert checked.says("queue_drains").passed
    checked.queue.insert(6, "AAPL", account=ACCOUNT)

    assert failed_with(checked.says("queue_drains")) == (WARN, "6 items wait, but a worker refreshes 5 within 300 s")


def test_values_without_a_refresh_are_an_alarm_though_the_queue_is_empty(checked: Checked) -> None:
    """The schedule is off, or the run queue is jammed: no run starts that would put anything into the queue."""
    checked.hold(stock(1), stock(2))
    checked.refreshed(1)
    checked.attempted(FRIDAY_NOON)
    Clock.forward(420)
    passed = checked.says("queue_drains")
    assert (passed.passed, passed.description) == (True, "the queue is empty")

    Clock.forward(1)

    failed = checked.says("queue_drains")
    reason = (
        "2 positions are older than 420 s, the oldest 421 s, and no refresh was attempted since 17:00:00 UTC: "
        "is queued_positions_schedule on, do runs start, and do they reach the gateway?"
    )
    assert failed_with(failed) == (ERROR, reason)
    assert (numbers(failed)["overdue"], numbers(failed)["oldest_overdue_seconds"]) == (2, 421.0)


def test_values_that_were_never_refreshed_are_an_alarm_too(checked: Checked) -> None:
    checked.hold(stock(1))
    Clock.forward(1_900)

    severity, description = failed_with(checked.says("queue_drains"))

    assert severity is ERROR
    assert (description or "").startswith(
        "1 positions are older than 420 s, the oldest 1,900 s, and no refresh was ever attempted: is queued_positions_"
    )


@pytest.mark.parametrize("succeeds", [True, False])
def test_what_a_streamer_that_just_died_leaves_is_no_alarm_while_accounts_are_downloaded_or_tried(
    checked: Checked, succeeds: bool
) -> None:
    checked.hold(stock(1))
    checked.refreshed(1)
    checked.streams(1, for_seconds=3_600)
    Clock.forward(3_600)
    checked.attempted(checked.pipeline.now() - timedelta(seconds=419), succeeds=succeeds)

    passed = checked.says("queue_drains")
    assert passed.passed
    assert numbers(passed)["overdue"] == 1

    Clock.forward(2)

    assert failed_with(checked.says("queue_drains"))[0] is ERROR


def test_after_the_opening_a_refresh_is_given_its_time(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    checked.hold(stock(1))
    checked.attempted(FRIDAY_NOON)
    monkeypatch.setattr(Clock, "instant", datetime(2026, 11, 23, 14, 30, tzinfo=UTC))  # Monday, the opening
    for seconds in (0, 419):
        Clock.forward(seconds)
        passed = checked.says("queue_drains")
        assert (passed.passed, numbers(passed)["overdue"]) == (True, 1)

    Clock.forward(1)

    assert failed_with(checked.says("queue_drains"))[0] is ERROR


def test_dead_letters(checked: Checked) -> None:
    checked.queue.insert(1, "AAPL", account=ACCOUNT)
    passed = checked.says("no_dead_letters")
    assert (passed.passed, numbers(passed)) == (True, {"dead": 0})

    batch = checked.queue.get_batch(1)
    assert batch.token is not None
    checked.queue.mark_failed(batch.token, [(ACCOUNT, 1)], "no such contract")

    failed = checked.says("no_dead_letters")
    named = "SIM1/1 AAPL (no such contract)"
    assert failed_with(failed) == (WARN, f"1 items were given up ('v6 queue retry --all' retries them): {named}")
    assert numbers(failed) == {"dead": 1, "sample": named}
    assert checked.says("queue_drains").passed  # it does not count dead letters


# --- the account feed ---


def test_account_feed_free(checked: Checked) -> None:
    assert checked.says("account_feed_free", ACCOUNT_VALUES.name).passed
    checked.hold(stock(1))
    with checked.database.write() as connection:
        account_downloads.completed(connection, ACCOUNT, at=FRIDAY_NOON)
    passed = checked.says("account_feed_free", ACCOUNT_VALUES.name)
    assert passed.passed
    assert numbers(passed) == {"accounts": 1, "failing": 0, "failures_in_a_row": 0, "oldest_download_seconds": 0.0}

    Clock.forward(300)
    refused = "2101 another client"
    with checked.database.write() as connection:
        account_downloads.failed(connection, ACCOUNT, at=checked.pipeline.now(), reason=refused)
    once = checked.says("account_feed_free", ACCOUNT_VALUES.name)
    assert failed_with(once) == (WARN, f"1 of 1 accounts could not be downloaded: SIM1: {refused}")
    with checked.database.write() as connection:
        account_downloads.failed(connection, ACCOUNT, at=checked.pipeline.now(), reason=refused)

    warned = checked.says("account_feed_free", ACCOUNT_VALUES.name)
    named = f"SIM1, 2 times in a row: {refused}"
    assert failed_with(warned) == (WARN, f"1 of 1 accounts could not be downloaded: {named}")
    assert numbers(warned) == {
        "accounts": 1,
        "failing": 1,
        "failures_in_a_row": 2,
        "oldest_download_seconds": 300.0,
        "sample": named,
    }

    Clock.forward(1)  # values are older than they may be
    assert failed_with(checked.says("account_feed_free", ACCOUNT_VALUES.name))[0] is ERROR

    Clock.forward(timedelta(days=1).total_seconds())  # Saturday
    closed = checked.says("account_feed_free", ACCOUNT_VALUES.name)
    assert failed_with(closed)[0] is WARN
    assert (closed.description or "").endswith("the exchange is closed or IB is in its nightly reset")


def test_a_flat_account_needs_downloads_as_any_other(checked: Checked) -> None:
    """Without one it is unknown that it holds nothing, and its day is refused."""
    checked.attempted(FRIDAY_NOON)
    assert numbers(checked.says("account_feed_free", ACCOUNT_VALUES.name))["accounts"] == 1

    checked.attempted(FRIDAY_NOON, succeeds=False)

    assert failed_with(checked.says("account_feed_free", ACCOUNT_VALUES.name)) == (
        WARN,
        "1 of 1 accounts could not be downloaded: SIM1: 2101 another client",
    )


EUROS = replace(stock(2), currency="EUR")


def test_currencies_have_rates(checked: Checked) -> None:
    checked.hold(stock(1), EUROS, replace(stock(3), currency="EUR"))
    name, asset = "currencies_have_rates", ACCOUNT_VALUES.name
    passed = checked.says(name, asset)
    assert (passed.passed, numbers(passed)["accounts_not_downloaded"]) == (True, 1), "account_feed_free reports it"

    checked.downloaded({"USD": 1.0})
    failed = checked.says(name, asset)
    severity, description = failed_with(failed)
    assert severity is ERROR
    assert description == (
        "IB's last download has no exchange rate for 1 of 2 currencies held, and every value of theirs in the base "
        "currency is unknown: SIM1 EUR (2 positions)"
    )
    assert numbers(failed)["positions_without_rate"] == 2

    checked.downloaded({"USD": 1.0, "EUR": 1.08})
    passed = checked.says(name, asset)
    assert (passed.passed, numbers(passed)["currencies"]) == (True, 2)


def test_a_rate_of_an_earlier_download_does_not_count(checked: Checked) -> None:
    """A release of TWS that words the tag otherwise would leave the rate of the day before in use."""
    checked.hold(stock(1), EUROS)
    checked.downloaded({"USD": 1.0, "EUR": 1.08})
    Clock.forward(300)
    checked.downloaded({"USD": 1.0})

    assert failed_with(checked.says("currencies_have_rates", ACCOUNT_VALUES.name))[0] is ERROR


def test_a_rate_of_another_account_does_not_count(checked: Checked) -> None:
    checked.hold(stock(1), account="SIM2")
    checked.hold(EUROS, account="SIM2")
    checked.downloaded({"USD": 1.0}, account="SIM2")
    checked.downloaded({"USD": 1.0, "EUR": 1.08})

    failed = checked.says("currencies_have_rates", ACCOUNT_VALUES.name)
    assert (failed_with(failed)[1] or "").endswith("SIM2 EUR (1 positions)")


def test_the_currency_of_a_closed_position_needs_no_rate(checked: Checked) -> None:
    checked.hold(stock(1))
    checked.hold(EUROS, position=0.0)
    checked.downloaded({"USD": 1.0})

    assert checked.says("currencies_have_rates", ACCOUNT_VALUES.name).passed


def test_an_account_whose_holdings_all_stream_needs_downloads_as_any_other(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values, and the exchange rates that the stream's rows carry, come with nothing else."""
    checked.hold(stock(1))
    checked.streams(1)
    checked.attempted(FRIDAY_NOON, succeeds=False)

    failed = checked.says("account_feed_free", ACCOUNT_VALUES.name)
    assert not failed.passed
    assert numbers(failed)["accounts"] == 1

    monkeypatch.setenv("V6_IB_ACCOUNTS", "SIM2")  # which is not asked about this one
    assert checked.says("account_feed_free", ACCOUNT_VALUES.name).passed


def test_one_row_per_account_and_instant(checked: Checked) -> None:
    assert numbers(checked.says("one_row_per_key", ACCOUNT_VALUES.name)) == {"rows": 0, "repeated": 0}
    checked.write_account("SIM1")
    checked.write_account("SIM2")
    passed = checked.says("one_row_per_key", ACCOUNT_VALUES.name)
    assert (passed.passed, numbers(passed)["rows"]) == (True, 2)

    checked.write_account("SIM2", run_id="other")

    failed = checked.says("one_row_per_key", ACCOUNT_VALUES.name)
    named = "SIM2/2026-11-20 17:00:00+00:00 2 times"
    reason = f"2026-11-20: 1 of (account, timestamp) occur more than once: {named}"
    assert failed_with(failed) == (ERROR, reason)
    assert numbers(failed) == {"day": "2026-11-20", "rows": 3, "repeated": 1, "sample": named}


# --- rows ---


@pytest.mark.parametrize("table", [QUEUED_POSITIONS, STREAMED_POSITIONS], ids=lambda table: table.name)
def test_one_row_per_key(checked: Checked, table: TableSpec) -> None:
    assert numbers(checked.says("one_row_per_key", table.name)) == {"rows": 0, "repeated": 0}
    checked.write(stock_row(1), stock_row(2), to=table)
    checked.write(stock_row(1, timestamp=FRIDAY_NOON + timedelta(seconds=1)), to=table)

    passed = checked.says("one_row_per_key", table.name)
    assert passed.passed
    assert numbers(passed) == {"day": "2026-11-20", "rows": 3, "repeated": 0}

    checked.write(stock_row(2), to=table, run_id="other")

    failed = checked.says("one_row_per_key", table.name)
    named = "SIM1/2/2026-11-20 17:00:00+00:00 2 times"
    reason = f"2026-11-20: 1 of (account, conid, timestamp) occur more than once: {named}"
    assert failed_with(failed) == (ERROR, reason)
    assert numbers(failed) == {"day": "2026-11-20", "rows": 4, "repeated": 1, "sample": named}


def test_prices_present(checked: Checked) -> None:
    with checked.database.write() as connection:
        contracts.mark_unknown(connection, 3, failed_at=FRIDAY_NOON)
    expired = option_row(2, expiry=DAY - timedelta(days=1), **NO_PRICE)
    checked.write(stock_row(1), expired, stock_row(3, **NO_PRICE), stock_row(4, position=0.0, **NO_PRICE))

    passed = checked.says("prices_present")
    assert passed.passed
    assert numbers(passed) == {"positions": 3, "without_price": 0, "expired_or_unknown": 2}

    checked.write(option_row(5, expiry=DAY, **NO_PRICE), run_id="other")

    failed = checked.says("prices_present")
    assert failed_with(failed) == (WARN, "1 of 4 open positions have no price: SIM1/5 SPX")
    assert numbers(failed) == {"positions": 4, "without_price": 1, "expired_or_unknown": 2, "sample": "SIM1/5 SPX"}


def test_prices_of_what_streams_are_judged_once_the_stream_had_time(checked: Checked) -> None:
    checked.write(stock_row(1, **NO_PRICE), to=STREAMED_POSITIONS)
    checked.streams(1, for_seconds=600)
    Clock.forward(59)
    began = checked.says("prices_present")
    assert (began.passed, numbers(began)["positions"]) == (True, 0)

    Clock.forward(1)

    failed = checked.says("prices_present")
    assert failed_with(failed) == (WARN, "1 of 1 open positions have no price: SIM1/1 AAPL")


def test_what_a_stream_has_left_is_not_judged(checked: Checked) -> None:
    """It is queued next."""
    checked.write(stock_row(1, **NO_PRICE), to=STREAMED_POSITIONS)
    checked.streams(1, for_seconds=60)
    Clock.forward(60)

    assert checked.says("prices_present").passed


def test_rows_of_an_earlier_day_are_not_what_streams_now(checked: Checked) -> None:
    yesterday = FRIDAY_NOON - timedelta(days=1)
    checked.write(stock_row(1, timestamp=yesterday, **NO_PRICE), stock_row(2), to=STREAMED_POSITIONS)
    checked.streams(1, 2, since=yesterday, for_seconds=100_000)

    passed = checked.says("prices_present")

    assert (passed.passed, numbers(passed)["positions"]) == (True, 1)


def test_greeks_of_what_streams_are_judged_where_there_is_a_quote(checked: Checked) -> None:
    no_quote = option_row(2, bid=None, delta=None)
    checked.write(option_row(1, delta=None), no_quote, to=STREAMED_POSITIONS)
    checked.streams(1, 2, for_seconds=600)
    Clock.forward(60)

    failed = checked.says("greeks_present")

    assert failed_with(failed) == (WARN, "1 of 1 options with a quote have no greeks: SIM1/1 SPX")


def test_values_of_what_streams_are_judged(checked: Checked) -> None:
    checked.hold(option(1))
    checked.write(option_row(1, market_value=200.0), to=STREAMED_POSITIONS)
    checked.streams(1, for_seconds=600)
    Clock.forward(60)

    failed = checked.says("values_consistent")

    assert failed_with(failed)[0] is ERROR
    assert numbers(failed)["sample"] == "SIM1/1 200.00 instead of 20,000.00"


def test_only_the_newest_row_of_a_position_is_judged(checked: Checked) -> None:
    checked.write(stock_row(1, market_price=None, market_value=None))
    checked.write(stock_row(1, timestamp=FRIDAY_NOON + timedelta(seconds=1)))

    assert checked.says("prices_present").passed


def test_greeks_present(checked: Checked) -> None:
    no_market = option_row(2, bid=None, ask=None, delta=None, gamma=None, vega=None, theta=None)
    expired = option_row(3, expiry=DAY - timedelta(days=1), delta=None)
    checked.write(option_row(1), no_market, expired, stock_row(4))

    passed = checked.says("greeks_present")
    assert passed.passed
    assert numbers(passed) == {"options": 2, "without_quote": 1, "without_greeks": 0}

    checked.write(option_row(5, delta=None), run_id="other")

    failed = checked.says("greeks_present")
    assert failed_with(failed) == (WARN, "1 of 2 options with a quote have no greeks: SIM1/5 SPX")
    assert numbers(failed) == {"options": 3, "without_quote": 1, "without_greeks": 1, "sample": "SIM1/5 SPX"}


AGREED = {
    "held": 2,
    "in_lake": 2,
    "judged": 2,
    "streamed": 0,
    "pending": 0,
    "missing": 0,
    "not_held": 0,
    "unequal": 0,
    "heard_seconds_ago": 0.0,
}


def test_reconciles_with_broker(checked: Checked) -> None:
    checked.hold(stock(1), stock(2))
    checked.write(stock_row(1), stock_row(3, position=0.0))
    checked.write(stock_row(2), to=STREAMED_POSITIONS)  # until a moment ago, by a streamer that is gone

    passed = checked.says("reconciles_with_broker")
    assert passed.passed
    assert numbers(passed) == AGREED

    checked.hold(stock(4))
    checked.refreshed(4)
    checked.hold(stock(1), position=11)
    checked.write(stock_row(5), run_id="other")

    failed = checked.says("reconciles_with_broker")
    named = "SIM1/4 0 in the lake, 10 held, SIM1/5 10 in the lake, 0 held, SIM1/1 10 in the lake, 11 held"
    reason = f"1 held positions have no row, 1 rows are not held, 1 differ in quantity: {named}"
    assert failed_with(failed) == (ERROR, reason)
    found = {"held": 3, "in_lake": 3, "judged": 4, "missing": 1, "not_held": 1, "unequal": 1, "sample": named}
    assert numbers(failed) == AGREED | found


def test_a_position_that_changed_since_its_row_was_made_may_differ_until_the_row_is_stale(checked: Checked) -> None:
    checked.write(stock_row(1))
    Clock.forward(300)
    checked.hold(stock(1), position=11)
    checked.refreshed(1, at=FRIDAY_NOON)

    passed = checked.says("reconciles_with_broker")
    assert passed.passed
    assert numbers(passed)["pending"] == 1

    Clock.forward(1)

    failed = checked.says("reconciles_with_broker")
    assert failed_with(failed)[0] is ERROR
    assert numbers(failed)["sample"] == "SIM1/1 10 in the lake, 11 held"


def test_a_new_holding_is_no_disagreement_but_a_dead_letter_is(checked: Checked) -> None:
    checked.hold(stock(1))
    new = checked.says("reconciles_with_broker")
    assert (new.passed, numbers(new)["pending"]) == (True, 1)

    checked.queue.insert(1, "AAPL", account=ACCOUNT)
    queued = checked.says("reconciles_with_broker")
    assert (queued.passed, numbers(queued)["pending"]) == (True, 1)

    batch = checked.queue.get_batch(1)
    assert batch.token is not None
    checked.queue.mark_failed(batch.token, [(ACCOUNT, 1)], "no such contract")
    given_up = checked.says("reconciles_with_broker")
    assert failed_with(given_up)[0] is ERROR
    assert numbers(given_up)["missing"] == 1


def test_agreement_with_an_old_download_is_a_warning(checked: Checked) -> None:
    """Rows and holdings are equally old, without a download since."""
    checked.hold(stock(1), stock(2))
    checked.write(stock_row(1), stock_row(2), stock_row(3, account="SIM2"))
    Clock.forward(400)
    checked.hold(stock(2))  # any holding dates the download of its account
    checked.hold(stock(3), account="SIM2")
    Clock.forward(420)
    assert checked.says("reconciles_with_broker").passed

    Clock.forward(1)
    checked.hold(stock(3), account="SIM2")

    failed = checked.says("reconciles_with_broker")
    assert failed_with(failed) == (WARN, "IB's last download is 421 s old (SIM1): holdings may have changed")
    assert numbers(failed)["heard_seconds_ago"] == 421.0


def test_an_old_download_is_no_warning_while_no_answer_is_expected(checked: Checked) -> None:
    checked.hold(stock(1))
    checked.write(stock_row(1))
    Clock.forward(timedelta(days=1).total_seconds())  # Saturday

    passed = checked.says("reconciles_with_broker")

    assert passed.passed
    assert numbers(passed)["heard_seconds_ago"] == 86_400.0


def test_an_account_that_the_settings_leave_out_need_not_be_downloaded(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked.hold(stock(1))
    checked.write(stock_row(1))
    Clock.forward(421)
    assert not checked.says("reconciles_with_broker").passed
    monkeypatch.setenv("V6_IB_ACCOUNTS", "SIM2")

    assert checked.says("reconciles_with_broker").passed


def test_a_disagreement_is_reported_before_an_old_download(checked: Checked) -> None:
    checked.hold(stock(1), position=11)
    checked.refreshed(1)
    checked.write(stock_row(1))
    Clock.forward(1_000)

    severity, description = failed_with(checked.says("reconciles_with_broker"))

    assert severity is ERROR
    assert (description or "").startswith("0 held positions have no row")


def test_streamed_contracts_are_not_compared(checked: Checked) -> None:
    checked.hold(stock(1), position=11)
    checked.refreshed(1)
    checked.write(stock_row(1), to=STREAMED_POSITIONS)
    assert not checked.says("reconciles_with_broker").passed

    checked.streams(1)

    streams = checked.says("reconciles_with_broker")
    assert streams.passed
    assert (numbers(streams)["streamed"], numbers(streams)["judged"]) == (1, 0)


def test_values_consistent(checked: Checked) -> None:
    in_pence = replace(stock(3), price_magnifier=100)
    checked.hold(stock(1), option(2), in_pence)
    checked.write(stock_row(1, market_value=200.1), option_row(2), stock_row(3, market_value=2.0), stock_row(9))

    passed = checked.says("values_consistent")
    assert passed.passed
    assert numbers(passed) == {"positions": 4, "judged": 3, "inconsistent": 0}

    later = FRIDAY_NOON + timedelta(seconds=1)
    checked.write(option_row(2, timestamp=later, market_value=200.0))

    failed = checked.says("values_consistent")
    named = "SIM1/2 200.00 instead of 20,000.00"
    reason = f"1 of 3 market values do not follow from position and price: {named}"
    assert failed_with(failed) == (ERROR, reason)
    assert numbers(failed) == {"positions": 4, "judged": 3, "inconsistent": 1, "sample": named}


# --- in runs ---


def test_each_refresh_evaluates_all_checks_of_its_assets(checked: Checked) -> None:
    checked.write(stock_row(1))
    job = build_defs(checked.pipeline.settings(), pipeline=checked.pipeline).resolve_job_def("refresh_queued_positions")

    # A past day: IB is not asked.
    result = job.execute_in_process(instance=checked.instance, partition_key="2026-11-19", raise_on_error=False)

    assert result.success
    found = {event.check_name: event.passed for event in result.get_asset_check_evaluations()}
    assert found == {
        check.name: check.name != "reconciles_with_broker" for check in CHECKS if check.when is When.REFRESH
    }  # a failed check fails no run


def test_a_damaged_table_fails_checks_and_no_run(checked: Checked) -> None:
    checked.write(stock_row(1))
    log_file(checked.pipeline.settings().home / "lake" / "queued_positions", 0).write_text("{")

    severity, description = failed_with(checked.says("prices_present"))

    assert severity is ERROR
    assert (description or "").startswith("not checked: ")
    assert "v6 lake repair" in (description or "")
    assert checked.says("queue_drains").passed  # needs no lake
