"""The underlying of each position of a snapshot: what hedges each other shares one, different products never do.

Pure. A stock, its options, warrants and CFDs share the stock; a future shares its product with the other expiries and
with options on any of them, whose own underlying is one future. Symbols alone decide nothing: ES is a future and a
stock, and SAN is two banks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from v6_pipeline.model import ContractSpec, SecType

_OWN_UNDERLYING = frozenset(
    {SecType.STOCK, SecType.INDEX, SecType.CURRENCY, SecType.FUND, SecType.BOND, SecType.BILL, SecType.CRYPTO}
)
_ON_A_STOCK_OR_INDEX = frozenset({SecType.OPTION, SecType.WARRANT, SecType.CFD})
_FUTURES = frozenset({SecType.FUTURE, SecType.FUTURE_OPTION})


@dataclass(frozen=True, slots=True)
class Underlying:
    """An underlying as rows name it.

    ``name`` is unique within a snapshot: the symbol of a stock or index, ``ES FUT`` of futures and their options, with
    the conid where several products would have the same. ``conid`` is None where no message gave it.
    """

    name: str
    conid: int | None


@dataclass(frozen=True, slots=True)
class _Product:
    """What identifies a product: a conid, or what its contracts have in common."""

    conid: int | None = None
    symbol: str = ""
    currency: str = ""
    multiplier: float = 1.0


def underlyings(held: Iterable[ContractSpec], known: Mapping[int, ContractSpec] | None = None) -> dict[int, Underlying]:
    """Return the underlying of each contract by its conid.

    ``known`` are the definitions of contracts, which have underlyings that a row has not. An option whose underlying
    is not known is counted to the only product with its symbol and currency.
    """
    contracts = {contract.conid: contract for contract in held}
    definitions = known or {}
    products = {conid: _product(contract, definitions) for conid, contract in contracts.items()}
    _adopt(contracts, products)
    members: dict[_Product, list[ContractSpec]] = defaultdict(list)
    for conid, product in products.items():
        members[product].append(contracts[conid])
    conids = {product: _conid(product, found, definitions) for product, found in members.items()}
    names = _names({product: _name(product, found) for product, found in members.items()}, conids)
    return {conid: Underlying(names[product], conids[product]) for conid, product in products.items()}


def _product(contract: ContractSpec, definitions: Mapping[int, ContractSpec]) -> _Product:
    if contract.sec_type in _FUTURES:
        # An option's underlying is one future of many, and a future's is an index or nothing: the root joins them.
        return _Product(None, contract.symbol, contract.currency, contract.multiplier)
    underlying = _underlying_conid(contract, definitions)
    if underlying is None:
        return _Product(None, contract.symbol, contract.currency)
    return _Product(underlying)


def _underlying_conid(contract: ContractSpec, definitions: Mapping[int, ContractSpec]) -> int | None:
    definition = definitions.get(contract.conid)
    found = contract.underlying_conid or (definition.underlying_conid if definition else None)
    return found or (contract.conid if contract.sec_type in _OWN_UNDERLYING else None)


def _adopt(contracts: Mapping[int, ContractSpec], products: dict[int, _Product]) -> None:
    """Count options and CFDs without a known underlying to the only product of their symbol and currency."""
    by_symbol: dict[tuple[str, str], set[_Product]] = defaultdict(set)
    for conid, product in products.items():
        if product.conid is not None:
            by_symbol[contracts[conid].symbol, contracts[conid].currency].add(product)
    for conid, product in products.items():
        if product.conid is None and contracts[conid].sec_type in _ON_A_STOCK_OR_INDEX:
            found = by_symbol[contracts[conid].symbol, contracts[conid].currency]
            if len(found) == 1:
                [products[conid]] = found


def _conid(product: _Product, members: Iterable[ContractSpec], definitions: Mapping[int, ContractSpec]) -> int | None:
    """Return the conid of a product; of futures that of what they are on, if all that is known agrees."""
    if product.conid is not None:
        return product.conid
    found = set()
    for contract in members:
        future = contract
        if contract.sec_type is SecType.FUTURE_OPTION:
            future = definitions.get(contract.underlying_conid or 0, contract)
        if future.sec_type is SecType.FUTURE:
            found.add(_underlying_conid(future, definitions))
    return found.pop() if len(found) == 1 else None


def _name(product: _Product, members: list[ContractSpec]) -> str:
    own = [contract for contract in members if contract.conid == product.conid]
    symbol = min(contract.symbol for contract in own or members)
    return f"{symbol} FUT" if members[0].sec_type in _FUTURES else symbol


def _names(names: Mapping[_Product, str], conids: Mapping[_Product, int | None]) -> dict[_Product, str]:
    """Make names unique: those of several products get what distinguishes them."""
    count: dict[str, int] = defaultdict(int)
    for name in names.values():
        count[name] += 1
    unique: dict[_Product, str] = {}
    for product, name in names.items():
        if count[name] > 1 and product.conid is not None:
            name = f"{name} {conids[product]}"  # noqa: PLW2901
        elif count[name] > 1:
            name = f"{name} {product.currency} x{product.multiplier:g}"  # noqa: PLW2901
        unique[product] = name
    return unique
