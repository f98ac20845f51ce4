"""Active faults of the simulated market: farms, the link to IB, single contracts.

Belongs here: the state that `link_faults` and `contract_faults` set and that the desks read.
"""

import sys
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Generic, TypeVar

from v6_pipeline.paper.contracts import CASH, CRYPTO, FUTURE, INDEX, OPTION, SPREADS, STOCK, Contract
from v6_pipeline.paper.prices import Quote

Kind = TypeVar("Kind")

MAX_INTEGER = 2147483647
"""IB's "unset" for integers; older clients see it in prices and sizes too."""


class Farm(StrEnum):
    """The data farms that the gateway knows; the names are IB's."""

    USFARM = "usfarm"
    USOPT = "usopt"
    USFUTURE = "usfuture"
    CASHFARM = "cashfarm"
    USHMDS = "ushmds"
    SECDEFIL = "secdefil"


@dataclass(frozen=True, slots=True)
class FarmKind:
    """IB's codes and words for the state of a farm."""

    broken_code: int
    ok_code: int
    words: str


_MARKET_DATA = FarmKind(2103, 2104, "Market data farm")
FARM_KINDS = {
    **dict.fromkeys((Farm.USFARM, Farm.USOPT, Farm.USFUTURE, Farm.CASHFARM), _MARKET_DATA),
    Farm.USHMDS: FarmKind(2105, 2106, "HMDS data farm"),
    Farm.SECDEFIL: FarmKind(2157, 2158, "Sec-def data farm"),
}
_FARM_OF_TYPE = {
    STOCK: Farm.USFARM,
    INDEX: Farm.USFARM,
    OPTION: Farm.USOPT,
    FUTURE: Farm.USFUTURE,
    **dict.fromkeys(SPREADS, Farm.USFUTURE),
    **dict.fromkeys((CASH, CRYPTO, "CMDTY"), Farm.CASHFARM),
}


class Prices(StrEnum):
    """Values that a distorted contract shows instead of prices."""

    MINUS_ONE = "minus_one"
    MAX_DOUBLE = "max_double"
    MAX_INT = "max_int"


@dataclass(slots=True)
class NextRequests(Generic[Kind]):
    """A fault of requests to come: `kind` happens to the next `count`, for these contracts or for any."""

    kind: Kind
    count: int
    conids: frozenset[int] | None

    @classmethod
    def of(cls, kind: Kind, count: int, conids: list[int] | None) -> "NextRequests[Kind]":
        """Return a fault from the fields of an action."""
        return cls(kind, count, None if conids is None else frozenset(conids))


def use_up(ordered: list[NextRequests[Kind]], conid: int, kind: Kind | None = None) -> Kind | None:
    """Use up one request of the first fault (of `kind`, if given) that applies to a contract; return its kind."""
    for fault in ordered:
        if kind in {None, fault.kind} and (fault.conids is None or conid in fault.conids):
            fault.count -= 1
            if not fault.count:
                ordered.remove(fault)
            return fault.kind
    return None


def farm_of(contract: Contract) -> Farm:
    """Return the farm of a contract's ticks."""
    return _FARM_OF_TYPE.get(contract.sec_type, Farm.USFARM)


def farm_notice(farm: Farm, *, is_ok: bool) -> tuple[int, str]:
    """Return code and text that report the state of a farm."""
    kind = FARM_KINDS[farm]
    if is_ok:
        return kind.ok_code, f"{kind.words} connection is OK:{farm}"
    return kind.broken_code, f"{kind.words} connection is broken:{farm}"


def distorted(quote: Quote, prices: Prices) -> Quote:
    """Return a quote with meaningless prices; greeks are not computed from such prices."""
    price, size = {
        Prices.MINUS_ONE: (-1.0, 0.0),
        Prices.MAX_DOUBLE: (sys.float_info.max, float(MAX_INTEGER)),
        Prices.MAX_INT: (float(MAX_INTEGER), float(MAX_INTEGER)),
    }[prices]
    changes = (
        dict.fromkeys(("bid", "ask"), None if prices == Prices.MINUS_ONE else price)
        | dict.fromkeys(("last", "close", "mark"), price)
        | dict.fromkeys(("bid_size", "ask_size", "last_size"), size)
        | dict.fromkeys(("implied_vol", "delta", "gamma", "vega", "theta", "option_price"))
    )
    return replace(quote, **changes)


@dataclass(slots=True)
class LinkConditions:
    """State of the gateway's connection to IB, of its farms, and of the login."""

    is_up: bool = True
    broken: set[Farm] = field(default_factory=set)
    is_competing: bool = False

    def carries(self, contract: Contract) -> bool:
        """Return whether ticks of a contract can arrive."""
        return self.is_up and not self.is_competing and farm_of(contract) not in self.broken

    @property
    def has_definitions(self) -> bool:
        """True while contract details are available."""
        return self.is_up and Farm.SECDEFIL not in self.broken


@dataclass(slots=True)
class ContractConditions:
    """Contracts with an active fault, by kind of fault."""

    denied: set[int] = field(default_factory=set)
    quiet: set[int] = field(default_factory=set)
    halted: set[int] = field(default_factory=set)
    without_greeks: set[int] = field(default_factory=set)
    expired: set[int] = field(default_factory=set)
    unqualifiable: set[int] = field(default_factory=set)
    distorted: dict[int, Prices] = field(default_factory=dict)
    advised: dict[int, int] = field(default_factory=dict)
    remarks: dict[int, tuple[int, str]] = field(default_factory=dict)

    def restore(self, conid: int) -> None:
        """End all faults of a contract."""
        for each in fields(self):
            affected: set[int] | dict[int, object] = getattr(self, each.name)
            if isinstance(affected, dict):
                affected.pop(conid, None)
            else:
                affected.discard(conid)

    def is_defined(self, conid: int) -> bool:
        """Return whether IB has a definition of the contract."""
        return conid not in self.expired and conid not in self.unqualifiable

    def stands_still(self, conid: int) -> bool:
        """Return whether the contract's price is frozen."""
        return conid in self.quiet or conid in self.halted or conid in self.expired
