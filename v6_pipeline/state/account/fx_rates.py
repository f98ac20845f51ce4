"""Exchange rates into an account's base currency, from account downloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select

from v6_pipeline.state.schema import fx_rates
from v6_pipeline.state.upsert import Excluded, upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class FxRate:
    """One unit of ``currency`` is worth ``rate`` units of ``base_currency`` in this account's books."""

    account: str
    currency: str
    base_currency: str
    rate: float
    observed_at: datetime


def save(
    connection: Connection, *, account: str, base_currency: str, rates: Mapping[str, float], observed_at: datetime
) -> None:
    """Keep an account's rates by currency, unless newer ones are known."""
    upsert(
        connection,
        fx_rates,
        [
            {
                "account": account,
                "currency": currency,
                "base_currency": base_currency,
                "rate": rate,
                "observed_at": observed_at,
            }
            for currency, rate in rates.items()
        ],
        only_if=_is_newer,
    )


def _is_newer(new: Excluded) -> ColumnElement[bool]:
    return new.observed_at >= fx_rates.c.observed_at


def list_all(connection: Connection, *, account: str | None = None) -> tuple[FxRate, ...]:
    """The newest rate per account and pair of currencies."""
    query = select(fx_rates).order_by(fx_rates.c.account, fx_rates.c.currency, fx_rates.c.base_currency)
    if account is not None:
        query = query.where(fx_rates.c.account == account)
    return tuple(FxRate(**row) for row in connection.execute(query).mappings())
