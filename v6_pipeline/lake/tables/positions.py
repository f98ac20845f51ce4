"""Columns of a position, and the tables that hold positions as their sources report them: own logs and Flex.

``POSITION_COLUMNS`` gives each column's origins in each of the three tables; ``model.PositionUpdate`` has a field for
each column but the date (a test compares both), and ``lake.rows`` makes rows of it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import polars as pl

from v6_pipeline.lake.columns import (
    ACCOUNT,
    ATTRIBUTES,
    CONID,
    DAY_OF_TIMESTAMP,
    EPOCH,
    INGESTED_AT,
    OBSERVED_AT,
    PARTITION_COLUMN,
    RUN_ID,
    SOURCE,
    Column,
    Origin,
    TableSpec,
    currency,
    day,
    instant,
    integer,
    number,
    price,
    text,
)
from v6_pipeline.lake.tables.sources import POSITION, broker, flex, registry


class Part(enum.StrEnum):
    """Part of an observed position: its columns come from one message, or are observed at one instant."""

    CONTRACT = "contract"
    POSITION = "position"
    PRICE = "price"
    QUOTE = "quote"
    GREEKS = "greeks"
    RATE = "rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionColumn:
    """A column that every table of positions has, with its origins in the three tables of observations."""

    column: Column
    part: Part | None = None
    stream: tuple[Origin, ...] = ()
    queue: tuple[Origin, ...] = ()
    flex: tuple[Origin, ...] = ()


def _own(
    column: Column, part: Part | None, origins: tuple[Origin, ...], flex: tuple[Origin, ...] = ()
) -> PositionColumn:
    """Return a column of the same origins in both own logs."""
    return PositionColumn(column=column, part=part, stream=origins, queue=origins, flex=flex)


def _contract(column: Column, *attributes: str) -> PositionColumn:
    return _own(column, Part.CONTRACT, broker("position.contract"), _open_position(*attributes))


def _valued(
    column: Column, part: Part, stream: tuple[Origin, ...], portfolio_field: str, *attributes: str
) -> PositionColumn:
    """Return a column that each of the three sources reports itself."""
    queue = broker(f"updatePortfolio.{portfolio_field}")
    return PositionColumn(column=column, part=part, stream=stream, queue=queue, flex=_open_position(*attributes))


def _tick(name: str, meaning: str) -> PositionColumn:
    return _own(price(name, meaning), Part.QUOTE, broker(f"tickPrice.{name}"))


def _greek(name: str, meaning: str, unit: str = "per unit of the underlying") -> PositionColumn:
    return _own(number(name, meaning, unit=unit), Part.GREEKS, broker("tickOptionComputation.model"))


def _open_position(*attributes: str) -> tuple[Origin, ...]:
    return flex(*(f"{POSITION}.{attribute}" for attribute in attributes))


_ACCOUNT_FEED = broker("updateAccountValue")
_MARKS = broker(*(f"tickPrice.{tick}" for tick in ("markPrice", "bid", "ask", "last", "close")))
_SIZE = broker("position.position", "position.contract")
_COST = broker("position.avgCost")
_MAGNIFIED = broker("contractDetails.priceMagnifier") + _MARKS
_PRICE_SOURCES = "what market_price is: mark, mid, last, close, wide_mid, portfolio, flex or historical_close"

POSITION_COLUMNS: tuple[PositionColumn, ...] = (
    PositionColumn(column=DAY_OF_TIMESTAMP),
    _own(ACCOUNT, None, broker("position.account"), flex("FlexStatement.accountId")),
    _contract(CONID, "conid"),
    _contract(
        text("symbol", "symbol of the contract or of its underlying", required=True), "symbol", "underlyingSymbol"
    ),
    _contract(text("local_symbol", "the exchange's symbol of the contract"), "symbol"),
    _contract(text("trading_class", "IB's trading class")),
    _contract(text("sec_type", "IB's security type: STK, OPT, FUT, FOP, ...", required=True), "assetCategory"),
    _contract(text("right", "C or P for options"), "putCall"),
    _contract(price("strike", "strike price"), "strike"),
    _contract(day("expiry", "last trading day of the contract"), "expiry"),
    _contract(number("multiplier", "units of the underlying per contract"), "multiplier"),
    _own(
        integer("price_magnifier", "what IB's prices were divided by: 100 for pence or cents", since=4),
        Part.CONTRACT,
        broker("contractDetails.priceMagnifier"),
    ),
    PositionColumn(
        column=number("unit_value", "value of one unit of position at a market_price of 1", since=4),
        part=Part.CONTRACT,
        stream=broker("position.contract", "updatePortfolio.marketValue", "updatePortfolio.marketPrice"),
        queue=broker("position.contract", "updatePortfolio.marketValue", "updatePortfolio.marketPrice"),
    ),
    _contract(currency("currency", "contract currency", required=True), "currency"),
    _own(
        integer("underlying_conid", "contract id of the underlying"),
        Part.CONTRACT,
        broker("contractDetails.underConId"),
        _open_position("underlyingConid"),
    ),
    _valued(
        number("position", "contracts or shares held, negative if short, 0 once closed", required=True),
        Part.POSITION,
        broker("position.position"),
        "position",
        "position",
    ),
    _valued(
        price("average_cost", "IB's cost per unit of position, multiplier included"),
        Part.POSITION,
        _COST,
        "averageCost",
        "costBasisMoney",
        "position",
    ),
    _valued(
        price("market_price", "price that values the position, in the contract currency; of bonds in percent of par"),
        Part.PRICE,
        _MARKS,
        "marketPrice",
        "markPrice",
    ),
    _valued(
        price("market_value", "value of the whole position"),
        Part.PRICE,
        _SIZE + _MAGNIFIED,
        "marketValue",
        "positionValue",
    ),
    _valued(
        price("unrealized_pnl", "unrealized profit and loss of the position"),
        Part.PRICE,
        _SIZE + _COST + _MAGNIFIED,
        "unrealizedPNL",
        "fifoPnlUnrealized",
    ),
    PositionColumn(
        column=price("realized_pnl", "profit and loss realized this trading day; null for streamed rows"),
        queue=broker("updatePortfolio.realizedPNL"),
    ),
    _tick("bid", "best bid"),
    _tick("ask", "best ask"),
    _tick("last", "last trade"),
    _tick("close", "close of the previous session"),
    _greek("implied_vol", "implied volatility", "fraction a year"),
    _greek("delta", "price change per unit of the underlying's price"),
    _greek("gamma", "change of delta per unit of the underlying's price"),
    _greek("vega", "price change per percentage point of volatility"),
    _greek("theta", "price change per calendar day"),
    _greek("underlying_price", "the underlying's price that the greeks were computed with", ""),
    _own(
        Column(pl.Int32(), "market_data_type", "1 live, 2 frozen, 3 delayed, 4 delayed and frozen"),
        None,
        broker("marketDataType"),
    ),
    _valued(text("price_source", _PRICE_SOURCES), Part.PRICE, _MARKS, "marketPrice", "markPrice"),
    _valued(
        instant("price_time", "when the price was received; null for a close, which is of a session before"),
        Part.PRICE,
        _MARKS,
        "marketPrice",
        "markPrice",
    ),
    _own(
        currency("base_currency", "the account's base currency"),
        Part.RATE,
        _ACCOUNT_FEED,
        flex("AccountInformation.currency"),
    ),
    _own(
        number("fx_rate_to_base", "base-currency value of one unit of the contract currency"),
        Part.RATE,
        _ACCOUNT_FEED,
        _open_position("fxRateToBase"),
    ),
    _own(
        Column(pl.List(pl.String()), "strategy_ids", "active strategies that the contract served, sorted"),
        None,
        registry("strategy"),
    ),
    PositionColumn(column=OBSERVED_AT),
)
POSITION_SCHEMA = pl.Schema({shared.column.name: shared.column.dtype for shared in POSITION_COLUMNS})


def columns_of(part: Part) -> tuple[str, ...]:
    """Return the names of the columns of a part."""
    return tuple(shared.column.name for shared in POSITION_COLUMNS if shared.part is part)


STREAMED_POSITIONS = TableSpec(
    name="streamed_positions",
    description="Log of streamed positions: at most one row per (account, conid) and flush.",
    columns=(*(shared.column.made_from(shared.stream) for shared in POSITION_COLUMNS), SOURCE, EPOCH, INGESTED_AT),
    key=("account", "conid", "timestamp"),
    # A flush every 3 s makes 28,800 log files a day; three days span a weekend.
    log_retention="interval 3 days",
)

QUEUED_POSITIONS = TableSpec(
    name="queued_positions",
    description="Log of queued positions: one row per refreshed item.",
    columns=(*(shared.column.made_from(shared.queue) for shared in POSITION_COLUMNS), SOURCE, RUN_ID, INGESTED_AT),
    key=("account", "conid", "timestamp"),
)

FLEX_POSITIONS = TableSpec(
    name="flex_positions",
    description="Open positions at the end of a trading day, as IB's Flex statements give them.",
    columns=(
        *(shared.column.made_from(shared.flex) for shared in POSITION_COLUMNS),
        price("accrued_interest", "interest accrued on the position", _open_position("accruedInt")),
        Column(ATTRIBUTES, "attributes", "the statement's further attributes of the position"),
        SOURCE,
        RUN_ID,
        INGESTED_AT,
    ),
    key=(PARTITION_COLUMN, "account", "conid"),
    replaced_by=(PARTITION_COLUMN, "account"),
)
