"""Column lineage of the tables of history: which attributes of a statement, which columns of other tables.

Names on the statement's side are IB's own, element and attribute.
"""

from __future__ import annotations

import dagster as dg

from v6_pipeline.defs.lineage import IB_ACCOUNT, STRATEGY_REGISTRY, derived_columns, flex_columns
from v6_pipeline.lake.columns import POSITION_COLUMNS
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.lake.tables import (
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
)

_POSITION = "OpenPosition"
_MOVES = ("Trade", "OptionEAE", "Transfer", "CorporateAction")
FLEX_ATTRIBUTES: dict[str, str] = {
    "FlexQueryResponse.queryName": "name of the Flex query",
    "FlexStatement.accountId": "account of the statement",
    "FlexStatement.fromDate": "first day of the statement's period",
    "FlexStatement.toDate": "last day of the statement's period",
    "FlexStatement.whenGenerated": "when IB generated the statement",
    "AccountInformation.currency": "the account's base currency",
    _POSITION: "an open position at the end of the period",
    f"{_POSITION}.conid": "IB's contract id",
    f"{_POSITION}.symbol": "symbol of the contract itself",
    f"{_POSITION}.underlyingSymbol": "symbol of the underlying",
    f"{_POSITION}.underlyingConid": "contract id of the underlying",
    f"{_POSITION}.assetCategory": "security type",
    f"{_POSITION}.putCall": "C or P for options",
    f"{_POSITION}.strike": "strike price",
    f"{_POSITION}.expiry": "last trading day of the contract",
    f"{_POSITION}.multiplier": "units of the underlying per contract",
    f"{_POSITION}.currency": "contract currency",
    f"{_POSITION}.position": "signed number of contracts or shares",
    f"{_POSITION}.markPrice": "IB's mark",
    f"{_POSITION}.positionValue": "value of the position, contract currency",
    f"{_POSITION}.costBasisMoney": "what the position cost, contract currency",
    f"{_POSITION}.fifoPnlUnrealized": "unrealized profit and loss (FIFO), contract currency",
    f"{_POSITION}.fxRateToBase": "base-currency value of one unit of the contract currency",
    f"{_POSITION}.accruedInt": "interest accrued on the position",
    **{f"{move}.conid": "IB's contract id" for move in _MOVES},
    **{f"{move}.quantity": "signed change of the position" for move in _MOVES},
    **{f"{move}.symbol": "symbol of the contract" for move in _MOVES},
    **{f"{move}.currency": "contract currency" for move in _MOVES},
    **{f"{move}.fxRateToBase": "base-currency value of one unit of the contract currency" for move in _MOVES},
    **{f"{move}.transactionID": "IB's id of the transaction" for move in _MOVES},
    "Trade.tradePrice": "price of the trade",
    "OptionEAE.tradePrice": "price that an exercise or assignment was booked at",
    "Trade.fifoPnlRealized": "profit and loss that a trade realized (FIFO), contract currency",
    "OptionEAE.realizedPnl": "profit and loss that an exercise or assignment realized, contract currency",
    "CorporateAction.fifoPnlRealized": "profit and loss that a corporate action realized, contract currency",
    "Trade.tradeDate": "day of the trade",
    "OptionEAE.date": "day of the exercise or assignment",
    "Transfer.date": "day of the transfer",
    "CorporateAction.reportDate": "day on which a corporate action was booked",
}
"""Column of ``ib_flex`` -> what it is."""
FLEX_POSITION_FIELDS: dict[str, tuple[str, ...]] = {
    "account": ("FlexStatement.accountId",),
    "conid": (f"{_POSITION}.conid",),
    "symbol": (f"{_POSITION}.symbol", f"{_POSITION}.underlyingSymbol"),
    "local_symbol": (f"{_POSITION}.symbol",),
    "sec_type": (f"{_POSITION}.assetCategory",),
    "right": (f"{_POSITION}.putCall",),
    "strike": (f"{_POSITION}.strike",),
    "expiry": (f"{_POSITION}.expiry",),
    "multiplier": (f"{_POSITION}.multiplier",),
    "currency": (f"{_POSITION}.currency",),
    "underlying_conid": (f"{_POSITION}.underlyingConid",),
    "position": (f"{_POSITION}.position",),
    "average_cost": (f"{_POSITION}.costBasisMoney", f"{_POSITION}.position"),
    "market_price": (f"{_POSITION}.markPrice",),
    "market_value": (f"{_POSITION}.positionValue",),
    "unrealized_pnl": (f"{_POSITION}.fifoPnlUnrealized",),
    "price_source": (f"{_POSITION}.markPrice",),
    "price_time": (f"{_POSITION}.markPrice",),
    "base_currency": ("AccountInformation.currency",),
    "fx_rate_to_base": (f"{_POSITION}.fxRateToBase",),
    "accrued_interest": (f"{_POSITION}.accruedInt",),
}
FLEX_STATEMENT_FIELDS: dict[str, tuple[str, ...]] = {
    "account": ("FlexStatement.accountId",),
    "from_date": ("FlexStatement.fromDate",),
    "to_date": ("FlexStatement.toDate",),
    "query_name": ("FlexQueryResponse.queryName",),
    "base_currency": ("AccountInformation.currency",),
    "positions": (_POSITION,),
    "timestamp": ("FlexStatement.whenGenerated",),
}
FLEX_ACTIVITY_FIELDS: dict[str, tuple[str, ...]] = {
    "account": ("FlexStatement.accountId",),
    **{column: tuple(f"{move}.{column}" for move in _MOVES) for column in ("conid", "quantity", "symbol", "currency")},
    "fx_rate_to_base": tuple(f"{move}.fxRateToBase" for move in _MOVES),
    "price": ("Trade.tradePrice", "OptionEAE.tradePrice"),
    "realized_pnl": ("Trade.fifoPnlRealized", "OptionEAE.realizedPnl", "CorporateAction.fifoPnlRealized"),
    "activity_date": ("Trade.tradeDate", "OptionEAE.date", "Transfer.date", "CorporateAction.reportDate"),
    "transaction_id": tuple(f"{move}.transactionID" for move in _MOVES),
}
CLOSE_FIELDS: dict[str, list[tuple[str, str]]] = {
    **{
        column: [(table.name, column) for table in (STREAMED_POSITIONS, QUEUED_POSITIONS, FLEX_POSITIONS)]
        for column in ("conid", "symbol", "sec_type", "currency")
    },
    **{column: [(IB_ACCOUNT, "historicalData.close")] for column in ("close", "bar_time", "bar_size", "what_to_show")},
}
_OBSERVED = (FLEX_POSITIONS, STREAMED_POSITIONS, QUEUED_POSITIONS)
_PRICES = ("market_price", "market_value", "unrealized_pnl", "price_source", "price_time")
_OWN_ONLY = frozenset(
    {
        *("bid", "ask", "last", "close", "implied_vol", "delta", "gamma", "vega", "theta"),
        *("underlying_price", "market_data_type"),
    }
)
_COMPUTED = {
    "market_value": ("position", "market_price", "multiplier"),
    "unrealized_pnl": ("position", "market_price", "multiplier", "market_value", "average_cost"),
}
"""What a value is computed from where its source tells none; the price may be a historical close."""
_GREEKS = ("dollar_delta", "dollar_gamma", "vega", "theta")
_SHARED_OUT = ("market_value", "daily_pnl", *_GREEKS)
"""Amounts of a position that its strategies share by their quantities."""


def _snapshot_fields() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for column in (column.name for column in POSITION_COLUMNS if column.name != "date"):
        tables = _OBSERVED[1:] if column in _OWN_ONLY else _OBSERVED
        found[column] = [(table.name, column) for table in tables]
    for column, factors in _COMPUTED.items():
        found[column] += [(table.name, factor) for table in _OBSERVED for factor in factors]
    for column in _PRICES:
        found[column].append((HISTORICAL_CLOSES.name, "bar_time" if column == "price_time" else "close"))
    found["realized_pnl"] = [(QUEUED_POSITIONS.name, "realized_pnl"), (FLEX_ACTIVITY.name, "realized_pnl")]
    for column in ("base_currency", "fx_rate_to_base"):
        origin = "base_currency" if column == "base_currency" else "exchange_rates"
        found[column] += [(FLEX_STATEMENTS.name, "base_currency"), (ACCOUNT_VALUES.name, origin)]
    found["strategy_ids"] = [(STRATEGY_REGISTRY, "strategy")]
    found["greeks_time"] = [(table.name, "timestamp") for table in _OBSERVED[1:]]
    return found


def _exposure_fields() -> dict[str, list[tuple[str, str]]]:
    snapshot = POSITION_SNAPSHOTS.name
    of = {
        "account": ("account",),
        "underlying": ("symbol",),
        "underlying_conid": ("underlying_conid", "conid"),
        "base_currency": ("base_currency",),
        "positions": ("position",),
        "market_value": ("market_value", "fx_rate_to_base"),
        # Of this snapshot and the one before; by the change of the value where IB restated the cost.
        "daily_pnl": (
            *("unrealized_pnl", "realized_pnl", "fx_rate_to_base"),
            *("position", "average_cost", "market_value"),
        ),
        "dollar_delta": ("position", "multiplier", "delta", "underlying_price", "market_value", "fx_rate_to_base"),
        "dollar_gamma": ("position", "multiplier", "gamma", "underlying_price", "fx_rate_to_base"),
        "vega": ("position", "multiplier", "vega", "fx_rate_to_base"),
        "theta": ("position", "multiplier", "theta", "fx_rate_to_base"),
        "short_options_expiring": ("position", "expiry"),
        "short_options_in_the_money": (
            *("position", "right", "strike", "underlying_price", "greeks_time"),
            *("underlying_conid", "market_price", "price_time"),
        ),
    }
    found = {column: [(snapshot, name) for name in names] for column, names in of.items()}
    # What was held the session before and is gone has realized what the day's activity says.
    found["daily_pnl"] += [(FLEX_ACTIVITY.name, name) for name in ("realized_pnl", "fx_rate_to_base")]
    # How much of an amount is known is told from what the amount is made of.
    found |= {f"{amount}_coverage": list(found[amount]) for amount in ("market_value", "daily_pnl")}
    found["greeks_coverage"] = list(dict.fromkeys(dep for greek in _GREEKS for dep in found[greek]))
    for amount in _SHARED_OUT:
        shares = [(snapshot, "position"), *((STRATEGY_REGISTRY, name) for name in ("quantity", "priority"))]
        found[amount] = list(dict.fromkeys([*found[amount], *shares]))
    return found | {"strategy": [(STRATEGY_REGISTRY, "strategy")]}


HISTORY_LINEAGE: dict[str, dg.TableColumnLineage] = {
    FLEX_STATEMENTS.name: flex_columns(FLEX_STATEMENT_FIELDS),
    FLEX_POSITIONS.name: flex_columns(FLEX_POSITION_FIELDS),
    FLEX_ACTIVITY.name: flex_columns(FLEX_ACTIVITY_FIELDS),
    HISTORICAL_CLOSES.name: derived_columns(CLOSE_FIELDS),
    POSITION_SNAPSHOTS.name: derived_columns(_snapshot_fields()),
    PORTFOLIO_EXPOSURE.name: derived_columns(_exposure_fields()),
}
"""Lineage of every table of history, by its name."""
