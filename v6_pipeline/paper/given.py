"""What a file of holdings prescribes: exact prices of contracts, exact portfolio rows, and errors to send.

Plain records without behaviour; `holdings_file` reads them, `prices`, `ticks` and `account_feeds` send them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PRICES = ("bid", "ask", "last", "close", "mark")
"""The prices that a tick may have; the first three have a size too."""


@dataclass(frozen=True, slots=True)
class GivenPrices:
    """Prices of one contract, in quoted units.

    `ticks` are the prices and sizes that are sent, by name (``bid``, ``bid_size``); what is not named is never sent.
    Without `ticks` the contract is quoted a tick around `price`, with sizes and a volume that change. A silent one is
    subscribed and never ticks.
    """

    price: float
    ticks: Mapping[str, float] | None = None
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class GivenRow:
    """A portfolio row as it is sent while the quantity is the one given; a text is sent as it stands."""

    quantity: float
    market_price: float | str
    market_value: float | str
    unrealized_pnl: float | str
    realized_pnl: float | str


@dataclass(frozen=True, slots=True)
class GivenHoldings:
    """Prescribed prices by conid, rows by account and conid, advisories by conid, and the account's wording.

    `base` is the accounts' base currency. `extra_values` are account values (tag, value, currency) that are sent
    besides the computed ones; `has_prefix` sends the tags of each currency as TWS 10.47 does, with ``$LEDGER-`` before
    them.
    """

    prices: Mapping[int, GivenPrices] = field(default_factory=dict)
    rows: Mapping[tuple[str, int], GivenRow] = field(default_factory=dict)
    advice: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    extra_values: tuple[tuple[str, str, str], ...] = ()
    has_prefix: bool = False
    base: str = "USD"
