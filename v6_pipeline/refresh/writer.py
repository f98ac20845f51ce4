"""What a refresh writes to the lake: rows of queued positions and of account figures, with the run's lineage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime

from v6_pipeline import __version__
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.maintenance import compact_if_fragmented
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.table import Commit
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS
from v6_pipeline.model import AccountValues, PositionUpdate, UpdateSource
from v6_pipeline.state.instants import Clock


class RefreshWriter:
    """Appends the rows of one run to ``queued_positions`` and ``account_values``. Its methods block.

    ``run_id`` is in every row and commit, ``gateway`` (``host:port``) in the lineage.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        run_id: str,
        gateway: str,
        trading_day: Callable[[datetime], date],
        clock: Clock,
    ) -> None:
        self._positions = lake.table(QUEUED_POSITIONS)
        self._accounts = lake.table(ACCOUNT_VALUES)
        self._run_id = run_id
        self._gateway = gateway
        self._trading_day = trading_day
        self._clock = clock

    def open(self) -> None:
        """Open the tables, or create them.

        Raises:
            LakeError: the lake cannot be written.
        """
        self._positions.open()
        self._accounts.open()

    def append_positions(self, updates: Iterable[PositionUpdate]) -> Commit:
        """Append position rows in one commit."""
        frame = position_rows(
            updates,
            spec=QUEUED_POSITIONS,
            trading_day=self._trading_day,
            source=UpdateSource.QUEUE,
            ingested_at=self._clock(),
            run_id=self._run_id,
        )
        return self._positions.append(frame, self._lineage(QUEUED_POSITIONS))

    def append_accounts(self, values: Iterable[AccountValues]) -> Commit:
        """Append account figures in one commit."""
        frame = account_rows(
            values,
            spec=ACCOUNT_VALUES,
            trading_day=self._trading_day,
            source=UpdateSource.QUEUE,
            run_id=self._run_id,
            ingested_at=self._clock(),
        )
        return self._accounts.append(frame, self._lineage(ACCOUNT_VALUES))

    def compact(self) -> None:
        """Merge the small files of both tables, if there are many."""
        compact_if_fragmented(self._positions)
        compact_if_fragmented(self._accounts)

    def _lineage(self, spec: TableSpec) -> CommitLineage:
        return CommitLineage(
            asset=spec.name,
            source=UpdateSource.QUEUE.value,
            code_version=__version__,
            run_id=self._run_id,
            gateway=self._gateway,
        )
