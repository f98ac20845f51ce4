"""``QueueWorker``: drains the queue once. Used by the Dagster asset ``queued_positions`` and by ``v6 refresh`` alike.

Per batch: lease items, value each from the account download, add quotes through free lines, one Delta commit, then the
acknowledgement. What goes wrong with an item leaves it in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from v6_pipeline import __version__
from v6_pipeline.errors import AccountFeedError, StateError
from v6_pipeline.ib.account_feed import AccountFeed
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.position_updates import closing_update, queued_update
from v6_pipeline.ib.positions import download_positions, subscribe_positions
from v6_pipeline.ib.session import leased_connection
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.maintenance import compact_if_fragmented
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.table import Commit
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS
from v6_pipeline.model import ContractSpec, Holding, PositionUpdate, QueuePriority, Quote, UpdateSource
from v6_pipeline.refresh.account_downloads import AccountDownloads
from v6_pipeline.refresh.quotes import BatchQuotes
from v6_pipeline.refresh.reconcile import Settlement, reopened, settle
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.queue.items import Batch, NewItem, QueueItem, QueueState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.slots.ledger import SlotLedger

log = logging.getLogger(__name__)

Key = tuple[str, int]
BATCH_LEASE_SECONDS = 120
KEEP_BATCH_EVERY = 30
FEED_RETRY_SECONDS = 20


@dataclass(frozen=True, slots=True)
class RefreshScope:
    """What a refresh puts into the queue before it drains it.

    ``everything``: all holdings that are not streamed. Otherwise those whose value would get older than
    ``refresh_seconds`` within ``interval_seconds``.
    """

    everything: bool = False
    interval_seconds: float = 60


@dataclass(slots=True)
class RefreshReport:
    """What a refresh did.

    ``queue_depth_at_start`` is what it had to drain: what was in the queue, dead letters aside, and what it enqueued;
    None if it did not get so far.
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
        """Rows written to ``queued_positions``."""
        return sum(commit.rows for commit in self.commits)


class QueueWorker:
    """One drain of the queue over a connection of its own.

    Args:
        settings: which gateway, accounts, batch size.
        database: state.
        lake: where the rows go.
        run_id: names the run in every row and commit.
        trading_day: day of an instant.
        clock: UTC now.
        policy: time-outs of the connection.
    """

    def __init__(
        self,
        settings: Settings,
        database: StateDatabase,
        lake: Lake,
        *,
        run_id: str,
        trading_day: Callable[[datetime], date],
        clock: Callable[[], datetime],
        policy: ConnectionPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._positions_table = lake.table(QUEUED_POSITIONS)
        self._accounts_table = lake.table(ACCOUNT_VALUES)
        self._run_id = run_id
        self._trading_day = trading_day
        self._clock = clock
        self._policy = policy
        self._owner = f"{ProcessIdentity.current().owner}/{run_id}"
        self._queue = PositionQueue(database, clock)
        self._registry = StrategyRegistry(database, clock, timezone=settings.timezone)
        self._ledger = SlotLedger.from_settings(settings, database, clock)
        self._held: dict[Key, Holding] = {}
        self._accounts: list[str] = []
        self.report = RefreshReport()

    async def run(self, scope: RefreshScope) -> RefreshReport:
        """Enqueue what ``scope`` says, then drain the queue.

        Raises:
            GatewayError: the gateway cannot be used or was lost; what was acknowledged is in the lake, the rest in the
                queue.
            AccountFeedError: the rest was done, but these accounts could not be valued; their items are in the queue.
            LakeError: nothing that was not committed is acknowledged.
        """
        self._registry.initialize()
        # Open the tables first: a lake that cannot be written is not worth a download.
        await asyncio.to_thread(self._positions_table.open)
        await asyncio.to_thread(self._accounts_table.open)
        async with leased_connection(
            self._settings, self._database, owner=self._owner, clock=self._clock, policy=self._policy
        ) as connection:
            await self._take_positions(connection)
            await asyncio.to_thread(self._enqueue, scope)
            book = ContractCache(self._database, connection, self._clock)
            downloads = AccountDownloads(
                self._database, AccountFeed(connection, self._clock), owner=self._owner, clock=self._clock
            )
            quotes = BatchQuotes(connection, book, self._ledger, holder=self._owner, clock=self._clock)
            await self._drain(book, downloads, quotes)
            await self._download_due_accounts(scope, downloads)
        await asyncio.to_thread(compact_if_fragmented, self._positions_table)
        await asyncio.to_thread(compact_if_fragmented, self._accounts_table)
        if self.report.failed_accounts:
            self.report.retried += await asyncio.to_thread(self._count_left, frozenset(self.report.failed_accounts))
            reasons = "; ".join(self.report.failed_accounts.values())
            raise AccountFeedError(f"{self.report.retried} items stay in the queue: {reasons}")
        return self.report

    async def _drain(self, book: ContractCache, downloads: AccountDownloads, quotes: BatchQuotes) -> None:
        """Until nothing is open but items of accounts whose download failed: none is tried a second time in a run.

        What was given back would be open again before the next time-out ends, and the run would serve nobody else.
        """
        while True:
            batch = await asyncio.to_thread(
                self._queue.get_batch,
                self._settings.queue_batch,
                lease_seconds=BATCH_LEASE_SECONDS,
                without_accounts=frozenset(self.report.failed_accounts),
            )
            if not batch.items:
                return
            keeper = asyncio.create_task(self._keep_batch(batch.token), name="batch lease")
            try:
                if not await self._refresh(batch, book, downloads, quotes):
                    return
            except BaseException as error:
                await asyncio.shield(asyncio.to_thread(self._return, batch, f"interrupted: {type(error).__name__}"))
                raise
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)

    async def _download_due_accounts(self, scope: RefreshScope, downloads: AccountDownloads) -> None:
        """Those of which no item was in the queue: their values and exchange rates must not get old either."""
        due = await asyncio.to_thread(
            self._queue.due_accounts,
            refresh_seconds=self._settings.refresh_seconds,
            interval_seconds=scope.interval_seconds,
        )
        tried = self.report.failed_accounts.keys() | {download.account for download in downloads.taken}
        left = (set(due) & set(self._accounts)) - tried
        if not left:
            return
        before = len(downloads.taken)
        failed = await downloads.ensure(dict.fromkeys(left, self._clock()))
        self.report.failed_accounts |= {account: str(error) for account, error in failed.items()}
        await self._write_accounts(downloads, before)

    def _return(self, batch: Batch, reason: str) -> None:
        """Let others have a batch at once that this worker cannot finish, rather than when its lease ends."""
        with contextlib.suppress(StateError):
            self._queue.give_back(batch.token, [item.key for item in batch.items], reason, delay_seconds=0)

    async def _keep_batch(self, token: str) -> None:
        """Downloads and quotes of one batch may together take longer than its lease."""
        held: object = token
        while held is not None:
            await asyncio.sleep(KEEP_BATCH_EVERY)
            try:
                held = await asyncio.to_thread(self._queue.extend, token, lease_seconds=BATCH_LEASE_SECONDS)
            except StateError as error:
                log.warning("lease of a batch is not prolonged: %s", error)  # tried again before it ends

    async def _take_positions(self, connection: IBConnectionManager) -> None:
        """The complete position download of this connection, kept current by its later messages."""
        begun_at = self._clock()
        # Every message of the download comes as an event too, so that what follows its end is not missed.
        subscribe_positions(connection, self._note, self._clock)
        await download_positions(connection, self._clock)
        self._accounts = [account for account in connection.accounts if self._keeps(account)]
        # Copied on the loop: the position feed goes on while the thread reads.
        await asyncio.to_thread(self._store_positions, list(self._held.values()), self._accounts, begun_at)
        self.report.held = len(self._held)

    def _note(self, holding: Holding) -> None:
        if not self._keeps(holding.account):
            return
        if holding.position:
            self._held[holding.key] = holding
        else:
            self._held.pop(holding.key, None)

    def _keeps(self, account: str) -> bool:
        return not self._settings.ib_accounts or account in self._settings.ib_accounts

    def _store_positions(self, held: list[Holding], accounts: list[str], begun_at: datetime) -> None:
        missing = holdings_store.replace_accounts(self._database, accounts, held, observed_at=begun_at)
        self._queue.insert_many(
            NewItem(
                account=item.account,
                conid=item.contract.conid,
                symbol=item.contract.symbol,
                priority=QueuePriority.VERIFY,
            )
            for item in missing
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
        """An active holding that found no line is refreshed before those that no strategy asks for."""
        active = self._registry.is_active(key[1], key[0])
        return QueuePriority.OVERFLOW if active else QueuePriority.NORMAL

    async def _refresh(
        self, batch: Batch, book: ContractCache, downloads: AccountDownloads, quotes: BatchQuotes
    ) -> bool:
        """Value a batch and write it; False if its lease was lost, so that this worker should stop."""
        self.report.batches += 1
        items = await self._without_strangers(batch)
        needed: dict[str, datetime] = {}
        for item in items:
            needed[item.account] = max(item.enqueued_at, needed.get(item.account, item.enqueued_at))
        before = len(downloads.taken)
        failed = await downloads.ensure(needed)
        await self._write_accounts(downloads, before)
        if failed:
            await self._give_back(batch, failed)
            items = [item for item in items if item.account not in failed]
        if not items:
            return True
        found = await asyncio.to_thread(self._settle, items, downloads, frozenset(self._held))
        contracts = await book.qualified([conid for _, conid in found.valued])
        seen = await quotes.collect(value.contract for value in found.valued.values() if value.position)
        self.report.quoted += len(seen)
        found = reopened(found, self._held)
        rows = self._rows(found, contracts, seen, downloads)
        return await self._commit(batch, items, rows, found, downloads)

    async def _without_strangers(self, batch: Batch) -> list[QueueItem]:
        """The items that can be valued; those of accounts that are not ours fail, and end as dead letters."""
        strangers = [item.key for item in batch.items if item.account not in self._accounts]
        if strangers:
            reason = "the login does not manage this account, or V6_IB_ACCOUNTS leaves it out"
            await asyncio.to_thread(self._queue.mark_failed, batch.token, strangers, reason)
            self.report.retried += len(strangers)
        return [item for item in batch.items if item.account in self._accounts]

    async def _give_back(self, batch: Batch, failed: Mapping[str, AccountFeedError]) -> None:
        self.report.failed_accounts |= {account: str(error) for account, error in failed.items()}
        keys = [item.key for item in batch.items if item.account in failed]
        # Not the items' fault, so it does not bring them nearer to the dead letters.
        await asyncio.to_thread(
            self._queue.give_back, batch.token, keys, "account feed not available", delay_seconds=FEED_RETRY_SECONDS
        )

    def _count_left(self, accounts: frozenset[str]) -> int:
        """How many items of accounts wait for another run, those included that this one did not try."""
        return sum(item.account in accounts and item.state is not QueueState.DEAD for item in self._queue.items())

    def _settle(self, items: list[QueueItem], downloads: AccountDownloads, held: frozenset[Key]) -> Settlement:
        keys = [item.key for item in items]
        known = {key: stored.holding for key, stored in holdings_store.find(self._database, keys).items()}
        downloaded = {
            (account, conid): value
            for account in {key[0] for key in keys}
            if (download := downloads.get(account)) is not None
            for conid, value in download.portfolio.items()
        }
        return settle(keys, downloaded=downloaded, held=held, known=known)

    def _rows(
        self,
        items: Settlement,
        contracts: dict[int, ContractSpec],
        quotes: dict[int, Quote],
        downloads: AccountDownloads,
    ) -> list[PositionUpdate]:
        now = self._clock()
        rows = []
        for key, value in items.valued.items():
            account, conid = key
            held = self._held.get(key)
            assignments = self._registry.assignments(held) if held else ()
            rows.append(
                queued_update(
                    account,
                    contracts.get(conid, value.contract),
                    value,
                    quotes.get(conid),
                    base=downloads.base(account),
                    strategy_ids=tuple(sorted({item.strategy for item in assignments})),
                    now=now,
                )
            )
        for key, holding in items.gone.items():
            if key not in items.valued:
                contract = contracts.get(key[1], holding.contract)
                rows.append(closing_update(holding, contract, base=downloads.base(key[0]), now=now))
        return rows

    async def _commit(
        self,
        batch: Batch,
        items: list[QueueItem],
        rows: list[PositionUpdate],
        found: Settlement,
        downloads: AccountDownloads,
    ) -> bool:
        """One commit, durable, then the acknowledgement; without the lease any more nothing is written."""
        extended = await asyncio.to_thread(self._queue.extend, batch.token, lease_seconds=BATCH_LEASE_SECONDS)
        if extended is None:
            log.warning("lease of a batch expired: its %d items are served again", len(items))
            return False
        if rows:
            self.report.commits.append(await asyncio.to_thread(self._append_positions, rows))
        await asyncio.to_thread(self._acknowledge, batch, items, rows, found, downloads)
        return True

    def _append_positions(self, updates: list[PositionUpdate]) -> Commit:
        frame = position_rows(
            updates,
            spec=QUEUED_POSITIONS,
            trading_day=self._trading_day,
            source=UpdateSource.QUEUE,
            ingested_at=self._clock(),
            run_id=self._run_id,
        )
        return self._positions_table.append(frame, self._lineage(QUEUED_POSITIONS))

    def _acknowledge(
        self,
        batch: Batch,
        items: list[QueueItem],
        rows: list[PositionUpdate],
        found: Settlement,
        downloads: AccountDownloads,
    ) -> None:
        now = self._clock()
        for account in {key[0] for key in found.gone}:
            download = downloads.get(account)
            keys = [key for key in found.gone if key[0] == account]
            if download is not None:
                # As of the download: what was opened again since stays open.
                holdings_store.mark_closed(self._database, keys, closed_at=download.started_at)
        if found.unsettled:
            reason = "position feed and account download disagree"
            self._queue.mark_failed(batch.token, found.unsettled, reason)
            self.report.retried += len(found.unsettled)
        given_up = set(found.unsettled)
        done = [item.key for item in items if item.key not in given_up]
        refreshed_at = min((row.timestamp for row in rows), default=now)
        accepted = self._queue.mark_success(batch.token, done, refreshed_at)
        self.report.closed += len(found.gone)
        self.report.refreshed += len(accepted) - len(found.gone)

    async def _write_accounts(self, downloads: AccountDownloads, before: int) -> None:
        values = [download.values for download in downloads.taken[before:]]
        if not values:
            return
        frame = account_rows(
            values,
            spec=ACCOUNT_VALUES,
            trading_day=self._trading_day,
            source=UpdateSource.QUEUE,
            run_id=self._run_id,
            ingested_at=self._clock(),
        )
        commit = await asyncio.to_thread(self._accounts_table.append, frame, self._lineage(ACCOUNT_VALUES))
        self.report.account_commits.append(commit)

    def _lineage(self, spec: TableSpec) -> CommitLineage:
        return CommitLineage(
            asset=spec.name,
            source=UpdateSource.QUEUE.value,
            code_version=__version__,
            run_id=self._run_id,
            gateway=self._settings.ib_address,
        )
