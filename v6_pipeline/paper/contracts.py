"""Contracts, holdings and the universe that contains them: dataclasses and look-ups that the package shares."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from v6_pipeline.paper.requests import ContractQuery

OPTION = "OPT"
FUTURE = "FUT"
STOCK = "STK"
INDEX = "IND"
CASH = "CASH"


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
        """Gain of one held unit, in the contract's currency, when its price rises by 1."""
        return float(self.multiplier or 1) / self.price_magnifier

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
            return query.conid == self.conid
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
    """All contracts of the gateway and the holdings at the start; immutable."""

    __slots__ = ("_by_symbol", "accounts", "as_of", "contracts", "holdings", "seed")

    def __init__(
        self,
        *,
        seed: int,
        as_of: date,
        accounts: tuple[str, ...],
        contracts: Iterable[Contract],
        holdings: Iterable[Holding],
    ) -> None:
        self.seed = seed
        self.as_of = as_of
        self.accounts = accounts
        self.contracts: dict[int, Contract] = {contract.conid: contract for contract in contracts}
        self.holdings: tuple[Holding, ...] = tuple(holdings)
        self._by_symbol: dict[str, list[Contract]] = {}
        for contract in self.contracts.values():
            self._by_symbol.setdefault(contract.symbol, []).append(contract)

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
