"""The profit and loss of a day for each contract, in its currency, or why it is unknown. Pure.

It is the realized profit plus the change of the unrealized profit since the snapshot of the session before. The
executions of the day are not among the inputs, so on a day without a Flex statement the figure is proven before it is
used: the cash that it implies for the change of the position must be what trades at the day's prices give. A sale
that IB's realized profit does not cover (IB resets it to 0 at 20:30 New York for securities, at 17:30 and 07:10 for
futures: knowledge base 2738), a transfer, a split and an assignment fail that proof and are unknown.

On a day with a Flex statement what IB booked explains the change of the position, or the figure is unknown. A transfer
is a flow at the value that the statement gives it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from v6_pipeline.flex.model import FlexActivityKind
from v6_pipeline.history.booked import flow, listed_kinds, touched_by_corporate_actions
from v6_pipeline.history.inputs import KEY, DayWindow
from v6_pipeline.ib.resets import realized_since
from v6_pipeline.lake.tables.positions import Part, columns_of
from v6_pipeline.model import SecType, UpdateSource

Row = Mapping[str, Any]
"""Any: a row of a table, by column."""
_Contract = tuple[str, int]

PNL_COLUMNS = (
    *("account", "conid", "symbol", "sec_type", "underlying_conid", "position", "average_cost", "market_price"),
    *("market_value", "unrealized_pnl", "realized_pnl", "realized_time", "position_source", "fx_rate_to_base"),
    *("bid", "ask", "last", "close", "lowest_price", "highest_price", "timestamp"),
)
"""Columns of a snapshot that are read here."""
_DESCRIBED = frozenset(columns_of(Part.CONTRACT)) - {"conid", "currency"}
"""What a statement's bookings may leave out of a contract that was closed."""
_FUTURES = frozenset({SecType.FUTURE, SecType.FUTURE_OPTION})
_WITHIN = {SecType.FUTURE: 0.005, SecType.OPTION: 0.1, SecType.FUTURE_OPTION: 0.1, SecType.WARRANT: 0.1}
_WITHIN_OTHERS = 0.02
"""How far a trade may be from the prices that we saw, as a fraction: they are minutes apart, and an option's mark is
half a spread from its trades."""
_FEES, _FEES_PER_CONTRACT = 5.0, 2.0
"""Commissions are in IB's costs; in base currency, per day and contract and per option."""
_COSTS_WITHIN = 1e-6
_SAME_COST_WITHIN = 1e-4
_BY_FACE = frozenset({SecType.BOND, SecType.BILL})
_ROUNDED_WITHIN = 1e-4
_QUANTITY_WITHIN = 1e-6


class Unknown(enum.StrEnum):
    """Why the profit of a contract is unknown."""

    FIRST_DAY = "no snapshot of the account for the session before"
    NOT_LISTED = "the source of the session before does not list contracts of this kind"
    UNVALUED = "no value, no cost or no exchange rate"
    NOT_REALIZED = "closed, reduced or traded, and no realized profit of the day is known"
    NOT_OF_THE_DAY = "closed or reduced, and the realized profit is no trade at the day's prices"
    NO_TRADE_PRICE = "grew at a cost that is no trade at the day's prices"
    NOT_BOOKED = "the statement's bookings do not explain the change of the position"
    TRANSFER = "transferred, and the statement has no value of the transfer"
    CORPORATE_ACTION = "changed by a corporate action"
    EVENT = "option and underlying changed together, and one of them is unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractDay:
    """A contract's day: its row (that of a contract without one is made up, with position 0), the row before, profit.

    ``pnl`` is in the contract's currency; if it is None, ``unknown`` says why.
    """

    row: Row
    earlier: Row | None
    pnl: float | None
    unknown: Unknown | None = None

    @property
    def key(self) -> _Contract:
        """Account and conid."""
        return self.row["account"], self.row["conid"]

    @property
    def before(self) -> float:
        """The position of the session before."""
        return 0.0 if self.earlier is None else float(self.earlier["position"])

    @property
    def changed(self) -> float:
        """The change of the position since the session before."""
        return float(self.row["position"]) - self.before


def contract_days(
    snapshot: pl.DataFrame,
    previous: pl.DataFrame,
    *,
    columns: Sequence[str],
    window: DayWindow,
    activity: pl.DataFrame | None = None,
    statements: pl.DataFrame | None = None,
) -> list[ContractDay]:
    """Return the day of each contract that is in either snapshot, in their order.

    A position of ``previous`` that has no row in ``snapshot``, though its account has, was closed. ``columns`` are
    those of the rows beyond ``PNL_COLUMNS``; ``activity`` and ``statements`` are the day's rows of the Flex tables.
    """
    names = list(dict.fromkeys((*columns, *PNL_COLUMNS)))
    before = {(row["account"], row["conid"]): row for row in previous.select(names).iter_rows(named=True)}
    known_before = {account for account, _ in before}
    listed = listed_kinds(previous)
    booked = _booked(activity, window)
    complete = _with_trades(statements)
    corporate = touched_by_corporate_actions(booked)
    described = [name for name in names if name in _DESCRIBED]
    found: list[ContractDay] = []
    for row in (*snapshot.select(names).iter_rows(named=True), *_gone(snapshot, before, booked)):
        key = (row["account"], row["conid"])
        earlier = before.get(key)
        if row["position"] == 0 and earlier is not None and row["position_source"] == UpdateSource.FLEX.value:
            row = {**row, **{name: earlier[name] for name in described}}  # noqa: PLW2901
        pnl: float | Unknown
        if row["account"] not in known_before:
            pnl = Unknown.FIRST_DAY
        elif earlier is None and not listed(row):
            pnl = Unknown.NOT_LISTED
        elif key not in booked and (row["account"], row["symbol"]) in corporate:
            pnl = Unknown.CORPORATE_ACTION
        elif key in booked:
            pnl = _by_bookings(row, earlier, booked[key])
        elif row["position_source"] == UpdateSource.FLEX.value:
            pnl = _without_booking(row, earlier, has_trades=row["account"] in complete)
        else:
            pnl = _by_own_rows(row, earlier)
        known = None if isinstance(pnl, Unknown) else pnl
        unknown = pnl if isinstance(pnl, Unknown) else None
        found.append(ContractDay(row=row, earlier=earlier, pnl=known, unknown=unknown))
    return list(_events(found))


def _booked(activity: pl.DataFrame | None, window: DayWindow) -> dict[_Contract, list[Row]]:
    """Return what IB booked since the session before, by contract; conversions of currencies move no position."""
    found: dict[_Contract, list[Row]] = {}
    if activity is not None:
        of_day = activity.filter(window.has_booked() & (pl.col("kind") != FlexActivityKind.CONVERSION.value))
        for row in of_day.iter_rows(named=True):
            found.setdefault((row["account"], row["conid"]), []).append(row)
    return found


def _with_trades(statements: pl.DataFrame | None) -> set[str]:
    """Return the accounts whose statement has the section of trades."""
    if statements is None:
        return set()
    return set(statements.filter(pl.col("sections").list.contains("Trades")).get_column("account"))


def _gone(
    snapshot: pl.DataFrame, before: Mapping[_Contract, Row], booked: Mapping[_Contract, Sequence[Row]]
) -> Iterator[dict[str, Any]]:
    """Yield rows for positions of the session before that have no row on the day, as closed ones."""
    present = set(snapshot.select(KEY).iter_rows())
    newest = dict(snapshot.group_by("account").agg(pl.col("timestamp").max()).iter_rows())
    nothing = dict.fromkeys(("bid", "ask", "last", "close", "lowest_price", "highest_price", "realized_time"))
    closed = {"position": 0.0, "market_value": 0.0, "unrealized_pnl": 0.0, **nothing}
    for key, row in before.items():
        if key not in present and row["position"] != 0 and row["account"] in newest:
            rates = [item["fx_rate_to_base"] for item in booked.get(key, ()) if item["fx_rate_to_base"] is not None]
            of_day = {
                "realized_pnl": _realized(booked.get(key, ())),
                "fx_rate_to_base": rates[-1] if rates else None,
                "timestamp": newest[row["account"]],
            }
            yield {**row, **closed, **of_day}


def _realized(booked: Sequence[Row]) -> float | None:
    known = [item["realized_pnl"] for item in booked if item["realized_pnl"] is not None]
    return sum(known) if known else None


def _position(row: Row | None) -> float:
    return 0.0 if row is None else float(row["position"])


def _before(row: Row, earlier: Row | None) -> float:
    """Return the position of the session before, in the unit of ``row``.

    A statement has the face of a bond, the API units of 1,000; a statement may round a fraction.
    """
    before = _position(earlier)
    if earlier is None or earlier["position_source"] == row["position_source"]:
        return before
    if SecType.parse(row["sec_type"]) in _BY_FACE:
        unit, unit_before = _unit(row), _unit(earlier)
        before = before * unit_before / unit if unit and unit_before else before
    now = _position(row)
    return now if abs(now - before) <= _ROUNDED_WITHIN * abs(now) else before


def _amount(row: Row | None, name: str) -> float | None:
    """Return value or unrealized profit; 0 where nothing is held."""
    if row is None or row["position"] == 0:
        return 0.0
    return None if row[name] is None else float(row[name])


@dataclass(frozen=True, slots=True)
class _Change:
    """What is known of a contract at both ends of the day; amounts in the contract's currency."""

    value: float
    profit: float
    value_before: float
    profit_before: float

    @property
    def cost(self) -> float:
        """The change of the cost, by IB's own value and profit."""
        return (self.value - self.profit) - (self.value_before - self.profit_before)

    @property
    def is_cost_kept(self) -> bool:
        before = abs(self.value_before - self.profit_before)
        return abs(self.cost) <= _COSTS_WITHIN * max(before, 1.0)

    @property
    def value_change(self) -> float:
        return self.value - self.value_before

    @property
    def profit_change(self) -> float:
        return self.profit - self.profit_before


def _change(row: Row, earlier: Row | None) -> _Change | None:
    amounts = [_amount(end, name) for end in (row, earlier) for name in ("market_value", "unrealized_pnl")]
    known = [amount for amount in amounts if amount is not None]
    return _Change(*known) if len(known) == len(amounts) else None


def _by_own_rows(row: Row, earlier: Row | None) -> float | Unknown:
    """Return the profit of a day without a statement, if trades at the day's prices explain it."""
    before, now = _before(row, earlier), _position(row)
    realized = _realized_of_day(row, earlier)
    if now == before:
        return _unchanged(row, earlier, realized)
    change = _change(row, earlier)
    if change is None:
        return Unknown.UNVALUED
    reduced = before != 0 and (now * before <= 0 or abs(now) < abs(before))
    if realized is None or (reduced and realized == 0):
        return Unknown.NOT_REALIZED
    received = realized - change.cost
    if not _is_trade(row, earlier, quantity=now - before, received=received):
        return Unknown.NOT_OF_THE_DAY if reduced else Unknown.NO_TRADE_PRICE
    return realized + change.profit_change


def _realized_of_day(row: Row, earlier: Row | None) -> float | None:
    """Return IB's realized profit without the part that the session before has, where IB has not reset it since."""
    realized: float | None = row["realized_pnl"]
    if realized is None or earlier is None or earlier["realized_pnl"] is None:
        return realized
    first, last = earlier["realized_time"], row["realized_time"]
    if first is None or last is None or _period(row, first) != _period(row, last):
        return realized
    return realized - float(earlier["realized_pnl"])


def _period(row: Row, at: datetime) -> datetime:
    return realized_since(at, futures=SecType.parse(row["sec_type"]) in _FUTURES)


def _unchanged(row: Row, earlier: Row | None, realized: float | None) -> float | Unknown:
    """Return the profit of a position of the same size.

    Where the cost changed without a realized profit, it is the change of the value: IB restates costs overnight (by
    tax lots, after wash sales and transfers), which is no profit.
    """
    same_cost = earlier is not None and _is_same_cost(row["average_cost"], earlier["average_cost"])
    if earlier is not None and row["position"] != 0 and realized == 0 and not same_cost:
        value, value_before = row["market_value"], earlier["market_value"]
        return Unknown.UNVALUED if value is None or value_before is None else float(value - value_before)
    if realized is None and not same_cost:
        return Unknown.NOT_REALIZED
    profit, profit_before = _amount(row, "unrealized_pnl"), _amount(earlier, "unrealized_pnl")
    if profit is None or profit_before is None:
        return Unknown.UNVALUED
    return (realized or 0.0) + profit - profit_before


def _is_same_cost(cost: float | None, before: float | None) -> bool:
    """Return whether two costs are one: a statement and the API differ in the last digits of the same average."""
    if cost is None or before is None:
        return cost is before
    return math.isclose(cost, before, rel_tol=_SAME_COST_WITHIN)


def _is_trade(row: Row, earlier: Row | None, *, quantity: float, received: float) -> bool:
    """Return whether the money received for a change of the position fits the prices of the day and the one before."""
    prices = _values_of_one(row, earlier)
    if not prices:
        return False
    sec_type = SecType.parse(row["sec_type"])
    rate = row["fx_rate_to_base"] or 1.0
    fees = _FEES / rate + (_FEES_PER_CONTRACT / rate * abs(quantity) if sec_type.is_option else 0.0)
    low, high = min(prices), max(prices)
    margin = _WITHIN.get(sec_type, _WITHIN_OTHERS) * max(abs(low), abs(high)) + fees / abs(quantity)
    return low - margin <= -received / quantity <= high + margin


def _values_of_one(row: Row, earlier: Row | None) -> list[float]:
    """Return the values of one unit of the position at all prices that are known, in IB's own unit."""
    unit = _unit(row) or _unit(earlier)
    if unit is None:
        return []
    names = ("market_price", "lowest_price", "highest_price", "bid", "ask", "last", "close")
    prices = [row[name] for name in names]
    prices += [] if earlier is None else [earlier[name] for name in ("market_price", "lowest_price", "highest_price")]
    # A -1 or 0 for "no quote" would widen the range down to nothing.
    is_signed = SecType.parse(row["sec_type"]) is SecType.FUTURE
    return [price * unit for price in prices if price is not None and (is_signed or price > 0)]


def _unit(row: Row | None) -> float | None:
    """Return value / (position x price), which is multiplier, magnifier and percent of par in one."""
    if row is None or not row["position"] or not row["market_price"] or row["market_value"] is None:
        return None
    return float(row["market_value"]) / (float(row["position"]) * float(row["market_price"]))


def _without_booking(row: Row, earlier: Row | None, *, has_trades: bool) -> float | Unknown:
    """Return the profit of a Flex position of which nothing was booked."""
    if _position(row) != _before(row, earlier):
        return Unknown.NOT_BOOKED
    change = _change(row, earlier)
    if change is None:
        return Unknown.UNVALUED
    if change.is_cost_kept or has_trades:
        return change.value_change
    return Unknown.NOT_REALIZED


def _by_bookings(row: Row, earlier: Row | None, booked: Sequence[Row]) -> float | Unknown:
    """Return the profit of a contract that IB booked something of."""
    before, now = _before(row, earlier), _position(row)
    if abs(now - before - sum(item["quantity"] for item in booked)) > _QUANTITY_WITHIN:
        return Unknown.NOT_BOOKED
    change = _change(row, earlier)
    if change is None:
        return Unknown.UNVALUED
    kinds = {item["kind"] for item in booked}
    if FlexActivityKind.TRANSFER.value in kinds:
        flows = [flow(item, _unit(row) or _unit(earlier)) for item in booked]
        known = [flow for flow in flows if flow is not None]
        return change.value_change + sum(known) if len(known) == len(flows) else Unknown.TRANSFER
    realized = _realized(booked)
    if FlexActivityKind.CORPORATE_ACTION.value in kinds:
        is_split = before != 0 and now != 0 and change.is_cost_kept
        if not realized and not is_split:
            return Unknown.CORPORATE_ACTION
        realized = realized or 0.0
    elif earlier is not None and before != 0 and earlier["position_source"] != UpdateSource.FLEX.value:
        # The cost before is of another source, by another method: the money of the trades needs no cost.
        flows = [flow(item, _unit(row) or _unit(earlier)) for item in booked]
        known = [flow for flow in flows if flow is not None]
        if len(known) == len(flows):
            return change.value_change + sum(known)
    return Unknown.NOT_REALIZED if realized is None else realized + change.profit_change


def _events(days: Collection[ContractDay]) -> Iterator[ContractDay]:
    """Yield the days, where an option and its underlying that changed together are known together or not at all.

    An exercise or assignment closes the option and trades the underlying at the strike; half of it is no profit.
    """
    options: dict[tuple[str, int | str], list[ContractDay]] = {}
    underlyings: dict[tuple[str, int | str], list[ContractDay]] = {}
    for item in days:
        account, sec_type = item.row["account"], SecType.parse(item.row["sec_type"])
        if sec_type.is_option:
            closed = item.before != 0 and (item.before * item.row["position"] <= 0 or item.before * item.changed < 0)
            name = item.row["underlying_conid"] or item.row["symbol"]
            if closed:
                options.setdefault((account, name), []).append(item)
        elif item.changed:
            underlyings.setdefault((account, item.row["conid"]), []).append(item)
            underlyings.setdefault((account, item.row["symbol"]), []).append(item)
    unknown: set[_Contract] = set()
    for key, closed in options.items():
        legs = [*closed, *underlyings.get(key, ())]
        if len(legs) > len(closed) and any(leg.pnl is None for leg in legs):
            unknown.update(leg.key for leg in legs)
    for item in days:
        if item.pnl is not None and item.key in unknown:
            yield ContractDay(row=item.row, earlier=item.earlier, pnl=None, unknown=Unknown.EVENT)
        else:
            yield item
