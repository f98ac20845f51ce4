"""The checks of the logs of positions on one state of lake and database: what verdicts need is read once, and late.

What a verdict is, is decided in ``queue_checks`` and ``position_checks``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cached_property

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.checks import positions as position_checks
from v6_pipeline.checks import queue as queue_checks
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.history.inputs import KEY
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import latest_positions, repeated_keys
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.model import Holding, UpdateSource
from v6_pipeline.refresh.due import is_refresh_time, overdue_before
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import contracts, holdings
from v6_pipeline.state.account import downloads as account_downloads
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue import due
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.queue.rows import QueueState
from v6_pipeline.state.slots import rows as slots

_FILLS_WITHIN = timedelta(seconds=60)
"""A stream has had its first prices and greeks by then."""


class LogChecks:
    """Checks of ``queued_positions`` and ``streamed_positions`` as they are at ``now`` (UTC)."""

    def __init__(
        self, settings: Settings, database: StateDatabase, lake: Lake, calendar: TradingCalendar, now: datetime
    ) -> None:
        self._settings = settings
        self._database = database
        self._lake = lake
        self._calendar = calendar
        self._now = now
        self._queue = PositionQueue(database, lambda: now)

    def queue_drains(self) -> Verdict:
        """Items are refreshed in time, and asked for; while the exchange is closed or IB away, old ones are no error.

        It reads the state database alone.
        """
        before = self._overdue_before
        overdue = due.overdue(self._database, refreshed_before=before, now=self._now)
        attempted_at = account_downloads.newest_attempt(self._database)
        return queue_checks.queue_drains(
            self._queue.stats(),
            overdue,
            attempted_at=attempted_at,
            now=self._now,
            refresh_seconds=self._settings.refresh_seconds,
            batch_size=self._settings.queue_batch,
            is_expected=self._is_expected(self._now),
            was_expected=self._is_expected(before),
        )

    def no_dead_letters(self) -> Verdict:
        """No item was given up."""
        return queue_checks.no_dead_letters(self._queue.items(QueueState.DEAD))

    def account_feed_free(self) -> Verdict:
        """Nothing keeps the accounts from being downloaded."""
        accounts = downloaded_accounts(self._database, self._settings)
        records = account_downloads.list_all(self._database)
        return queue_checks.account_feed_free(
            records,
            accounts,
            now=self._now,
            refresh_seconds=self._settings.refresh_seconds,
            is_expected=self._is_expected(self._now),
        )

    def account_values_once(self) -> Verdict:
        """No two figures of an account of the newest day are one observation."""
        found = repeated_keys(self._lake.table(ACCOUNT_VALUES), ACCOUNT_VALUES.key)
        return position_checks.one_row_per_key(found, ACCOUNT_VALUES.key)

    def queued_once(self) -> Verdict:
        """No two queued rows of the newest day are one observation."""
        found = repeated_keys(self._lake.table(QUEUED_POSITIONS))
        return position_checks.one_row_per_key(found, QUEUED_POSITIONS.key)

    def streamed_once(self) -> Verdict:
        """No two streamed rows of the newest day are one observation."""
        found = repeated_keys(self._lake.table(STREAMED_POSITIONS))
        return position_checks.one_row_per_key(found, STREAMED_POSITIONS.key)

    def prices_present(self) -> Verdict:
        """Open positions have prices."""
        unknown = contracts.failures(self._database).keys()
        today = self._calendar.trading_day(self._now)
        return position_checks.prices_present(self._judged, unknown=unknown, today=today)

    def greeks_present(self) -> Verdict:
        """Open options have greeks."""
        return position_checks.greeks_present(self._judged, today=self._calendar.trading_day(self._now))

    def reconciles_with_broker(self) -> Verdict:
        """The lake has what the account holds; while the exchange is closed or IB away, that may be by old news."""
        coverage = due.read_coverage(self._database, now=self._now)
        before = self._overdue_before
        queued = {item.key for item in self._queue.items() if item.state is not QueueState.DEAD}
        return position_checks.reconciles_with_broker(
            coverage.held,
            self._newest,
            # What has no row at all yet gets it by the next run.
            pending=coverage.unseen.difference(self._newest.select(KEY).iter_rows()) | queued,
            streamed={slot.conid for slot in coverage.streams},
            stale_before=self._now - timedelta(seconds=self._settings.refresh_seconds),
            accounts=_downloaded(coverage.held, self._settings),
            heard_since=before if self._is_expected(before) and self._is_expected(self._now) else None,
            now=self._now,
        )

    def values_consistent(self) -> Verdict:
        """Values follow from prices."""
        known = contracts.get(self._database, self._judged.get_column("conid").to_list())
        specs = {conid: found.spec for conid, found in known.items()}
        return position_checks.values_consistent(self._judged, specs)

    @property
    def _overdue_before(self) -> datetime:
        return overdue_before(self._now, refresh_seconds=self._settings.refresh_seconds)

    def _is_expected(self, instant: datetime) -> bool:
        """Return whether refreshes are expected to succeed: the schedule makes them, and IB is not in its reset."""
        refreshes = is_refresh_time(self._settings, self._calendar, instant)
        return refreshes and expected_outage(instant, self._settings.ib_region) is None

    @cached_property
    def _newest(self) -> pl.DataFrame:
        """The newest row of each open position, of both logs; a position closed in one is not open in the other."""
        tables = [self._lake.table(STREAMED_POSITIONS), self._lake.table(QUEUED_POSITIONS)]
        return latest_positions(tables)

    @cached_property
    def _judged(self) -> pl.DataFrame:
        """The newest rows that should be whole: queued ones, and those of the newest day that still stream.

        What streams no longer is queued next. A row of what has just begun to stream is filled tick by tick.
        """
        newest_at = self._newest.get_column("timestamp").max()
        if not isinstance(newest_at, datetime):
            return self._newest
        begun_before = self._now - _FILLS_WITHIN
        live = slots.streams(self._database, now=self._now)
        streams = [slot.conid for slot in live if slot.acquired_at <= begun_before]
        is_queued = pl.col("source") == UpdateSource.QUEUE.value
        is_of_newest_day = pl.col("timestamp") >= self._calendar.begins_at(self._calendar.trading_day(newest_at))
        return self._newest.filter(is_queued | (is_of_newest_day & pl.col("conid").is_in(streams)))


def downloaded_accounts(database: StateDatabase, settings: Settings) -> set[str]:
    """The accounts that refreshes download: of the settings, with an open holding, whether it streams or not."""
    return _downloaded(holdings.list_open(database), settings)


def _downloaded(held: Iterable[Holding], settings: Settings) -> set[str]:
    accounts = {holding.account for holding in held}
    return accounts.intersection(settings.ib_accounts or accounts)
