"""Builds the contracts and starting positions of a simulated market, deterministically.

Contracts depend on `as_of` and on the number of positions, never on the seed; quantities and costs depend on the seed.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator
from datetime import date

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.contracts import CASH, FUTURE, INDEX, OPTION, STOCK, Contract, Holding, Universe
from v6_pipeline.paper.holdings_file import HoldingsFile
from v6_pipeline.paper.instruments import (
    CURRENCY_PAIRS,
    FUTURES,
    UNDERLYINGS,
    UNUSUAL,
    FutureSpec,
    UnderlyingSpec,
    UnusualSpec,
)
from v6_pipeline.paper.prices import quote_at, unit
from v6_pipeline.paper.trading_hours import quarterly_expiries, weekly_expiries

MAX_POSITIONS = 15_000
"""Number of options of 52 weekly expiries."""

_STRIKES_EACH_SIDE = 10
_MONTH_CODES = "FGHJKMNQUVXZ"
OPTIONED = tuple(spec for spec in UNDERLYINGS if spec.strike_step)
"""The underlyings that have options."""
# Short and long wing of each condor, in strikes away from the money: five condors use twenty different contracts.
_CONDOR_WINGS = ((1, 3), (2, 4), (5, 7), (6, 8), (9, 10))
_OPTIONS_PER_LADDER = 4 * len(_CONDOR_WINGS)

# (conid, index of the account, quantity): the positions that `unusual` adds; the funds and coins are fractions.
UNUSUAL_POSITIONS = (
    (698_000_001, 0, 21.0),
    (698_000_002, 1, 10.0),
    (698_000_003, 1, 10.0),
    (698_000_004, 0, 100.0),
    (698_000_005, 0, -3.0),
    (698_000_006, 1, 40.0),
    (698_000_007, 1, 500.0),
    (698_000_009, 0, 100.0),
    (698_000_010, 1, 2.0),
    (698_000_011, 0, -1.0),
    (698_000_012, 0, 12.345),
    (479_624_278, 1, 0.01234567),
    (698_000_013, 0, 4.0),
    (698_000_014, 1, 1.5),
)

# (symbol, index of the account, quantity): the positions that are not options. AAPL, SPY and ES are in both accounts.
_FIXED_POSITIONS = (
    ("AAPL", 0, 300.0),
    ("ES", 0, 2.0),
    ("EUR.USD", 0, 20_000.0),
    ("AAPL", 1, 100.0),
    ("SPY", 0, 150.0),
    ("CL", 1, 1.0),
    ("MSFT", 0, 120.0),
    ("SPY", 1, -50.0),
    ("ES", 1, -1.0),
    ("NVDA", 1, 200.0),
    ("SAP", 1, 100.0),
    ("ZC", 0, 3.0),
    ("XOM", 1, -250.0),
    ("KO", 0, 500.0),
)


def build_universe(
    *,
    seed: int,
    as_of: date,
    accounts: tuple[str, ...],
    positions: int,
    flat_accounts: tuple[str, ...] = (),
    unusual: bool = False,
    file: HoldingsFile | None = None,
) -> Universe:
    """Return the universe with `positions` holdings over `accounts`, except `flat_accounts`.

    `unusual` adds holdings of the kinds that few accounts have (bonds, prices in pence, CFDs, spreads and others);
    `file` adds its contracts and holdings, with their prices.

    Raises:
        GatewayError: more positions than `MAX_POSITIONS`, or a negative number.
    """
    if not 0 <= positions <= MAX_POSITIONS:
        raise GatewayError(f"positions must be 0..{MAX_POSITIONS}, not {positions}")
    ladders = math.ceil(positions / _OPTIONS_PER_LADDER)
    expiries = weekly_expiries(as_of, max(4, math.ceil(ladders / len(OPTIONED))))
    contracts = list(_contracts(as_of, expiries))
    market = Universe(seed=seed, as_of=as_of, accounts=accounts, contracts=contracts, holdings=())
    holders = tuple(account for account in accounts if account not in flat_accounts)
    rows = list(itertools.islice(_positions(market, expiries, holders), positions))
    if unusual:
        rows += [(market.contracts[conid], account, quantity) for conid, account, quantity in UNUSUAL_POSITIONS]
    holdings = [_holding(market, holders, *row) for row in rows]
    return Universe(
        seed=seed,
        as_of=as_of,
        accounts=accounts,
        contracts=[*contracts, *(file.contracts if file else ())],
        holdings=[*holdings, *(file.holdings if file else ())],
        given=file.given if file else None,
    )


def _contracts(as_of: date, expiries: list[date]) -> Iterator[Contract]:
    taken: set[int] = set()
    for spec in UNDERLYINGS:
        yield _underlying(spec)
        taken.add(spec.conid)
    yield _currency_pair("EUR", "European Monetary Union Euro", 1.085)
    taken.update(CURRENCY_PAIRS.values())
    taken.update(unusual.conid for unusual in UNUSUAL)
    for future in FUTURES:
        for expiry in quarterly_expiries(as_of, 3):
            yield _future(future, expiry, taken)
    for option in OPTIONED:
        for expiry in expiries:
            yield from _ladder(option, expiry, taken)
    yield _currency_pair("GBP", "British pound", 1.27)
    for unusual in UNUSUAL:
        yield _unusual(unusual, as_of)


def derived_conid(key: str, taken: set[int]) -> int:
    """Return a stable id for a contract without a well-known one, and add it to `taken`."""
    digest = hashlib.sha256(key.encode()).digest()
    conid = 700_000_000 + int.from_bytes(digest[:8]) % 1_300_000_000
    while conid in taken:
        conid += 1
    taken.add(conid)
    return conid


def _underlying(spec: UnderlyingSpec) -> Contract:
    exchanges: tuple[str, ...] = (spec.primary_exchange,)
    if spec.sec_type == STOCK:
        exchanges = ("SMART", spec.primary_exchange) + (() if spec.currency == "EUR" else ("BATS", "IEX"))
    return Contract(
        conid=spec.conid,
        symbol=spec.symbol,
        sec_type=spec.sec_type,
        currency=spec.currency,
        local_symbol=spec.symbol,
        trading_class=spec.trading_class,
        exchanges=exchanges,
        primary_exchange=spec.primary_exchange if spec.sec_type == STOCK else "",
        min_tick=0.01,
        long_name=spec.long_name,
        market_name=spec.trading_class,
        stock_type=spec.stock_type if spec.sec_type == STOCK else "",
        industry=spec.industry or ("Indices" if spec.sec_type == INDEX else ""),
        base_price=spec.base_price,
        volatility=spec.volatility,
    )


def _currency_pair(currency: str, long_name: str, base_price: float) -> Contract:
    return Contract(
        conid=CURRENCY_PAIRS[currency],
        symbol=currency,
        sec_type=CASH,
        currency="USD",
        local_symbol=f"{currency}.USD",
        trading_class=f"{currency}.USD",
        exchanges=("IDEALPRO",),
        min_tick=0.00005,
        long_name=long_name,
        market_name=f"{currency}.USD",
        base_price=base_price,
        volatility=0.07,
    )


def _unusual(spec: UnusualSpec, as_of: date) -> Contract:
    underlying = next((row for row in UNDERLYINGS if row.symbol == spec.underlying), None)
    expiry = f"{quarterly_expiries(as_of, spec.expiry_months // 3)[-1]:%Y%m%d}" if spec.expiry_months else ""
    return Contract(
        conid=spec.conid,
        symbol=spec.symbol,
        sec_type=spec.sec_type,
        currency=spec.currency,
        local_symbol=spec.local_symbol or spec.symbol,
        trading_class=spec.trading_class or spec.symbol,
        exchanges=spec.exchanges,
        min_tick=spec.min_tick,
        long_name=spec.long_name,
        primary_exchange=spec.primary_exchange,
        market_name=spec.trading_class or spec.symbol,
        expiry=expiry,
        strike=spec.strike,
        right=spec.right,
        multiplier=spec.multiplier,
        price_magnifier=spec.price_magnifier,
        underlying_conid=underlying.conid if underlying else 0,
        underlying_symbol=spec.underlying,
        underlying_sec_type=underlying.sec_type if underlying else "",
        stock_type="COMMON" if spec.sec_type == STOCK else "",
        base_price=spec.base_price,
        volatility=spec.volatility,
    )


def _future(spec: FutureSpec, expiry: date, taken: set[int]) -> Contract:
    index = next((row for row in UNDERLYINGS if row.symbol == spec.index_symbol), None)
    return Contract(
        conid=derived_conid(f"{spec.symbol} FUT {expiry:%Y%m%d}", taken),
        symbol=spec.symbol,
        sec_type=FUTURE,
        currency="USD",
        local_symbol=f"{spec.symbol}{_MONTH_CODES[expiry.month - 1]}{expiry.year % 10}",
        trading_class=spec.symbol,
        exchanges=(spec.exchange,),
        min_tick=spec.min_tick,
        long_name=spec.long_name,
        market_name=spec.symbol,
        expiry=f"{expiry:%Y%m%d}",
        multiplier=spec.multiplier,
        price_magnifier=spec.price_magnifier,
        underlying_conid=index.conid if index else 0,
        underlying_symbol=spec.symbol,
        underlying_sec_type=INDEX if index else "",
        industry=spec.industry,
        base_price=spec.base_price,
        volatility=index.volatility if index else spec.volatility,
    )


def _ladder(spec: UnderlyingSpec, expiry: date, taken: set[int]) -> Iterator[Contract]:
    center = round(spec.base_price / spec.strike_step)
    for step in range(-_STRIKES_EACH_SIDE, _STRIKES_EACH_SIDE + 1):
        for right in "PC":
            yield option(spec, expiry, (center + step) * spec.strike_step, right, taken)


def option(spec: UnderlyingSpec, expiry: date, strike: float, right: str, taken: set[int]) -> Contract:
    """Return an option of a stock or index, and add its conid to `taken`."""
    is_index = spec.sec_type == INDEX
    occ = f"{spec.option_class:<6}{expiry:%y%m%d}{right}{round(strike * 1000):08d}"
    return Contract(
        conid=derived_conid(occ, taken),
        symbol=spec.symbol,
        sec_type=OPTION,
        currency=spec.currency,
        local_symbol=occ,
        trading_class=spec.option_class,
        exchanges=("SMART", "CBOE") if is_index else ("SMART", "CBOE", "AMEX", "ISE"),
        min_tick=0.05 if is_index else 0.01,
        long_name=spec.long_name,
        market_name=spec.option_class,
        expiry=f"{expiry:%Y%m%d}",
        strike=strike,
        right=right,
        multiplier="100",
        underlying_conid=spec.conid,
        underlying_symbol=spec.symbol,
        underlying_sec_type=spec.sec_type,
        industry=spec.industry,
        volatility=spec.volatility,
    )


def _positions(
    market: Universe, expiries: list[date], accounts: tuple[str, ...]
) -> Iterator[tuple[Contract, int, float]]:
    """Yield contract, account index and quantity: a condor after every three fixed positions, then condors only."""
    fixed = _fixed_positions(market, accounts)
    condors = _condors(market, expiries)
    while batch := list(itertools.islice(fixed, 3)):
        yield from batch
        yield from next(condors)
    for legs in condors:
        yield from legs


def _fixed_positions(market: Universe, accounts: tuple[str, ...]) -> Iterator[tuple[Contract, int, float]]:
    front: dict[str, Contract] = {}
    for contract in market.contracts.values():
        if contract.sec_type in {STOCK, CASH, FUTURE}:
            front.setdefault(contract.local_symbol if contract.sec_type == CASH else contract.symbol, contract)
    held: set[tuple[str, int]] = set()
    for symbol, account, quantity in _FIXED_POSITIONS:
        key = (symbol, account % len(accounts))
        if key not in held:
            held.add(key)
            yield front[symbol], account, quantity


def _condors(market: Universe, expiries: list[date]) -> Iterator[list[tuple[Contract, int, float]]]:
    """Yield iron condors, the nearest expiry and the first underlying first, alternating between accounts."""
    ladders: dict[tuple[int, str], dict[tuple[int, str], Contract]] = {}
    for contract in market.contracts.values():
        if contract.sec_type == OPTION:
            ladder = ladders.setdefault((contract.underlying_conid, contract.expiry), {})
            ladder[len(ladder) // 2 - _STRIKES_EACH_SIDE, contract.right] = contract
    numbers = itertools.count()
    for expiry in expiries:
        for short, long in _CONDOR_WINGS:
            for spec in OPTIONED:
                ladder = ladders[spec.conid, f"{expiry:%Y%m%d}"]
                number = next(numbers)
                lots = float(1 + number % 5)
                yield [
                    (ladder[-long, "P"], number, lots),
                    (ladder[-short, "P"], number, -lots),
                    (ladder[short, "C"], number, -lots),
                    (ladder[long, "C"], number, lots),
                ]


def _holding(market: Universe, accounts: tuple[str, ...], contract: Contract, account: int, quantity: float) -> Holding:
    mark = quote_at(market, contract.conid, 0).mark
    paid = (
        mark * contract.value_per_point * (0.9 + 0.2 * unit(market.seed, contract.conid, 20 + account % len(accounts)))
    )
    return Holding(
        account=accounts[account % len(accounts)],
        conid=contract.conid,
        quantity=quantity,
        average_cost=round(paid, 6 if contract.sec_type == CASH else 4),
    )
