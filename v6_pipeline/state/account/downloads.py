"""Account downloads: when each account was last downloaded, the failures since, and its exchange rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select

from v6_pipeline.state.database import reads, writes
from v6_pipeline.state.schema import account_downloads, fx_rates, holdings
from v6_pipeline.state.upsert import Excluded, upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRecord:
    """An account's last complete download; ``failures`` counts those since, ``reason`` is that of the newest."""

    account: str
    completed_at: datetime | None
    failed_at: datetime | None
    failures: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FxRate:
    """``rate`` units of ``base_currency`` are worth one unit of ``currency`` in this account's books."""

    account: str
    currency: str
    base_currency: str
    rate: float
    observed_at: datetime


@writes
def save(
    connection: Connection, account: str, *, completed_at: datetime, base_currency: str, rates: Mapping[str, float]
) -> None:
    """Record a complete download of an account, and its exchange rates by currency."""
    completed(connection, account, at=completed_at)
    save_rates(connection, account=account, base_currency=base_currency, rates=rates, observed_at=completed_at)


@writes
def completed(connection: Connection, account: str, *, at: datetime) -> None:
    """Record that an account was downloaded as a whole."""
    row = {"account": account, "completed_at": at, "failed_at": None, "failures": 0, "reason": None}
    upsert(connection, account_downloads, [row])


@writes
def failed(connection: Connection, account: str, *, at: datetime, reason: str) -> None:
    """Record that an account could not be downloaded."""
    row = {"account": account, "completed_at": None, "failed_at": at, "failures": 1, "reason": reason}
    upsert(connection, account_downloads, [row], changes=_one_more)


def _one_more(new: Excluded) -> Mapping[str, Any]:
    return {"failed_at": new.failed_at, "failures": account_downloads.c.failures + 1, "reason": new.reason}


@writes
def keep_accounts(connection: Connection, accounts: Collection[str]) -> None:
    """Delete the records of accounts that hold nothing and are not among ``accounts``, those that are downloaded now.

    Such an account has left the login or the settings, and its record would be due for ever.
    """
    holds = exists().where(holdings.c.account == account_downloads.c.account, holdings.c.closed_at.is_(None))
    connection.execute(delete(account_downloads).where(account_downloads.c.account.not_in(accounts), ~holds))


@reads
def newest_attempt(connection: Connection) -> datetime | None:
    """Time of the newest download of any account, complete or failed; None if there was none."""
    newest = connection.execute(
        select(func.max(account_downloads.c.completed_at), func.max(account_downloads.c.failed_at))
    ).one()
    return max((instant for instant in newest if instant is not None), default=None)


@reads
def list_all(connection: Connection) -> tuple[DownloadRecord, ...]:
    """List the accounts whose download was attempted, sorted."""
    query = select(account_downloads).order_by(account_downloads.c.account)
    return tuple(DownloadRecord(**row) for row in connection.execute(query).mappings())


@writes
def save_rates(
    connection: Connection, *, account: str, base_currency: str, rates: Mapping[str, float], observed_at: datetime
) -> None:
    """Store an account's exchange rates by currency, unless newer ones are known."""
    rows = [
        {
            "account": account,
            "currency": currency,
            "base_currency": base_currency,
            "rate": rate,
            "observed_at": observed_at,
        }
        for currency, rate in rates.items()
    ]
    upsert(connection, fx_rates, rows, only_if=_is_newer)


def _is_newer(new: Excluded) -> ColumnElement[bool]:
    return new.observed_at >= fx_rates.c.observed_at


@reads
def list_rates(connection: Connection, *, account: str | None = None) -> tuple[FxRate, ...]:
    """List the newest exchange rate per account and pair of currencies."""
    query = select(fx_rates).order_by(fx_rates.c.account, fx_rates.c.currency, fx_rates.c.base_currency)
    if account is not None:
        query = query.where(fx_rates.c.account == account)
    return tuple(FxRate(**row) for row in connection.execute(query).mappings())
