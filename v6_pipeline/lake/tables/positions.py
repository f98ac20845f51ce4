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
    CONTRACT_CURRENCY,
    DAY_OF_TIMESTAMP,
    EPOCH,
    INGESTED_AT,
    ISO_CURRENCY,
    OBSERVED_AT,
    PARTITION_COLUMN,
    RUN_ID,
    SOURCE,
    TIMESTAMP,
    UTC,
    Column,
    Origin,
    TableSpec,
    number,
    optional,
    required,
)
from v6_pipeline.lake.tables.sources import POSITION, broker, flex, registry

_UNIT_OF_UNDERLYING = "per unit of the underlying"


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
    """A column that every table of positions has, with its origins in the tables of observations.

    Attributes:
        column: name, type, meaning and unit.
        part: the part that the column belongs to; None for the rest.
        stream: origins in ``streamed_positions``.
        queue: origins in ``queued_positions``.
        flex: origins in ``flex_positions``.
    """

    column: Column
    part: Part | None = None
    stream: tuple[Origin, ...] = ()
    queue: tuple[Origin, ...] = ()
    flex: tuple[Origin, ...] = ()

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name

    @property
    def dtype(self) -> pl.DataType:
        """The column's polars type."""
        return self.column.dtype


def _shared(
    column: Column,
    part: Part | None = None,
    *,
    own: tuple[Origin, ...] = (),
    stream: tuple[Origin, ...] = (),
    queue: tuple[Origin, ...] = (),
    flex: tuple[Origin, ...] = (),
) -> PositionColumn:
    """Return a column; ``own`` are its origins in both own logs."""
    return PositionColumn(column=column, part=part, stream=own or stream, queue=own or queue, flex=flex)


def _contract(column: Column, *, flex: tuple[Origin, ...] = ()) -> PositionColumn:
    return _shared(column, Part.CONTRACT, own=broker("position.contract"), flex=flex)


def _tick(name: str, meaning: str) -> PositionColumn:
    return _shared(number(name, meaning, CONTRACT_CURRENCY), Part.QUOTE, own=broker(f"tickPrice.{name}"))


def _greek(name: str, meaning: str, unit: str = "") -> PositionColumn:
    return _shared(number(name, meaning, unit), Part.GREEKS, own=broker("tickOptionComputation.model"))


def _open_position(*attributes: str) -> tuple[Origin, ...]:
    return flex(*(f"{POSITION}.{attribute}" for attribute in attributes))


_ACCOUNT_FEED = broker("updateAccountValue")
_MARKS = broker(*(f"tickPrice.{tick}" for tick in ("markPrice", "bid", "ask", "last", "close")))
_SIZE = broker("position.position", "position.contract")
_MAGNIFIER = broker("contractDetails.priceMagnifier")

POSITION_COLUMNS: tuple[PositionColumn, ...] = (
    _shared(DAY_OF_TIMESTAMP),
    _shared(ACCOUNT, own=broker("position.account"), flex=flex("FlexStatement.accountId")),
    _contract(CONID, flex=_open_position("conid")),
    _contract(
        required("symbol", pl.String(), "symbol of the contract or of its underlying"),
        flex=_open_position("symbol", "underlyingSymbol"),
    ),
    _contract(
        optional("local_symbol", pl.String(), "the exchange's symbol of the contract"), flex=_open_position("symbol")
    ),
    _contract(optional("trading_class", pl.String(), "IB's trading class")),
    _contract(
        required("sec_type", pl.String(), "IB's security type: STK, OPT, FUT, FOP, ..."),
        flex=_open_position("assetCategory"),
    ),
    _contract(optional("right", pl.String(), "C or P for options"), flex=_open_position("putCall")),
    _contract(number("strike", "strike price", CONTRACT_CURRENCY), flex=_open_position("strike")),
    _contract(optional("expiry", pl.Date(), "last trading day of the contract"), flex=_open_position("expiry")),
    _contract(number("multiplier", "units of the underlying per contract", ""), flex=_open_position("multiplier")),
    _contract(required("currency", pl.String(), "contract currency", ISO_CURRENCY), flex=_open_position("currency")),
    _shared(
        optional("underlying_conid", pl.Int64(), "contract id of the underlying"),
        Part.CONTRACT,
        own=broker("contractDetails.underConId"),
        flex=_open_position("underlyingConid"),
    ),
    _shared(
        required("position", pl.Float64(), "contracts or shares held, negative if short, 0 once closed"),
        Part.POSITION,
        stream=broker("position.position"),
        queue=broker("updatePortfolio.position"),
        flex=_open_position("position"),
    ),
    _shared(
        number("average_cost", "IB's cost per unit of position, multiplier included", CONTRACT_CURRENCY),
        Part.POSITION,
        stream=broker("position.avgCost"),
        queue=broker("updatePortfolio.averageCost"),
        flex=_open_position("costBasisMoney", "position"),
    ),
    _shared(
        number("market_price", "price that values the position", CONTRACT_CURRENCY),
        Part.PRICE,
        stream=_MARKS,
        queue=broker("updatePortfolio.marketPrice"),
        flex=_open_position("markPrice"),
    ),
    _shared(
        number("market_value", "value of the whole position", CONTRACT_CURRENCY),
        Part.PRICE,
        stream=_SIZE + _MAGNIFIER + _MARKS,
        queue=broker("updatePortfolio.marketValue"),
        flex=_open_position("positionValue"),
    ),
    _shared(
        number("unrealized_pnl", "unrealized profit and loss of the position", CONTRACT_CURRENCY),
        Part.PRICE,
        stream=_SIZE + broker("position.avgCost") + _MAGNIFIER + _MARKS,
        queue=broker("updatePortfolio.unrealizedPNL"),
        flex=_open_position("fifoPnlUnrealized"),
    ),
    _shared(
        number("realized_pnl", "profit and loss realized this trading day; null for streamed rows", CONTRACT_CURRENCY),
        queue=broker("updatePortfolio.realizedPNL"),
    ),
    _tick("bid", "best bid"),
    _tick("ask", "best ask"),
    _tick("last", "last trade"),
    _tick("close", "close of the previous session"),
    _greek("implied_vol", "implied volatility", "fraction a year"),
    _greek("delta", "price change per unit of the underlying's price", _UNIT_OF_UNDERLYING),
    _greek("gamma", "change of delta per unit of the underlying's price", _UNIT_OF_UNDERLYING),
    _greek("vega", "price change per percentage point of volatility", _UNIT_OF_UNDERLYING),
    _greek("theta", "price change per calendar day", _UNIT_OF_UNDERLYING),
    _greek("underlying_price", "the underlying's price that the greeks were computed with"),
    _shared(
        optional("market_data_type", pl.Int32(), "1 live, 2 frozen, 3 delayed, 4 delayed and frozen"),
        own=broker("marketDataType"),
    ),
    _shared(
        optional(
            "price_source",
            pl.String(),
            "what market_price is: mark, mid, last, close, portfolio, flex or historical_close",
        ),
        Part.PRICE,
        stream=_MARKS,
        queue=broker("updatePortfolio.marketPrice"),
        flex=_open_position("markPrice"),
    ),
    _shared(
        optional("price_time", TIMESTAMP, "when the price was received", UTC),
        Part.PRICE,
        stream=_MARKS,
        queue=broker("updatePortfolio.marketPrice"),
        flex=_open_position("markPrice"),
    ),
    _shared(
        optional("base_currency", pl.String(), "the account's base currency", ISO_CURRENCY),
        Part.RATE,
        own=_ACCOUNT_FEED,
        flex=flex("AccountInformation.currency"),
    ),
    _shared(
        number("fx_rate_to_base", "base-currency value of one unit of the contract currency", ""),
        Part.RATE,
        own=_ACCOUNT_FEED,
        flex=_open_position("fxRateToBase"),
    ),
    _shared(
        optional("strategy_ids", pl.List(pl.String()), "active strategies that the contract served, sorted"),
        own=registry("strategy"),
    ),
    _shared(OBSERVED_AT),
)
POSITION_SCHEMA = pl.Schema({shared.name: shared.dtype for shared in POSITION_COLUMNS})


def columns_of(part: Part) -> tuple[str, ...]:
    """Return the names of the columns of a part."""
    return tuple(shared.name for shared in POSITION_COLUMNS if shared.part is part)


STREAMED_POSITIONS = TableSpec(
    name="streamed_positions",
    description="Log of streamed positions: at most one row per (account, conid) and flush.",
    columns=(*(shared.column.made_from(shared.stream) for shared in POSITION_COLUMNS), SOURCE, EPOCH, INGESTED_AT),
    key=("account", "conid", "timestamp"),
    # A flush every 3 s makes 28,800 log files a day; three days reach over a weekend.
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
        number(
            "accrued_interest",
            "interest accrued on the position",
            CONTRACT_CURRENCY,
            origins=_open_position("accruedInt"),
        ),
        optional("attributes", ATTRIBUTES, "the statement's further attributes of the position"),
        SOURCE,
        RUN_ID,
        INGESTED_AT,
    ),
    key=(PARTITION_COLUMN, "account", "conid"),
    replaced_by=(PARTITION_COLUMN, "account"),
)
