"""What a Flex statement says, as plain frozen dataclasses: no I/O, no third-party imports.

IB's statements are the broker's own account of past days. Unknown is ``None``; money is in the contract's currency;
days are IB's own dates, instants aware and in UTC. What has no field of its own here is kept in ``attributes``, name
and text as IB wrote them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime

Attributes = tuple[tuple[str, str], ...]
"""(name, text) pairs, sorted by name, without empty texts."""


class FlexActivityKind(enum.StrEnum):
    """What changed a quantity."""

    TRADE = "trade"
    EXERCISE = "exercise"
    TRANSFER = "transfer"
    CORPORATE_ACTION = "corporate_action"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexPosition:
    """An open position at the end of a statement's period.

    ``sec_type`` is IB's asset category. ``mark_price`` is as quoted (bonds: percent of par), ``position_value`` IB's
    own value, ``cost_basis_money`` the cost of the whole position. ``report_date`` is the day that IB reports it for.
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
    """One change of a quantity: ``quantity`` is signed, ``activity_date`` the day on which IB booked it."""

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

    ``sections`` are those that the statement has, empty ones included. ``sha256`` is of the statement's own content,
    whatever the file around it.
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
