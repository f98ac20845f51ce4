"""Tables of an account's own figures, as IB gives them."""

from __future__ import annotations

import polars as pl

from v6_pipeline.lake.columns import (
    ACCOUNT,
    BASE_CURRENCY,
    DAY_OF_TIMESTAMP,
    EXCHANGE_RATES,
    INGESTED_AT,
    ISO_CURRENCY,
    OBSERVED_AT,
    RUN_ID,
    SOURCE,
    Column,
    TableSpec,
    number,
    optional,
    required,
)
from v6_pipeline.lake.tables.sources import broker

_FEED = broker("updateAccountValue")


def _figure(name: str, meaning: str) -> Column:
    return number(name, meaning, BASE_CURRENCY, origins=_FEED)


ACCOUNT_VALUES = TableSpec(
    name="account_values",
    description="Log of each account's own figures, one row per account download.",
    columns=(
        DAY_OF_TIMESTAMP,
        ACCOUNT.made_from(_FEED),
        required("base_currency", pl.String(), "the account's base currency", ISO_CURRENCY, origins=_FEED),
        _figure("net_liquidation", "net liquidation value"),
        _figure("total_cash", "cash over all currencies"),
        _figure("gross_position_value", "sum of the positions' absolute values"),
        _figure("buying_power", "buying power"),
        _figure("initial_margin", "initial margin requirement"),
        _figure("maintenance_margin", "maintenance margin requirement"),
        _figure("excess_liquidity", "equity above the maintenance margin"),
        _figure("unrealized_pnl", "unrealized profit and loss"),
        _figure("realized_pnl", "profit and loss realized this trading day"),
        number("daily_pnl", "profit and loss since the previous close", BASE_CURRENCY, origins=broker("pnl.dailyPnL")),
        optional(
            "exchange_rates",
            EXCHANGE_RATES,
            "base-currency value of one unit of each currency, sorted by currency",
            origins=_FEED,
        ),
        OBSERVED_AT,
        SOURCE,
        RUN_ID,
        INGESTED_AT,
    ),
    key=("account", "timestamp"),
)
