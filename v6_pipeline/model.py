"""The records that packages exchange: contracts, holdings, quotes, position updates.

Plain frozen dataclasses, no I/O and no third-party imports, so that every layer may use them. Unknown is ``None``,
never 0, NaN, -1 or the broker's 1.797e308; instants are aware and in UTC; money is in the contract's currency unless a
name says otherwise.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

UNSET_FROM = 1e300
"""IB's unset double is 1.797e308; results of arithmetic on it still lie far above any price."""
_UNSET_INTEGERS = frozenset({2**31 - 1, 2**63 - 1, float(2**63 - 1)})


def known(value: float | None) -> float | None:
    """Return the value, or None where it is NaN, infinite, or one of the numbers that IB sends for "unset"."""
    if value is None or not math.isfinite(value) or abs(value) >= UNSET_FROM or value in _UNSET_INTEGERS:
        return None
    return value


class SecType(enum.StrEnum):
    """IB's security types that an account can hold."""

    STOCK = "STK"
    OPTION = "OPT"
    FUTURE = "FUT"
    FUTURE_OPTION = "FOP"
    INDEX = "IND"
    CURRENCY = "CASH"
    BOND = "BOND"
    WARRANT = "WAR"
    FUND = "FUND"
    CFD = "CFD"
    COMMODITY = "CMDTY"
    CRYPTO = "CRYPTO"
    BILL = "BILL"
    COMBO = "BAG"
    OTHER = "OTHER"

    @property
    def is_option(self) -> bool:
        """True for types for which IB computes greeks."""
        return self in {SecType.OPTION, SecType.FUTURE_OPTION, SecType.WARRANT}

    @classmethod
    def parse(cls, text: str) -> SecType:
        """Return the member for IB's text; an unknown type is ``OTHER``, so that no position is lost."""
        try:
            return cls(text)
        except ValueError:
            return cls.OTHER


SETTLED_AM = frozenset(
    {"SPX", "NDX", "RUT", "RUI", "RLG", "RLV", "DJX", "VIX", "VIXW", "MXEA", "MXEF", "MXACW", "MXUSA", "MXWLD"}
)
"""Trading classes of index options that settle at the opening of the day after their last trading day, by the
exchanges' contract specifications. Weeklies of the same index are classes of their own (SPXW, NDXP, RUTW) and settle at
the close of their last trading day. IB's ``lastTradeDateOrContractMonth`` is the last trading day."""


class UpdateSource(enum.StrEnum):
    """Feed of a row of positions."""

    STREAM = "stream"
    QUEUE = "queue"
    FLEX = "flex"


class PriceSource(enum.StrEnum):
    """Kind of a row's market price, best first."""

    MARK = "mark"
    MID = "mid"
    LAST = "last"
    CLOSE = "close"
    PORTFOLIO = "portfolio"
    FLEX = "flex"
    HISTORICAL_CLOSE = "historical_close"


class QueuePriority(enum.IntEnum):
    """Priorities of the position queue; the lower number is served first."""

    VERIFY = 0
    """A position that may be closed, or that IB reported as changed."""
    OVERFLOW = 1
    """An active contract that found no free slot, or whose slot brings no data."""
    NORMAL = 2
    """A holding of no active strategy."""


class IBRegion(enum.StrEnum):
    """IB's data centre of the account, which decides the time of the nightly reset."""

    AMERICA = "america"
    EUROPE = "europe"
    ASIA = "asia"


class SlotPurpose(enum.StrEnum):
    """Purpose of a market-data line."""

    STREAM = "stream"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractSpec:
    """A contract as the broker defines it.

    ``multiplier`` is 1 where the broker sends none. ``price_magnifier`` divides a price into the contract's currency
    (100 for contracts quoted in cents). ``exchange`` is where market data is requested; empty until qualified, since
    positions carry none for options and futures.
    """

    conid: int
    symbol: str
    sec_type: SecType
    currency: str
    local_symbol: str = ""
    trading_class: str = ""
    right: str | None = None
    strike: float | None = None
    expiry: date | None = None
    multiplier: float = 1.0
    exchange: str = ""
    price_magnifier: int = 1
    underlying_conid: int | None = None

    @property
    def settles_on(self) -> date | None:
        """Day of the settlement; None for contracts that do not expire.

        The last trading day, but the weekday after it for index options that settle in the morning: an account holds
        them, and their value changes, until then.
        """
        if self.expiry is None or self.sec_type is not SecType.OPTION or self.trading_class not in SETTLED_AM:
            return self.expiry
        days_to_weekday = {4: 3, 5: 2}.get(self.expiry.weekday(), 1)
        return self.expiry + timedelta(days=days_to_weekday)

    def has_expired(self, today: date) -> bool:
        """Return whether the contract's last trading day lies before ``today``, the exchange's date: nothing ticks."""
        return self.expiry is not None and self.expiry < today

    def has_settled(self, today: date) -> bool:
        """Return whether the contract's settlement lies before ``today``, the exchange's date."""
        return self.settles_on is not None and self.settles_on < today


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """An account's position in a contract, from the broker's position feed.

    ``average_cost`` is IB's own per unit of ``position``: it includes the multiplier.
    """

    account: str
    contract: ContractSpec
    position: float
    average_cost: float | None
    observed_at: datetime

    @property
    def key(self) -> tuple[str, int]:
        """(account, conid)."""
        return self.account, self.contract.conid


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The newest market data of a contract, with unknown as ``None``.

    ``price_time`` is when the newest tick was received; ``market_data_type`` is IB's 1 live, 2 frozen, 3 delayed,
    4 delayed and frozen.
    """

    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    close: float | None = None
    mark: float | None = None
    implied_vol: float | None = None
    delta: float | None = None
    gamma: float | None = None
    vega: float | None = None
    theta: float | None = None
    underlying_price: float | None = None
    market_data_type: int | None = None
    price_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionUpdate:
    """One observation of one (account, conid): the row of every position table.

    ``market_value`` is in ``currency``; ``fx_rate_to_base`` converts it into ``base_currency``. ``timestamp`` is when
    the observation was made (the newest of its parts), ``price_time`` when its price was. ``implied_vol`` is a fraction
    per year; greeks are per unit of the underlying, as IB gives them. ``strategy_ids`` are the active strategies that
    the contract served at that moment, sorted.
    """

    account: str
    conid: int
    symbol: str
    sec_type: str
    currency: str
    position: float
    timestamp: datetime
    local_symbol: str | None = None
    trading_class: str | None = None
    right: str | None = None
    strike: float | None = None
    expiry: date | None = None
    multiplier: float = 1.0
    underlying_conid: int | None = None
    average_cost: float | None = None
    market_price: float | None = None
    market_value: float | None = None
    unrealized_pnl: float | None = None
    realized_pnl: float | None = None
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    close: float | None = None
    implied_vol: float | None = None
    delta: float | None = None
    gamma: float | None = None
    vega: float | None = None
    theta: float | None = None
    underlying_price: float | None = None
    market_data_type: int | None = None
    price_source: PriceSource | None = None
    price_time: datetime | None = None
    base_currency: str | None = None
    fx_rate_to_base: float | None = None
    strategy_ids: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """(account, conid)."""
        return self.account, self.conid


@dataclass(frozen=True, slots=True)
class BaseCurrency:
    """An account's base currency, and what one unit of each other currency is worth in it."""

    currency: str
    rates: Mapping[str, float]

    def rate(self, currency: str) -> float | None:
        """Base-currency value of one unit of ``currency``; None if IB has sent no rate."""
        return 1.0 if currency == self.currency else self.rates.get(currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountValues:
    """One account's own figures from an account download, money in ``base_currency``.

    ``exchange_rates`` maps a currency to the base-currency value of one unit. ``daily_pnl`` comes from IB's P&L feed
    and is ``None`` where that did not answer.
    """

    account: str
    base_currency: str
    timestamp: datetime
    net_liquidation: float | None = None
    total_cash: float | None = None
    gross_position_value: float | None = None
    buying_power: float | None = None
    initial_margin: float | None = None
    maintenance_margin: float | None = None
    excess_liquidity: float | None = None
    unrealized_pnl: float | None = None
    realized_pnl: float | None = None
    daily_pnl: float | None = None
    exchange_rates: dict[str, float] = field(default_factory=dict)
