"""Tables computed for a trading day, which replace it as a whole: closes, snapshots, exposure.

To add a column to the snapshots, append it to ``POSITION_SNAPSHOTS`` and compute it in ``history.snapshots``.
"""

from __future__ import annotations

from dataclasses import replace

from v6_pipeline.lake.columns import (
    ACCOUNT,
    CONID,
    DAY,
    INGESTED_AT,
    PARTITION_COLUMN,
    RUN_ID,
    SOURCE,
    Column,
    Origin,
    TableSpec,
    base_amount,
    currency,
    flag,
    instant,
    integer,
    percent,
    price,
    text,
    version_read,
)
from v6_pipeline.lake.tables.account import ACCOUNT_VALUES, FLEX_ACTIVITY, FLEX_STATEMENTS
from v6_pipeline.lake.tables.positions import (
    FLEX_POSITIONS,
    POSITION_COLUMNS,
    QUEUED_POSITIONS,
    STREAMED_POSITIONS,
    Part,
    PositionColumn,
)
from v6_pipeline.lake.tables.sources import broker, of, registry

_OWN_LOGS = (STREAMED_POSITIONS, QUEUED_POSITIONS)
_OBSERVED = (FLEX_POSITIONS, *_OWN_LOGS)


def _each(tables: tuple[TableSpec, ...], *columns: str) -> tuple[Origin, ...]:
    return tuple(origin for table in tables for origin in of(table.name, *columns))


_HELD = (STREAMED_POSITIONS, QUEUED_POSITIONS, FLEX_POSITIONS)
_BAR = broker("historicalData.close")

HISTORICAL_CLOSES = TableSpec(
    name="historical_closes",
    description="The close of each contract held on a trading day, from IB's historical bars, or why there is none.",
    columns=(
        DAY,
        CONID.made_from(_each(_HELD, "conid")),
        text("symbol", "symbol of the contract or of its underlying", _each(_HELD, "symbol"), required=True),
        text("sec_type", "IB's security type", _each(_HELD, "sec_type"), required=True),
        currency("currency", "contract currency", _each(_HELD, "currency"), required=True),
        price("close", "last price of the day's session; null if IB has none", _BAR),
        text("bar_size", "IB's bar size of the bar that gave the close, such as '1 day'", _BAR),
        text("what_to_show", "IB's data of that bar: TRADES, MIDPOINT, ...", _BAR),
        instant("bar_time", "end of that bar, never after the day's cut-off", _BAR),
        text(
            "reason",
            "why there is no close: expired, no_data, no_permission, unknown_contract, no_answer (is asked again)",
        ),
        instant("timestamp", "end of the bar, or of the session where there is none", required=True),
        SOURCE,
        RUN_ID,
        INGESTED_AT,
        integer(
            "price_magnifier",
            "what IB's price was divided by: 100 for pence or cents",
            broker("contractDetails.priceMagnifier"),
            since=2,
            provenance=True,
        ),
    ),
    key=(PARTITION_COLUMN, "conid"),
    replaced_by=(PARTITION_COLUMN,),
)

_CLOSE = of(HISTORICAL_CLOSES.name, "close")
_BASE = of(FLEX_STATEMENTS.name, "base_currency")
_VALUED = ("position", "market_price", "multiplier")
_ALSO_FROM: dict[str, tuple[Origin, ...]] = {
    "market_price": _CLOSE,
    # Computed where its source gives none; the price may be a historical close.
    "market_value": _each(_OBSERVED, *_VALUED) + _CLOSE,
    "unrealized_pnl": _each(_OBSERVED, *_VALUED, "market_value", "average_cost") + _CLOSE,
    "price_source": _CLOSE,
    "price_time": of(HISTORICAL_CLOSES.name, "bar_time"),
    "base_currency": _BASE + of(ACCOUNT_VALUES.name, "base_currency"),
    "fx_rate_to_base": _BASE + of(ACCOUNT_VALUES.name, "exchange_rates"),
}
"""Origins of a snapshot's columns besides the same columns of the observations."""
_INSTEAD_FROM: dict[str, tuple[Origin, ...]] = {
    PARTITION_COLUMN: (),
    "realized_pnl": of(QUEUED_POSITIONS.name, "realized_pnl") + of(FLEX_ACTIVITY.name, "realized_pnl"),
    "strategy_ids": registry("strategy"),
}
"""Origins of the snapshot's columns that are not those of the observations."""


def _in_snapshot(shared: PositionColumn) -> Column:
    name = shared.column.name
    own_only = shared.part in {Part.QUOTE, Part.GREEKS} or name == "market_data_type"
    observed = _each(_OWN_LOGS if own_only else _OBSERVED, name)
    column = shared.column.made_from(_INSTEAD_FROM.get(name, observed + _ALSO_FROM.get(name, ())))
    # A snapshot of before has neither: that alone is no reason to replace it.
    return replace(column, provenance=True) if name in {"price_magnifier", "unit_value"} else column


def _given_by(name: str, part: str) -> Column:
    return text(name, f"table of the row that gave the {part}", since=3, provenance=True)


def _given_at(name: str, part: str, *tables: TableSpec) -> Column:
    origins = _each(tables, "timestamp")
    return instant(name, f"timestamp of the row that gave the {part}", origins, since=3, provenance=True)


_OWN_PRICES = _each(_OWN_LOGS, "market_price")

POSITION_SNAPSHOTS = TableSpec(
    name="position_snapshots",
    description="A trading day's truth: one row per (account, conid), from what was observed until the day's cut-off.",
    columns=(
        *map(_in_snapshot, POSITION_COLUMNS),
        text("position_source", "what the position is from: flex, stream or queue", required=True),
        flag("carried_forward", "the position was last observed on an earlier trading day"),
        flag("final", "made after the day's cut-off; before it the day is provisional"),
        version_read("streamed_version", "Delta version of streamed_positions that was read"),
        version_read("queued_version", "Delta version of queued_positions that was read"),
        version_read("accounts_version", "Delta version of account_values that was read"),
        version_read("flex_version", "Delta version of flex_positions that was read"),
        version_read("closes_version", "Delta version of historical_closes that was read"),
        RUN_ID,
        INGESTED_AT,
        version_read("flex_activity_version", "Delta version of flex_activity that was read", since=2),
        instant(
            "greeks_time",
            "time of the observation that greeks and the underlying's price are from",
            _each(_OWN_LOGS, "timestamp"),
            since=2,
        ),
        _given_by("price_table", "price"),
        _given_at("price_row_time", "price", *_OBSERVED, HISTORICAL_CLOSES),
        _given_by("quote_table", "quote"),
        _given_at("quote_time", "quote", *_OWN_LOGS),
        _given_by("greeks_table", "greeks"),
        _given_by("fx_table", "exchange rate, null for a Flex position in its base currency"),
        _given_at("fx_time", "exchange rate", *_OBSERVED, ACCOUNT_VALUES),
        _given_by("realized_table", "realized profit"),
        _given_at("realized_time", "realized profit, null for a sum over flex_activity", QUEUED_POSITIONS),
        price("lowest_price", "lowest market_price of the day in our logs", _OWN_PRICES, since=4, provenance=True),
        price("highest_price", "highest market_price of the day in our logs", _OWN_PRICES, since=4, provenance=True),
    ),
    key=(PARTITION_COLUMN, "account", "conid"),
    replaced_by=(PARTITION_COLUMN,),
)


def _snapshot(*columns: str) -> tuple[Origin, ...]:
    return of(POSITION_SNAPSHOTS.name, *columns)


_VALUE = _snapshot("market_value", "fx_rate_to_base")
# From this snapshot and the one before; from the change of the value where IB restated the cost. The prices show if a
# change of the position was a trade. What a statement booked comes from the day's activity.
_DAILY_PNL = _snapshot(
    *("unrealized_pnl", "realized_pnl", "realized_time", "fx_rate_to_base", "position", "average_cost"),
    *("market_value", "market_price", "lowest_price", "highest_price", "bid", "ask", "last", "close"),
) + of(FLEX_ACTIVITY.name, "quantity", "price", "realized_pnl", "fx_rate_to_base", "attributes")
_DELTA = _snapshot("position", "multiplier", "delta", "underlying_price", "market_value", "fx_rate_to_base")
_GAMMA = _snapshot("position", "multiplier", "gamma", "underlying_price", "fx_rate_to_base")
_VEGA = _snapshot("position", "multiplier", "vega", "fx_rate_to_base")
_THETA = _snapshot("position", "multiplier", "theta", "fx_rate_to_base")
_IN_THE_MONEY = _snapshot(
    *("position", "right", "strike", "underlying_price", "greeks_time", "underlying_conid", "market_price"),
    "price_time",
)
_SHARES = _snapshot("position") + registry("quantity", "priority")
"""Columns that split the amounts of a position over its strategies."""


def _once(origins: tuple[Origin, ...]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(origins))


PORTFOLIO_EXPOSURE = TableSpec(
    name="portfolio_exposure",
    description="Where the risk is: per account, underlying and strategy, in the account's base currency.",
    columns=(
        DAY,
        ACCOUNT.made_from(_snapshot("account")),
        text(
            "underlying",
            "name of the underlying, one for each: its symbol; 'ES FUT' for futures and their options",
            _snapshot("symbol", "sec_type", "currency", "multiplier", "underlying_conid"),
            required=True,
        ),
        integer(
            "underlying_conid",
            "contract id of the underlying, of futures that of what they are on; null if unknown",
            _snapshot("underlying_conid", "conid"),
        ),
        text(
            "strategy",
            "strategy that the positions serve; the remainder is 'unassigned'",
            registry("strategy"),
            required=True,
        ),
        currency("base_currency", "currency of the amounts", _snapshot("base_currency")),
        integer(
            "positions",
            "positions that contribute, those split over strategies in each",
            _snapshot("position"),
            required=True,
        ),
        base_amount("market_value", "value of the positions; null if none is known", _VALUE + _SHARES),
        percent("market_value_coverage", "positions whose value is known", _VALUE),
        base_amount(
            "daily_pnl",
            "profit and loss of the day in prices and trades, at the day's exchange rate; null if none is known",
            _once(_DAILY_PNL + _SHARES),
        ),
        percent(
            "daily_pnl_coverage",
            "share of the positions' absolute value whose profit and loss of the day is known",
            _DAILY_PNL,
        ),
        base_amount(
            "dollar_delta",
            "net delta x price of the underlying; stocks and futures have delta 1",
            _once(_DELTA + _SHARES),
        ),
        base_amount(
            "dollar_gamma", "change of dollar_delta when the underlying moves by 1 percent", _once(_GAMMA + _SHARES)
        ),
        base_amount("vega", "change of value per percentage point of volatility", _once(_VEGA + _SHARES)),
        base_amount("theta", "change of value per calendar day", _once(_THETA + _SHARES)),
        percent(
            "greeks_coverage",
            "share of position x multiplier x price of the underlying whose greeks are known",
            _once(_DELTA + _GAMMA + _VEGA + _THETA),
        ),
        integer(
            "short_options_expiring",
            "short options that expire by the next trading day",
            _snapshot("position", "expiry"),
            required=True,
        ),
        integer(
            "short_options_in_the_money",
            "short options in the money, by the newest price of the underlying, where one is known",
            _IN_THE_MONEY,
            required=True,
        ),
        instant("timestamp", "newest observation among the positions", required=True),
        flag("final", "made from a snapshot after the day's cut-off"),
        version_read("snapshot_version", "Delta version of position_snapshots that was read"),
        RUN_ID,
        INGESTED_AT,
        text(
            "daily_pnl_unknown",
            "why positions have no profit and loss of the day, with their number; null if each has one",
            _DAILY_PNL,
            since=2,
        ),
        base_amount(
            "fx_pnl",
            "value of the session before x change of the exchange rate, not part of daily_pnl; null if any is unknown",
            _once(_VALUE + _SHARES),
            since=2,
        ),
    ),
    key=(PARTITION_COLUMN, "account", "underlying", "underlying_conid", "strategy"),
    replaced_by=(PARTITION_COLUMN,),
)
