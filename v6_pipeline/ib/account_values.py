"""The account's own figures, from the texts of one account download. Pure.

TWS 10.47 puts ``$LEDGER-`` before the tags of one currency (TWS API changelog, 2026-05-08, "Per-Currency Account Value
Prefix"); which tags exactly is not documented. So a figure of one currency is read with and without the prefix, and a
total of the account only from a key that cannot be one currency's part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from v6_pipeline.errors import AccountFeedError
from v6_pipeline.model import AccountValues, known

Texts = Mapping[tuple[str, str], str]
"""(tag, currency) to IB's text, with the tags as they were sent."""

PREFIX = "$LEDGER-"
BASE = "BASE"
"""IB's currency of the totals over all currencies; the amount is in the account's base currency."""

_FIELDS = {
    "net_liquidation": "NetLiquidation",
    "total_cash": "TotalCashValue",
    "gross_position_value": "GrossPositionValue",
    "buying_power": "BuyingPower",
    "initial_margin": "InitMarginReq",
    "maintenance_margin": "MaintMarginReq",
    "excess_liquidity": "ExcessLiquidity",
}
"""Name of an account figure -> IB's tag, in the account's base currency."""
_LEDGER_FIELDS = {"unrealized_pnl": "UnrealizedPnL", "realized_pnl": "RealizedPnL"}
"""The same, for tags that IB states per currency, and as a total under ``BASE``."""


def is_ready(texts: Texts) -> bool:
    """Return False if IB says that its servers are in a reset, in which values may be missing or wrong.

    IBKR's TWS API, "Account Updates", ``AccountReady``. A download without the tag counts as ready.
    """
    return all(text.strip().casefold() != "false" for (tag, _), text in texts.items() if _name(tag) == "AccountReady")


def account_values(account: str, texts: Texts, *, daily_pnl: float | None, timestamp: datetime) -> AccountValues:
    """Return the account figures of a download.

    The base currency is the one in which IB states the net liquidation value.

    Raises:
        AccountFeedError: the download names no net liquidation value, so its base currency is unknown.
    """
    base = next((currency for tag, currency in texts if tag == "NetLiquidation" and currency not in {"", BASE}), None)
    if base is None:
        raise AccountFeedError(f"account download of {account} has no NetLiquidation; the next run tries again")
    rates = {currency: rate for currency, rate in _by_currency(texts, "ExchangeRate").items() if rate > 0}
    rates[base] = 1.0
    return AccountValues(
        account=account,
        base_currency=base,
        timestamp=timestamp,
        daily_pnl=daily_pnl,
        exchange_rates=rates,
        **{name: _total(texts, tag, base) for name, tag in _FIELDS.items()},
        **{name: _ledger_total(texts, tag, rates) for name, tag in _LEDGER_FIELDS.items()},
    )


def _total(texts: Texts, tag: str, base: str) -> float | None:
    """Return a figure of the whole account; with the prefix, the base currency's key is one currency's part of it."""
    return _first_number(texts, (tag, base), (tag, BASE), (PREFIX + tag, BASE))


def _ledger_total(texts: Texts, tag: str, rates: Mapping[str, float]) -> float | None:
    """Return the total over all currencies, from its own key, else from the parts if each has a rate."""
    total = _first_number(texts, (tag, BASE), (PREFIX + tag, BASE))
    if total is not None:
        return total
    parts = _by_currency(texts, tag)
    if not parts or not parts.keys() <= rates.keys():
        return None
    return sum(amount * rates[currency] for currency, amount in parts.items())


def _by_currency(texts: Texts, tag: str) -> dict[str, float]:
    """Return the known numbers of a tag by currency, without the total."""
    return {
        currency: number
        for (name, currency), text in texts.items()
        if _name(name) == tag and currency not in {"", BASE} and (number := _number(text)) is not None
    }


def _name(tag: str) -> str:
    return tag.removeprefix(PREFIX)


def _first_number(texts: Texts, *keys: tuple[str, str]) -> float | None:
    return next((number for key in keys if (number := _number(texts.get(key))) is not None), None)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else known(float(text))
    except ValueError:
        return None
