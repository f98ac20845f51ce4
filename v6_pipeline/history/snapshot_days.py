"""Read, assemble and write the snapshots and the exposure of trading days, one day after the other.

A refused account does not stop the others, nor a refused day the next one. The computations belong in
``snapshots`` and ``exposure``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date

import polars as pl

from v6_pipeline.errors import NotCoveredError, SnapshotRefusedError
from v6_pipeline.history.context import Failed, HistoryContext, Made, Outcome
from v6_pipeline.history.exposure import exposure
from v6_pipeline.history.inputs import KEY, VERSION_COLUMNS, LakeDays
from v6_pipeline.history.positions import coverage, day_positions
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_STATEMENTS, PORTFOLIO_EXPOSURE, POSITION_SNAPSHOTS

_SOURCE = "derived"


def snapshot_days(context: HistoryContext, days: Sequence[date]) -> Iterator[Outcome]:
    """Make the snapshots of trading days, the oldest first.

    Raises:
        LakeError: a table is damaged, not writable or unreachable, so that no further day can be made.
        StateError: the state database cannot be used.
    """
    lake_days = LakeDays(context.lake, context.calendar)
    store = context.lake.table(POSITION_SNAPSHOTS)
    for day in sorted(days):
        inputs = lake_days.day(context.window(day), until=context.until(day))
        try:
            frame = assemble(
                inputs,
                registry=context.registry_at(inputs.until, day=day),
                contracts=context.known_contracts(inputs.observed, inputs.earlier, inputs.flex_positions),
                now=context.now(),
                run_id=context.run_id,
                accounts=context.settings.ib_accounts,
            )
        except SnapshotRefusedError as error:
            without = isinstance(error, NotCoveredError)
            yield Failed(spec=POSITION_SNAPSHOTS, days=(day,), reason=str(error), not_covered=without)
            continue
        refused = coverage(inputs, accounts=context.settings.ib_accounts)
        if refused.refused:
            context.say(f"snapshot without {', '.join(sorted(refused.refused))}: {refused.reason}")
        # The final rows of an account that had a source once are not given up.
        kept = lake_days.table(POSITION_SNAPSHOTS).rows(day)
        kept = kept.filter(pl.col("final") & pl.col("account").is_in(list(refused.refused)))
        frame = pl.concat([frame, kept]).sort(KEY)
        numbers = _snapshot_numbers(frame) | {
            "accounts_refused": len(refused.refused),
            "refused_because": refused.reason or None,
        }
        yield replace(context.write(store, day, frame, source=_SOURCE), numbers=numbers)


def exposure_days(context: HistoryContext, days: Sequence[date]) -> Iterator[Outcome]:
    """Make the exposure of trading days from their snapshots, the oldest first.

    Raises:
        LakeError: a table is damaged, not writable or unreachable, so that no further day can be made.
        StateError: the state database cannot be used.
    """
    lake_days = LakeDays(context.lake, context.calendar)
    store = context.lake.table(PORTFOLIO_EXPOSURE)
    snapshots = lake_days.table(POSITION_SNAPSHOTS)
    for day in sorted(days):
        if day not in snapshots.days and not is_flat(context, lake_days, day, despite_refused=True):
            reason = f"{day}: the exposure needs the snapshot of the day: materialize position_snapshots for it"
            yield Failed(spec=PORTFOLIO_EXPOSURE, days=(day,), reason=reason)
            continue
        window = context.window(day)
        snapshot, previous = snapshots.rows(day), snapshots.rows(window.previous)
        frame = exposure(
            snapshot,
            previous,
            window=window,
            next_session=context.calendar.next_session(day),
            registry=context.registry_at(context.until(day), day=day),
            contracts=context.known_contracts(snapshot, previous),
            now=context.now(),
            run_id=context.run_id,
            activity=lake_days.table(FLEX_ACTIVITY).rows(day),
            statements=lake_days.table(FLEX_STATEMENTS).rows(day),
            snapshot_version=snapshots.version,
        )
        yield _exposed(context.write(store, day, frame, source=_SOURCE), frame)


def is_flat(context: HistoryContext, lake_days: LakeDays, day: date, *, despite_refused: bool = False) -> bool:
    """Return whether the sources of a day without snapshot rows say that nothing was held.

    With ``despite_refused`` only the accounts that a source covers count.
    """
    inputs = lake_days.day(context.window(day), until=context.until(day))
    accounts = context.settings.ib_accounts
    try:
        is_covered = despite_refused or not coverage(inputs, accounts=accounts).refused
        return is_covered and day_positions(inputs, accounts=accounts).is_empty()
    except SnapshotRefusedError:
        return False


def _snapshot_numbers(frame: pl.DataFrame) -> dict[str, int | float | str | None]:
    sources = dict(frame.group_by("position_source").len().iter_rows())
    held = frame.filter(pl.col("position") != 0)
    return {
        "final": int(bool(frame.get_column("final").all())),
        "accounts": frame.get_column("account").n_unique(),
        "positions_from_flex": sources.get("flex", 0),
        "positions_from_stream": sources.get("stream", 0),
        "positions_from_queue": sources.get("queue", 0),
        "positions_carried_forward": int(frame.get_column("carried_forward").sum()),
        "positions_closed": frame.height - held.height,
        "positions_without_price": held.get_column("market_price").null_count(),
        **_sums(held.with_columns(pl.col("market_value") * pl.col("fx_rate_to_base")), ("market_value",)),
        **_versions(frame),
    }


def _versions(frame: pl.DataFrame) -> dict[str, int | None]:
    """Return the Delta versions that the day was made from; empty where nothing was held."""
    names = list(VERSION_COLUMNS.values())
    return dict(zip(names, frame.select(names).row(0), strict=True)) if frame.height else {}


def _exposed(made: Made, frame: pl.DataFrame) -> Made:
    currencies = frame.get_column("base_currency").drop_nulls().unique().to_list()
    known = frame.drop_nulls("dollar_delta").group_by("underlying").agg(pl.col("dollar_delta").sum())
    return replace(
        made,
        numbers={
            "underlyings": frame.select("account", "underlying").n_unique() if frame.height else 0,
            "strategies": frame.get_column("strategy").n_unique(),
            "short_options_expiring": int(frame.get_column("short_options_expiring").sum()),
            "short_options_in_the_money": int(frame.get_column("short_options_in_the_money").sum()),
            **_unknown(frame),
            **_sums(frame, ("market_value", "daily_pnl", "dollar_delta", "dollar_gamma", "vega", "theta")),
        },
        dollar_delta=dict(known.sort("underlying").iter_rows()) if len(currencies) == 1 else {},
        currency=currencies[0] if len(currencies) == 1 else None,
    )


def _unknown(frame: pl.DataFrame) -> dict[str, str]:
    """Return why daily profits are unknown, with the number of positions over all rows; empty if all are known."""
    numbers: Counter[str] = Counter()
    for reasons in frame.get_column("daily_pnl_unknown").drop_nulls():
        for reason in reasons.split("; "):
            number, _, why = reason.partition(" ")
            numbers[why] += int(number)
    reasons = "; ".join(f"{number} {why}" for why, number in sorted(numbers.items()))
    return {"daily_pnl_unknown": reasons} if reasons else {}


def _sums(rows: pl.DataFrame, names: Sequence[str]) -> dict[str, float]:
    """Sum the known values of columns; without those that are all unknown, and empty where base currencies differ."""
    if rows.get_column("base_currency").drop_nulls().n_unique() > 1:
        return {}
    return {name: round(float(rows.get_column(name).sum()), 2) for name in names if rows.get_column(name).count()}
