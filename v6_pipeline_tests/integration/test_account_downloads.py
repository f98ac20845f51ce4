"""Account downloads of a worker: fresh enough, and one process at a time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from v6_pipeline.errors import AccountFeedError
from v6_pipeline.ib.account_feed import AccountDownload, AccountFeed
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.paper import AccountConflict, PaperGateway
from v6_pipeline.refresh.account_downloads import (
    FEED_LEASE,
    FRESH_FOR,
    LEASE_SECONDS,
    WAIT_SECONDS,
    AccountDownloads,
)
from v6_pipeline.state.account import downloads as account_downloads
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.named import NamedLease
from v6_pipeline_tests.integration.conftest import OpenConnection
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")

FIRST, SECOND = "SIM0000001", "SIM0000002"


@pytest.fixture
def downloads(connection: IBConnectionManager, database: StateDatabase, clock: ManualClock) -> AccountDownloads:
    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    return AccountDownloads(database, AccountFeed(connection, clock), owner="me", clock=clock, sleep=sleep)


@pytest.fixture
def others_lease(database: StateDatabase, clock: ManualClock) -> NamedLease:
    return NamedLease(database, FEED_LEASE, "other", ttl_seconds=300, clock=clock)


def taken(downloads: AccountDownloads) -> list[str]:
    return [download.account for download in downloads.completed]


async def test_each_account_that_is_needed_is_downloaded(downloads: AccountDownloads, clock: ManualClock) -> None:
    assert await downloads.ensure({SECOND: clock.now, FIRST: clock.now}) == {}

    assert taken(downloads) == [FIRST, SECOND]
    first = downloads.get(FIRST)
    assert first is not None
    assert first.account == FIRST
    assert downloads.get("SIM0000003") is None


async def test_a_download_serves_items_enqueued_before_it(downloads: AccountDownloads, clock: ManualClock) -> None:
    await downloads.ensure({FIRST: clock.now})
    clock.advance(FRESH_FOR.total_seconds())
    await downloads.ensure({FIRST: clock.now - FRESH_FOR})

    assert taken(downloads) == [FIRST]


async def test_an_item_enqueued_after_its_start_needs_another(downloads: AccountDownloads, clock: ManualClock) -> None:
    """A position may have changed after its row was sent."""
    await downloads.ensure({FIRST: clock.now})
    clock.advance(1)
    await downloads.ensure({FIRST: clock.now})

    assert taken(downloads) == [FIRST, FIRST]


async def test_an_old_download_is_renewed(downloads: AccountDownloads, clock: ManualClock) -> None:
    since = clock.now
    await downloads.ensure({FIRST: since})
    clock.advance(FRESH_FOR.total_seconds() + 1)
    await downloads.ensure({FIRST: since})

    assert taken(downloads) == [FIRST, FIRST]


async def test_the_lease_is_free_before_and_after(
    downloads: AccountDownloads, others_lease: NamedLease, clock: ManualClock
) -> None:
    await downloads.ensure({FIRST: clock.now})

    state = others_lease.read()
    assert (state.owner, state.epoch) == (None, 1)
    assert others_lease.acquire() is not None


async def test_the_lease_is_held_while_the_feed_is(
    connection: IBConnectionManager, database: StateDatabase, others_lease: NamedLease, clock: ManualClock
) -> None:
    holders: list[str | None] = []

    class WatchedFeed(AccountFeed):
        async def download(self, account: str) -> AccountDownload:
            holders.append(others_lease.read().owner)
            return await super().download(account)

    feed = WatchedFeed(connection, clock)
    await AccountDownloads(database, feed, owner="me", clock=clock).ensure({FIRST: clock.now, SECOND: clock.now})

    assert holders == ["me", "me"]


async def test_while_another_process_holds_the_feed_nothing_is_downloaded(
    downloads: AccountDownloads, others_lease: NamedLease, database: StateDatabase, clock: ManualClock
) -> None:
    others_lease.acquire()
    begun = clock.now

    failed = await downloads.ensure({FIRST: begun, SECOND: begun})

    assert failed.keys() == {FIRST, SECOND}
    assert isinstance(failed[FIRST], AccountFeedError)
    assert f"other has held it for {WAIT_SECONDS} s" in str(failed[FIRST])
    assert clock.now - begun == timedelta(seconds=WAIT_SECONDS)
    assert taken(downloads) == []
    assert others_lease.read().owner == "other"
    with database.read() as transaction:
        assert account_downloads.list_all(transaction) == (), "our own processes taking turns are no trouble"


async def test_a_lease_that_ends_during_the_wait_is_taken(
    downloads: AccountDownloads, database: StateDatabase, clock: ManualClock
) -> None:
    NamedLease(database, FEED_LEASE, "dead", ttl_seconds=30, clock=clock).acquire()

    assert await downloads.ensure({FIRST: clock.now}) == {}
    assert taken(downloads) == [FIRST]


async def test_one_failed_account_does_not_fail_the_others(
    downloads: AccountDownloads,
    open_connection: OpenConnection,
    gateway: PaperGateway,
    database: StateDatabase,
    others_lease: NamedLease,
    clock: ManualClock,
) -> None:
    gateway.account_faults.set_account_conflict(AccountConflict.REFUSE)
    other = await open_connection(2)
    client: object = other.ib.client
    client.reqAccountUpdates(True, SECOND)  # type: ignore[attr-defined]  # ib_async does not annotate it
    await other.round_trip()

    failed = await downloads.ensure({FIRST: clock.now, SECOND: clock.now})

    assert failed.keys() == {FIRST}
    assert "2101" in str(failed[FIRST])
    assert taken(downloads) == [SECOND]
    assert others_lease.read().owner is None
    with database.read() as transaction:
        [first, second] = account_downloads.list_all(transaction)
    assert (first.failures, first.failed_at, first.reason) == (1, clock.now, str(failed[FIRST]))
    assert (second.failures, second.completed_at) == (0, clock.now)


async def test_a_lease_lost_between_downloads_fails_the_remaining_accounts(
    connection: IBConnectionManager, database: StateDatabase, others_lease: NamedLease, clock: ManualClock
) -> None:
    """The process was suspended for longer than the lease, and another has the feed now."""

    class SlowFeed(AccountFeed):
        async def download(self, account: str) -> AccountDownload:
            done = await super().download(account)
            clock.advance(LEASE_SECONDS + 1)
            others_lease.acquire()
            return done

    downloads = AccountDownloads(database, SlowFeed(connection, clock), owner="me", clock=clock)

    failed = await downloads.ensure({FIRST: clock.now, SECOND: clock.now})

    assert failed.keys() == {SECOND}
    assert "other has it" in str(failed[SECOND])
    assert others_lease.read().owner == "other"


async def test_base_currency_and_rates_are_known_and_stored(
    downloads: AccountDownloads, database: StateDatabase, clock: ManualClock
) -> None:
    await downloads.ensure({FIRST: clock.now})

    base = downloads.base(FIRST)
    assert base is not None
    assert base.currency == "USD"
    assert downloads.base(SECOND) is None
    with database.read() as transaction:
        stored = account_downloads.list_rates(transaction)
    assert {(item.account, item.currency): item.rate for item in stored} == {
        (FIRST, "USD"): 1.0,
        (FIRST, "EUR"): base.rate("EUR"),
    }
    assert {(item.base_currency, item.observed_at) for item in stored} == {("USD", clock.now)}
