"""The tables of the lake. No I/O and no deltalake here.

Logs are defined here; tables whose days are replaced in ``history_schemas``.
"""

from __future__ import annotations

import polars as pl

from v6_pipeline.lake.columns import (
    ACCOUNT_COLUMN,
    DATE_COLUMN,
    EPOCH_COLUMN,
    EXCHANGE_RATES,
    INGESTED_AT_COLUMN,
    POSITION_COLUMNS,
    RUN_ID_COLUMN,
    SOURCE_COLUMN,
    TIMESTAMP_COLUMN,
    TableSpec,
    floats,
    optional,
    required,
)
from v6_pipeline.lake.tables import HISTORY_TABLES

STREAMED_POSITIONS = TableSpec(
    name="streamed_positions",
    description="Log of streamed positions: at most one row per (account, conid) and flush.",
    columns=(*POSITION_COLUMNS, SOURCE_COLUMN, EPOCH_COLUMN, INGESTED_AT_COLUMN),
    key=("account", "conid", "timestamp"),
    # A flush every 3 s makes 28,800 log files a day; three days reach over a weekend.
    log_retention="interval 3 days",
)

QUEUED_POSITIONS = TableSpec(
    name="queued_positions",
    description="Log of queued positions: one row per refreshed item.",
    columns=(*POSITION_COLUMNS, SOURCE_COLUMN, RUN_ID_COLUMN, INGESTED_AT_COLUMN),
    key=("account", "conid", "timestamp"),
)

ACCOUNT_VALUES = TableSpec(
    name="account_values",
    description="Log of each account's own figures, one row per account download.",
    columns=(
        DATE_COLUMN,
        ACCOUNT_COLUMN,
        required("base_currency", pl.String(), "the account's base currency (ISO 4217)"),
        *floats(
            (
                ("net_liquidation", "net liquidation value, base currency"),
                ("total_cash", "cash over all currencies, base currency"),
                ("gross_position_value", "sum of the positions' absolute values, base currency"),
                ("buying_power", "buying power, base currency"),
                ("initial_margin", "initial margin requirement, base currency"),
                ("maintenance_margin", "maintenance margin requirement, base currency"),
                ("excess_liquidity", "equity above the maintenance margin, base currency"),
                ("unrealized_pnl", "unrealized profit and loss, base currency"),
                ("realized_pnl", "profit and loss realized this trading day, base currency"),
                ("daily_pnl", "profit and loss since the previous close, base currency"),
            )
        ),
        optional(
            "exchange_rates", EXCHANGE_RATES, "base-currency value of one unit of each currency, sorted by currency"
        ),
        TIMESTAMP_COLUMN,
        SOURCE_COLUMN,
        RUN_ID_COLUMN,
        INGESTED_AT_COLUMN,
    ),
    key=("account", "timestamp"),
)

TABLES: tuple[TableSpec, ...] = (STREAMED_POSITIONS, QUEUED_POSITIONS, ACCOUNT_VALUES, *HISTORY_TABLES)
"""Every table of the lake."""
