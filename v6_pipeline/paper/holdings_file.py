"""Files of holdings: what a paper gateway holds and sends, exactly, as JSON.

The file names the accounts, the holdings with their contracts, prices and portfolio rows, and errors that accompany
market data. Accounts of IB (``DU900001``) are served as simulated ones (``SIM900001``), because the gateway serves no
others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.contracts import Contract, Holding
from v6_pipeline.paper.given import PRICES, GivenHoldings, GivenPrices, GivenRow

_ACCOUNT = re.compile(r"(?:SIM|[A-Z]{1,3})(\d{1,12})", re.ASCII)
_TOP = frozenset(
    {"accounts", "positions", "base", "holdings", "advise", "ledger", "extra_values", "strict_symbol", "strict_sectype"}
)
_NUMBERS = ("conId", "qty", "avgCost", "price", "strike", "magnifier", "undConId")
_FIGURES = ("portfolioPrice", "value", "unrealized", "realized")
_TEXTS = {
    **dict.fromkeys(("account", "symbol", "secType", "currency", "primary", "localSymbol", "tradingClass"), str),
    **dict.fromkeys(("right", "expiry", "multiplier"), str),
}
_KEYS = frozenset({*_NUMBERS, *_FIGURES, *_TEXTS, "exchanges", "tick", "silent"})
_REQUIRED = ("account", "conId", "symbol", "secType", "exchanges", "qty", "avgCost")
_HALF_PIP = 0.00005


@dataclass(frozen=True, slots=True)
class HoldingsFile:
    """The content of a file of holdings.

    `accounts` are simulated ones; `positions` is the number of ordinary positions that they hold besides.
    """

    accounts: tuple[str, ...]
    positions: int
    contracts: tuple[Contract, ...]
    holdings: tuple[Holding, ...]
    given: GivenHoldings


def load_holdings(path: Path) -> HoldingsFile:
    """Read a file of holdings.

    Its top-level keys are ``accounts`` (names, comma separated), ``positions``, ``base`` (currency), ``holdings``,
    ``advise`` (conid -> code and text of an error that does not end a request), ``ledger`` (per-currency tags with
    ``$LEDGER-`` before them) and ``extra_values``. A holding has ``account conId symbol secType exchanges qty avgCost``
    and, where they matter, ``currency primary localSymbol tradingClass right strike expiry multiplier magnifier
    undConId``; ``price``, or ``tick`` (``bid bidSize ask askSize last lastSize close mark``), in quoted units;
    ``portfolioPrice value unrealized realized`` as updatePortfolio sends them (a text is sent as it stands);
    ``silent`` for a contract that never ticks.

    Raises:
        GatewayError: the file cannot be read, or has a key or a value that is not one of these; it names the place.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise GatewayError(f"holdings file {path}: {error}") from error
    try:
        return _parse(content)
    except _InvalidError as error:
        raise GatewayError(f"holdings file {path}: {error}") from error


class _InvalidError(Exception):
    """A value of the file is impossible."""


def _parse(content: object) -> HoldingsFile:
    if not isinstance(content, dict):
        raise _InvalidError("it is not an object with 'accounts' and 'holdings'")
    _check_keys(content, _TOP, ("accounts", "holdings"), "the file")
    names = content["accounts"]
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    if not isinstance(listed, list) or not listed:
        raise _InvalidError("accounts must be names, comma separated")
    accounts = {str(name): _simulated(str(name)) for name in listed}
    rows = content["holdings"]
    if not isinstance(rows, list):
        raise _InvalidError("holdings must be a list")
    read = [_holding(row, f"holding {number}", accounts) for number, row in enumerate(rows, start=1)]
    keys = [(holding.account, holding.conid) for _, holding, _, _ in read]
    if len(set(keys)) != len(keys):
        raise _InvalidError("two holdings have the same account and conId")
    return HoldingsFile(
        accounts=tuple(accounts.values()),
        positions=_whole(content.get("positions", 0), "positions"),
        contracts=tuple({contract.conid: contract for contract, *_ in read}.values()),
        holdings=tuple(holding for _, holding, _, _ in read),
        given=GivenHoldings(
            prices={contract.conid: prices for contract, _, prices, _ in read},
            rows={(holding.account, holding.conid): row for _, holding, _, row in read},
            advice=_advice(content.get("advise", {}), {conid for _, conid in keys}),
            extra_values=_values(content.get("extra_values", [])),
            has_prefix=content.get("ledger", False) is True,
            base=_text(content.get("base", "USD"), "base"),
        ),
    )


def _check_keys(row: Mapping[str, object], allowed: frozenset[str], required: tuple[str, ...], where: str) -> None:
    unknown = sorted(row.keys() - allowed)
    if unknown:
        raise _InvalidError(f"{where} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(allowed))}")
    missing = [key for key in required if key not in row]
    if missing:
        raise _InvalidError(f"{where} has no {missing[0]!r}")


def _simulated(name: str) -> str:
    match = _ACCOUNT.fullmatch(name)
    if match is None:
        raise _InvalidError(f"account {name!r} is not letters and digits like DU900001 or SIM0000001")
    return f"SIM{match[1]}"


def _holding(row: object, where: str, accounts: Mapping[str, str]) -> tuple[Contract, Holding, GivenPrices, GivenRow]:
    if not isinstance(row, dict):
        raise _InvalidError(f"{where} is not an object")
    _check_keys(row, _KEYS, _REQUIRED, where)
    for key in _TEXTS.keys() & row.keys():
        _text(row[key], f"{key} of {where}")
    for key in {*_NUMBERS} & row.keys():
        _number(row[key], f"{key} of {where}")
    if row["account"] not in accounts:
        raise _InvalidError(f"account {row['account']!r} of {where} is not among 'accounts'")
    contract = _contract(row, where)
    prices = _prices(row, where)
    quantity, cost = float(row["qty"]), float(row["avgCost"])
    computed = round(quantity * prices.price * contract.value_per_point, 6)
    value = _figure(row.get("value", computed), f"value of {where}")
    gain = round(value - quantity * cost, 6) if isinstance(value, float) else 0.0
    account = accounts[row["account"]]
    return (
        contract,
        Holding(account, contract.conid, quantity, cost),
        prices,
        GivenRow(
            quantity=quantity,
            market_price=_figure(row.get("portfolioPrice", prices.price), f"portfolioPrice of {where}"),
            market_value=value,
            unrealized_pnl=_figure(row.get("unrealized", gain), f"unrealized of {where}"),
            realized_pnl=_figure(row.get("realized", 0.0), f"realized of {where}"),
        ),
    )


def _contract(row: Mapping[str, Any], where: str) -> Contract:
    exchanges = row["exchanges"]
    if not isinstance(exchanges, list) or not exchanges or not all(isinstance(name, str) for name in exchanges):
        raise _InvalidError(f"exchanges of {where} must be a list of names")
    symbol, sec_type = row["symbol"], row["secType"]
    return Contract(
        conid=_whole(row["conId"], f"conId of {where}"),
        symbol=symbol,
        sec_type=sec_type,
        currency=row.get("currency", "USD"),
        local_symbol=row.get("localSymbol", symbol),
        trading_class=row.get("tradingClass", symbol),
        exchanges=tuple(exchanges),
        min_tick=_HALF_PIP if sec_type == "CASH" else 0.01,
        long_name=row.get("localSymbol", symbol),
        primary_exchange=row.get("primary", ""),
        market_name=row.get("tradingClass", symbol),
        expiry=row.get("expiry", ""),
        strike=float(row.get("strike", 0.0)),
        right=row.get("right", ""),
        multiplier=row.get("multiplier", ""),
        price_magnifier=_whole(row.get("magnifier", 1), f"magnifier of {where}"),
        underlying_conid=_whole(row.get("undConId", 0), f"undConId of {where}"),
        volatility=0.0,
    )


def _prices(row: Mapping[str, Any], where: str) -> GivenPrices:
    tick = row.get("tick")
    if tick is None:
        if "price" not in row:
            raise _InvalidError(f"{where} has neither 'price' nor 'tick'")
        return GivenPrices(float(row["price"]), None, row.get("silent", False) is True)
    sizes = {f"{name}Size": f"{name}_size" for name in ("bid", "ask", "last")}
    _check_keys(tick, frozenset(PRICES) | sizes.keys(), (), f"tick of {where}")
    sent = {sizes.get(key, key): _number(value, f"{key} of the tick of {where}") for key, value in tick.items()}
    for name in ("bid", "ask", "last"):
        if name in sent:
            sent.setdefault(f"{name}_size", 100.0)
    guesses = (sent.get(name) for name in ("mark", "last", "close"))
    traded = next((price for price in guesses if price is not None and price not in {0.0, -1.0, -100.0}), 0.0)
    return GivenPrices(float(row.get("price", traded)), sent, row.get("silent", False) is True)


def _advice(content: object, held: set[int]) -> dict[int, tuple[int, str]]:
    if not isinstance(content, dict):
        raise _InvalidError("advise must map a conId to a code and a text")
    found: dict[int, tuple[int, str]] = {}
    for key, value in content.items():
        if not key.isdigit() or int(key) not in held:
            raise _InvalidError(f"advise names {key!r}, which is no conId of a holding")
        if not isinstance(value, list) or len(value) != 2 or type(value[0]) is not int or not isinstance(value[1], str):
            raise _InvalidError(f"advise of {key} must be a code and a text")
        found[int(key)] = (value[0], value[1])
    return found


def _values(content: object) -> tuple[tuple[str, str, str], ...]:
    if not isinstance(content, list) or not all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(part, str) for part in row) for row in content
    ):
        raise _InvalidError("extra_values must be a list of tag, value and currency, all texts")
    return tuple((row[0], row[1], row[2]) for row in content)


def _figure(value: object, where: str) -> float | str:
    return value if isinstance(value, str) else _number(value, where)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _InvalidError(f"{where} must be a number, not {value!r}")
    return float(value)


def _whole(value: object, where: str) -> int:
    if type(value) is not int or value < 0:
        raise _InvalidError(f"{where} must be a whole number, not {value!r}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _InvalidError(f"{where} must be text, not {value!r}")
    return value
