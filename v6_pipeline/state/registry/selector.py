"""Selectors, by which a strategy takes every holding of a kind, such as ``symbol=SPX,sec_type=OPT,right=P``.

Stored as text, in one spelling only (``Selector.text``), so that the same selector is not kept twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import date

from v6_pipeline.errors import UsageError
from v6_pipeline.model import Holding, SecType


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Conditions on a holding; ``None`` sets no condition. Texts compare without regard to case."""

    account: str | None = None
    symbol: str | None = None
    sec_type: SecType | None = None
    currency: str | None = None
    trading_class: str | None = None
    right: str | None = None
    strike: float | None = None
    expiry: date | None = None
    underlying_conid: int | None = None

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read ``key=value,key=value``; spaces around keys and values do not count.

        Raises:
            UsageError: an unknown or repeated key, an invalid value, or no key at all.
        """
        allowed = ", ".join(_PARSERS)
        found: dict[str, object] = {}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value:
                raise UsageError(f"selector {text!r}: {part.strip()!r} is not key=value; the keys are {allowed}")
            if key not in _PARSERS:
                raise UsageError(f"selector {text!r}: {key!r} is not a key; the keys are {allowed}")
            if key in found:
                raise UsageError(f"selector {text!r}: {key} is given twice; the keys are {allowed}")
            try:
                found[key] = _PARSERS[key](value)
            except ValueError as error:
                raise UsageError(
                    f"selector {text!r}: {value!r} is not a valid {key}, {error}; the keys are {allowed}"
                ) from None
        return cls(**found)  # type: ignore[arg-type]  # each value comes from its key's parser

    def within(self, account: str | None) -> Selector:
        """Restrict the selector to one account; unchanged for ``None``.

        Raises:
            UsageError: it names another account.
        """
        if account is None:
            return self
        if not account.strip() or "," in account:
            raise UsageError(f"{account!r} is not an account")
        if self.account not in {None, account.upper()}:
            raise UsageError(f"account {account} and the selector's account={self.account} differ: give one")
        return replace(self, account=account.upper())

    @property
    def text(self) -> str:
        """The one spelling of this selector; ``parse`` reads it back."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ",".join(f"{name}={_spelled(value)}" for name, value in values if value is not None)

    def __str__(self) -> str:
        return self.text

    def matches(self, holding: Holding) -> bool:
        """Return whether the selector matches a holding."""
        contract = holding.contract
        return (
            _same(self.account, holding.account)
            and _same(self.symbol, contract.symbol)
            and _same(self.currency, contract.currency)
            and _same(self.trading_class, contract.trading_class)
            and _same(self.right, contract.right)
            and self.sec_type in {None, contract.sec_type}
            and self.strike in {None, contract.strike}
            and self.expiry in {None, contract.expiry}
            and self.underlying_conid in {None, contract.underlying_conid}
        )


def _same(wanted: str | None, actual: str | None) -> bool:
    return wanted is None or (actual is not None and wanted.casefold() == actual.casefold())


def _spelled(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _text(value: str) -> str:
    return value.upper()


def _sec_type(value: str) -> SecType:
    try:
        return SecType(value.upper())
    except ValueError:
        raise ValueError(f"which is one of {' '.join(SecType)}") from None


def _right(value: str) -> str:
    rights = {"C": "C", "CALL": "C", "P": "P", "PUT": "P"}
    if value.upper() not in rights:
        raise ValueError("which is C or P")
    return rights[value.upper()]


def _strike(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("which is a number")
    return number


def _expiry(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("which is a date such as 2026-12-18") from None


def _conid(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 2**63:
        raise ValueError("which is a positive number")
    return int(value)


_PARSERS: dict[str, Callable[[str], object]] = {
    "account": _text,
    "symbol": _text,
    "sec_type": _sec_type,
    "currency": _text,
    "trading_class": _text,
    "right": _right,
    "strike": _strike,
    "expiry": _expiry,
    "underlying_conid": _conid,
}
