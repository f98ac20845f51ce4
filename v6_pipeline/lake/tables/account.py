"""Tables of an account's own figures, as IB gives them."""

from __future__ import annotations

from v6_pipeline.lake.columns import (
    ACCOUNT,
    DAY_OF_TIMESTAMP,
    EXCHANGE_RATES,
    INGESTED_AT,
    OBSERVED_AT,
    RUN_ID,
    SOURCE,
    TableSpec,
    base_amount,
    column,
    currency,
)
from v6_pipeline.lake.tables.sources import broker

_FEED = broker("updateAccountValue")

ACCOUNT_VALUES = TableSpec(
    name="account_values",
    description="Log of each account's own figures, one row per account download.",
    columns=(
        DAY_OF_TIMESTAMP,
        ACCOUNT.made_from(_FEED),
        currency("base_currency", "the account's base currency", _FEED, required=True),
        base_amount("net_liquidation", "net liquidation value", _FEED),
        base_amount("total_cash", "cash over all currencies", _FEED),
        base_amount("gross_position_value", "sum of the positions' absolute values", _FEED),
        base_amount("buying_power", "buying power", _FEED),
        base_amount("initial_margin", "initial margin requirement", _FEED),
        base_amount("maintenance_margin", "maintenance margin requirement", _FEED),
        base_amount("excess_liquidity", "equity above the maintenance margin", _FEED),
        base_amount("unrealized_pnl", "unrealized profit and loss", _FEED),
        base_amount("realized_pnl", "profit and loss realized this trading day", _FEED),
        base_amount("daily_pnl", "profit and loss since the previous close", broker("pnl.dailyPnL")),
        column(
            EXCHANGE_RATES,
            "exchange_rates",
            "base-currency value of one unit of each currency, sorted by currency",
            _FEED,
        ),
        OBSERVED_AT,
        SOURCE,
        RUN_ID,
        INGESTED_AT,
    ),
    key=("account", "timestamp"),
)
