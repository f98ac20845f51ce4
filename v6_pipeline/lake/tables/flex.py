"""Tables of Flex statements beside their positions: the statements themselves, and what changed quantities."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from v6_pipeline.lake.columns import (
    ACCOUNT,
    ATTRIBUTES,
    CONID,
    CONTRACT_CURRENCY,
    DAY,
    INGESTED_AT,
    ISO_CURRENCY,
    PARTITION_COLUMN,
    RUN_ID,
    TIMESTAMP,
    UTC,
    Origin,
    TableSpec,
    number,
    optional,
    required,
)
from v6_pipeline.lake.tables.sources import MOVES, POSITION, flex

_ACCOUNT = ACCOUNT.made_from(flex("FlexStatement.accountId"))


def _of_each_move(attribute: str) -> tuple[Origin, ...]:
    return flex(*(f"{move}.{attribute}" for move in MOVES))


FLEX_STATEMENTS = TableSpec(
    name="flex_statements",
    description="One row per Flex statement that a day's positions come from; the newest of an (account, day) wins.",
    columns=(
        DAY,
        _ACCOUNT,
        required("from_date", pl.Date(), "first day of the statement's period", origins=flex("FlexStatement.fromDate")),
        required(
            "to_date",
            pl.Date(),
            "last day of the statement's period; the positions are those at its end",
            origins=flex("FlexStatement.toDate"),
        ),
        optional("query_name", pl.String(), "name of the Flex query", origins=flex("FlexQueryResponse.queryName")),
        optional(
            "base_currency",
            pl.String(),
            "the account's base currency",
            ISO_CURRENCY,
            origins=flex("AccountInformation.currency"),
        ),
        required("positions", pl.Int64(), "positions in the statement; 0 is a flat account", origins=flex(POSITION)),
        required("activities", pl.Int64(), "trades, exercises, transfers and corporate actions in the statement"),
        required("sections", pl.List(pl.String()), "sections that the statement has, empty ones included, sorted"),
        required("sha256", pl.String(), "SHA-256 of the statement's own XML element, hexadecimal"),
        replace(required("origin", pl.String(), "name of the file that held it"), provenance=True),
        required(
            "timestamp", TIMESTAMP, "when IB generated the statement", UTC, origins=flex("FlexStatement.whenGenerated")
        ),
        RUN_ID,
        INGESTED_AT,
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
        CONID.made_from(_of_each_move("conid")),
        required("ordinal", pl.Int64(), "place in the statement, from 0"),
        required("kind", pl.String(), "trade, exercise, transfer or corporate_action"),
        required(
            "activity_date",
            pl.Date(),
            "day on which IB booked it",
            origins=flex("Trade.tradeDate", "OptionEAE.date", "Transfer.date", "CorporateAction.reportDate"),
        ),
        required(
            "quantity",
            pl.Float64(),
            "signed change of the position, contracts or shares",
            origins=_of_each_move("quantity"),
        ),
        optional("symbol", pl.String(), "symbol of the contract", origins=_of_each_move("symbol")),
        optional("currency", pl.String(), "contract currency", ISO_CURRENCY, origins=_of_each_move("currency")),
        number(
            "price", "price of the trade", CONTRACT_CURRENCY, origins=flex("Trade.tradePrice", "OptionEAE.tradePrice")
        ),
        number(
            "realized_pnl",
            "FIFO profit and loss that it realized",
            CONTRACT_CURRENCY,
            origins=flex("Trade.fifoPnlRealized", "OptionEAE.realizedPnl", "CorporateAction.fifoPnlRealized"),
        ),
        number(
            "fx_rate_to_base",
            "base-currency value of one unit of the contract currency",
            "",
            origins=_of_each_move("fxRateToBase"),
        ),
        optional("transaction_id", pl.String(), "IB's id of the transaction", origins=_of_each_move("transactionID")),
        optional("attributes", ATTRIBUTES, "the statement's further attributes"),
        required("timestamp", TIMESTAMP, "end of the session of the day", UTC),
        RUN_ID,
        INGESTED_AT,
    ),
    key=(PARTITION_COLUMN, "account", "ordinal"),
    replaced_by=(PARTITION_COLUMN, "account"),
)
