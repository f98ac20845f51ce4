"""Rules of the history checks: the history is complete and agrees with its sources."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from typing import Any

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.checks.verdict import Numbers, Verdict, first_few
from v6_pipeline.flex.model import FlexActivityKind
from v6_pipeline.history.inputs import KEY
from v6_pipeline.model import SecType

VALUES_WITHIN = 0.01
"""Flex uses settlement prices, we use the last price before the cut-off; the two differ by less than 1 %."""
POSITION_WITHIN = 0.05
"""Of one position: shares go on trading for half an hour after the close that the statement has."""
TICK, OPTION_TICK = 0.01, 0.05
"""Smallest steps of prices that are common, in units of the currency."""
QUANTITY_WITHIN = 1e-6
"""Tolerance for rounding in floating-point sums of fractional shares."""
_EXPIRIES = "OptionEAE"
_ACTIVITY_SECTIONS = frozenset({"Trades", _EXPIRIES, "Transfers", "CorporateActions"})


def no_day_missing(
    days: Collection[date],
    calendar: TradingCalendar,
    *,
    start: date,
    last: date,
    is_flat: Callable[[date], bool] = lambda _: False,
) -> Verdict:
    """Judge whether every session between the first and the last snapshot has a snapshot.

    Args:
        days: trading days with a snapshot.
        calendar: defines the sessions.
        start: days before it are not judged.
        last: the newest day that should have a snapshot; later ones are not judged.
        is_flat: returns whether a day is known to have no positions, so that its snapshot has no rows.
    """
    present = {day for day in days if start <= day <= last}
    if not present:
        return Verdict.warning(f"no snapshot from {start} to {last}", {"days": 0})
    sessions = calendar.sessions_between(min(present), max(present))
    missing = [day for day in sessions if day not in present and not is_flat(day)]
    numbers: Numbers = {
        "days": len(present),
        "missing": len(missing),
        "first": min(present).isoformat(),
        "last": max(present).isoformat(),
    }
    if missing:
        reason = f"{len(missing)} of {len(sessions)} trading days have no snapshot"
        return Verdict.error(reason, numbers, (day.isoformat() for day in missing), "; backfill them")
    return Verdict.ok(f"each of {len(sessions)} trading days has its snapshot", numbers)


def snapshot_complete(snapshot: pl.DataFrame, source: pl.DataFrame) -> Verdict:
    """Judge whether a day's snapshot has exactly the positions of ``history.positions``, in the same quantities."""
    ours = _open(snapshot).select(*KEY, "position")
    theirs = _open(source).select(*KEY, pl.col("position").alias("of_source"))
    both = ours.join(theirs, on=KEY, how="full", coalesce=True).sort(KEY)
    missing = both.filter(pl.col("position").is_null())
    unknown = both.filter(pl.col("of_source").is_null())
    unequal = both.filter(pl.col("position") != pl.col("of_source"))
    numbers: Numbers = {
        "positions": ours.height,
        "of_source": theirs.height,
        "missing": missing.height,
        "not_in_source": unknown.height,
        "unequal": unequal.height,
        "carried_forward": int(snapshot.get_column("carried_forward").sum()),
        "without_price": _open(snapshot).get_column("market_price").null_count(),
    }
    offenders = pl.concat([missing, unknown, unequal])
    if offenders.height:
        reason = (
            f"{missing.height} positions are missing, {unknown.height} are not in the source, {unequal.height} "
            "differ in quantity"
        )
        return Verdict.error(reason, numbers, _contracts(offenders), "; materialize the day again")
    return Verdict.ok(f"all {theirs.height} open positions are in the snapshot", numbers)


def one_row_per_key(snapshot: pl.DataFrame) -> Verdict:
    """Judge whether a day's snapshot has each position once."""
    repeated = snapshot.group_by(KEY).len().filter(pl.col("len") > 1).sort(KEY)
    numbers: Numbers = {"rows": snapshot.height, "repeated": repeated.height}
    if repeated.height:
        return Verdict.error(f"{repeated.height} positions occur more than once", numbers, _contracts(repeated))
    return Verdict.ok(f"each of {snapshot.height} positions occurs once", numbers)


def values_agree(own: pl.DataFrame, flex: pl.DataFrame, *, within: float = VALUES_WITHIN) -> Verdict:
    """Judge whether our own observations of a day agree with Flex's value, by position and account, in base currency.

    Compares only contracts that both sides value. If one side has no exchange rate, the other side's is used. A sum
    alone would let two wrong prices of opposite sign pass; a position alone may differ by more than an account, because
    it has one price of another minute.

    Args:
        own: the day's snapshot made from own observations alone (``DayInputs.own_only()``).
        flex: the day's rows of ``flex_positions``.
        within: allowed difference of an account, as a fraction of Flex's gross value; see ``_allowed`` for a position.
    """
    theirs = flex.select(*KEY, pl.col("market_value").alias("flex_value"), pl.col("fx_rate_to_base").alias("flex_rate"))
    both = own.join(theirs, on=KEY)
    valued = both.with_columns(
        (pl.col("market_value") * pl.coalesce("fx_rate_to_base", "flex_rate")).alias("ours"),
        (pl.col("flex_value") * pl.coalesce("flex_rate", "fx_rate_to_base")).alias("theirs"),
        _allowed().alias("allowed"),
    ).drop_nulls(["ours", "theirs"])
    if valued.is_empty():
        return Verdict.ok("no position is valued by both", {"compared": 0})
    sums = valued.group_by("account").agg(
        pl.col("ours").sum(), pl.col("theirs").sum(), pl.col("theirs").abs().sum().alias("gross")
    )
    difference = (pl.col("ours") - pl.col("theirs")).abs()
    relative = pl.when(difference == 0).then(0.0).otherwise(difference / pl.col("gross"))
    sums = sums.with_columns(relative.alias("difference")).sort(["difference", "account"], descending=[True, False])
    apart = valued.with_columns(difference.alias("difference")).filter(pl.col("difference") > pl.col("allowed"))
    apart = apart.sort(["difference", *KEY], descending=[True, False, False])
    worst = sums.row(0, named=True)
    numbers: Numbers = {
        "compared": valued.height,
        "only_one_side": own.height + flex.height - 2 * both.height,
        "accounts": sums.height,
        "largest_difference_percent": 100 * worst["difference"],
        "positions_that_differ": apart.height,
    }
    offenders = sums.filter(pl.col("difference") > within)
    listed = [f"{row['account']} {_against(row)}" for row in offenders.to_dicts()]
    listed += [f"{row['account']}/{row['conid']} {row['symbol']} {_against(row)}" for row in apart.to_dicts()]
    if offenders.height:
        reason = f"values of {offenders.height} accounts differ from Flex by more than {within:.1%}"
        return Verdict.warning(reason, numbers, listed)
    if apart.height:
        return Verdict.warning(f"values of {apart.height} positions differ from Flex", numbers, listed)
    return Verdict.ok(f"values agree with Flex within {100 * worst['difference']:.2f} %", numbers)


def _allowed() -> pl.Expr:
    """Return the allowed difference of a position's values, in base currency.

    It is ``POSITION_WITHIN`` of Flex's value and a tick of the price. An option may differ by what a move of its
    underlying by ``VALUES_WITHIN`` explains as well, with its delta, or half of its strike if that is unknown, though
    not by more than half of its value: it is marked at another minute than the statement.
    """
    rate = pl.coalesce("flex_rate", "fx_rate_to_base")
    value = (pl.col("flex_value") * rate).abs()
    units = (pl.col("position") * pl.coalesce(pl.col("multiplier"), pl.lit(1.0)) * rate).abs()
    of_move = pl.coalesce(pl.col("delta").abs() * pl.col("underlying_price"), 0.5 * pl.col("strike")) * VALUES_WITHIN
    moved = pl.min_horizontal(units * pl.coalesce(of_move, pl.lit(0.0)), value / 2)
    is_option = pl.col("sec_type").is_in([one.value for one in SecType if one.is_option])
    is_bond = pl.col("sec_type").is_in([SecType.BOND.value, SecType.BILL.value])
    tick = pl.when(is_bond).then(0.0).when(is_option).then(OPTION_TICK).otherwise(TICK) * units
    return value * POSITION_WITHIN + tick + pl.when(is_option).then(moved).otherwise(0.0)


def _against(row: Mapping[str, Any]) -> str:
    return f"{row['ours']:,.2f} against {row['theirs']:,.2f}"


def quantities_explained(
    positions: pl.DataFrame,
    previous: pl.DataFrame,
    activity: pl.DataFrame,
    statements: pl.DataFrame,
    *,
    day: date,
    previous_day: date,
) -> Verdict:
    """Judge whether trades, exercises, transfers and corporate actions explain each day-over-day change of quantity.

    Only accounts with Flex statements for both days are judged. If the day's statement has no exercises section, an
    expired contract may disappear. If one of these sections is missing, changes that remain unexplained are not judged.
    Conversions of currencies change no position.

    Args:
        positions: the day's rows of ``flex_positions``.
        previous: the previous day's rows of ``flex_positions``.
        activity: the day's rows of ``flex_activity``.
        statements: both days' rows of ``flex_statements``.
        day: the trading day.
        previous_day: the trading day before.
    """
    judged = _accounts(statements, day) & _accounts(statements, previous_day)
    incomplete = {
        account: sorted(_ACTIVITY_SECTIONS.difference(sections))
        for account, sections in statements.filter(pl.col("date") == day).select("account", "sections").iter_rows()
        if account in judged and _ACTIVITY_SECTIONS.difference(sections)
    }
    if not judged:
        return Verdict.ok("no account has Flex statements of both days", {"accounts": 0})
    unexplained = _unexplained(positions, previous, activity, day=day, previous_day=previous_day)
    without_expiries = [account for account, missing in incomplete.items() if _EXPIRIES in missing]
    expired = (pl.col("now") == 0) & (pl.col("booked") == 0) & (pl.col("expiry") <= day)
    unexplained = unexplained.filter(
        pl.col("account").is_in(judged) & ~(expired.fill_null(value=False) & pl.col("account").is_in(without_expiries))
    )
    not_judged = unexplained.filter(pl.col("account").is_in(incomplete.keys()))
    offenders = unexplained.filter(~pl.col("account").is_in(incomplete.keys()))
    numbers: Numbers = {
        "accounts": len(judged),
        "booked": activity.height,
        "unexplained": offenders.height,
        "cannot_tell": not_judged.height,
    }
    sections = first_few(sorted({section for missing in incomplete.values() for section in missing}))
    if offenders.height:
        reason = f"{offenders.height} quantities did not change as Flex booked"
        return Verdict.warning(reason, numbers, _changes(offenders))
    if not_judged.height:
        listed = first_few(_changes(not_judged))
        reason = f"{not_judged.height} quantities are not judged: the statement has no {sections}; {listed}"
        return Verdict.ok(reason, numbers | {"sample": listed})
    return Verdict.ok("every change of quantity is as Flex booked", numbers)


def _unexplained(
    positions: pl.DataFrame, previous: pl.DataFrame, activity: pl.DataFrame, *, day: date, previous_day: date
) -> pl.DataFrame:
    is_position = pl.col("sec_type") != SecType.CURRENCY.value
    now = positions.filter(is_position).select(*KEY, pl.col("position").alias("now"))
    before = previous.filter(is_position).select(*KEY, pl.col("position").alias("before"), "expiry")
    of_day = activity.filter(
        pl.col("activity_date").is_between(previous_day, day, closed="right")
        & (pl.col("kind") != FlexActivityKind.CONVERSION.value)
    )
    booked = of_day.group_by(KEY).agg(pl.col("quantity").sum().alias("booked"))
    joined = now.join(before, on=KEY, how="full", coalesce=True).join(booked, on=KEY, how="full", coalesce=True)
    joined = joined.with_columns(pl.col("now", "before", "booked").fill_null(0.0))
    gap = (pl.col("now") - pl.col("before") - pl.col("booked")).abs()
    return joined.filter(gap > QUANTITY_WITHIN).sort(KEY)


def _accounts(statements: pl.DataFrame, day: date) -> set[str]:
    return set(statements.filter(pl.col("date") == day).get_column("account"))


def _open(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("position") != 0)


def _contracts(rows: pl.DataFrame) -> Iterator[str]:
    return (f"{account}/{conid}" for account, conid in rows.select(KEY).iter_rows())


def _changes(rows: pl.DataFrame) -> Iterator[str]:
    return (
        f"{row['account']}/{row['conid']} {row['before']:g} to {row['now']:g} with {row['booked']:+g} booked"
        for row in rows.to_dicts()
    )
