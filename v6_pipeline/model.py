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
    """IB's security types that an account can hold.

    ``SecType.parse`` keeps IB's text of a type that is not listed: its result has that text as its value.
    """

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
    STRUCTURED = "IOPT"
    EVENT_CONTRACT = "EC"
    LENDING = "SLB"
    INTER_COMMODITY = "ICU"
    INTER_COMMODITY_SPREAD = "ICS"
    OTHER = "OTHER"

    @property
    def is_option(self) -> bool:
        """True for types for which IB computes greeks."""
        return self in {SecType.OPTION, SecType.FUTURE_OPTION, SecType.WARRANT}

    @property
    def is_signed(self) -> bool:
        """True for types whose price can be 0 or negative: futures and spreads.

        A stock, a fund, a bond, a coin or an option (on a future too) has no negative price, and 0 is IB's "no data".
        """
        return self in _SIGNED

    @property
    def trades_without_size(self) -> bool:
        """True for types whose last price has no size: indices, and what IB or a fund prices itself."""
        return self in _WITHOUT_SIZE

    @property
    def has_certain_unit(self) -> bool:
        """True for types whose value is position x price x multiplier without doubt.

        Not so: bonds and bills (units of face, prices in percent), CFDs, warrants and certificates (their multiplier is
        a ratio), commodities, combinations, spreads, and types that this program does not know.
        """
        return self in _CERTAIN_UNIT

    @classmethod
    def parse(cls, text: str) -> SecType:
        """Return the member for IB's text; an unlisted type keeps its text, and no text is ``OTHER``."""
        if not text:
            return cls.OTHER
        listed = cls._value2member_map_.get(text)
        if isinstance(listed, cls):
            return listed
        unlisted = str.__new__(cls, text)
        unlisted._name_ = unlisted._value_ = text
        return unlisted

    def __deepcopy__(self, _memo: object) -> SecType:
        """Return the type itself: an unlisted one cannot be looked up by its value."""
        return self

    def __reduce_ex__(self, _protocol: object) -> tuple[object, tuple[str]]:
        """Pickle as IB's text."""
        return SecType.parse, (self.value,)


_SIGNED = frozenset({SecType.FUTURE, SecType.COMBO, SecType.INTER_COMMODITY, SecType.INTER_COMMODITY_SPREAD})
_WITHOUT_SIZE = frozenset({SecType.INDEX, SecType.FUND, SecType.CFD, SecType.COMMODITY, SecType.CURRENCY})
_CERTAIN_UNIT = frozenset(
    {
        *(SecType.STOCK, SecType.OPTION, SecType.FUTURE, SecType.FUTURE_OPTION, SecType.INDEX, SecType.CURRENCY),
        *(SecType.FUND, SecType.CRYPTO),
    }
)


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
    """Kind of a row's market price, best first.

    A wide mid is the middle of a bid and ask too far apart to mean a price (``ib.valuation``).
    """

    MARK = "mark"
    MID = "mid"
    LAST = "last"
    CLOSE = "close"
    WIDE_MID = "wide_mid"
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

    ``multiplier`` is 1 where the broker sends none. ``price_magnifier`` divides a quoted price into the contract's
    currency (100 for contracts quoted in pence or cents); prices in this program are divided already, where they come
    in; ``strike`` is as IB writes it. ``unit_value`` is the value of one unit of position at a price of 1, learned from
    IB's own figures (``ib.valuation.learned_units``); None where the multiplier gives it, or while it is not known.
    ``exchange`` is where market data is requested; empty until qualified, since positions carry none for options and
    futures.
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
    unit_value: float | None = None

    @property
    def value_per_price(self) -> float | None:
        """Value of one unit of position at a price of 1, in the contract's currency; None while it is not certain."""
        if self.unit_value is not None:
            return self.unit_value
        return self.multiplier if self.sec_type.has_certain_unit else None

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
    """The newest market data of a contract, with unknown as ``None``; prices in its currency, of bonds in percent.

    ``market_data_type`` is IB's 1 live, 2 frozen, 3 delayed, 4 delayed and frozen. ``tick_time`` is when the newest
    tick of any kind was received, ``price_time`` when the newest price was: ``quote_time`` a bid or ask, ``last_time``
    the last trade, ``mark_time`` IB's mark. A close has no time: it is of a session before.
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
    quote_time: datetime | None = None
    last_time: datetime | None = None
    mark_time: datetime | None = None
    tick_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionUpdate:
    """One observation of one (account, conid): the row of every position table.

    ``market_value`` is in ``currency``; ``fx_rate_to_base`` converts it into ``base_currency``. Prices are in
    ``currency`` too, whatever IB quotes in (``price_magnifier`` is what its prices were divided by), and in percent of
    par for bonds; market_value is position x market_price x ``unit_value``, which is None while it is not known.
    ``timestamp`` is when the observation was made (the newest of its parts), ``price_time`` when its price was, None
    for a close. ``implied_vol`` is a fraction per year; greeks are per unit of the underlying, in ``currency``.
    ``strategy_ids`` are the active strategies that the contract served at that moment, sorted.
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
    price_magnifier: int | None = None
    unit_value: float | None = None
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
