"""``QueueWorker``: drains the queue once, for the Dagster asset ``queued_positions`` and for ``v6 refresh``.

Per batch: lease items, value each from the account download, add quotes through free lines, write one Delta commit,
then acknowledge. An item that fails stays in the queue. The rows are written by ``refresh.writer``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from v6_pipeline.errors import AccountFeedError, StateError
from v6_pipeline.ib.account_feed import AccountFeed
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.position_updates import closing_update, queued_update
from v6_pipeline.ib.positions import download_positions, subscribe_positions
from v6_pipeline.ib.session import leased_connection
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.table import Commit
from v6_pipeline.model import ContractSpec, Holding, PositionUpdate, QueuePriority, Quote
from v6_pipeline.refresh.account_downloads import AccountDownloads, learn_units
from v6_pipeline.refresh.quotes import BatchQuotes
from v6_pipeline.refresh.reconcile import Reconciliation, after_messages, reconcile
from v6_pipeline.refresh.writer import RefreshWriter
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import downloads as download_records
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.answers import ask, to_its_end
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.keys import Key
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.queue.items import Batch, NewItem, QueueItem, QueueState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.assignments import strategy_ids
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.slots.ledger import SlotLedger

log = logging.getLogger(__name__)

BATCH_LEASE_SECONDS = 120
RENEW_BATCH_EVERY_SECONDS = 30
FEED_RETRY_SECONDS = 20


@dataclass(frozen=True, slots=True)
class RefreshScope:
    """Which holdings a refresh enqueues before it drains the queue.

    With ``everything``, all holdings that are not streamed; otherwise those whose value would get older than
    ``refresh_seconds`` within ``interval_seconds``.
    """

    everything: bool = False
    interval_seconds: float = 60


@dataclass(slots=True)
class RefreshReport:
    """Counts and commits of a refresh.

    ``queue_depth_at_start`` counts the items to drain, with the newly enqueued and without dead letters; None if the
    refresh did not get that far.
    """

    held: int = 0
    enqueued: int = 0
    queue_depth_at_start: int | None = None
    refreshed: int = 0
    closed: int = 0
    retried: int = 0
    quoted: int = 0
    batches: int = 0
    commits: list[Commit] = field(default_factory=list)
    account_commits: list[Commit] = field(default_factory=list)
    failed_accounts: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows written to ``queued_positions``."""
        return sum(commit.rows for commit in self.commits)


class QueueWorker:
    """Drains the queue once, over a connection of its own. ``run_id`` names the run in every row and commit."""

    def __init__(
        self,
        settings: Settings,
        database: StateDatabase,
        lake: Lake,
        *,
        run_id: str,
        trading_day: Callable[[datetime], date],
        clock: Clock,
        policy: ConnectionPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._writer = RefreshWriter(
            lake, run_id=run_id, gateway=settings.ib_address, trading_day=trading_day, clock=clock
        )
        self._clock = clock
        self._policy = policy
        self._owner = f"{ProcessIdentity.current().owner}/{run_id}"
        self._queue = PositionQueue(database, clock)
        self._registry = StrategyRegistry(database, clock, timezone=settings.timezone)
        self._ledger = SlotLedger.from_settings(settings, database, clock)
        self._messages: dict[Key, Holding] = {}
        """The newest message of each position over this worker's connection, closings included."""
        self._asked_again: dict[Key, datetime] = {}
        """Contradicted values: a download of them must have begun at this instant or later."""
        self._written: set[tuple[Key, datetime]] = set()
        self._accounts: list[str] = []
        self.report = RefreshReport()

    async def run(self, scope: RefreshScope) -> RefreshReport:
        """Enqueue the holdings that ``scope`` selects, then drain the queue.

        Raises:
            GatewayError: the gateway cannot be used or was lost; acknowledged items are in the lake, all others in the
                queue.
            AccountFeedError: some accounts could not be valued, and their items stay in the queue; all else was done.
            LakeError: a commit failed; only what was committed is acknowledged.
        """
        self._registry.initialize()
        await to_its_end(self._writer.open)  # first: no download for an unwritable lake
        async with leased_connection(
            self._settings, self._database, owner=self._owner, clock=self._clock, policy=self._policy
        ) as connection:
            await self._download_positions(connection)
            await ask(self._enqueue, scope)
            cache = ContractCache(self._database, connection, self._clock)
            downloads = AccountDownloads(
                self._database, AccountFeed(connection, self._clock), owner=self._owner, clock=self._clock
            )
            quotes = BatchQuotes(connection, cache, self._ledger, holder=self._owner, clock=self._clock)
            await self._drain(cache, downloads, quotes)
            await self._download_due_accounts(scope, downloads)
        await to_its_end(self._writer.compact)
        if self.report.failed_accounts:
            self.report.retried += await ask(self._count_items, frozenset(self.report.failed_accounts))
            reasons = "; ".join(self.report.failed_accounts.values())
            raise AccountFeedError(f"{self.report.retried} items stay in the queue: {reasons}")
        return self.report

    async def _drain(self, cache: ContractCache, downloads: AccountDownloads, quotes: BatchQuotes) -> None:
        """Serve batches until only items of accounts whose download failed are left.

        A failed account is not retried: its items would be due again before the next time-out ends, and block others.
        """
        while True:
            batch = await ask(
                self._queue.get_batch,
                self._settings.queue_batch,
                lease_seconds=BATCH_LEASE_SECONDS,
                without_accounts=frozenset(self.report.failed_accounts),
            )
            if not batch.items:
                return
            renewal = asyncio.create_task(self._renew_batch(batch.token), name="batch lease")
            try:
                if not await self._refresh(batch, cache, downloads, quotes):
                    return
            except BaseException as error:
                await asyncio.shield(ask(self._return_batch, batch, f"interrupted: {type(error).__name__}"))
                raise
            finally:
                renewal.cancel()
                await asyncio.gather(renewal, return_exceptions=True)

    async def _download_due_accounts(self, scope: RefreshScope, downloads: AccountDownloads) -> None:
        """Download the accounts that no queue item needs, but whose values and exchange rates would get too old.

        These are accounts of which everything streams, and those that hold nothing: a download shows that they do.
        """
        due = await ask(self._due_accounts, scope)
        tried = self.report.failed_accounts.keys() | {download.account for download in downloads.completed}
        left = due - tried
        if not left:
            return
        failed = await self._ensure_downloads(downloads, dict.fromkeys(left, self._clock()))
        self.report.failed_accounts |= {account: str(error) for account, error in failed.items()}

    def _due_accounts(self, scope: RefreshScope) -> set[str]:
        due = self._queue.due_accounts(
            refresh_seconds=self._settings.refresh_seconds, interval_seconds=scope.interval_seconds
        )
        attempted = {record.account for record in download_records.list_all(self._database)}
        return set(self._accounts).intersection(due) | (set(self._accounts) - attempted)

    def _return_batch(self, batch: Batch, reason: str) -> None:
        """Give back a batch that this worker cannot finish, so that others need not wait for its lease to end."""
        with contextlib.suppress(StateError):
            self._queue.give_back(batch.token, [item.key for item in batch.items], reason, delay_seconds=0)

    async def _renew_batch(self, token: str) -> None:
        """Keep the lease of a batch renewed: its downloads and quotes may together outlast it."""
        held: object = token
        while held is not None:
            await asyncio.sleep(RENEW_BATCH_EVERY_SECONDS)
            try:
                held = await ask(self._queue.extend, token, lease_seconds=BATCH_LEASE_SECONDS)
            except StateError as error:
                log.warning("lease of a batch is not renewed: %s", error)  # tried again before it ends

    async def _download_positions(self, connection: IBConnectionManager) -> None:
        """Store the complete position download of this connection, and keep its later messages."""
        begun_at = self._clock()
        # Subscribed before the download ends, so that no message after its end is missed.
        subscribe_positions(connection, self._on_position, self._clock)
        await download_positions(connection, self._clock, accounts=self._settings.ib_accounts)
        self._accounts = [account for account in connection.accounts if self._is_selected(account)]
        # Copied on the loop, because position messages keep arriving while the thread reads.
        held = [holding for holding in self._messages.values() if holding.position]
        await ask(self._store_positions, held, self._accounts, begun_at)
        self.report.held = len(held)

    def _on_position(self, holding: Holding) -> None:
        if self._is_selected(holding.account):
            self._messages[holding.key] = holding

    def _is_selected(self, account: str) -> bool:
        return not self._settings.ib_accounts or account in self._settings.ib_accounts

    def _store_positions(self, held: list[Holding], accounts: list[str], begun_at: datetime) -> None:
        missing = holdings_store.replace_accounts(self._database, accounts, held, observed_at=begun_at)
        download_records.keep_accounts(self._database, accounts)
        self._queue.insert_many(
            NewItem(item.account, item.contract.conid, item.contract.symbol, QueuePriority.VERIFY) for item in missing
        )

    def _enqueue(self, scope: RefreshScope) -> None:
        if scope.everything:
            self.report.enqueued = self._queue.enqueue_all_unstreamed(priority_of=self._priority)
        else:
            self.report.enqueued = self._queue.enqueue_due(
                refresh_seconds=self._settings.refresh_seconds,
                interval_seconds=scope.interval_seconds,
                priority_of=self._priority,
            )
        self.report.queue_depth_at_start = self._queue.stats().pending

    def _priority(self, key: Key) -> QueuePriority:
        """Return the priority of a holding: those of active strategies come before those of no strategy."""
        active = self._registry.is_active(key[1], key[0])
        return QueuePriority.OVERFLOW if active else QueuePriority.NORMAL

    async def _refresh(
        self, batch: Batch, cache: ContractCache, downloads: AccountDownloads, quotes: BatchQuotes
    ) -> bool:
        """Value a batch and write it; return False if its lease was lost, in which case this worker must stop."""
        self.report.batches += 1
        items = await self._reject_unmanaged_accounts(batch)
        needed: dict[str, datetime] = {}
        for item in items:
            since = self._asked_again.get(item.key, item.enqueued_at)
            needed[item.account] = max(item.enqueued_at, since, needed.get(item.account, item.enqueued_at))
        failed = await self._ensure_downloads(downloads, needed)
        if failed:
            await self._return_failed(batch, failed)
            items = [item for item in items if item.account not in failed]
        if not items:
            return True
        found = await ask(self._reconcile, items, downloads, dict(self._messages))
        contracts = await cache.qualified([conid for _, conid in found.valued])
        # After the definitions, which the download may have come before.
        await ask(learn_units, self._database, found.valued.values())
        quoted = await quotes.collect(value.contract for value in found.valued.values() if value.position)
        self.report.quoted += len(quoted)
        found = after_messages(found, self._messages)
        rows = self._rows(found, contracts, quoted, downloads)
        if await ask(self._queue.extend, batch.token, lease_seconds=BATCH_LEASE_SECONDS) is None:
            log.warning("lease of a batch expired: its %d items are served again", len(items))
            return False
        # A download that serves an item twice, because its acknowledgement came too late, gives one row.
        new = [row for row in rows if (row.key, row.timestamp) not in self._written]
        if new:  # durable before the acknowledgement
            self.report.commits.append(await to_its_end(self._writer.append_positions, new))
            self._written.update((row.key, row.timestamp) for row in new)
        await ask(self._acknowledge, batch.token, items, rows, found, downloads)
        return True

    async def _reject_unmanaged_accounts(self, batch: Batch) -> list[QueueItem]:
        """Return the items that can be valued; fail those of unmanaged accounts, which end as dead letters."""
        rejected = [item.key for item in batch.items if item.account not in self._accounts]
        if rejected:
            reason = "the login does not manage this account, or V6_IB_ACCOUNTS leaves it out"
            await ask(self._queue.mark_failed, batch.token, rejected, reason)
            self.report.retried += len(rejected)
        return [item for item in batch.items if item.account in self._accounts]

    async def _ensure_downloads(
        self, downloads: AccountDownloads, needed: dict[str, datetime]
    ) -> dict[str, AccountFeedError]:
        """Download the accounts that need it, write their figures, and return what failed."""
        before = len(downloads.completed)
        failed = await downloads.ensure(needed)
        if values := [download.values for download in downloads.completed[before:]]:
            self.report.account_commits.append(await to_its_end(self._writer.append_accounts, values))
        return failed

    async def _return_failed(self, batch: Batch, failed: Mapping[str, AccountFeedError]) -> None:
        self.report.failed_accounts |= {account: str(error) for account, error in failed.items()}
        keys = [item.key for item in batch.items if item.account in failed]
        # The items themselves did not fail, so this does not count towards their dead-letter limit.
        await ask(
            self._queue.give_back, batch.token, keys, "account feed not available", delay_seconds=FEED_RETRY_SECONDS
        )

    def _count_items(self, accounts: frozenset[str]) -> int:
        """Number of items of accounts that wait for another run, including those that this run did not try."""
        return sum(item.account in accounts and item.state is not QueueState.DEAD for item in self._queue.items())

    def _reconcile(
        self, items: list[QueueItem], downloads: AccountDownloads, messages: Mapping[Key, Holding]
    ) -> Reconciliation:
        keys = [item.key for item in items]
        known = {key: stored.holding for key, stored in holdings_store.find(self._database, keys).items()}
        downloaded = {
            (account, conid): value
            for account in {key[0] for key in keys}
            if (download := downloads.get(account)) is not None
            for conid, value in download.portfolio.items()
        }
        return reconcile(keys, downloaded=downloaded, messages=messages, known=known)

    def _rows(
        self,
        found: Reconciliation,
        contracts: dict[int, ContractSpec],
        quotes: dict[int, Quote],
        downloads: AccountDownloads,
    ) -> list[PositionUpdate]:
        """Return the rows of a batch, each stamped when its account was downloaded: quotes take seconds more."""
        rows = []
        for key, value in found.valued.items():
            account, conid = key
            held = self._messages.get(key)
            assignments = self._registry.assignments(held) if held and held.position else ()
            rows.append(
                queued_update(
                    account,
                    contracts.get(conid, value.contract),
                    value,
                    quotes.get(conid),
                    base=downloads.base(account),
                    strategy_ids=strategy_ids(assignments),
                    now=value.received_at,
                )
            )
        for key, holding in found.gone.items():
            download = downloads.get(key[0])
            if key not in found.valued and download is not None:
                contract = contracts.get(key[1], holding.contract)
                base = downloads.base(key[0])
                rows.append(closing_update(holding, contract, base=base, now=download.completed_at))
        return rows

    def _acknowledge(
        self,
        token: str,
        items: list[QueueItem],
        rows: list[PositionUpdate],
        found: Reconciliation,
        downloads: AccountDownloads,
    ) -> None:
        now = self._clock()
        for account in {key[0] for key in found.gone}:
            download = downloads.get(account)
            keys = [key for key in found.gone if key[0] == account]
            if download is not None:
                # Closed as of the download, so that a position reopened since then stays open.
                holdings_store.mark_closed(self._database, keys, closed_at=download.started_at)
        open_again = self._ask_again(token, found, downloads)
        done = [item.key for item in items if item.key not in open_again]
        refreshed_at = min((row.timestamp for row in rows), default=now)
        accepted = self._queue.mark_success(token, done, refreshed_at)
        self.report.closed += len(found.gone)
        self.report.refreshed += len(accepted) - len(found.gone)

    def _ask_again(self, token: str, found: Reconciliation, downloads: AccountDownloads) -> frozenset[Key]:
        """Return to the queue what the two feeds disagree on, and return its keys.

        A contradicted value is downloaded again at once, because the position changed a moment ago; if the feeds still
        disagree then, it waits as any failed item.
        """
        again = [key for key in found.contradicted if key not in self._asked_again]
        failed = [*found.disputed, *(key for key in found.contradicted if key in self._asked_again)]
        reason = "position feed and account download disagree"
        self._queue.give_back(token, again, reason, delay_seconds=0)
        for key in again:
            if (download := downloads.get(key[0])) is not None:
                self._asked_again[key] = download.started_at + timedelta(microseconds=1)
        if failed:
            self._queue.mark_failed(token, failed, reason)
        self.report.retried += len(failed)
        return frozenset({*again, *failed})
