"""The content of a Flex statement as plain frozen dataclasses, and the day that a statement covers. Pure.

Unknown is ``None``; money is in the contract's currency; days are IB's own dates, instants are aware and in UTC.
Attributes without a field of their own are kept in ``attributes``, name and text as IB wrote them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime

from v6_pipeline.calendar import TradingCalendar

Attributes = tuple[tuple[str, str], ...]
"""(name, text) pairs, sorted by name, without empty texts."""


class FlexActivityKind(enum.StrEnum):
    """Cause of a change of a quantity."""

    TRADE = "trade"
    EXERCISE = "exercise"
    TRANSFER = "transfer"
    CORPORATE_ACTION = "corporate_action"
    CONVERSION = "conversion"
    """A trade in a currency: it moves cash and no position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexPosition:
    """An open position at the end of a statement's period.

    ``sec_type`` is IB's asset category. ``mark_price`` is as quoted (bonds: percent of par), ``position_value`` is IB's
    own value, ``cost_basis_money`` the cost of the whole position, ``report_date`` the day for which IB reports it.
    """

    conid: int
    symbol: str
    sec_type: str
    currency: str
    position: float
    report_date: date | None = None
    underlying_symbol: str | None = None
    underlying_conid: int | None = None
    right: str | None = None
    strike: float | None = None
    expiry: date | None = None
    multiplier: float | None = None
    mark_price: float | None = None
    position_value: float | None = None
    cost_basis_money: float | None = None
    unrealized_pnl: float | None = None
    accrued_interest: float | None = None
    fx_rate_to_base: float | None = None
    attributes: Attributes = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexActivity:
    """One change of a quantity; ``quantity`` is signed, ``activity_date`` is the day on which IB booked it.

    A cash settlement has the quantity 0: its option is gone by another row.
    """

    kind: FlexActivityKind
    conid: int
    quantity: float
    activity_date: date
    symbol: str | None = None
    currency: str | None = None
    price: float | None = None
    realized_pnl: float | None = None
    fx_rate_to_base: float | None = None
    transaction_id: str | None = None
    attributes: Attributes = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexStatement:
    """One account over one period; positions are those at its end.

    ``sections`` includes empty ones, and leaves out those whose rows are at no level of detail that is read; ``sha256``
    covers the statement's own content and nothing else of the file. ``not_in_query`` are the sections and fields
    that the query does not have and the product needs, in the codes of ``needs``.
    """

    account: str
    from_date: date
    to_date: date
    generated_at: datetime
    sections: frozenset[str]
    sha256: str
    query_name: str | None = None
    base_currency: str | None = None
    positions: tuple[FlexPosition, ...] = ()
    activities: tuple[FlexActivity, ...] = ()
    not_in_query: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedStatement:
    """A statement that cannot be read; ``reason`` is one line that names file, statement, row, field and value."""

    reason: str
    account: str | None = None
    from_date: date | None = None
    to_date: date | None = None


def covered_day(from_date: date, to_date: date, calendar: TradingCalendar) -> date | None:
    """Return the trading day at whose end a statement's positions were held; None if its period has no session.

    That is its last day, or the session before it if the exchange was closed on that day.

    Raises:
        CalendarError: a day outside the calendar.
    """
    day = to_date if calendar.is_session(to_date) else calendar.previous_session(to_date)
    return day if day >= from_date else None
