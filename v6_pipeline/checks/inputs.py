"""The inputs of the checks: settings, state database and lake, judged as of one instant.

Each part is read when a rule needs it; the newest rows are read once. Does not belong here: the rules, which are pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from functools import cached_property

import polars as pl

from v6_pipeline.history.context import HistoryContext
from v6_pipeline.history.inputs import LakeDays
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.lake.reader import latest_positions
from v6_pipeline.lake.tables import POSITION_SNAPSHOTS, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.model import Holding, UpdateSource
from v6_pipeline.refresh.due import is_refresh_time, overdue_before
from v6_pipeline.settings import Settings
from v6_pipeline.state.account.downloads import DownloadRecord
from v6_pipeline.state.leases.streamer import StreamerLease, StreamerLeaseState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.slots import ledger as slots
from v6_pipeline.state.slots.allocation import SlotUsage
from v6_pipeline.state.slots.ledger import SlotLedger

NEWEST_DAYS = 5
"""Number of snapshots, the newest ones, that the history checks judge when no range of days is given."""
_FIRST_TICKS_WITHIN = timedelta(seconds=60)
"""Time in which a new stream receives its first prices and greeks."""


class CheckInputs:
    """Settings, state database and lake at ``now`` (UTC).

    ``between``: first and last trading day that the history checks judge; by default the newest ``NEWEST_DAYS``
    snapshots are judged. A caller that has already read ``lease`` and ``usage`` passes them.
    """

    def __init__(
        self,
        context: HistoryContext,
        *,
        between: tuple[date, date] | None = None,
        lease: StreamerLeaseState | None = None,
        usage: SlotUsage | None = None,
    ) -> None:
        self.context = context
        self.settings, self.database = context.settings, context.database
        self.lake, self.calendar = context.lake, context.calendar
        self.now = context.now()
        self.queue = PositionQueue(self.database, lambda: self.now)
        self.lake_days = LakeDays(self.lake, self.calendar)
        self._between = between
        self._lease = lease
        self._usage = usage

    @property
    def today(self) -> date:
        """The trading day of ``now``."""
        return self.calendar.trading_day(self.now)

    @property
    def overdue_before(self) -> datetime:
        """A value whose last refresh is not later than this instant is overdue."""
        return overdue_before(self.now, refresh_seconds=self.settings.refresh_seconds)

    def is_expected(self, instant: datetime) -> bool:
        """Return whether refreshes are expected to succeed: the schedule makes them, and IB is not in its reset."""
        refreshes = is_refresh_time(self.settings, self.calendar, instant)
        return refreshes and expected_outage(instant, self.settings.ib_region) is None

    @property
    def lease(self) -> StreamerLeaseState:
        """The streamer's lease with its newest report."""
        return self._lease or StreamerLease(self.database, self.context.now).read()

    @property
    def usage(self) -> SlotUsage:
        """The slots in use."""
        return self._usage or SlotLedger.from_settings(self.settings, self.database, self.context.now).usage()

    @property
    def snapshot_days(self) -> list[date]:
        """Trading days with a snapshot, sorted."""
        return sorted(self.lake_days.table(POSITION_SNAPSHOTS).days)

    @property
    def judged_days(self) -> list[date]:
        """Trading days that the checks of history judge."""
        days = self.snapshot_days
        if self._between is None:
            return days[-NEWEST_DAYS:]
        first, last = self._between
        return [day for day in days if first <= day <= last]

    @cached_property
    def newest_rows(self) -> pl.DataFrame:
        """The newest row of each open position over both logs: if the newest row closes it, it is not open."""
        return latest_positions([self.lake.table(STREAMED_POSITIONS), self.lake.table(QUEUED_POSITIONS)])

    @cached_property
    def complete_rows(self) -> pl.DataFrame:
        """The newest rows that should have every value: queued ones, and those of the newest day that still stream.

        A contract that has stopped streaming is queued next. The row of a new stream fills up tick by tick.
        """
        newest_at = self.newest_rows.get_column("timestamp").max()
        if not isinstance(newest_at, datetime):
            return self.newest_rows
        begun_before = self.now - _FIRST_TICKS_WITHIN
        live = slots.streams(self.database, now=self.now)
        streams = [slot.conid for slot in live if slot.acquired_at <= begun_before]
        is_queued = pl.col("source") == UpdateSource.QUEUE.value
        is_of_newest_day = pl.col("timestamp") >= self.calendar.begins_at(self.calendar.trading_day(newest_at))
        return self.newest_rows.filter(is_queued | (is_of_newest_day & pl.col("conid").is_in(streams)))


def downloaded_accounts(
    held: Iterable[Holding], settings: Settings, records: Iterable[DownloadRecord] = ()
) -> set[str]:
    """Return the accounts of the settings that have an open holding, streamed or not, or an attempted download.

    Refreshes download an account whether it holds anything or not.
    """
    accounts = {holding.account for holding in held} | {record.account for record in records}
    return accounts.intersection(settings.ib_accounts or accounts)
