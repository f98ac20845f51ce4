"""Account downloads of one worker, fresh enough for each batch, by one process at a time.

IB serves the account feed to one managed account at a time over all clients, so a worker downloads under a lease in the
state database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from v6_pipeline.errors import AccountFeedError, FencedError
from v6_pipeline.ib.account_feed import AccountDownload, AccountFeed, PortfolioValue
from v6_pipeline.ib.valuation import learned_units
from v6_pipeline.model import BaseCurrency
from v6_pipeline.state.account import contracts
from v6_pipeline.state.account import downloads as records
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.leases.named import NamedLease

log = logging.getLogger(__name__)

FEED_LEASE = "account_feed"
LEASE_SECONDS = 90
"""Longer than the download of one account may take; the lease is renewed before each download."""
FRESH_FOR = timedelta(seconds=60)
"""How long a download serves batches; IB updates portfolio values every three minutes."""
WAIT_SECONDS = 60


class AccountDownloads:
    """Downloads accounts when a batch needs them, and keeps the newest of each. ``owner`` is unique to this worker."""

    def __init__(
        self,
        database: StateDatabase,
        feed: AccountFeed,
        *,
        owner: str,
        clock: Clock,
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
        """Download each account that has no fresh download begun since the given instant; return what failed.

        Args:
            needed: account -> time at which its newest item was enqueued; a download begun earlier is too old for it.
        """
        stale = [account for account, since in sorted(needed.items()) if not self._is_fresh(account, since)]
        if not stale:
            return {}
        try:
            await self._take_lease()
        except AccountFeedError as error:
            return dict.fromkeys(stale, error)  # another process holds the lease: the feed is not at fault
        failed: dict[str, AccountFeedError] = {}
        try:
            for account in stale:
                try:
                    await ask(self._lease.renew)
                    await self._download(account)
                except FencedError as error:  # this process was suspended for longer than the lease
                    failed[account] = AccountFeedError(f"account feed: {error}")
                except AccountFeedError as error:
                    log.warning("%s", error)
                    failed[account] = error
                    await ask(self._save_failure, account, str(error))
        finally:
            await asyncio.shield(ask(self._lease.release))
        return failed

    def get(self, account: str) -> AccountDownload | None:
        """Return the newest download of an account, if any."""
        return self._newest.get(account)

    def base(self, account: str) -> BaseCurrency | None:
        """Return the account's base currency and rates from its newest download, if any."""
        download = self._newest.get(account)
        return None if download is None else BaseCurrency(download.values.base_currency, download.values.exchange_rates)

    def _is_fresh(self, account: str, since: datetime) -> bool:
        download = self._newest.get(account)
        return (
            download is not None and download.started_at >= since and self._clock() - download.completed_at <= FRESH_FOR
        )

    async def _take_lease(self) -> None:
        for _ in range(WAIT_SECONDS):
            if await ask(self._lease.acquire) is not None:
                return
            await self._sleep(1)
        holder = (await ask(self._lease.read)).owner
        raise AccountFeedError(f"account feed: {holder} has held it for {WAIT_SECONDS} s; the next run tries again")

    async def _download(self, account: str) -> None:
        download = await self._feed.download(account)
        self._newest[account] = download
        self.completed.append(download)
        await ask(self._save, download)

    def _save_failure(self, account: str, reason: str) -> None:
        records.failed(self._database, account, at=self._clock(), reason=reason)

    def _save(self, download: AccountDownload) -> None:
        records.save(
            self._database,
            download.account,
            completed_at=download.completed_at,
            base_currency=download.values.base_currency,
            rates=download.values.exchange_rates,
        )
        learn_units(self._database, download.portfolio.values())


def learn_units(database: StateDatabase, portfolio: Iterable[PortfolioValue]) -> None:
    """Learn from IB's own figures what a unit of each position is worth, where the contract's definition is cached.

    Without its definition the price magnifier is unknown, and a price in pence would look like another unit.
    """
    rows = {value.contract.conid: value for value in portfolio if value.position}
    cached = contracts.get(database, rows)
    units = learned_units(
        (cached[conid].spec, value.position, value.market_price, value.market_value)
        for conid, value in rows.items()
        if conid in cached and cached[conid].qualified_at is not None
    )
    contracts.learn_units(database, units)
