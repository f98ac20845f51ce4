"""Column lineage: which field of the broker's messages or statements, or of another table, each column comes from.

The names on the broker's side are IB's own, message and field; they are the columns of the asset ``ib_account``.
https://docs.dagster.io/guides/build/assets/metadata-and-tags/column-level-lineage
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

IB_ACCOUNT = "ib_account"
STRATEGY_REGISTRY = "strategy_registry"
FLEX = "ib_flex"

BROKER_FIELDS: dict[str, str] = {
    "position.account": "account that holds the position",
    "position.contract": "conid, symbol, type, right, strike, expiry, multiplier, currency",
    "position.position": "signed number of contracts or shares",
    "position.avgCost": "average cost per unit, multiplier included",
    "contractDetails.underConId": "contract id of the underlying",
    "contractDetails.priceMagnifier": "what a price is divided by",
    "updatePortfolio.position": "signed number of contracts or shares",
    "updatePortfolio.marketPrice": "IB's mark of the position",
    "updatePortfolio.marketValue": "IB's value of the position",
    "updatePortfolio.averageCost": "average cost per unit, multiplier included",
    "updatePortfolio.unrealizedPNL": "IB's unrealized profit and loss",
    "updatePortfolio.realizedPNL": "IB's profit and loss realized today",
    "updateAccountValue": "account figures by tag and currency",
    "pnl.dailyPnL": "profit and loss of the day",
    "tickPrice.bid": "tick 1",
    "tickPrice.ask": "tick 2",
    "tickPrice.last": "tick 4",
    "tickPrice.close": "tick 9",
    "tickPrice.markPrice": "tick 37, asked for as generic tick 221",
    "tickOptionComputation.model": "tick 13: implied volatility, greeks, price of the underlying",
    "marketDataType": "1 live, 2 frozen, 3 delayed, 4 delayed and frozen",
    "historicalData.close": "close of a historical bar",
}
"""Column of ``ib_account`` -> what it is."""

REGISTRY_FIELDS: dict[str, str] = {
    "strategy": "name of the strategy",
    "priority": "lower numbers are served first",
    "account": "account that a membership is for; null is any",
    "conid": "IB's contract id of a membership",
    "quantity": "contracts or shares that the strategy claims of a holding; null is all",
    "selector": "rule by which holdings serve the strategy, in place of a contract",
    "valid_from": "since when it is in force (UTC)",
    "valid_to": "until when it was in force (UTC); null is still",
}
"""Column of ``strategy_registry`` -> what it is."""

_CONTRACT = (
    *("conid", "symbol", "local_symbol", "trading_class", "sec_type"),
    *("right", "strike", "expiry", "multiplier", "currency"),
)
_GREEKS = ["implied_vol", "delta", "gamma", "vega", "theta", "underlying_price"]
_MARKS = ("tickPrice.markPrice", "tickPrice.bid", "tickPrice.ask", "tickPrice.last", "tickPrice.close")

_QUOTE: dict[str, tuple[str, ...]] = {
    **{name: (f"tickPrice.{name}",) for name in ("bid", "ask", "last", "close")},
    **dict.fromkeys(_GREEKS, ("tickOptionComputation.model",)),
    "market_data_type": ("marketDataType",),
}
_SHARED: dict[str, tuple[str, ...]] = {
    "account": ("position.account",),
    **dict.fromkeys(_CONTRACT, ("position.contract",)),
    "underlying_conid": ("contractDetails.underConId",),
    "base_currency": ("updateAccountValue",),
    "fx_rate_to_base": ("updateAccountValue",),
    **_QUOTE,
}

STREAMED: dict[str, tuple[str, ...]] = {
    **_SHARED,
    "position": ("position.position",),
    "average_cost": ("position.avgCost",),
    "market_price": _MARKS,
    "price_source": _MARKS,
    "price_time": _MARKS,
    "market_value": ("position.position", "position.contract", "contractDetails.priceMagnifier", *_MARKS),
    "unrealized_pnl": (
        *("position.position", "position.contract", "position.avgCost", "contractDetails.priceMagnifier"),
        *_MARKS,
    ),
}
"""Columns of ``streamed_positions``: values are our arithmetic on the quote's mark."""

QUEUED: dict[str, tuple[str, ...]] = {
    **_SHARED,
    "position": ("updatePortfolio.position",),
    "average_cost": ("updatePortfolio.averageCost",),
    "market_price": ("updatePortfolio.marketPrice",),
    "price_source": ("updatePortfolio.marketPrice",),
    "price_time": ("updatePortfolio.marketPrice",),
    "market_value": ("updatePortfolio.marketValue",),
    "unrealized_pnl": ("updatePortfolio.unrealizedPNL",),
    "realized_pnl": ("updatePortfolio.realizedPNL",),
}
"""Columns of ``queued_positions``: values are IB's own."""

ACCOUNTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("account", "base_currency", "net_liquidation", "total_cash", "gross_position_value", "buying_power"),
            *("initial_margin", "maintenance_margin", "excess_liquidity", "unrealized_pnl", "realized_pnl"),
            "exchange_rates",
        ),
        ("updateAccountValue",),
    ),
    "daily_pnl": ("pnl.dailyPnL",),
}
"""Columns of ``account_values``."""


def column_lineage(origins: dict[str, tuple[str, ...]], *, strategies: bool) -> dg.TableColumnLineage:
    """Dagster's lineage of a table; columns that we make ourselves (timestamps, lineage) have no origin.

    Args:
        origins: column -> fields of ``ib_account``.
        strategies: whether the table has ``strategy_ids``, which come from the registry.
    """
    broker, registry = dg.AssetKey(IB_ACCOUNT), dg.AssetKey(STRATEGY_REGISTRY)
    deps = {
        column: [dg.TableColumnDep(asset_key=broker, column_name=field) for field in fields]
        for column, fields in origins.items()
    }
    if strategies:
        deps["strategy_ids"] = [dg.TableColumnDep(asset_key=registry, column_name="strategy")]
    return dg.TableColumnLineage(deps_by_column=deps)


def source_columns(described: Mapping[str, str]) -> dg.TableSchema:
    """The fields of a source that is no table of the lake, name to description, as a table schema."""
    return dg.TableSchema(columns=[dg.TableColumn(name=name, description=text) for name, text in described.items()])


def flex_columns(fields: dict[str, tuple[str, ...]]) -> dg.TableColumnLineage:
    """Lineage of a table that Flex statements fill: column -> attributes, as element.attribute."""
    return _lineage({column: [(FLEX, field) for field in found] for column, found in fields.items()})


def derived_columns(deps: dict[str, list[tuple[str, str]]]) -> dg.TableColumnLineage:
    """Lineage of a table made from others: column -> (asset, column)."""
    return _lineage(deps)


def _lineage(deps: dict[str, list[tuple[str, str]]]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        deps_by_column={
            column: [dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=name) for asset, name in found]
            for column, found in deps.items()
        }
    )
