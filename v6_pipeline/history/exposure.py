"""The risk of a trading day per account, underlying and strategy, in the account's base currency. Pure.

A position that several strategies claim is divided by their quantities, so that sums over strategies equal the
account's. Each amount has its coverage: a sum is over the known values, and null where none is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import polars as pl

from v6_pipeline.history.daily_pnl import ContractDay, Unknown, contract_days
from v6_pipeline.history.inputs import DayWindow
from v6_pipeline.history.positions import HOLDING_COLUMNS, holding_of
from v6_pipeline.history.underlyings import underlyings
from v6_pipeline.lake.tables import PORTFOLIO_EXPOSURE
from v6_pipeline.model import ContractSpec, Holding, SecType
from v6_pipeline.state.registry.assignments import Assignment, RegistryAt

UNASSIGNED = "unassigned"
_COLUMNS = (
    *(*HOLDING_COLUMNS, "market_price", "market_value", "unrealized_pnl", "realized_pnl"),
    *("price_time", "delta", "gamma", "vega", "theta", "underlying_price", "greeks_time"),
    *("base_currency", "fx_rate_to_base"),
)
_KEY = ("account", "underlying", "underlying_conid", "strategy")
_WITHOUT_DELTA = frozenset({SecType.BOND, SecType.BILL, SecType.OTHER, SecType.COMBO})
"""The risk of bonds is in rates, which a delta to an underlying does not show; the others may be anything."""

_WITHOUT_VALUE = frozenset({SecType.FUTURE, SecType.CFD})
"""Their notional value is not owned: a change of its exchange rate is no profit."""

_Group = tuple[str, str, int | None, str]
_Contract = tuple[str, int]
_Spots = Mapping[int, tuple[float, datetime]]
"""By conid: the newest price in units of the currency, and its time."""


@dataclass(slots=True)
class _Sum:
    """A sum over the known values, and their share."""

    known: int = 0
    rows: int = 0
    total: float = 0.0

    def add(self, value: float | None) -> None:
        self.rows += 1
        if value is not None:
            self.known += 1
            self.total += value

    @property
    def value(self) -> float | None:
        return self.total if self.known else None

    @property
    def coverage(self) -> float | None:
        return 100 * self.known / self.rows if self.rows else None


@dataclass(slots=True)
class _Coverage:
    """The share of the size that is known: one large unknown position outweighs many small known ones."""

    rows: int = 0
    known: int = 0
    weight: float = 0.0
    known_weight: float = 0.0
    all_weighed: bool = True

    def add(self, weight: float | None, *, is_known: bool) -> None:
        self.rows += 1
        self.known += is_known
        if weight is None:
            self.all_weighed = False
            return
        self.weight += weight
        self.known_weight += weight if is_known else 0.0

    @property
    def percent(self) -> float | None:
        """The share; None where it depends on the weight of a position whose weight is unknown."""
        if not self.rows:
            return None
        if self.known in {0, self.rows}:
            return 100.0 * self.known / self.rows
        return 100.0 * self.known_weight / self.weight if self.all_weighed and self.weight else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Amounts:
    """Amounts of one position in base currency; ``greeks`` is None where the position can have none.

    ``unknown`` says why ``daily_pnl`` is None, whose weight is the larger value of the two days.
    """

    market_value: float | None
    daily_pnl: float | None
    unknown: Unknown | None
    pnl_weight: float | None
    fx_pnl: float | None
    greeks: _Greeks | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Greeks:
    """Sensitivities in base currency; what is not an option (``is_option``) has ``dollar_delta`` only.

    ``weight`` is the absolute value of position x multiplier x price of the underlying.
    """

    dollar_delta: float | None
    dollar_gamma: float | None
    vega: float | None
    theta: float | None
    is_option: bool
    weight: float | None

    @property
    def is_known(self) -> bool:
        curved = (self.dollar_gamma, self.vega, self.theta) if self.is_option else ()
        return all(value is not None for value in (self.dollar_delta, *curved))


@dataclass(slots=True)
class _Totals:
    """The sums of one row of the result."""

    timestamp: datetime
    positions: int = 0
    base_currency: str | None = None
    market_value: _Sum = field(default_factory=_Sum)
    daily_pnl: _Sum = field(default_factory=_Sum)
    dollar_delta: _Sum = field(default_factory=_Sum)
    dollar_gamma: _Sum = field(default_factory=_Sum)
    vega: _Sum = field(default_factory=_Sum)
    theta: _Sum = field(default_factory=_Sum)
    greeks: _Coverage = field(default_factory=_Coverage)
    profits: _Coverage = field(default_factory=_Coverage)
    fx_pnl: _Sum = field(default_factory=_Sum)
    unknown: Counter[Unknown] = field(default_factory=Counter)
    linear: bool = False
    expiring: int = 0
    in_the_money: int = 0


def exposure(
    snapshot: pl.DataFrame,
    previous: pl.DataFrame,
    *,
    window: DayWindow,
    next_session: date,
    registry: RegistryAt,
    contracts: Mapping[int, ContractSpec],
    now: datetime,
    run_id: str,
    activity: pl.DataFrame | None = None,
    statements: pl.DataFrame | None = None,
    snapshot_version: int | None = None,
) -> pl.DataFrame:
    """Return the exposure of a day, with the schema of ``portfolio_exposure``, sorted by its key.

    ``snapshot`` and ``previous`` are those of the day and of the session before: the daily profit of an account without
    rows in the latter is unknown. A position of ``previous`` that has no row in ``snapshot``, though its account
    has, was closed: it counts for the day's profit alone. ``daily_pnl`` has the rules; ``activity`` and ``statements``
    are the day's rows of the Flex tables.
    ``registry`` is as it was at the day's cut-off; ``contracts`` give the price magnifier.
    """
    groups: dict[_Group, _Totals] = {}
    spots = _spots(snapshot, contracts)
    days = contract_days(snapshot, previous, columns=_COLUMNS, window=window, activity=activity, statements=statements)
    holdings = [holding_of(of.row, contracts) for of in days]
    of_contract = underlyings((holding.contract for holding in holdings), contracts)
    for of, holding in zip(days, holdings, strict=True):
        row, underlying = of.row, of_contract[of.row["conid"]]
        amounts = _amounts(of, holding.contract)
        shares = _shares(holding, of.earlier, registry)
        expiring, in_the_money = _short_option(row, holding.contract, spots, window.day, next_session)
        for strategy, share in shares:
            totals = groups.setdefault(
                (row["account"], underlying.name, underlying.conid, strategy),
                _Totals(timestamp=row["timestamp"]),
            )
            _add(totals, row, amounts, share)
            totals.expiring += expiring
            totals.in_the_money += in_the_money
    lineage = {
        "date": window.day,
        "final": bool(snapshot.get_column("final").all()),
        "snapshot_version": snapshot_version,
        "run_id": run_id,
        "ingested_at": now,
    }
    made = [dict(zip(_KEY, key, strict=True)) | _row(totals) | lineage for key, totals in groups.items()]
    return pl.DataFrame(made, schema=PORTFOLIO_EXPOSURE.schema, orient="row").sort(_KEY)


def allocate(position: float, assignments: Sequence[Assignment]) -> list[tuple[str, float]]:
    """Divide a position among strategies: (strategy, fraction), the fractions adding up to 1.

    The most important strategy takes first, up to its quantity; one of the opposite sign takes nothing. The remainder
    is ``UNASSIGNED``. Of a position of 0 the most important strategy has all.
    """
    if position == 0:
        return [(assignments[0].strategy if assignments else UNASSIGNED, 1.0)]
    remaining = abs(position)
    taken: list[tuple[str, float]] = []
    for assignment in sorted(assignments, key=lambda item: (item.priority, item.strategy)):
        wanted = remaining if assignment.quantity is None else assignment.quantity * (1 if position > 0 else -1)
        share = min(max(wanted, 0.0), remaining)
        if share > 0:
            taken.append((assignment.strategy, share / abs(position)))
            remaining -= share
    if remaining > 0:
        taken.append((UNASSIGNED, remaining / abs(position)))
    return taken


def _shares(holding: Holding, earlier: Mapping[str, Any] | None, registry: RegistryAt) -> list[tuple[str, float]]:
    """Divide a position; a closed one's profit goes to the strategies of the session before."""
    position = holding.position
    if position == 0 and earlier is not None:
        position = earlier["position"]
    return allocate(position, registry.assignments(holding, settled=holding.position == 0))


def _amounts(of: ContractDay, contract: ContractSpec) -> _Amounts:
    rate = of.row["fx_rate_to_base"]
    daily_pnl = _times(of.pnl, rate)
    return _Amounts(
        market_value=_times(of.row["market_value"], rate),
        daily_pnl=daily_pnl,
        unknown=of.unknown or (Unknown.UNVALUED if daily_pnl is None else None),
        pnl_weight=_pnl_weight(of),
        fx_pnl=_fx_pnl(of, contract),
        greeks=_greeks(of.row, contract, rate),
    )


def _fx_pnl(of: ContractDay, contract: ContractSpec) -> float | None:
    """Return what the change of the exchange rate made of the value of the session before; futures and CFDs have none.

    With it the change of a value in base currency is complete: yesterday's value is at yesterday's rate.
    """
    if contract.sec_type in _WITHOUT_VALUE:
        return 0.0
    if of.unknown in {Unknown.FIRST_DAY, Unknown.NOT_LISTED}:
        return None
    if of.before == 0 or of.earlier is None:
        return 0.0
    rate, rate_before = of.row["fx_rate_to_base"], of.earlier["fx_rate_to_base"]
    if rate is None or rate_before is None:
        return None
    return _times(of.earlier["market_value"], rate - rate_before)


def _pnl_weight(of: ContractDay) -> float | None:
    """Return the larger absolute value of the position on the two days, a cost where the value is unknown."""
    rate = of.row["fx_rate_to_base"] or (None if of.earlier is None else of.earlier["fx_rate_to_base"])
    sizes = [
        _size(_times(end["market_value"], rate), _times(end["position"], end["average_cost"], rate))
        for end in (of.row, of.earlier)
        if end is not None and end["position"] != 0
    ]
    known = [size for size in sizes if size is not None]
    if not sizes and of.pnl is None:
        return None  # an unknown day trade weighs something
    return max(known, default=0.0) if len(known) == len(sizes) else None


def _greeks(row: Mapping[str, Any], contract: ContractSpec, rate: float | None) -> _Greeks | None:
    """Return sensitivities in base currency.

    Prices and greeks of a row with ``price_magnifier`` are in the contract's currency; those of a snapshot of before
    are as quoted, and a contract quoted in cents has an underlying quoted in cents.
    """
    if contract.sec_type in _WITHOUT_DELTA:
        return None
    divisor = contract.price_magnifier if row["price_magnifier"] is None else 1
    units = row["position"] * (contract.value_per_price or contract.multiplier) / divisor
    if not contract.sec_type.is_option:
        # Not by the price: in cents or not depends on the source, the value does not.
        delta = _times(row["market_value"], rate)
        cost = _times(row["position"], row["average_cost"], rate)
        return _Greeks(
            dollar_delta=delta, dollar_gamma=None, vega=None, theta=None, is_option=False, weight=_size(delta, cost)
        )
    price = row["underlying_price"]
    return _Greeks(
        dollar_delta=_times(row["delta"], price, units, rate),
        dollar_gamma=_times(row["gamma"], price, price, 0.01, units, rate),
        vega=_times(row["vega"], units, rate),
        theta=_times(row["theta"], units, rate),
        is_option=True,
        # Without a price of the underlying the strike shows its size.
        weight=_size(_times(price, units, rate), _times(_strike(contract, row), units, rate)),
    )


def _size(*amounts: float | None) -> float | None:
    """Return the absolute value of the first known amount."""
    return next((abs(amount) for amount in amounts if amount is not None), None)


def _times(*factors: float | None) -> float | None:
    """Return the product; None if a factor is unknown."""
    product = 1.0
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _spots(snapshot: pl.DataFrame, contracts: Mapping[int, ContractSpec]) -> _Spots:
    """Return prices of held contracts, without those that snapshots of before have in cents or not."""
    priced = snapshot.filter(pl.col("market_price").is_not_null() & pl.col("price_time").is_not_null())
    rows = priced.sort("price_time").select("conid", "market_price", "price_time", "price_magnifier").iter_rows()
    return {
        conid: (price, at)
        for conid, price, at, magnifier in rows
        if magnifier is not None or conid not in contracts or contracts[conid].price_magnifier == 1
    }


def _underlying_price(row: Mapping[str, Any], contract: ContractSpec, spots: _Spots) -> float | None:
    """Return the newer one of the underlying's own price, if it is held, and the price that its greeks belong to."""
    in_currency = row["price_magnifier"] is not None or contract.price_magnifier == 1
    own = spots.get(contract.underlying_conid or 0) if in_currency else None
    if own is not None and (row["greeks_time"] is None or row["greeks_time"] < own[1]):
        return own[0]
    with_greeks: float | None = row["underlying_price"]
    return with_greeks


def _strike(contract: ContractSpec, row: Mapping[str, Any]) -> float | None:
    """Return the strike in the unit of the row's prices: IB writes it as quoted, in cents for corn."""
    if contract.strike is None or row["price_magnifier"] is None:
        return contract.strike
    return contract.strike / contract.price_magnifier


def _short_option(
    row: Mapping[str, Any], contract: ContractSpec, spots: _Spots, day: date, next_session: date
) -> tuple[bool, bool]:
    """Return whether it is a short option that settles by the next trading day, and one that is in the money."""
    if row["position"] >= 0 or not contract.sec_type.is_option:
        return False, False
    expiring = contract.settles_on is not None and day <= contract.settles_on <= next_session
    price, strike = _underlying_price(row, contract, spots), _strike(contract, row)
    if price is None or strike is None:
        return expiring, False
    return expiring, price > strike if contract.right == "C" else contract.right == "P" and price < strike


def _add(totals: _Totals, row: Mapping[str, Any], amounts: _Amounts, share: float) -> None:
    totals.timestamp = max(totals.timestamp, row["timestamp"])
    totals.base_currency = totals.base_currency or row["base_currency"]
    totals.daily_pnl.add(_times(amounts.daily_pnl, share))
    totals.profits.add(_times(amounts.pnl_weight, share), is_known=amounts.daily_pnl is not None)
    totals.fx_pnl.add(_times(amounts.fx_pnl, share))
    if amounts.unknown is not None:
        totals.unknown[amounts.unknown] += 1
    if row["position"] == 0:
        return
    totals.positions += 1
    totals.market_value.add(_times(amounts.market_value, share))
    greeks = amounts.greeks
    if greeks is None:
        return
    totals.greeks.add(_times(greeks.weight, share), is_known=greeks.is_known)
    totals.dollar_delta.add(_times(greeks.dollar_delta, share))
    if not greeks.is_option:
        totals.linear = True
        return
    totals.dollar_gamma.add(_times(greeks.dollar_gamma, share))
    totals.vega.add(_times(greeks.vega, share))
    totals.theta.add(_times(greeks.theta, share))


def _row(totals: _Totals) -> dict[str, Any]:
    def curved(found: _Sum) -> float | None:
        """Return 0 for stocks and futures alone; with options whose greeks are unknown the sum is unknown."""
        return 0.0 if totals.linear and not found.rows else found.value

    return {
        "base_currency": totals.base_currency,
        "positions": totals.positions,
        "market_value": totals.market_value.value,
        "market_value_coverage": totals.market_value.coverage,
        "daily_pnl": totals.daily_pnl.value,
        "daily_pnl_coverage": totals.profits.percent,
        "fx_pnl": totals.fx_pnl.value if totals.fx_pnl.known == totals.fx_pnl.rows else None,
        "daily_pnl_unknown": "; ".join(f"{number} {why}" for why, number in sorted(totals.unknown.items())) or None,
        "dollar_delta": totals.dollar_delta.value,
        "dollar_gamma": curved(totals.dollar_gamma),
        "vega": curved(totals.vega),
        "theta": curved(totals.theta),
        "greeks_coverage": totals.greeks.percent,
        "short_options_expiring": totals.expiring,
        "short_options_in_the_money": totals.in_the_money,
        "timestamp": totals.timestamp,
    }
