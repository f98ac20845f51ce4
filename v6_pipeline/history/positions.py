"""The positions at the end of a trading day, from a Flex statement, else from our own logs. Pure.

An account that no source covers is refused, and so is one whose source contradicts itself: no position is invented.
The other accounts of the day are not affected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from v6_pipeline.errors import NotCoveredError, SnapshotRefusedError
from v6_pipeline.history.booked import NEVER_IN_STATEMENTS, closed_by_bookings
from v6_pipeline.history.inputs import KEY, OBSERVED_SCHEMA, DayInputs
from v6_pipeline.model import SETTLED_AM, ContractSpec, Holding, SecType, UpdateSource

POSITIONS_SCHEMA = pl.Schema({**OBSERVED_SCHEMA, "position_source": pl.String(), "carried_forward": pl.Boolean()})
HOLDING_COLUMNS = (
    *("account", "conid", "symbol", "local_symbol", "trading_class", "sec_type", "right", "strike", "expiry"),
    *(
        "multiplier",
        "price_magnifier",
        "unit_value",
        "position_source",
        "currency",
        "underlying_conid",
        "position",
        "average_cost",
        "timestamp",
    ),
)
"""Columns that ``holding_of`` reads: a row as a dictionary of all columns costs three times as much."""
_REMEDY = (
    "drop a Flex statement of that day into V6_FLEX_DIR, or set V6_FLEX_TOKEN and V6_FLEX_QUERY_ID, then materialize "
    "flex_positions for it"
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Accounts by the source of their positions; no account is in two of them. ``refused`` has the reason of each."""

    flex: frozenset[str]
    own: frozenset[str]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The reasons of the refused accounts in one line; empty if there are none."""
        return "; ".join(sorted(set(self.refused.values())))


def coverage(inputs: DayInputs, *, accounts: Collection[str] = ()) -> Coverage:
    """Assign each account to the source that covers it on a day: its Flex statement, else own rows up to the cut-off.

    Expected are the accounts with any row on the day or in the lookback before it; of these only ``accounts``, if any
    are given. An expected account without a source, or with a statement without positions, is refused.

    Raises:
        NotCoveredError: no expected account has a source, or nothing is expected at all.
        SnapshotRefusedError: every expected account is refused.
    """
    inputs = inputs.cut()
    stated = _kept(inputs.statements, accounts)
    incomplete = _incomplete(inputs, stated)
    own = (_kept(inputs.observed, accounts) | _kept(inputs.account_values, accounts)) - stated
    expected = inputs.accounts & set(accounts) if accounts else inputs.accounts
    missing = sorted(expected - stated - own)
    no_source = (
        f"{inputs.day}: no source has the positions of {_listed(missing)}: no Flex statement, and in "
        f"streamed_positions, queued_positions and account_values no row until "
        f"{inputs.until:%Y-%m-%d %H:%M:%S} UTC; {_REMEDY}"
    )
    covered = Coverage(stated - incomplete.keys(), own, {**dict.fromkeys(missing, no_source), **incomplete})
    if not covered.flex | covered.own:
        raise SnapshotRefusedError(covered.reason) if incomplete else NotCoveredError(no_source)
    return covered


def day_positions(inputs: DayInputs, *, accounts: Collection[str] = ()) -> pl.DataFrame:
    """Return the observation of each position, one row per (account, conid) with ``POSITIONS_SCHEMA``, sorted.

    From Flex these are all rows, and own rows of currencies, which Flex leaves out; a contract that the statement has
    not, though it books something of it, or our own logs have it closed that day, has a row with position 0. From own
    logs they are the newest
    row per contract, and for a contract without a row that day the newest of the sessions before, if it is open and has
    not settled. Closed rows (position 0) of the day are included. ``accounts`` restricts them, if any are given. Of the
    accounts that ``coverage`` refuses there are none.

    Raises:
        SnapshotRefusedError: every account is refused.
    """
    inputs = inputs.cut()
    covered = coverage(inputs, accounts=accounts)
    stated = pl.col("account").is_in(covered.flex) & (pl.col("position") != 0)
    flex = inputs.flex_positions.filter(stated).select(OBSERVED_SCHEMA.names())
    # A statement's open positions leave currencies out: they are among its cash.
    is_own = pl.col("account").is_in(covered.own) | (
        pl.col("account").is_in(covered.flex) & pl.col("sec_type").is_in(NEVER_IN_STATEMENTS)
    )
    own = inputs.observed.filter(is_own).join(flex, on=KEY, how="anti")
    newest = newest_first(own).unique(subset=KEY, keep="first", maintain_order=True)
    still_open = (pl.col("position") != 0) & (pl.col("expiry").is_null() | (_settles_on() >= inputs.day))
    carried = inputs.earlier.filter(is_own & still_open).join(newest, on=KEY, how="anti")
    carried = carried.join(flex, on=KEY, how="anti")
    newest = pl.concat([newest, _closed_today(inputs.observed, covered.flex).join(flex, on=KEY, how="anti")])
    flex = pl.concat([flex, closed_by_bookings(inputs, covered.flex, pl.concat([flex, newest]))])
    found = pl.concat(
        [
            newest.with_columns(
                pl.col("source").alias("position_source"), pl.lit(value=False).alias("carried_forward")
            ),
            carried.with_columns(
                pl.col("source").alias("position_source"), pl.lit(value=True).alias("carried_forward")
            ),
            flex.with_columns(
                pl.lit(UpdateSource.FLEX.value).alias("position_source"), pl.lit(value=False).alias("carried_forward")
            ),
        ]
    )
    return found.select(POSITIONS_SCHEMA.names()).sort(KEY)


def _closed_today(observed: pl.DataFrame, accounts: Collection[str]) -> pl.DataFrame:
    """Return the newest own row of each contract of accounts with a statement, where it says that nothing is held."""
    is_position = pl.col("account").is_in(accounts) & ~pl.col("sec_type").is_in(NEVER_IN_STATEMENTS)
    newest = newest_first(observed.filter(is_position)).unique(subset=KEY, keep="first", maintain_order=True)
    return newest.filter(pl.col("position") == 0)


def _settles_on() -> pl.Expr:
    """The day of ``ContractSpec.settles_on`` of rows with an expiry."""
    is_option = pl.col("sec_type") == SecType.OPTION.value
    next_weekday = pl.col("expiry").dt.add_business_days(1, roll="backward")
    settled_am = is_option & pl.col("trading_class").is_in(SETTLED_AM)
    return pl.when(settled_am).then(next_weekday).otherwise(pl.col("expiry"))


def newest_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort own rows by ``timestamp``, the newest first; of equal ones the stream's row comes first."""
    by_stream = pl.col("source") == UpdateSource.STREAM.value
    return rows.sort(pl.col("timestamp"), by_stream, descending=True, maintain_order=True)


def holding_of(row: Mapping[str, Any], contracts: Mapping[int, ContractSpec]) -> Holding:
    """Return the holding of a row of positions; values that no row has come from the known contracts."""
    known = contracts.get(row["conid"])
    multiplier = row["multiplier"]
    if multiplier is None:
        multiplier = 1.0 if known is None else known.multiplier
    contract = ContractSpec(
        conid=row["conid"],
        symbol=row["symbol"],
        sec_type=SecType.parse(row["sec_type"]),
        currency=row["currency"],
        local_symbol=row["local_symbol"] or "",
        trading_class=row["trading_class"] or "",
        right=row["right"],
        strike=row["strike"],
        expiry=row["expiry"],
        multiplier=multiplier,
        price_magnifier=row["price_magnifier"] or (1 if known is None else known.price_magnifier),
        unit_value=_unit_value(row, known),
        underlying_conid=row["underlying_conid"],
    )
    return Holding(
        account=row["account"],
        contract=contract,
        position=row["position"],
        average_cost=row["average_cost"],
        observed_at=row["timestamp"],
    )


def _unit_value(row: Mapping[str, Any], known: ContractSpec | None) -> float | None:
    """Return the value of one unit of position, which is IB's of the API: Flex counts bonds in other units."""
    own: float | None = row["unit_value"]
    if own is not None or row["position_source"] == UpdateSource.FLEX.value or known is None:
        return own
    return known.unit_value


def _kept(rows: pl.DataFrame, accounts: Collection[str]) -> frozenset[str]:
    found = frozenset(rows.get_column("account"))
    return found & set(accounts) if accounts else found


def _listed(accounts: list[str]) -> str:
    return ", ".join(accounts) or "any account"


def _incomplete(inputs: DayInputs, accounts: Collection[str]) -> dict[str, str]:
    """Return the reason for a statement without its positions, by account: a run was killed between two tables."""
    rows = dict(inputs.flex_positions.group_by("account").len().iter_rows())
    return {
        account: f"{inputs.day}: the Flex statement of {account} has {positions} positions, flex_positions has "
        f"{rows.get(account, 0)}: materialize flex_positions for that day again"
        for account, positions in inputs.statements.select("account", "positions").iter_rows()
        if account in accounts and rows.get(account, 0) != positions
    }
