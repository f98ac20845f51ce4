"""When each account was last downloaded, and what has kept it from being since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from v6_pipeline.state.schema import account_downloads
from v6_pipeline.state.upsert import Excluded, upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRecord:
    """``failures`` in a row since ``completed_at``; ``reason`` is the newest one's."""

    account: str
    completed_at: datetime | None
    failed_at: datetime | None
    failures: int
    reason: str | None


def completed(connection: Connection, account: str, *, at: datetime) -> None:
    """An account was downloaded as a whole."""
    row = {"account": account, "completed_at": at, "failed_at": None, "failures": 0, "reason": None}
    upsert(connection, account_downloads, [row])


def failed(connection: Connection, account: str, *, at: datetime, reason: str) -> None:
    """An account could not be downloaded."""
    row = {"account": account, "completed_at": None, "failed_at": at, "failures": 1, "reason": reason}
    upsert(connection, account_downloads, [row], changes=_one_more)


def _one_more(new: Excluded) -> Mapping[str, Any]:
    return {"failed_at": new.failed_at, "failures": account_downloads.c.failures + 1, "reason": new.reason}


def newest_attempt(connection: Connection) -> datetime | None:
    """When an account was downloaded last, or could not be; None if never."""
    newest = connection.execute(
        select(func.max(account_downloads.c.completed_at), func.max(account_downloads.c.failed_at))
    ).one()
    return max((instant for instant in newest if instant is not None), default=None)


def list_all(connection: Connection) -> tuple[DownloadRecord, ...]:
    """Every account that was asked for, sorted."""
    query = select(account_downloads).order_by(account_downloads.c.account)
    return tuple(DownloadRecord(**row) for row in connection.execute(query).mappings())
