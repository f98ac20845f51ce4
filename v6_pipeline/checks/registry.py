"""The list of all asset checks. ``defs/checks.py`` turns it into Dagster definitions.

To add a check: write its rule, a pure function that returns a ``Verdict``, in the module of its subject, and add an
entry here, which names what the rule judges. The rule decides the severity of a failure: the same failure is an error
in session and a warning while the exchange is closed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from v6_pipeline.checks import accounts, days, positions, queue, stream
from v6_pipeline.checks.inputs import CheckInputs, downloaded_accounts
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.errors import V6Error
from v6_pipeline.history.inputs import KEY
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.reader import repeated_keys
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_POSITIONS,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
    STREAMED_POSITIONS,
)
from v6_pipeline.state.account import contracts, holdings
from v6_pipeline.state.account import downloads as account_downloads
from v6_pipeline.state.queue import due
from v6_pipeline.state.queue.items import QueueState


class When(enum.StrEnum):
    """When a check is evaluated. *Execute* on the check's page evaluates it at any time."""

    TICK = "tick"
    """Each tick of ib_streamer_sensor, because Dagster runs no checks for materializations that a sensor reports."""
    REFRESH = "refresh"
    """Each refresh: one step evaluates all checks of this kind, on one state of the lake and the database."""
    HISTORY = "history"
    """A run of the step ``history``, for the trading days of the run."""
    ON_DEMAND = "on demand"
    """Only by *Execute* on the check's page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One asset check.

    ``name`` and ``asset`` are its identity in Dagster: a renamed check loses its history. ``judge`` reads what the rule
    needs and returns the rule's verdict. With ``also_each_tick`` a tick evaluates it too, so that it fails even if no
    refresh runs. Checks that a tick evaluates read only the state database: a tick does not wait for the lake.
    """

    name: str
    asset: str
    description: str
    when: When
    judge: Callable[[CheckInputs], Verdict]
    also_each_tick: bool = False

    @property
    def step(self) -> str:
        """Name of the Dagster step that evaluates the check; several checks may share a step."""
        return f"{QUEUED_POSITIONS.name}_checks" if self.when is When.REFRESH else f"{self.asset}_{self.name}"

    @property
    def reports_what_it_cannot_read(self) -> bool:
        """True if an unreadable table fails the check; otherwise it fails the tick or the run that evaluates it."""
        return self.when in {When.REFRESH, When.ON_DEMAND}


def judge(checks: Iterable[Check], read: Callable[[], CheckInputs]) -> Iterator[tuple[Check, Verdict]]:
    """Evaluate checks on one state of lake and database, one after the other.

    Raises:
        V6Error: the state database or the lake cannot be read, and the check does not report that as its verdict.
    """
    inputs: CheckInputs | None = None
    for check in checks:
        try:
            inputs = inputs or read()
            verdict = check.judge(inputs)
        except V6Error as error:
            if not check.reports_what_it_cannot_read:
                raise
            verdict = Verdict.error(f"not checked: {error}")
        yield check, verdict


def _queue_drains(inputs: CheckInputs) -> Verdict:
    return queue.queue_drains(
        inputs.queue.stats(),
        due.overdue(inputs.database, refreshed_before=inputs.overdue_before, now=inputs.now),
        attempted_at=account_downloads.newest_attempt(inputs.database),
        now=inputs.now,
        refresh_seconds=inputs.settings.refresh_seconds,
        batch_size=inputs.settings.queue_batch,
        is_expected=inputs.is_expected(inputs.now),
        was_expected=inputs.is_expected(inputs.overdue_before),
    )


def _account_feed_free(inputs: CheckInputs) -> Verdict:
    records = account_downloads.list_all(inputs.database)
    return queue.account_feed_free(
        records,
        downloaded_accounts(holdings.list_open(inputs.database), inputs.settings, records),
        now=inputs.now,
        refresh_seconds=inputs.settings.refresh_seconds,
        is_expected=inputs.is_expected(inputs.now),
    )


def _currencies_have_rates(inputs: CheckInputs) -> Verdict:
    held = holdings.list_open(inputs.database)
    return accounts.currencies_have_rates(
        held,
        account_downloads.list_all(inputs.database),
        account_downloads.list_rates(inputs.database),
        accounts=downloaded_accounts(held, inputs.settings),
    )


def _prices_present(inputs: CheckInputs) -> Verdict:
    unknown = contracts.failures(inputs.database).keys()
    return positions.prices_present(inputs.complete_rows, unknown=unknown, today=inputs.today)


def _reconciles_with_broker(inputs: CheckInputs) -> Verdict:
    coverage = due.read_coverage(inputs.database, now=inputs.now)
    before = inputs.overdue_before
    # Read before the rows: an item that is acknowledged in between has its row in the lake.
    queued = {item.key for item in inputs.queue.items() if item.state is not QueueState.DEAD}
    rows = inputs.newest_rows
    return positions.reconciles_with_broker(
        coverage.held,
        rows,
        # The next run writes the first row of a holding that has none yet.
        pending=coverage.unseen.difference(rows.select(KEY).iter_rows()) | queued,
        streamed={slot.conid for slot in coverage.streams},
        stale_before=inputs.now - timedelta(seconds=inputs.settings.refresh_seconds),
        accounts=downloaded_accounts(coverage.held, inputs.settings),
        downloaded_since=before if inputs.is_expected(before) and inputs.is_expected(inputs.now) else None,
        now=inputs.now,
    )


def _values_consistent(inputs: CheckInputs) -> Verdict:
    rows = inputs.complete_rows
    known = contracts.get(inputs.database, rows.get_column("conid").to_list())
    return positions.values_consistent(rows, {conid: found.spec for conid, found in known.items()})


def _one_row_per_key(table: TableSpec) -> Callable[[CheckInputs], Verdict]:
    def judge_table(inputs: CheckInputs) -> Verdict:
        return positions.one_row_per_key(repeated_keys(inputs.lake.table(table)), table.key)

    return judge_table


CHECKS: tuple[Check, ...] = (
    Check(
        name="stream_fresh",
        asset=STREAMED_POSITIONS.name,
        when=When.TICK,
        description=(
            "Streamed contracts have fresh data in the lake, or a good reason not to: the exchange is closed, IB is in "
            "its nightly reset, the streamer was stopped on request."
        ),
        judge=lambda inputs: stream.stream_fresh(
            inputs.lease,
            is_open=inputs.settings.market_hours.is_open(inputs.calendar, inputs.now),
            outage=expected_outage(inputs.now, inputs.settings.ib_region),
            now=inputs.now,
        ),
    ),
    Check(
        name="slots_within_budget",
        asset=STREAMED_POSITIONS.name,
        when=When.TICK,
        description="The market-data lines in use stay within the ceiling, and IB grants as many as the settings say.",
        judge=lambda inputs: stream.slots_within_budget(inputs.usage),
    ),
    Check(
        name="active_contracts_stream",
        asset=STREAMED_POSITIONS.name,
        when=When.TICK,
        description=(
            "Every active contract that can stream has a market-data line; those without are refreshed at priority 1."
        ),
        judge=lambda inputs: stream.active_contracts_stream(inputs.lease, inputs.usage, now=inputs.now),
    ),
    Check(
        name="queue_drains",
        asset=QUEUED_POSITIONS.name,
        when=When.REFRESH,
        also_each_tick=True,
        description=(
            "No item waits for longer than V6_REFRESH_SECONDS, no more items wait than can be refreshed in that time, "
            "and no value gets older because refreshes do not run."
        ),
        judge=_queue_drains,
    ),
    Check(
        name="no_dead_letters",
        asset=QUEUED_POSITIONS.name,
        when=When.REFRESH,
        description="No item was given up after its last attempt.",
        judge=lambda inputs: queue.no_dead_letters(inputs.queue.items(QueueState.DEAD)),
    ),
    Check(
        name="prices_present",
        asset=QUEUED_POSITIONS.name,
        when=When.REFRESH,
        description=(
            "The newest row of each open position, queued or streamed, has a price, except for contracts that expired "
            "or that IB does not know."
        ),
        judge=_prices_present,
    ),
    Check(
        name="greeks_present",
        asset=QUEUED_POSITIONS.name,
        when=When.REFRESH,
        description=(
            "The newest row of each open option, queued or streamed, has greeks if the market gives a bid and an ask."
        ),
        judge=lambda inputs: positions.greeks_present(inputs.complete_rows, today=inputs.today),
    ),
    Check(
        name="reconciles_with_broker",
        asset=QUEUED_POSITIONS.name,
        when=When.REFRESH,
        description=(
            "The newest rows of both logs agree with what the accounts hold by IB's last download, and that download "
            "is recent; queued positions are not compared."
        ),
        judge=_reconciles_with_broker,
    ),
    Check(
        name="values_consistent",
        asset=QUEUED_POSITIONS.name,
        when=When.REFRESH,
        description="The market value of each newest row follows from its position, price and multiplier.",
        judge=_values_consistent,
    ),
    Check(
        name="account_feed_free",
        asset=ACCOUNT_VALUES.name,
        when=When.REFRESH,
        description=(
            "The accounts can be downloaded: no other client holds IB's account feed, which serves one account at a "
            "time."
        ),
        judge=_account_feed_free,
    ),
    Check(
        name="currencies_have_rates",
        asset=ACCOUNT_VALUES.name,
        when=When.REFRESH,
        description="Each account's last download has an exchange rate for every currency in which it holds positions.",
        judge=_currencies_have_rates,
    ),
    *(
        Check(
            name="one_row_per_key",
            asset=table.name,
            when=when,
            description=f"No two rows of the newest trading day have the same ({', '.join(table.key)}).",
            judge=_one_row_per_key(table),
        )
        for table, when in (
            (STREAMED_POSITIONS, When.ON_DEMAND),
            (QUEUED_POSITIONS, When.REFRESH),
            (ACCOUNT_VALUES, When.REFRESH),
        )
    ),
    Check(
        name="no_trading_day_missing",
        asset=POSITION_SNAPSHOTS.name,
        when=When.HISTORY,
        description="Every trading day between the first and the last snapshot has its snapshot.",
        judge=days.no_day_missing,
    ),
    Check(
        name="snapshot_complete",
        asset=POSITION_SNAPSHOTS.name,
        when=When.HISTORY,
        description="A day's snapshot has every open position of the day's source in equal quantity, and no other.",
        judge=days.each_day(days.snapshot_complete),
    ),
    Check(
        name="one_row_per_key",
        asset=POSITION_SNAPSHOTS.name,
        when=When.HISTORY,
        description="Each (account, conid) has one row in the day's snapshot.",
        judge=days.each_day(days.one_row_per_key),
    ),
    Check(
        name="values_agree_with_flex",
        asset=POSITION_SNAPSHOTS.name,
        when=When.HISTORY,
        description=(
            "If a day has both, own observations agree with the value that Flex gives, by account and by position."
        ),
        judge=days.each_day(days.values_agree),
    ),
    Check(
        name="quantities_explained",
        asset=FLEX_POSITIONS.name,
        when=When.HISTORY,
        description=(
            "Trades, exercises, transfers and corporate actions explain how quantities changed since the day before."
        ),
        judge=days.each_day(days.quantities_explained),
    ),
)
