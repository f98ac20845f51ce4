"""Contracts, holdings and the universe that contains them: dataclasses and look-ups that the package shares."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from v6_pipeline.paper.given import GivenHoldings
from v6_pipeline.paper.requests import ContractQuery

OPTION = "OPT"
FUTURE = "FUT"
STOCK = "STK"
INDEX = "IND"
CASH = "CASH"
BOND = "BOND"
BILL = "BILL"
CFD = "CFD"
FUND = "FUND"
CRYPTO = "CRYPTO"
WARRANT = "WAR"
STRUCTURED = "IOPT"
"""Exchange-traded warrants and certificates of Europe (Dutch warrants)."""
EVENT_CONTRACT = "EC"
LENDING = "SLB"
SPREADS = ("ICU", "ICS")
"""Inter-commodity spreads that an exchange lists as one contract: their price may be negative."""

_FACE_IN_PERCENT = {BOND: 10.0, BILL: 10.0}
"""Value of one unit at a price of 1: a unit is 1,000 face, and the price is in percent (reported, not documented)."""
_RATIO_AS_MULTIPLIER = frozenset({WARRANT, STRUCTURED})
"""Their multiplier is the ratio to the underlying; the price is that of one certificate."""


class Mismatch(StrEnum):
    """How the fields of a request contradict its conid."""

    SECURITY_TYPE = "security type"
    FIELDS = "fields"


@dataclass(frozen=True, slots=True)
class Contract:
    """One contract: the fields that IB reports and those that the price functions need.

    `expiry` is ``yyyymmdd`` or empty; `multiplier` is IB's text, empty for stocks; `exchanges` are the valid ones, the
    default first; `base_price` is the level around which an underlying moves, 0 if the price derives from
    `underlying_conid`; `volatility` is annual.
    """

    conid: int
    symbol: str
    sec_type: str
    currency: str
    local_symbol: str
    trading_class: str
    exchanges: tuple[str, ...]
    min_tick: float
    long_name: str
    primary_exchange: str = ""
    market_name: str = ""
    expiry: str = ""
    strike: float = 0.0
    right: str = ""
    multiplier: str = ""
    price_magnifier: int = 1
    underlying_conid: int = 0
    underlying_symbol: str = ""
    underlying_sec_type: str = ""
    stock_type: str = ""
    industry: str = ""
    base_price: float = 0.0
    volatility: float = 0.2

    @property
    def value_per_point(self) -> float:
        """Gain of one held unit, in the contract's currency, when its price rises by 1.

        The multiplier through the magnifier, but for bonds and bills (units of 1,000 face, prices in percent) and for
        certificates and warrants.
        """
        if self.sec_type in _FACE_IN_PERCENT:
            return _FACE_IN_PERCENT[self.sec_type]
        multiplier = 1.0 if self.sec_type in _RATIO_AS_MULTIPLIER else float(self.multiplier or 1)
        return multiplier / self.price_magnifier

    @property
    def position_exchange(self) -> str:
        """Exchange that IB reports with a position: the primary one for a stock, else none."""
        return self.primary_exchange if self.sec_type == STOCK else ""

    @property
    def is_tradable(self) -> bool:
        """True if an account can hold the contract: an index is only quoted."""
        return self.sec_type != INDEX

    def matches(self, query: ContractQuery) -> bool:
        """Return whether `query` describes this contract; a conid alone is enough.

        IB accepts ``P``/``PUT`` and ``C``/``CALL``, and a contract month (``yyyymm``) instead of an expiry.
        """
        if query.exchange and query.exchange not in self.exchanges:
            return False
        if query.conid:
            return query.conid == self.conid and self.mismatch(query) is None
        wanted = (
            (query.symbol, self.symbol),
            (query.sec_type, self.sec_type),
            (query.right[:1].upper().replace("?", ""), self.right),
            (query.multiplier, self.multiplier),
            (query.primary_exchange, self.primary_exchange),
            (query.currency, self.currency),
            (query.local_symbol, self.local_symbol),
            (query.trading_class, self.trading_class),
        )
        return (
            all(not value or value == own for value, own in wanted)
            and self.expiry.startswith(query.expiry)
            and (not query.strike or query.strike == self.strike)
        )

    def mismatch(self, query: ContractQuery) -> Mismatch | None:
        """Return how the other fields of a request with this conid contradict it; empty fields never do."""
        if query.sec_type and query.sec_type != self.sec_type:
            return Mismatch.SECURITY_TYPE
        fields = (
            (query.symbol, self.symbol),
            (query.currency, self.currency),
            (query.local_symbol, self.local_symbol),
        )
        return Mismatch.FIELDS if any(value and value != own for value, own in fields) else None


@dataclass(slots=True)
class Holding:
    """A holding of one account in one contract.

    `average_cost` is IB's: per unit, including the multiplier. A closed holding stays with quantity 0, as IB reports it
    for the rest of the day, so that its realized profit is not lost.
    """

    account: str
    conid: int
    quantity: float
    average_cost: float
    realized_pnl: float = 0.0


class Universe:
    """All contracts of the gateway and the holdings at the start; only `rename` changes it.

    `given` has the prices of contracts, and the portfolio rows, that a file of holdings prescribes. `splits` are the
    stock splits by conid: a day and the new shares for one. `previous_closes` is a memory of the price functions: a
    quote needs the close of the session before each time.
    """

    __slots__ = (
        "_by_symbol",
        "accounts",
        "as_of",
        "contracts",
        "given",
        "holdings",
        "previous_closes",
        "seed",
        "splits",
    )

    def __init__(
        self,
        *,
        seed: int,
        as_of: date,
        accounts: tuple[str, ...],
        contracts: Iterable[Contract],
        holdings: Iterable[Holding],
        given: GivenHoldings | None = None,
    ) -> None:
        self.seed = seed
        self.as_of = as_of
        self.accounts = accounts
        self.contracts: dict[int, Contract] = {contract.conid: contract for contract in contracts}
        self.holdings: tuple[Holding, ...] = tuple(holdings)
        self.given = given or GivenHoldings()
        self.splits: dict[int, tuple[date, float]] = {}
        self.previous_closes: dict[int, float] = {}
        self._by_symbol: dict[str, list[Contract]] = {}
        for contract in self.contracts.values():
            self._by_symbol.setdefault(contract.symbol, []).append(contract)

    def rename(self, conid: int, symbol: str) -> Contract:
        """Change a contract's symbol, which keeps its conid; return the contract."""
        old = self.contracts[conid]
        local = old.local_symbol.replace(old.symbol, symbol, 1) if old.symbol else symbol
        new = self.contracts[conid] = replace(old, symbol=symbol, local_symbol=local)
        self._by_symbol[old.symbol].remove(old)
        self._by_symbol.setdefault(symbol, []).append(new)
        return new

    def find(self, query: ContractQuery) -> list[Contract]:
        """Return the contracts that a request describes, none for an empty description."""
        if query.conid:
            contract = self.contracts.get(query.conid)
            return [contract] if contract is not None and contract.matches(query) else []
        if not (query.symbol or query.local_symbol or query.trading_class):
            return []
        candidates: Iterable[Contract]
        candidates = self._by_symbol.get(query.symbol, ()) if query.symbol else self.contracts.values()
        return [contract for contract in candidates if contract.matches(query)]
