"""The holdings that are due for a refresh (open, not streamed, not queued), and the accounts due for a download."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, case, exists, func, or_, select

from v6_pipeline.model import Holding, SlotPurpose
from v6_pipeline.state.account.holdings import list_open
from v6_pipeline.state.database import reads
from v6_pipeline.state.keys import Key
from v6_pipeline.state.schema import account_downloads, contracts, holdings, queue_items, slots
from v6_pipeline.state.slots import ledger as slot_ledger
from v6_pipeline.state.slots.allocation import Slot

_BEFORE_ANY_ROW = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCount:
    """Number of open holdings by state.

    ``streamed`` ones need no refresh, ``queued`` ones wait for it (dead letters included), ``due`` ones should be
    queued now, ``fresh`` ones later. ``oldest_refreshed_at`` is that of the fresh one that becomes due next.
    ``accounts`` is the number of ``due_accounts``.
    """

    held: int
    streamed: int
    queued: int
    due: int
    fresh: int
    oldest_refreshed_at: datetime | None
    accounts: int = 0


@dataclass(frozen=True, slots=True)
class Overdue:
    """Number of holdings that were not refreshed in time, and when the stalest was refreshed, or else observed."""

    count: int
    oldest_at: datetime | None


def due_before(now: datetime, *, refresh_seconds: float, interval_seconds: float) -> datetime:
    """Latest time of a holding's last row that makes it due at ``now``.

    A row may not get older than ``refresh_seconds``; the next chance to refresh it comes in ``interval_seconds``.
    """
    return now + timedelta(seconds=interval_seconds) - timedelta(seconds=refresh_seconds)


@reads
def due_accounts(connection: Connection, *, refreshed_before: datetime, now: datetime) -> tuple[str, ...]:
    """List accounts with streamed holdings, or with none, whose newest download is not newer than ``refreshed_before``.

    They are sorted. An account whose holdings all stream has no item in the queue, which would have it downloaded: its
    values, and the exchange rates on the stream's rows, would become stale. A flat account has none either: without a
    download it would be unknown that it is flat.
    """
    newer = exists().where(
        account_downloads.c.account == holdings.c.account, account_downloads.c.completed_at > refreshed_before
    )
    streamed = select(holdings.c.account).where(holdings.c.closed_at.is_(None), _is_streamed(now), ~newer)
    holds = exists().where(holdings.c.account == account_downloads.c.account, holdings.c.closed_at.is_(None))
    completed_at = account_downloads.c.completed_at
    flat = select(account_downloads.c.account).where(
        ~holds, or_(completed_at.is_(None), completed_at <= refreshed_before)
    )
    return tuple(sorted({*connection.scalars(streamed), *connection.scalars(flat)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The open holdings, the keys of those due without any row yet, and the live slots of streams, at one instant."""

    held: tuple[Holding, ...]
    unseen: frozenset[Key]
    streams: tuple[Slot, ...]


@reads
def read_coverage(connection: Connection, *, now: datetime) -> Coverage:
    """Read in one transaction what covers each open holding."""
    return Coverage(
        held=list_open(connection),
        unseen=frozenset(key for key, _ in due_keys(connection, refreshed_before=_BEFORE_ANY_ROW, now=now)),
        streams=slot_ledger.streams(connection, now=now),
    )


def due_keys(connection: Connection, *, refreshed_before: datetime, now: datetime) -> tuple[tuple[Key, str], ...]:
    """List key and symbol of the due holdings, whose last row is not newer than ``refreshed_before``, stalest first."""
    return _keys(connection, _is_stale(refreshed_before), ~_is_streamed(now), ~_is_queued())


def unstreamed_keys(connection: Connection, *, now: datetime) -> tuple[tuple[Key, str], ...]:
    """List key and symbol of the open holdings that are not streamed, stalest first."""
    return _keys(connection, ~_is_streamed(now))


def _keys(connection: Connection, *conditions: ColumnElement[bool]) -> tuple[tuple[Key, str], ...]:
    query = (
        select(holdings.c.account, holdings.c.conid, contracts.c.symbol)
        .join(contracts, contracts.c.conid == holdings.c.conid)
        .where(holdings.c.closed_at.is_(None), *conditions)
        .order_by(holdings.c.refreshed_at.asc().nulls_first(), holdings.c.account, holdings.c.conid)
    )
    return tuple(((row.account, row.conid), row.symbol) for row in connection.execute(query))


@reads
def overdue(connection: Connection, *, refreshed_before: datetime, now: datetime) -> Overdue:
    """Count due holdings whose last row, or else observation, is not newer than ``refreshed_before``."""
    seen_at = func.coalesce(holdings.c.refreshed_at, holdings.c.observed_at)
    query = select(func.count(), func.min(seen_at)).where(
        holdings.c.closed_at.is_(None), seen_at <= refreshed_before, ~_is_streamed(now), ~_is_queued()
    )
    count, oldest_at = connection.execute(query).one()
    return Overdue(count, oldest_at)


@reads
def count_due(connection: Connection, *, refreshed_before: datetime, now: datetime) -> DueCount:
    """Count the open holdings by state, and the due accounts."""
    kind = case(
        (_is_streamed(now), "streamed"), (_is_queued(), "queued"), (_is_stale(refreshed_before), "due"), else_="fresh"
    ).label("kind")
    kinds = select(kind, holdings.c.refreshed_at).where(holdings.c.closed_at.is_(None)).subquery()
    query = select(kinds.c.kind, func.count().label("rows"), func.min(kinds.c.refreshed_at).label("oldest"))
    found = {row.kind: row for row in connection.execute(query.group_by(kinds.c.kind))}
    numbers = {name: found[name].rows if name in found else 0 for name in ("streamed", "queued", "due", "fresh")}
    oldest = found["fresh"].oldest if "fresh" in found else None
    accounts = len(due_accounts(connection, refreshed_before=refreshed_before, now=now))
    return DueCount(held=sum(numbers.values()), **numbers, oldest_refreshed_at=oldest, accounts=accounts)


def _is_stale(refreshed_before: datetime) -> ColumnElement[bool]:
    return or_(holdings.c.refreshed_at.is_(None), holdings.c.refreshed_at <= refreshed_before)


def _is_streamed(now: datetime) -> ColumnElement[bool]:
    """A live slot streams the contract; those of a streamer that died expire."""
    streams = slots.c.purpose == SlotPurpose.STREAM.value
    return exists().where(slots.c.conid == holdings.c.conid, streams, slots.c.expires_at > now)


def _is_queued() -> ColumnElement[bool]:
    return exists().where(queue_items.c.account == holdings.c.account, queue_items.c.conid == holdings.c.conid)
