"""The accounts' holdings, as of the newest position feed; the contracts' facts are in the contract cache.

A holding is closed only by ``mark_closed``: one feed that omits it proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, or_, select, update

from v6_pipeline.model import Holding
from v6_pipeline.state import revisions
from v6_pipeline.state.account import contracts as contract_cache
from v6_pipeline.state.database import reads, writes
from v6_pipeline.state.keys import Key, chunks, is_one_of
from v6_pipeline.state.schema import contracts, holdings
from v6_pipeline.state.upsert import Excluded, upsert

_JOINED = select(
    holdings.c.account,
    holdings.c.position,
    holdings.c.average_cost,
    holdings.c.observed_at,
    holdings.c.closed_at,
    holdings.c.refreshed_at,
    *contract_cache.OF_CONTRACT,
).select_from(holdings.join(contract_cache.WITH_UNITS, contracts.c.conid == holdings.c.conid))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHolding:
    """A holding, the time when it was closed, and the time of its last queued row (``None`` before the first)."""

    holding: Holding
    closed_at: datetime | None
    refreshed_at: datetime | None


@writes
def upsert_holdings(connection: Connection, observed: Iterable[Holding]) -> None:
    """Store observed holdings unless newer ones are known; a closed holding that is not flat is reopened."""
    newest: dict[Key, Holding] = {}
    for holding in observed:
        if holding.key not in newest or holding.observed_at >= newest[holding.key].observed_at:
            newest[holding.key] = holding
    contract_cache.remember(connection, [holding.contract for holding in newest.values()])
    before = find(connection, newest)
    rows = [
        {
            "account": holding.account,
            "conid": holding.contract.conid,
            "position": holding.position,
            "average_cost": holding.average_cost,
            "observed_at": holding.observed_at,
            "closed_at": None,
        }
        for holding in newest.values()
    ]
    upsert(connection, holdings, rows, changes=_observed, only_if=_is_newer)
    if any(key not in before or before[key].closed_at is not None for key in newest):
        revisions.bump(connection, revisions.Revision.HOLDINGS)


def _observed(new: Excluded) -> dict[str, Any]:
    return {
        "position": new.position,
        "average_cost": new.average_cost,
        "observed_at": new.observed_at,
        "closed_at": case((new.position == 0, holdings.c.closed_at), else_=None),
    }


def _is_newer(new: Excluded) -> ColumnElement[bool]:
    return and_(
        new.observed_at >= holdings.c.observed_at,
        or_(holdings.c.closed_at.is_(None), new.observed_at > holdings.c.closed_at),
    )


@writes
def replace_accounts(
    connection: Connection, accounts: Iterable[str], downloaded: Iterable[Holding], *, observed_at: datetime
) -> tuple[Holding, ...]:
    """``replace_account`` for each of ``accounts``, in one transaction."""
    by_account: dict[str, list[Holding]] = {account: [] for account in accounts}
    for holding in downloaded:
        if holding.account in by_account:
            by_account[holding.account].append(holding)
    missing: list[Holding] = []
    for account, rows in by_account.items():
        missing += replace_account(connection, account, rows, observed_at=observed_at)
    return tuple(missing)


def replace_account(
    connection: Connection, account: str, downloaded: Iterable[Holding], *, observed_at: datetime
) -> tuple[Holding, ...]:
    """Store a complete download of one account, begun at ``observed_at``.

    Return the account's open holdings that are missing from it and were not observed since. They stay open: closing
    them is the caller's decision.
    """
    rows = list(downloaded)
    others = {holding.account for holding in rows} - {account}
    if others:
        msg = f"a download of account {account} holds rows of {sorted(others)}"
        raise ValueError(msg)
    upsert_holdings(connection, rows)
    present = {holding.contract.conid for holding in rows}
    return tuple(
        holding
        for holding in list_open(connection, account=account)
        if holding.contract.conid not in present and holding.observed_at <= observed_at
    )


@writes
def mark_closed(connection: Connection, keys: Iterable[Key], *, closed_at: datetime) -> int:
    """Close holdings, with a position of 0; one observed after ``closed_at`` stays open. Return how many."""
    closed = 0
    for chunk in chunks(set(keys)):
        closed += connection.execute(
            update(holdings)
            .where(is_one_of(holdings, chunk), holdings.c.closed_at.is_(None), holdings.c.observed_at <= closed_at)
            .values(closed_at=closed_at, position=0.0)
        ).rowcount
    if closed:
        revisions.bump(connection, revisions.Revision.HOLDINGS)
    return closed


def set_refreshed(connection: Connection, keys: Iterable[Key], *, refreshed_at: datetime) -> None:
    """Record the time of the holdings' last queued rows; it never goes back."""
    rows = [{"of_account": account, "of_conid": conid, "at": refreshed_at} for account, conid in keys]
    if not rows:
        return
    at = bindparam("at", type_=holdings.c.refreshed_at.type)
    connection.execute(
        update(holdings)
        .where(
            holdings.c.account == bindparam("of_account"),
            holdings.c.conid == bindparam("of_conid"),
            or_(holdings.c.refreshed_at.is_(None), holdings.c.refreshed_at < at),
        )
        .values(refreshed_at=at),
        rows,
    )


@reads
def list_open(connection: Connection, *, account: str | None = None) -> tuple[Holding, ...]:
    """List open holdings by account and conid."""
    query = _JOINED.where(holdings.c.closed_at.is_(None)).order_by(holdings.c.account, holdings.c.conid)
    if account is not None:
        query = query.where(holdings.c.account == account)
    return tuple(_holding(row) for row in connection.execute(query))


@reads
def find(connection: Connection, keys: Iterable[Key]) -> dict[Key, StoredHolding]:
    """Find holdings by key, closed ones included."""
    found: dict[Key, StoredHolding] = {}
    for chunk in chunks(set(keys)):
        for row in connection.execute(_JOINED.where(is_one_of(holdings, chunk))):
            found[row.account, row.conid] = StoredHolding(
                holding=_holding(row), closed_at=row.closed_at, refreshed_at=row.refreshed_at
            )
    return found


def _holding(row: object) -> Holding:
    return Holding(
        account=row.account,  # type: ignore[attr-defined]
        contract=contract_cache.spec_of(row),
        position=row.position,  # type: ignore[attr-defined]
        average_cost=row.average_cost,  # type: ignore[attr-defined]
        observed_at=row.observed_at,  # type: ignore[attr-defined]
    )
