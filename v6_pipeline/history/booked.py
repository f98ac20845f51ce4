"""What a Flex statement books and leaves out: contracts not held at the end of the day, flows, currencies. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from v6_pipeline.flex.model import FlexActivityKind
from v6_pipeline.flex.rows import NAMED_BY_UNDERLYING, sec_type_of
from v6_pipeline.history.inputs import KEY, OBSERVED_SCHEMA, DayInputs
from v6_pipeline.model import SecType, UpdateSource

NEVER_IN_STATEMENTS = frozenset({SecType.CURRENCY.value})
"""Kinds that a statement does not list as positions: currencies are among its cash."""


def closed_by_bookings(inputs: DayInputs, accounts: Collection[str], held: pl.DataFrame) -> pl.DataFrame:
    """Return a row with position 0 for each contract of ``accounts`` that was booked and is not in ``held``.

    The contract is described as far as the statement's bookings do; without a currency there is no row. The rows have
    ``OBSERVED_SCHEMA``.
    """
    booked = inputs.activity.filter(
        inputs.window.has_booked()
        & pl.col("account").is_in(accounts)
        & (pl.col("kind") != FlexActivityKind.CONVERSION.value)
    )
    booked = booked.join(held, on=KEY, how="anti").sort(*KEY, "date", "ordinal")
    groups = booked.group_by(KEY, maintain_order=True)
    rows = [_closed(list(group.iter_rows(named=True))) for _, group in groups]
    return pl.DataFrame([row for row in rows if row is not None], schema=OBSERVED_SCHEMA)


def _closed(bookings: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    newest = bookings[-1]
    given = {pair["name"]: pair["value"] for row in bookings for pair in row["attributes"] or ()}
    sec_type = sec_type_of(given.get("assetCategory", ""))
    if newest["currency"] is None or sec_type is SecType.CURRENCY:
        return None
    named = given.get("underlyingSymbol") if sec_type in NAMED_BY_UNDERLYING else None
    rates = [row["fx_rate_to_base"] for row in bookings if row["fx_rate_to_base"] is not None]
    underlying = _number(given.get("underlyingConid"))
    return dict.fromkeys(OBSERVED_SCHEMA) | {
        "date": newest["date"],
        "account": newest["account"],
        "conid": newest["conid"],
        "symbol": named or newest["symbol"] or str(newest["conid"]),
        "local_symbol": newest["symbol"],
        "sec_type": sec_type.value,
        "right": given.get("putCall"),
        "strike": _number(given.get("strike")),
        "expiry": _day(given.get("expiry")),
        "multiplier": _number(given.get("multiplier")),
        "currency": newest["currency"],
        "underlying_conid": None if underlying is None else int(underlying),
        "position": 0.0,
        "fx_rate_to_base": rates[-1] if rates else None,
        "timestamp": newest["timestamp"],
        "source": UpdateSource.FLEX.value,
    }


def flow(item: Mapping[str, Any], unit: float | None) -> float | None:
    """Return what a booking brought: the proceeds of a trade, less the value of what was transferred in.

    None where the statement does not say it, or charges in another currency than the contract's.
    """
    text = {pair["name"]: pair["value"] for pair in item["attributes"] or ()}
    given = {name: _number(value) for name, value in text.items()}
    quantity = float(item["quantity"])
    if item["kind"] == FlexActivityKind.TRANSFER.value:
        amount, price = given.get("positionAmount"), given.get("transferPrice")
        if amount:  # its sign is that of the position, or none
            return -abs(amount) * (1 if quantity > 0 else -1)
        return -price * quantity * unit if price and unit is not None else None
    proceeds = given.get("proceeds")
    if proceeds is None and item["price"] is not None and unit is not None:
        proceeds = -quantity * float(item["price"]) * unit
    commission, taxes = given.get("ibCommission") or 0.0, given.get("taxes") or 0.0
    if commission and text.get("ibCommissionCurrency") not in {None, "", item["currency"]}:
        return None
    return None if proceeds is None else proceeds + commission + taxes


def touched_by_corporate_actions(booked: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]) -> set[tuple[str, str]]:
    """Return (account, symbol) of issuers whose corporate action created another contract: a spin-off lowers the price.

    IB's description begins with the symbol and the identifier of the issuer: ``GE(US3696043013) SPINOFF 1 FOR 3 ...``.
    """
    found: set[tuple[str, str]] = set()
    for (account, _), rows in booked.items():
        for row in rows:
            if row["kind"] != FlexActivityKind.CORPORATE_ACTION.value:
                continue
            for pair in row["attributes"] or ():
                if pair["name"] in {"actionDescription", "description"} and "(" in (pair["value"] or ""):
                    found.add((account, pair["value"].split("(")[0].strip()))
    return found


def listed_kinds(previous: pl.DataFrame) -> Callable[[Mapping[str, Any]], bool]:
    """Return a test of a row: the source of its account in the session before lists contracts of its kind.

    A statement's open positions leave some kinds out. Such a contract without a row may have been held, unless own rows
    of that kind are there: own sources list everything.
    """
    stated = pl.col("position_source") == UpdateSource.FLEX.value
    by_statement = set(previous.filter(stated).get_column("account"))
    own = set(previous.filter(~stated).select("account", "sec_type").iter_rows())

    def lists(row: Mapping[str, Any]) -> bool:
        account, kind = row["account"], row["sec_type"]
        return kind not in NEVER_IN_STATEMENTS or account not in by_statement or (account, kind) in own

    return lists


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text.replace(",", ""))
    except ValueError:
        return None


def _day(text: str | None) -> date | None:
    digits = (text or "").replace("-", "").replace("/", "")[:8]
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return None
