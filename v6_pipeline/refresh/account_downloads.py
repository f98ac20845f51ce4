"""Account downloads of one worker: fresh enough for a batch, one process at a time.

IB serves the account feed to one managed account at a time over all clients, so it is a lease in the state database
like a line: taken, read account by account, given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from v6_pipeline.errors import AccountFeedError, FencedError
from v6_pipeline.ib.account_feed import AccountDownload, AccountFeed
from v6_pipeline.model import BaseCurrency
from v6_pipeline.state.account import downloads as records
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.named import NamedLease

log = logging.getLogger(__name__)

FEED_LEASE = "account_feed"
LEASE_SECONDS = 90
"""Longer than one account's download may take; renewed before each."""
FRESH_FOR = timedelta(seconds=60)
"""A download serves batches for that long: IB's own portfolio values move every three minutes."""
WAIT_SECONDS = 60


class AccountDownloads:
    """Downloads accounts when a batch needs them, and keeps the newest of each.

    Args:
        database: state.
        feed: of the worker's connection.
        owner: unique to this worker.
        clock: UTC now.
        sleep: how to wait for a lease that another holds.
    """

    def __init__(
        self,
        database: StateDatabase,
        feed: AccountFeed,
        *,
        owner: str,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._feed = feed
        self._lease = NamedLease(database, FEED_LEASE, owner, ttl_seconds=LEASE_SECONDS, clock=clock)
        self._clock = clock
        self._sleep = sleep
        self._newest: dict[str, AccountDownload] = {}
        self.completed: list[AccountDownload] = []
        """Every completed download, oldest first."""

    async def ensure(self, needed: dict[str, datetime]) -> dict[str, AccountFeedError]:
        """Have a download of each account that began after the instant needed and is not old; returns what failed.

        Args:
            needed: account -> its items were asked for at that time, so an older observation does not answer them.
        """
        stale = [account for account, since in sorted(needed.items()) if not self._serves(account, since)]
        if not stale:
            return {}
        try:
            await self._take_lease()
        except AccountFeedError as error:
            return dict.fromkeys(stale, error)  # another of our own processes has it: nothing is wrong with the feed
        failed: dict[str, AccountFeedError] = {}
        try:
            for account in stale:
                try:
                    await asyncio.to_thread(self._lease.renew)
                    await self._download(account)
                except FencedError as error:  # this process stood still for longer than the lease
                    failed[account] = AccountFeedError(f"account feed: {error}")
                except AccountFeedError as error:
                    log.warning("%s", error)
                    failed[account] = error
                    await asyncio.to_thread(self._note_failure, account, str(error))
        finally:
            await asyncio.shield(asyncio.to_thread(self._lease.release))
        return failed

    def get(self, account: str) -> AccountDownload | None:
        """The newest download of an account."""
        return self._newest.get(account)

    def base(self, account: str) -> BaseCurrency | None:
        """The account's base currency and rates by its newest download."""
        download = self._newest.get(account)
        return None if download is None else BaseCurrency(download.values.base_currency, download.values.exchange_rates)

    def _serves(self, account: str, since: datetime) -> bool:
        download = self._newest.get(account)
        return (
            download is not None and download.started_at >= since and self._clock() - download.completed_at <= FRESH_FOR
        )

    async def _take_lease(self) -> None:
        for _ in range(WAIT_SECONDS):
            if await asyncio.to_thread(self._lease.acquire) is not None:
                return
            await self._sleep(1)
        holder = (await asyncio.to_thread(self._lease.read)).owner
        raise AccountFeedError(f"account feed: {holder} has held it for {WAIT_SECONDS} s; it is tried again later")

    async def _download(self, account: str) -> None:
        download = await self._feed.download(account)
        self._newest[account] = download
        self.completed.append(download)
        await asyncio.to_thread(self._save, download)

    def _note_failure(self, account: str, reason: str) -> None:
        records.failed(self._database, account, at=self._clock(), reason=reason)

    def _save(self, download: AccountDownload) -> None:
        records.save(
            self._database,
            download.account,
            completed_at=download.completed_at,
            base_currency=download.values.base_currency,
            rates=download.values.exchange_rates,
        )
