"""A trading day's snapshot: one row per (account, conid), from the observations until the day's cut-off. Pure.

Each row names the rows that gave its parts. No value is invented: one that no source has is null.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import polars as pl

from v6_pipeline.history.inputs import GREEKS, KEY, POSITION_TABLES, QUOTE, WEAK_SOURCES, DayInputs, has_any
from v6_pipeline.history.positions import HOLDING_COLUMNS, day_positions, holding_of, newest_first
from v6_pipeline.history.quoted import in_currency
from v6_pipeline.ib.valuation import market_value, unrealized_pnl
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    HISTORICAL_CLOSES,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
)
from v6_pipeline.model import ContractSpec, PriceSource, SecType, UpdateSource
from v6_pipeline.state.registry.assignments import RegistryAt, strategy_ids

_IS_FLEX = pl.col("position_source") == UpdateSource.FLEX.value
_COSTS_WITHIN = 1e-4
"""The feeds of positions and of the portfolio round average costs differently."""
_OF_THE_ROW_PRICED = ("market_price", "market_value", "unrealized_pnl", "price_source", "price_time")


def assemble(
    inputs: DayInputs,
    *,
    registry: RegistryAt,
    contracts: Mapping[int, ContractSpec],
    now: datetime,
    run_id: str,
    accounts: Collection[str] = (),
) -> pl.DataFrame:
    """Return the snapshot of a day, with the schema of ``position_snapshots``, sorted by account and conid.

    Before the day's cut-off its rows are provisional. ``registry`` is as it was at the cut-off; ``contracts`` give the
    price magnifier, and the multiplier where no row has it; ``accounts`` restricts the rows, if any are given.

    Raises:
        SnapshotRefusedError: no source covers an account, or one contradicts itself.
    """
    inputs = in_currency(inputs.cut(), contracts)
    rows = day_positions(inputs, accounts=accounts)
    rows = _with_prices(rows, inputs)
    rows = _with_range(rows, inputs)
    rows = _with_realized(rows, inputs)
    rows = _with_quotes(rows, inputs.observed)
    rows = _with_rates(rows, inputs)
    rows = _with_values(rows, contracts, registry)
    schema = POSITION_SNAPSHOTS.schema
    return rows.with_columns(
        pl.lit(inputs.day).alias("date"),
        pl.lit(now >= inputs.window.cut_off).alias("final"),
        pl.lit(run_id).alias("run_id"),
        pl.lit(now, dtype=schema["ingested_at"]).alias("ingested_at"),
        *(pl.lit(version, dtype=pl.Int64).alias(name) for name, version in inputs.versions.items()),
    ).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _with_prices(rows: pl.DataFrame, inputs: DayInputs) -> pl.DataFrame:
    """Add the best price of the day, and the value that came with it if both came with the position.

    The best is a Flex mark, else the newest own price of the day, else the historical close, else an older own price.
    An own price that is a close, or the middle of a bid and ask too far apart, comes after any other own one of the day
    and after the historical close, however new its row is.
    """
    own = newest_first(inputs.observed.filter(pl.col("market_price").is_not_null()))
    weak = pl.col("price_source").is_in(WEAK_SOURCES).fill_null(value=False) | (
        pl.col("price_time") < inputs.window.begins_at
    ).fill_null(value=True)
    own = own.sort(~weak, pl.col("price_time"), descending=True, nulls_last=True, maintain_order=True)
    own = own.unique(subset=KEY, keep="first", maintain_order=True)
    priced = own.select(*KEY, pl.col(*_OF_THE_ROW_PRICED, "timestamp", "source").name.prefix("own_"))
    closes = inputs.closes.filter(pl.col("close").is_not_null()).select(
        "conid",
        pl.col("close").alias("close_price"),
        pl.col("bar_time").alias("close_time"),
        pl.col("timestamp").alias("close_timestamp"),
    )
    rows = rows.join(priced, on=KEY, how="left", maintain_order="left")
    rows = rows.join(closes, on="conid", how="left", maintain_order="left")
    marked = _IS_FLEX & pl.col("market_price").is_not_null()
    is_weak = pl.col("own_price_source").is_in(WEAK_SOURCES).fill_null(value=False)
    fresh = (pl.col("own_price_time") >= inputs.window.begins_at) & ~is_weak
    closed = pl.col("close_price").is_not_null()
    own_is_best = (fresh | ~closed) & pl.col("own_market_price").is_not_null()
    with_position = (pl.col("own_timestamp") == pl.col("timestamp")) & (pl.col("own_source") == pl.col("source"))

    def chosen(flex: pl.Expr, own: pl.Expr, close: pl.Expr) -> pl.Expr:
        return pl.when(marked).then(flex).when(own_is_best).then(own).when(closed).then(close).otherwise(None)

    def unchanged(name: str) -> pl.Expr:
        return chosen(pl.col(name), pl.when(with_position).then(pl.col(f"own_{name}")), pl.lit(None))

    return rows.with_columns(
        chosen(pl.col("market_price"), pl.col("own_market_price"), pl.col("close_price")).alias("market_price"),
        chosen(
            pl.lit(PriceSource.FLEX.value), pl.col("own_price_source"), pl.lit(PriceSource.HISTORICAL_CLOSE.value)
        ).alias("price_source"),
        chosen(pl.col("price_time"), pl.col("own_price_time"), pl.col("close_time")).alias("price_time"),
        chosen(pl.lit(FLEX_POSITIONS.name), _table_of(pl.col("own_source")), pl.lit(HISTORICAL_CLOSES.name)).alias(
            "price_table"
        ),
        chosen(pl.col("timestamp"), pl.col("own_timestamp"), pl.col("close_timestamp")).alias("price_row_time"),
        unchanged("market_value").alias("market_value"),
        unchanged("unrealized_pnl").alias("unrealized_pnl"),
    )


def _with_range(rows: pl.DataFrame, inputs: DayInputs) -> pl.DataFrame:
    """Add the lowest and the highest price of the day's own rows, without closes and middles of wide quotes.

    A price of an earlier day that stands still, as of a halted or delisted contract, is none of the day.
    """
    weak = pl.col("price_source").is_in(WEAK_SOURCES).fill_null(value=False)
    prices = (
        inputs.observed.filter(~weak & (pl.col("price_time") >= inputs.window.begins_at))
        .group_by(KEY)
        .agg(pl.col("market_price").min().alias("lowest_price"), pl.col("market_price").max().alias("highest_price"))
    )
    return rows.join(prices, on=KEY, how="left", maintain_order="left")


def _with_realized(rows: pl.DataFrame, inputs: DayInputs) -> pl.DataFrame:
    """Add the profit that Flex activity realized since the session before, else the account feed's newest figure.

    A figure from before a trade is not the day's: a streamed contract may have been sold in part since.
    """
    of_day = inputs.activity.filter(inputs.window.has_booked() & pl.col("realized_pnl").is_not_null())
    flex = of_day.group_by(KEY).agg(pl.col("realized_pnl").sum().alias("flex_realized"))
    queued = inputs.observed.filter(
        (pl.col("source") == UpdateSource.QUEUE.value) & pl.col("realized_pnl").is_not_null()
    )
    queued = newest_first(queued).unique(subset=KEY, keep="first", maintain_order=True)
    queued = queued.select(*KEY, pl.col("realized_pnl", "position", "average_cost", "timestamp").name.prefix("queued_"))
    rows = rows.join(flex, on=KEY, how="left", maintain_order="left")
    rows = rows.join(queued, on=KEY, how="left", maintain_order="left")
    cost, queued_cost = pl.col("average_cost"), pl.col("queued_average_cost")
    same_cost = (
        ((cost - queued_cost).abs() <= _COSTS_WITHIN * queued_cost.abs()) | cost.is_null() | queued_cost.is_null()
    )
    untraded = (pl.col("position") == pl.col("queued_position")) & same_cost
    closed = (pl.col("position") == 0) & (pl.col("sec_type") != SecType.CURRENCY.value)
    booked = (_IS_FLEX | closed) & pl.col("flex_realized").is_not_null()
    reported = ~_IS_FLEX & ~booked & untraded & pl.col("queued_realized_pnl").is_not_null()
    return rows.with_columns(
        pl.when(booked)
        .then(pl.col("flex_realized"))
        .when(reported)
        .then(pl.col("queued_realized_pnl"))
        .alias("realized_pnl"),
        pl.when(booked)
        .then(pl.lit(FLEX_ACTIVITY.name))
        .when(reported)
        .then(pl.lit(QUEUED_POSITIONS.name))
        .alias("realized_table"),
        pl.when(reported).then(pl.col("queued_timestamp")).alias("realized_time"),
    )


def _with_quotes(rows: pl.DataFrame, observed: pl.DataFrame) -> pl.DataFrame:
    """Add quotes and greeks, each group as a whole from the newest own row of the day that has any of it."""
    rows = rows.drop(*QUOTE, *GREEKS, "market_data_type")
    for names, group in ((QUOTE, "quote"), (GREEKS, "greeks")):
        newest = newest_first(observed.filter(has_any(names))).unique(subset=KEY, keep="first", maintain_order=True)
        newest = newest.select(
            *(*KEY, *names),
            pl.col("market_data_type").alias(f"{group}_type"),
            pl.col("timestamp").alias(f"{group}_time"),
            _table_of(pl.col("source")).alias(f"{group}_table"),
        )
        rows = rows.join(newest, on=KEY, how="left", maintain_order="left")
    return rows.with_columns(pl.coalesce("quote_type", "greeks_type").alias("market_data_type"))


def _with_rates(rows: pl.DataFrame, inputs: DayInputs) -> pl.DataFrame:
    """Add the day's rate to the base currency: Flex's, else an own row's, else the account's own rates."""
    statements = inputs.statements.select("account", pl.col("base_currency").alias("statement_base"))
    own = newest_first(inputs.observed.filter(pl.col("fx_rate_to_base").is_not_null()))
    own = own.unique(subset=KEY, keep="first", maintain_order=True).select(
        *KEY,
        pl.col("base_currency").alias("own_base"),
        pl.col("fx_rate_to_base").alias("own_rate"),
        pl.col("timestamp").alias("own_rate_time"),
        _table_of(pl.col("source")).alias("own_rate_table"),
    )
    values = inputs.account_values.sort("timestamp", descending=True).unique(
        subset="account", keep="first", maintain_order=True
    )
    rates = values.select("account", "exchange_rates").explode("exchange_rates").unnest("exchange_rates")
    values = values.select(
        "account", pl.col("base_currency").alias("values_base"), pl.col("timestamp").alias("values_time")
    )
    flex_base = pl.when(_IS_FLEX).then(pl.coalesce("base_currency", "statement_base"))
    rows = rows.join(statements, on="account", how="left", maintain_order="left")
    rows = rows.join(own, on=KEY, how="left", maintain_order="left")
    rows = rows.join(values, on="account", how="left", maintain_order="left")
    rows = rows.join(
        rates.drop_nulls().unique(subset=["account", "currency"], keep="first"),
        on=["account", "currency"],
        how="left",
        maintain_order="left",
    )
    rows = rows.with_columns(
        flex_base.alias("flex_base"),
        _rate(pl.when(_IS_FLEX).then(pl.col("fx_rate_to_base")), flex_base).alias("flex_rate"),
        _rate(pl.col("rate"), pl.col("values_base")).alias("values_rate"),
    )
    # A Flex position in its base currency has rate 1 by definition: no row gave it.
    stated = pl.col("fx_rate_to_base").is_not_null()

    gave = {giver: pl.col(f"{giver}_rate").is_not_null() for giver in ("flex", "own", "values")}
    bases = [pl.when(known).then(pl.col(f"{giver}_base")) for giver, known in gave.items()]

    def of_rate(flex: pl.Expr, own: str, values: pl.Expr) -> pl.Expr:
        of_flex = pl.when(gave["flex"]).then(pl.when(stated).then(flex))
        return of_flex.when(gave["own"]).then(pl.col(own)).when(gave["values"]).then(values)

    # A Flex row without a position is of a contract that was booked and is not held.
    flex_table = (
        pl.when(pl.col("position") == 0).then(pl.lit(FLEX_ACTIVITY.name)).otherwise(pl.lit(FLEX_POSITIONS.name))
    )
    return rows.with_columns(
        pl.coalesce(*bases, "flex_base", "own_base", "values_base").alias("base_currency"),
        pl.coalesce("flex_rate", "own_rate", "values_rate").alias("fx_rate_to_base"),
        of_rate(flex_table, "own_rate_table", pl.lit(ACCOUNT_VALUES.name)).alias("fx_table"),
        of_rate(pl.col("timestamp"), "own_rate_time", pl.col("values_time")).alias("fx_time"),
    )


def _table_of(source: pl.Expr) -> pl.Expr:
    """Return the name of the table whose rows have this source; null for a source that this program does not write."""
    tables = {name: spec.name for name, spec in POSITION_TABLES.items()}
    return source.replace_strict(tables, default=None, return_dtype=pl.String())


def _rate(given: pl.Expr, base: pl.Expr) -> pl.Expr:
    """Return the rate given, or 1 where the contract is in the base currency."""
    return pl.when(given.is_null() & (pl.col("currency") == base)).then(1.0).otherwise(given)


def _with_values(rows: pl.DataFrame, contracts: Mapping[int, ContractSpec], registry: RegistryAt) -> pl.DataFrame:
    """Compute missing values, and add the strategies of the day and what the contract says of prices and units."""
    values: list[float | None] = []
    profits: list[float | None] = []
    magnifiers: list[int | None] = []
    units: list[float | None] = []
    strategies: list[list[str]] = []
    wanted = rows.select(*HOLDING_COLUMNS, "market_price", "market_value", "unrealized_pnl")
    for row in wanted.iter_rows(named=True):
        holding = holding_of(row, contracts)
        value, profit = _value(row, holding.contract)
        values.append(value)
        profits.append(profit)
        strategies.append(list(strategy_ids(registry.assignments(holding))))
        is_known = row["price_magnifier"] is not None or row["conid"] in contracts
        magnifiers.append(holding.contract.price_magnifier if is_known else None)
        units.append(holding.contract.value_per_price)
    return rows.with_columns(
        pl.Series("market_value", values, dtype=pl.Float64),
        pl.Series("unrealized_pnl", profits, dtype=pl.Float64),
        pl.Series("strategy_ids", strategies, dtype=pl.List(pl.String)),
        # Of rows of Flex and of before too: all prices are in the contract's currency by now.
        pl.Series("price_magnifier", magnifiers, dtype=pl.Int64),
        pl.Series("unit_value", units, dtype=pl.Float64),
    )


def _value(row: Mapping[str, Any], contract: ContractSpec) -> tuple[float | None, float | None]:
    """Return value and unrealized profit; both are 0 in a closed position, whatever its price."""
    if row["position"] == 0:
        return 0.0, 0.0
    value = row["market_value"]
    if value is None:
        value = market_value(contract, row["position"], row["market_price"])
    profit = row["unrealized_pnl"]
    if profit is None:
        profit = unrealized_pnl(row["position"], value, row["average_cost"])
    return value, profit
