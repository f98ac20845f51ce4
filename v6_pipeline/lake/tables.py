"""The tables of history: each holds a trading day's truth, and a day is replaced as a whole. No I/O, no deltalake here.

``TableSpec.replaced_by`` says what is replaced together; ``lineage`` names the columns that do not count when a day is
compared with what is there already.
"""

from __future__ import annotations

import polars as pl

from v6_pipeline.lake.columns import (
    ACCOUNT_COLUMN,
    INGESTED_AT_COLUMN,
    PARTITION_COLUMN,
    POSITION_COLUMNS,
    RUN_ID_COLUMN,
    SOURCE_COLUMN,
    TIMESTAMP,
    TableSpec,
    floats,
    optional,
    required,
)

ATTRIBUTES = pl.List(pl.Struct({"name": pl.String, "value": pl.String}))
"""What a statement says beyond our columns, as typed pairs sorted by name."""
_LINEAGE = ("run_id", "ingested_at")
_DAY = required(PARTITION_COLUMN, pl.Date(), "trading day; the partition")
_CONID = required("conid", pl.Int64(), "IB's contract id")

FLEX_STATEMENTS = TableSpec(
    name="flex_statements",
    description="One row per Flex statement that a day's positions come from; the newest of an (account, day) wins.",
    columns=(
        _DAY,
        ACCOUNT_COLUMN,
        required("from_date", pl.Date(), "first day of the statement's period"),
        required("to_date", pl.Date(), "last day of the statement's period; the positions are those at its end"),
        optional("query_name", pl.String(), "name of the Flex query"),
        optional("base_currency", pl.String(), "the account's base currency (ISO 4217)"),
        required("positions", pl.Int64(), "positions in the statement; 0 is a flat account"),
        required("activities", pl.Int64(), "trades, exercises, transfers and corporate actions in the statement"),
        required("sections", pl.List(pl.String()), "sections that the statement has, empty ones included, sorted"),
        required("sha256", pl.String(), "SHA-256 of the statement's own XML element, hexadecimal"),
        required("origin", pl.String(), "name of the file that held it"),
        required("timestamp", TIMESTAMP, "when IB generated the statement (UTC)"),
        RUN_ID_COLUMN,
        INGESTED_AT_COLUMN,
    ),
    key=(PARTITION_COLUMN, "account"),
    replaced_by=(PARTITION_COLUMN, "account"),
    lineage=("origin", *_LINEAGE),
)

FLEX_POSITIONS = TableSpec(
    name="flex_positions",
    description="Open positions at the end of a trading day, as IB's Flex statements give them.",
    columns=(
        *POSITION_COLUMNS,
        optional("accrued_interest", pl.Float64(), "interest accrued on the position, contract currency"),
        optional("attributes", ATTRIBUTES, "the statement's further attributes of the position"),
        SOURCE_COLUMN,
        RUN_ID_COLUMN,
        INGESTED_AT_COLUMN,
    ),
    key=(PARTITION_COLUMN, "account", "conid"),
    replaced_by=(PARTITION_COLUMN, "account"),
    lineage=_LINEAGE,
)

FLEX_ACTIVITY = TableSpec(
    name="flex_activity",
    description="What changed quantities within a Flex statement: trades, exercises, transfers, corporate actions.",
    columns=(
        _DAY,
        ACCOUNT_COLUMN,
        _CONID,
        required("ordinal", pl.Int64(), "place in the statement, from 0"),
        required("kind", pl.String(), "trade, exercise, transfer or corporate_action"),
        required("activity_date", pl.Date(), "day on which IB booked it"),
        required("quantity", pl.Float64(), "signed change of the position, contracts or shares"),
        optional("symbol", pl.String(), "symbol of the contract"),
        optional("currency", pl.String(), "contract currency (ISO 4217)"),
        *floats(
            (
                ("price", "price of the trade, contract currency"),
                ("realized_pnl", "profit and loss that it realized (FIFO), contract currency"),
                ("fx_rate_to_base", "base-currency value of one unit of the contract currency"),
            )
        ),
        optional("transaction_id", pl.String(), "IB's id of the transaction"),
        optional("attributes", ATTRIBUTES, "the statement's further attributes"),
        required("timestamp", TIMESTAMP, "end of the session of the day (UTC)"),
        RUN_ID_COLUMN,
        INGESTED_AT_COLUMN,
    ),
    key=(PARTITION_COLUMN, "account", "ordinal"),
    replaced_by=(PARTITION_COLUMN, "account"),
    lineage=_LINEAGE,
)

HISTORICAL_CLOSES = TableSpec(
    name="historical_closes",
    description="The close of each contract held on a trading day, from IB's historical bars, or why there is none.",
    columns=(
        _DAY,
        _CONID,
        required("symbol", pl.String(), "symbol of the contract or of its underlying"),
        required("sec_type", pl.String(), "IB's security type"),
        required("currency", pl.String(), "contract currency (ISO 4217)"),
        optional("close", pl.Float64(), "last price of the day's session, contract currency; null if IB has none"),
        optional("bar_size", pl.String(), "IB's bar size of the bar that gave the close, such as '1 day'"),
        optional("what_to_show", pl.String(), "IB's data of that bar: TRADES, MIDPOINT, ..."),
        optional("bar_time", TIMESTAMP, "end of that bar, never after the day's cut-off (UTC)"),
        optional(
            "reason",
            pl.String(),
            "why there is no close: expired, no_data, no_permission, unknown_contract, no_answer (is asked again)",
        ),
        required("timestamp", TIMESTAMP, "end of the bar, or of the session where there is none (UTC)"),
        SOURCE_COLUMN,
        RUN_ID_COLUMN,
        INGESTED_AT_COLUMN,
    ),
    key=(PARTITION_COLUMN, "conid"),
    replaced_by=(PARTITION_COLUMN,),
    lineage=_LINEAGE,
)

POSITION_SNAPSHOTS = TableSpec(
    name="position_snapshots",
    description="A trading day's truth: one row per (account, conid), from what was observed until the day's cut-off.",
    columns=(
        *POSITION_COLUMNS,
        required("position_source", pl.String(), "what the position is from: flex, stream or queue"),
        required("carried_forward", pl.Boolean(), "the position was last observed on an earlier trading day"),
        required("final", pl.Boolean(), "made after the day's cut-off; before it the day is provisional"),
        optional("streamed_version", pl.Int64(), "Delta version of streamed_positions that was read"),
        optional("queued_version", pl.Int64(), "Delta version of queued_positions that was read"),
        optional("accounts_version", pl.Int64(), "Delta version of account_values that was read"),
        optional("flex_version", pl.Int64(), "Delta version of flex_positions that was read"),
        optional("closes_version", pl.Int64(), "Delta version of historical_closes that was read"),
        RUN_ID_COLUMN,
        INGESTED_AT_COLUMN,
        optional("flex_activity_version", pl.Int64(), "Delta version of flex_activity that was read", since=2),
        optional(
            "greeks_time",
            TIMESTAMP,
            "time of the observation that greeks and the underlying's price are from (UTC)",
            since=2,
        ),
    ),
    key=(PARTITION_COLUMN, "account", "conid"),
    replaced_by=(PARTITION_COLUMN,),
    lineage=(
        *("streamed_version", "queued_version", "accounts_version", "flex_version", "closes_version"),
        "flex_activity_version",
        *_LINEAGE,
    ),
    version=2,
)

PORTFOLIO_EXPOSURE = TableSpec(
    name="portfolio_exposure",
    description="Where the risk is: per account, underlying and strategy, in the account's base currency.",
    columns=(
        _DAY,
        ACCOUNT_COLUMN,
        required("underlying", pl.String(), "symbol of the underlying"),
        optional("underlying_conid", pl.Int64(), "contract id of the underlying"),
        required("strategy", pl.String(), "strategy that the positions serve; the remainder is 'unassigned'"),
        optional("base_currency", pl.String(), "currency of the amounts (ISO 4217)"),
        required("positions", pl.Int64(), "positions that contribute, those split over strategies in each"),
        *floats(
            (
                ("market_value", "value of the positions, base currency; null if none is known"),
                ("market_value_coverage", "positions whose value is known, percent"),
                ("daily_pnl", "profit and loss of the day, base currency; null if none is known"),
                ("daily_pnl_coverage", "positions whose profit and loss of the day is known, percent"),
                ("dollar_delta", "net delta x price of the underlying, base currency; stocks and futures have delta 1"),
                ("dollar_gamma", "change of dollar_delta when the underlying moves by 1 percent, base currency"),
                ("vega", "change of value per percentage point of volatility, base currency"),
                ("theta", "change of value per calendar day, base currency"),
                ("greeks_coverage", "positions whose greeks are known, percent"),
            )
        ),
        required("short_options_expiring", pl.Int64(), "short options that expire by the next trading day"),
        required(
            "short_options_in_the_money",
            pl.Int64(),
            "short options in the money, by the newest price of the underlying, where one is known",
        ),
        required("timestamp", TIMESTAMP, "newest observation among the positions (UTC)"),
        required("final", pl.Boolean(), "made from a snapshot after the day's cut-off"),
        optional("snapshot_version", pl.Int64(), "Delta version of position_snapshots that was read"),
        RUN_ID_COLUMN,
        INGESTED_AT_COLUMN,
    ),
    key=(PARTITION_COLUMN, "account", "underlying", "underlying_conid", "strategy"),
    replaced_by=(PARTITION_COLUMN,),
    lineage=("snapshot_version", *_LINEAGE),
)

HISTORY_TABLES: tuple[TableSpec, ...] = (
    *(FLEX_STATEMENTS, FLEX_POSITIONS, FLEX_ACTIVITY),
    *(HISTORICAL_CLOSES, POSITION_SNAPSHOTS, PORTFOLIO_EXPOSURE),
)
"""Every table whose days are replaced."""
