"""The checks of history over several trading days: what each day's verdict needs is read, the verdicts put together.

What a verdict is, is decided in ``history_checks``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

import polars as pl

from v6_pipeline.checks import history as judge
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.errors import SnapshotRefusedError
from v6_pipeline.history.context import HistoryContext
from v6_pipeline.history.inputs import OWN_LOGS, SOURCES, DayInputs, LakeDays
from v6_pipeline.history.positions import day_positions
from v6_pipeline.history.snapshot_days import is_flat, known_contracts
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_POSITIONS, FLEX_STATEMENTS, POSITION_SNAPSHOTS
from v6_pipeline.state.registry.history import RegistryAt


class DayChecks:
    """Checks on one state of the lake."""

    def __init__(self, context: HistoryContext) -> None:
        self._context = context
        self._lake_days = LakeDays(context.lake, context.calendar)

    def days(self) -> list[date]:
        """Trading days that have a snapshot."""
        return self._lake_days.days(POSITION_SNAPSHOTS)

    def no_day_missing(self) -> Verdict:
        """No trading day without snapshot between the first and the last; the current one is not missed yet."""
        calendar = self._context.calendar
        today = calendar.trading_day(self._context.now())
        return judge.no_day_missing(
            self.days(),
            calendar,
            start=self._context.settings.start_date,
            last=calendar.previous_session(today),
            is_flat=lambda day: self._lake_days.has(day, *SOURCES) and is_flat(self._context, self._lake_days, day),
        )

    def snapshots_complete(self, days: Sequence[date]) -> Verdict:
        """Each day's snapshot has what its source has."""
        return self._each(days, self._snapshot_complete)

    def one_row_per_key(self, days: Sequence[date]) -> Verdict:
        """No day's snapshot has a position twice."""
        return self._each(days, lambda day: judge.one_row_per_key(self._lake_days.snapshot(day)[0]))

    def values_agree(self, days: Sequence[date]) -> Verdict:
        """Own observations of each day add up to Flex's values, where there are both."""
        return self._each(days, self._values_agree)

    def quantities_explained(self, days: Sequence[date]) -> Verdict:
        """Each day's Flex quantities follow from those of the day before."""
        return self._each(days, self._quantities_explained)

    def _each(self, days: Sequence[date], judge_day: Callable[[date], Verdict]) -> Verdict:
        verdicts = {day: judge_day(day) for day in days}
        failed = {day: verdict for day, verdict in verdicts.items() if not verdict.passed}
        numbers = {"days": len(verdicts), "days_failed": len(failed)}
        if failed:
            day, worst = next((item for item in failed.items() if item[1].serious), next(iter(failed.items())))
            more = f"; {len(failed) - 1} days more" if len(failed) > 1 else ""
            reason = f"{day}: {worst.reason}{more}"
            return Verdict(passed=False, reason=reason, serious=worst.serious, numbers={**worst.numbers, **numbers})
        if not verdicts:
            return Verdict(passed=True, reason="no day to look at yet", numbers=numbers)
        newest = max(verdicts)
        return Verdict(
            passed=True,
            reason=f"{newest}: {verdicts[newest].reason}",
            numbers={**verdicts[newest].numbers, **numbers},
        )

    def _snapshot_complete(self, day: date) -> Verdict:
        snapshot, _ = self._lake_days.snapshot(day)
        try:
            source = day_positions(self._inputs(day, snapshot), accounts=self._context.settings.ib_accounts)
        except SnapshotRefusedError as error:
            return Verdict(passed=False, reason=str(error))
        return judge.snapshot_complete(snapshot, source)

    def _values_agree(self, day: date) -> Verdict:
        only_one = Verdict(passed=True, reason="only one of Flex and own observations has the day")
        if not self._lake_days.has(day, FLEX_POSITIONS) or not self._lake_days.has(day, *OWN_LOGS):
            return only_one  # most days: nothing more needs to be read
        snapshot, _ = self._lake_days.snapshot(day)
        inputs = self._inputs(day, snapshot)
        if inputs.flex_positions.is_empty() or inputs.observed.is_empty():
            return only_one
        try:
            own = assemble(
                inputs.own_only(),
                registry=RegistryAt((), inputs.until, day=day),
                contracts=known_contracts(self._context, inputs),
                now=self._context.now(),
                run_id=self._context.run_id,
                accounts=self._context.settings.ib_accounts,
            )
        except SnapshotRefusedError:
            return Verdict(passed=True, reason="own observations do not cover the day")
        return judge.values_agree(own, inputs.flex_positions)

    def _quantities_explained(self, day: date) -> Verdict:
        rows, previous = self._lake_days.rows, self._context.calendar.previous_session(day)
        return judge.quantities_explained(
            rows(FLEX_POSITIONS, day),
            rows(FLEX_POSITIONS, previous),
            rows(FLEX_ACTIVITY, day),
            pl.concat([rows(FLEX_STATEMENTS, previous), rows(FLEX_STATEMENTS, day)]),
            day=day,
            previous_day=previous,
        )

    def _inputs(self, day: date, snapshot: pl.DataFrame) -> DayInputs:
        """What was known when the snapshot was made: one of the current day is judged by what it could see."""
        window = self._context.window(day)
        made_at = snapshot.get_column("ingested_at").max()
        until = window.until(made_at) if snapshot.height else window.cut_off  # type: ignore[arg-type]  # of any column
        return self._lake_days.day(window, until=until)
