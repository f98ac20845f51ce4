"""Contracts that a Flex statement books and does not hold at the end of the day: closed or day-traded. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from v6_pipeline.flex.model import FlexActivityKind
from v6_pipeline.flex.rows import NAMED_BY_UNDERLYING, sec_type_of
from v6_pipeline.history.inputs import KEY, OBSERVED_SCHEMA, DayInputs
from v6_pipeline.model import SecType, UpdateSource


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
    booked = booked.join(held, on=KEY, how="anti").sort(*KEY, "ordinal")
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
