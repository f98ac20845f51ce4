"""Tables of an account as a whole: its own figures, its Flex statements and the activity in them."""

from __future__ import annotations

import polars as pl

from v6_pipeline.lake.columns import (
    ACCOUNT,
    ATTRIBUTES,
    CONID,
    DAY,
    DAY_OF_TIMESTAMP,
    EXCHANGE_RATES,
    INGESTED_AT,
    OBSERVED_AT,
    PARTITION_COLUMN,
    RUN_ID,
    SOURCE,
    Column,
    Origin,
    TableSpec,
    base_amount,
    currency,
    day,
    instant,
    integer,
    number,
    price,
    text,
)
from v6_pipeline.lake.tables.sources import MOVES, POSITION, broker, flex

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
        Column(
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

_ACCOUNT = ACCOUNT.made_from(flex("FlexStatement.accountId"))


def _each_move(attribute: str) -> tuple[Origin, ...]:
    return flex(*(f"{move}.{attribute}" for move in MOVES))


FLEX_STATEMENTS = TableSpec(
    name="flex_statements",
    description="One row per Flex statement that a day's positions come from; the newest of an (account, day) wins.",
    columns=(
        DAY,
        _ACCOUNT,
        day("from_date", "first day of the statement's period", flex("FlexStatement.fromDate"), required=True),
        day(
            "to_date",
            "last day of the statement's period; the positions are those at its end",
            flex("FlexStatement.toDate"),
            required=True,
        ),
        text("query_name", "name of the Flex query", flex("FlexQueryResponse.queryName")),
        currency("base_currency", "the account's base currency", flex("AccountInformation.currency")),
        integer("positions", "positions in the statement; 0 is a flat account", flex(POSITION), required=True),
        integer("activities", "trades, exercises, transfers and corporate actions in the statement", required=True),
        Column(
            pl.List(pl.String()),
            "sections",
            "sections that the statement has, empty ones included, sorted",
            required=True,
        ),
        text("sha256", "SHA-256 of the statement's own XML element, hexadecimal", required=True),
        text("origin", "name of the file that held it", required=True, provenance=True),
        instant("timestamp", "when IB generated the statement", flex("FlexStatement.whenGenerated"), required=True),
        RUN_ID,
        INGESTED_AT,
        Column(
            pl.List(pl.String()),
            "not_in_query",
            "what the query does not have and v6_pipeline needs: section, section.field or section@levels",
            since=2,
            provenance=True,
        ),
    ),
    key=(PARTITION_COLUMN, "account"),
    replaced_by=(PARTITION_COLUMN, "account"),
)

FLEX_ACTIVITY = TableSpec(
    name="flex_activity",
    description="What changed quantities within a Flex statement: trades, exercises, transfers, corporate actions.",
    columns=(
        DAY,
        _ACCOUNT,
        CONID.made_from(_each_move("conid")),
        integer("ordinal", "place in the statement, from 0", required=True),
        text(
            "kind",
            "trade, exercise, transfer, corporate_action; conversion trades currencies and moves no position",
            required=True,
        ),
        day(
            "activity_date",
            "day on which IB booked it",
            flex(
                "Trade.reportDate", "Trade.tradeDate", "OptionEAE.date", "Transfer.date", "CorporateAction.reportDate"
            ),
            required=True,
        ),
        number(
            "quantity",
            "signed change of the position, contracts or shares; 0: a cash settlement",
            _each_move("quantity"),
            required=True,
        ),
        text("symbol", "symbol of the contract", _each_move("symbol")),
        currency("currency", "contract currency", _each_move("currency")),
        price("price", "price of the trade", flex("Trade.tradePrice", "OptionEAE.tradePrice")),
        price(
            "realized_pnl",
            "FIFO profit and loss that it realized",
            flex(
                *("Trade.fifoPnlRealized", "OptionEAE.realizedPnl", "OptionEAE.proceeds"),
                "CorporateAction.fifoPnlRealized",
            ),
        ),
        number(
            "fx_rate_to_base", "base-currency value of one unit of the contract currency", _each_move("fxRateToBase")
        ),
        text("transaction_id", "IB's id of the transaction", _each_move("transactionID")),
        Column(ATTRIBUTES, "attributes", "the statement's further attributes"),
        instant("timestamp", "end of the session of the day", required=True),
        RUN_ID,
        INGESTED_AT,
    ),
    key=(PARTITION_COLUMN, "account", "ordinal"),
    replaced_by=(PARTITION_COLUMN, "account"),
)
