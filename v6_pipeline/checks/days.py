"""Evaluates the history checks for each of several trading days and combines the days' verdicts into one.

The rules are in ``history``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl

from v6_pipeline.checks import history as rules
from v6_pipeline.checks.inputs import CheckInputs
from v6_pipeline.checks.verdict import Numbers, Verdict
from v6_pipeline.errors import SnapshotRefusedError
from v6_pipeline.history.inputs import OWN_LOGS, SOURCES, DayInputs
from v6_pipeline.history.positions import coverage, day_positions
from v6_pipeline.history.snapshot_days import is_flat
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_POSITIONS, FLEX_STATEMENTS, POSITION_SNAPSHOTS
from v6_pipeline.state.registry.assignments import RegistryAt


def no_day_missing(inputs: CheckInputs) -> Verdict:
    """Judge the trading days before the current one, whose snapshot may still be to come."""
    return rules.no_day_missing(
        inputs.snapshot_days,
        inputs.calendar,
        start=inputs.settings.start_date,
        last=inputs.calendar.previous_session(inputs.today),
        is_flat=lambda day: inputs.lake_days.has(day, *SOURCES) and is_flat(inputs.context, inputs.lake_days, day),
    )


def each_day(judge_day: Callable[[CheckInputs, date], Verdict]) -> Callable[[CheckInputs], Verdict]:
    """Return a judge of all days of the inputs. If a day fails, it names the first error, or else the first warning."""

    def judge(inputs: CheckInputs) -> Verdict:
        verdicts = {day: judge_day(inputs, day) for day in inputs.judged_days}
        failed = {day: verdict for day, verdict in verdicts.items() if not verdict.passed}
        numbers: Numbers = {"days": len(verdicts), "days_failed": len(failed)}
        if failed:
            day, worst = next((item for item in failed.items() if item[1].serious), next(iter(failed.items())))
            more = f"; {len(failed) - 1} more days" if len(failed) > 1 else ""
            reason = f"{day}: {worst.reason}{more}"
            return Verdict(passed=False, reason=reason, serious=worst.serious, numbers={**worst.numbers, **numbers})
        if not verdicts:
            return Verdict.ok("no snapshot to judge yet", numbers)
        newest = max(verdicts)
        return Verdict.ok(f"{newest}: {verdicts[newest].reason}", {**verdicts[newest].numbers, **numbers})

    return judge


def snapshot_complete(inputs: CheckInputs, day: date) -> Verdict:
    """Compare a day's snapshot with the positions of its source."""
    snapshot = inputs.lake_days.table(POSITION_SNAPSHOTS).rows(day)
    known, accounts = _known_then(inputs, day, snapshot), inputs.settings.ib_accounts
    try:
        refused = coverage(known, accounts=accounts)
        source = day_positions(known, accounts=accounts)
    except SnapshotRefusedError as error:
        return Verdict.error(str(error))
    verdict = rules.snapshot_complete(snapshot.filter(~pl.col("account").is_in(list(refused.refused))), source)
    if not refused.refused:
        return verdict
    numbers: Numbers = {**verdict.numbers, "accounts_refused": len(refused.refused)}
    others = "" if verdict.passed else f"; of the others {verdict.reason}"
    return Verdict.error(f"it is without {', '.join(sorted(refused.refused))}: {refused.reason}{others}", numbers)


def one_row_per_key(inputs: CheckInputs, day: date) -> Verdict:
    """Count the rows of each position in a day's snapshot."""
    return rules.one_row_per_key(inputs.lake_days.table(POSITION_SNAPSHOTS).rows(day))


def values_agree(inputs: CheckInputs, day: date) -> Verdict:
    """Compare a day's own observations with Flex's values, if the day has both."""
    only_one = Verdict.ok("not compared: the day has no Flex positions or no own observations")
    if not inputs.lake_days.has(day, FLEX_POSITIONS) or not inputs.lake_days.has(day, *OWN_LOGS):
        return only_one  # for most days this saves reading any rows
    known = _known_then(inputs, day, inputs.lake_days.table(POSITION_SNAPSHOTS).rows(day))
    if known.flex_positions.is_empty() or known.observed.is_empty():
        return only_one
    try:
        own = assemble(
            known.own_only(),
            registry=RegistryAt((), known.until, day=day),
            contracts=inputs.context.known_contracts(known.observed, known.earlier, known.flex_positions),
            now=inputs.now,
            run_id=inputs.context.run_id,
            accounts=inputs.settings.ib_accounts,
        )
    except SnapshotRefusedError:
        return Verdict.ok("not compared: own observations do not cover the day")
    return rules.values_agree(own, known.flex_positions)


def quantities_explained(inputs: CheckInputs, day: date) -> Verdict:
    """Compare a day's Flex quantities with those of the day before and what Flex booked in between."""
    table, previous = inputs.lake_days.table, inputs.calendar.previous_session(day)
    return rules.quantities_explained(
        table(FLEX_POSITIONS).rows(day),
        table(FLEX_POSITIONS).rows(previous),
        table(FLEX_ACTIVITY).rows(day),
        pl.concat([table(FLEX_STATEMENTS).rows(previous), table(FLEX_STATEMENTS).rows(day)]),
        day=day,
        previous_day=previous,
    )


def _known_then(inputs: CheckInputs, day: date, snapshot: pl.DataFrame) -> DayInputs:
    """Read what was known when the snapshot was made: later rows of the current day must not count against it."""
    window = inputs.context.window(day)
    made_at = snapshot.get_column("ingested_at").max()
    until = window.until(made_at) if snapshot.height else window.cut_off  # type: ignore[arg-type]  # of any column
    return inputs.lake_days.day(window, until=until)
