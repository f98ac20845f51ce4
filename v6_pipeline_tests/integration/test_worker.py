"""``QueueWorker`` against the paper gateway: what is valued, what is closed, what stays in the queue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import AccountFeedError, ClientIdInUseError, GatewayError, LakeError
from v6_pipeline.ib.account_feed import AccountDownload, AccountFeed
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.lake.commits import read_commits
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitKind
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS
from v6_pipeline.model import QueuePriority, SlotPurpose
from v6_pipeline.paper import AccountConflict, PaperGateway
from v6_pipeline.refresh.account_downloads import AccountDownloads
from v6_pipeline.refresh.quotes import BatchQuotes
from v6_pipeline.refresh.worker import QueueWorker, RefreshReport, RefreshScope
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import downloads
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.items import QueueState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import ManualClock

EVERYTHING = RefreshScope(everything=True)
THIRTY = timedelta(seconds=30)


class MovingClock(ManualClock):
    """Never returns the same instant twice, like a real one."""

    def __call__(self) -> datetime:
        return self.advance(0.000_001)


@dataclass
class Rig:
    """A worker's surroundings."""

    gateway: PaperGateway
    settings: Settings
    database: StateDatabase
    lake: Lake
    clock: ManualClock

    def worker(self, run_id: str = "run-1") -> QueueWorker:
        return QueueWorker(
            self.settings,
            self.database,
            self.lake,
            run_id=run_id,
            trading_day=TradingCalendar().trading_day,
            clock=self.clock,
            policy=ConnectionPolicy(messages_per_second=1_000, connect_timeout=5, request_timeout=5),
        )

    async def refresh(self, scope: RefreshScope = EVERYTHING, run_id: str = "run-1") -> RefreshReport:
        return await self.worker(run_id).run(scope)

    @property
    def queue(self) -> PositionQueue:
        return PositionQueue(self.database, self.clock)

    def rows(self, spec: Any = QUEUED_POSITIONS) -> pl.DataFrame:
        handle = self.lake.table(spec).load()
        assert handle is not None
        return pl.scan_delta(handle).sort("timestamp").collect()

    def is_held(self, account: str, conid: int) -> bool:
        return any((item.account, item.conid) == (account, conid) for item in self.gateway.book.held())

    def open_holdings(self) -> set[tuple[str, int]]:
        with self.database.read() as connection:
            return {item.key for item in holdings_store.list_open(connection)}


@pytest.fixture
def rig(gateway: PaperGateway, settings: Settings, database: StateDatabase, lake: Lake, clock: ManualClock) -> Rig:
    return Rig(gateway, settings, database, lake, clock)


async def test_every_holding_gets_one_row_with_ibs_own_figures(rig: Rig) -> None:
    report = await rig.refresh()

    held = rig.gateway.book.held()
    rows = {(row["account"], row["conid"]): row for row in rig.rows().to_dicts()}
    assert (report.held, report.refreshed, len(rows)) == (60, 60, 60)
    for holding in held:
        row = rows[holding.account, holding.conid]
        sent = rig.gateway.statistics.last_portfolio[holding.account, holding.conid]
        assert row["position"] == holding.quantity
        assert row["market_value"] == pytest.approx(sent["market_value"])
        assert row["unrealized_pnl"] == pytest.approx(sent["unrealized_pnl"])
        assert (row["price_source"], row["source"], row["run_id"]) == ("portfolio", "queue", "run-1")
    assert rig.queue.stats().pending == 0


async def test_options_get_their_greeks_through_free_lines_only(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"market_data_lines": 15, "reserved_lines": 5, "batch_lines": 5})
    streamed = next(iter(rig.gateway.book.held())).conid
    StepLedger(rig.database, ceiling=10, batch_floor=5, clock=rig.clock).acquire(
        [streamed], holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=600
    )

    await rig.refresh()

    options = rig.rows().filter(pl.col("sec_type") == "OPT")
    assert options.get_column("delta").null_count() == 0
    assert rig.gateway.statistics.peak_lines <= 9
    assert rig.gateway.statistics.lines == 0
    assert rig.gateway.statistics.errors[300] == 0


async def test_streamed_holdings_are_left_to_the_stream(rig: Rig) -> None:
    conid = rig.gateway.book.held()[0].conid
    StepLedger(rig.database, ceiling=90, batch_floor=10, clock=rig.clock).acquire(
        [conid], holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=600
    )

    await rig.refresh()

    assert conid not in rig.rows().get_column("conid").to_list()


async def test_only_due_holdings_are_refreshed_unless_everything_is_requested(rig: Rig) -> None:
    await rig.refresh()
    rig.clock.advance(rig.settings.refresh_seconds - 61)
    early = await rig.refresh(RefreshScope(interval_seconds=60))
    rig.clock.advance(1)
    due = await rig.refresh(RefreshScope(interval_seconds=60))

    assert (early.rows, due.rows) == (0, 60)


async def test_the_depth_at_the_start_counts_queued_and_newly_enqueued_items(rig: Rig) -> None:
    """After the drain it would always be 0."""
    await rig.refresh()
    first, second = list(rig.open_holdings())[:2]
    rig.queue.insert_many([(*key, "X", QueuePriority.NORMAL) for key in (first, second)])
    again = await rig.refresh(RefreshScope(interval_seconds=60))
    rig.queue.insert(first[1], "X", account=first[0])
    everything = await rig.refresh()

    assert (again.queue_depth_at_start, again.enqueued) == (2, 0)
    assert everything.queue_depth_at_start == 60, "what was queued already counts once"
    assert rig.queue.stats().pending == 0


async def test_account_figures_and_rates_come_with_the_same_download(rig: Rig) -> None:
    await rig.refresh()

    accounts = {row["account"]: row for row in rig.rows(ACCOUNT_VALUES).to_dicts()}
    assert set(accounts) == {"SIM0000001", "SIM0000002"}
    for account, row in accounts.items():
        sent = {value.tag: value for value in rig.gateway.book.account_values(account) if value.currency == "USD"}
        assert row["base_currency"] == "USD"
        assert row["net_liquidation"] == pytest.approx(float(sent["NetLiquidation"].value))
        assert row["daily_pnl"] is not None
    with rig.database.read() as connection:
        assert {rate.currency for rate in downloads.list_rates(connection)} == {"USD", "EUR"}
    assert rig.rows().filter(pl.col("currency") == "EUR").get_column("fx_rate_to_base").null_count() == 0


async def test_accounts_of_which_everything_streams_are_downloaded_as_often(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their values, and the exchange rates on the stream's rows, would stay what they were for ever."""
    download, asked = AccountFeed.download, list[str]()

    async def noted(self: AccountFeed, account: str) -> AccountDownload:
        asked.append(account)
        return await download(self, account)

    monkeypatch.setattr(AccountFeed, "download", noted)
    both = ["SIM0000001", "SIM0000002"]
    ledger = StepLedger(rig.database, ceiling=90, batch_floor=1, unconfirmed_lines=90, clock=rig.clock)
    conids = {item.conid for item in rig.gateway.book.held()}
    granted = ledger.acquire(conids, holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=6000).granted
    assert set(granted) == conids

    first = await rig.refresh()
    again = await rig.refresh()
    rig.clock.advance(rig.settings.refresh_seconds)
    later = await rig.refresh()

    assert asked == both * 2
    assert (first.rows, len(first.account_commits), again.account_commits, len(later.account_commits)) == (0, 1, [], 1)
    assert rig.rows(ACCOUNT_VALUES).get_column("account").to_list() == both * 2
    with rig.database.read() as connection:
        assert {rate.observed_at for rate in downloads.list_rates(connection)} == {rig.clock.now}


async def test_an_account_of_which_everything_streams_and_that_cannot_be_downloaded_fails_the_run(rig: Rig) -> None:
    ledger = StepLedger(rig.database, ceiling=90, batch_floor=1, unconfirmed_lines=90, clock=rig.clock)
    ledger.acquire(
        {item.conid for item in rig.gateway.book.held()},
        holder="streamer",
        purpose=SlotPurpose.STREAM,
        ttl_seconds=6000,
    )
    rig.gateway.perform("refuse_account_feed")

    with pytest.raises(AccountFeedError, match=r"^0 items stay in the queue: account feed of SIM0000001: 2101"):
        await rig.refresh()

    assert rig.rows(ACCOUNT_VALUES).get_column("account").to_list() == ["SIM0000002"]


async def test_each_batch_is_one_commit_that_names_the_run(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"queue_batch": 25})

    report = await rig.refresh(run_id="run-7")

    commits = [item for item in read_commits(rig.lake.table(QUEUED_POSITIONS), -1, 100) if item.kind is CommitKind.DATA]
    assert [commit.rows for commit in commits] == [25, 25, 10]
    assert {commit.run_id for commit in commits} == {"run-7"}
    accounts = read_commits(rig.lake.table(ACCOUNT_VALUES), 0, 100)
    assert {commit.gateway for commit in (*commits, *accounts)} == {rig.settings.ib_address}
    assert [commit.version for commit in report.commits] == [commit.version for commit in commits]
    # The account was downloaded once for all three batches.
    assert rig.rows(ACCOUNT_VALUES).height == 2


async def test_a_position_that_both_feeds_leave_out_is_closed_with_a_last_row(rig: Rig) -> None:
    await rig.refresh()
    closed = rig.gateway.book.held()[0]
    rig.gateway.account_faults.close_position(closed.account, closed.conid)
    rig.clock.advance(60)

    report = await rig.refresh()

    assert report.closed == 1
    key = (closed.account, closed.conid)
    assert key not in rig.open_holdings()
    last = rig.rows().filter((pl.col("account") == key[0]) & (pl.col("conid") == key[1])).to_dicts()[-1]
    assert (last["position"], last["market_value"]) == (0, 0)
    # The feed still lists what was closed today, with its realized profit.
    assert last["realized_pnl"] is not None
    rig.clock.advance(600)
    assert key not in {item.key for item in rig.queue.items()}
    assert (await rig.refresh()).closed == 0


async def test_an_expired_contract_is_refreshed_while_it_is_held_and_then_closed(rig: Rig) -> None:
    """IB has no definition of the contract any more, and lists the position until settlement."""
    await rig.refresh()
    contracts = rig.gateway.universe.contracts
    expired = next(item for item in rig.gateway.book.held() if contracts[item.conid].sec_type == "OPT")
    is_its = (pl.col("account") == expired.account) & (pl.col("conid") == expired.conid)
    rig.gateway.perform("expire", conids=[expired.conid])
    rig.clock.advance(60)
    rig.queue.insert(expired.conid, "asked", account=expired.account)

    held = await rig.refresh(RefreshScope())

    before, after = rig.rows().filter(is_its).to_dicts()
    assert (held.refreshed, held.closed) == (1, 0)
    assert after["timestamp"] > before["timestamp"]
    assert after["position"] == expired.quantity
    assert after["market_value"] is not None

    rig.gateway.account_faults.close_position(expired.account, expired.conid)
    rig.clock.advance(60)
    rig.queue.insert(expired.conid, "asked", account=expired.account)
    settled = await rig.refresh(RefreshScope())

    last = rig.rows().filter(is_its).to_dicts()[-1]
    assert (settled.closed, last["position"], last["market_value"]) == (1, 0, 0)
    assert (expired.account, expired.conid) not in rig.open_holdings()
    assert rig.queue.stats().pending == 0
    assert not rig.queue.items(QueueState.DEAD)


async def test_an_item_that_was_never_held_leaves_the_queue_without_a_row(rig: Rig) -> None:
    rig.queue.insert(424242, "GHOST", QueuePriority.NORMAL, account="SIM0000001")

    await rig.refresh()

    assert 424242 not in rig.rows().get_column("conid").to_list()
    assert rig.queue.stats().pending == 0


async def test_an_evicted_account_download_closes_nothing_and_its_items_are_served_again(rig: Rig) -> None:
    await rig.refresh()
    before = rig.open_holdings()
    other = IBConnectionManager(host="127.0.0.1", port=rig.gateway.port, client_id=7)
    await other.connect()
    other.ib.client.reqAccountUpdates(True, "SIM0000001")  # type: ignore[no-untyped-call]
    rig.gateway.account_faults.set_account_conflict(AccountConflict.REFUSE)
    rig.clock.advance(600)

    with pytest.raises(AccountFeedError, match=r"items stay in the queue: account feed of SIM0000002: 2101"):
        await rig.refresh()

    assert rig.open_holdings() == before
    waiting = rig.queue.items(QueueState.WAITING)
    assert {item.account for item in waiting} == {"SIM0000002"}
    assert {item.attempts for item in waiting} == {0}
    await other.close()
    rig.clock.advance(60)
    await rig.refresh()
    assert rig.queue.stats().pending == 0


async def test_an_account_that_is_slow_to_fail_is_tried_once_and_the_others_are_served(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run went on for ever with items that were open again before the next time-out ended."""
    rig.settings = rig.settings.model_copy(update={"queue_batch": 5})
    download = AccountFeed.download
    tried: list[str] = []

    async def slow_to_fail(self: AccountFeed, account: str) -> AccountDownload:
        tried.append(account)
        if account == "SIM0000001":
            assert len(tried) < 4, "the run does not end"
            rig.clock.advance(60)
            rig.gateway.perform("refuse_account_feed")
        return await download(self, account)

    monkeypatch.setattr(AccountFeed, "download", slow_to_fail)

    with pytest.raises(AccountFeedError) as raised:
        await rig.refresh()

    left = rig.queue.items()
    assert tried == ["SIM0000001", "SIM0000002"]
    assert {(row["account"], row["conid"]) for row in rig.rows().to_dicts()} == {
        key for key in rig.open_holdings() if key[0] == "SIM0000002"
    }
    assert {item.key for item in left} == {key for key in rig.open_holdings() if key[0] == "SIM0000001"}
    assert {item.attempts for item in left} == {0}
    assert str(raised.value).startswith(f"{len(left)} items stay in the queue: account feed of SIM0000001: 2101")


async def test_a_client_id_in_use_at_the_gateway_is_skipped(rig: Rig) -> None:
    other = IBConnectionManager(host="127.0.0.1", port=rig.gateway.port, client_id=61)
    await other.connect()
    try:
        await rig.refresh()
    finally:
        await other.close()

    assert rig.gateway.statistics.connections[62] == 1
    assert rig.gateway.statistics.errors[326] == 1


async def test_when_all_client_ids_are_taken_one_line_says_so(rig: Rig) -> None:
    others = [
        IBConnectionManager(host="127.0.0.1", port=rig.gateway.port, client_id=client_id)
        for client_id in rig.settings.run_client_ids
    ]
    await asyncio.gather(*(other.connect() for other in others))
    try:
        with pytest.raises(ClientIdInUseError, match=r"client ids 61 to 75 of 127\.0\.0\.1:\d+ are all in use"):
            await rig.refresh()
    finally:
        await asyncio.gather(*(other.close() for other in others))


async def test_without_a_gateway_nothing_is_written_and_nothing_lost(rig: Rig) -> None:
    rig.queue.insert(265598, "AAPL", account="SIM0000001")
    await rig.gateway.stop()

    with pytest.raises(GatewayError, match="no gateway at"):
        await rig.refresh()

    assert rig.queue.stats().open == 1
    assert rig.lake.table(QUEUED_POSITIONS).load() is None or rig.rows().height == 0


async def test_a_lake_that_cannot_be_written_is_reported_before_any_request(rig: Rig) -> None:
    (rig.settings.home / "lake").write_text("not a folder")

    with pytest.raises(LakeError):
        await rig.refresh()

    assert rig.gateway.statistics.connections == {}


async def test_a_connection_lost_in_the_middle_leaves_the_rest_in_the_queue(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"queue_batch": 20})
    worker = rig.worker()
    append = worker._writer.append_positions
    loop = asyncio.get_running_loop()

    def then_the_gateway_goes(updates: Any) -> Any:
        commit = append(updates)
        for session in list(rig.gateway._open):
            loop.call_soon_threadsafe(session.abort)
        return commit

    worker._writer.append_positions = then_the_gateway_goes  # type: ignore[method-assign]

    with pytest.raises(GatewayError):
        await worker.run(EVERYTHING)

    done = {(row["account"], row["conid"]) for row in rig.rows().to_dicts()}
    assert len(done) == 20
    # Its leased items are given back at once, before the lease ends.
    assert list(rig.queue.items(QueueState.LEASED)) == []
    rig.clock.advance(0.001)
    served = rig.queue.get_batch(100, lease_seconds=30).items
    assert {item.key for item in served} == rig.open_holdings() - done
    assert {item.attempts for item in served} == {0}
    assert rig.gateway.statistics.lines == 0


async def test_two_workers_at_once_share_the_queue_and_take_turns_with_the_feed(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"queue_batch": 10})
    rig.clock = MovingClock()

    first, second = await asyncio.gather(rig.refresh(run_id="a"), rig.refresh(run_id="b"))

    rows = rig.rows()
    assert first.refreshed + second.refreshed == rows.height
    assert rows.select("account", "conid", "timestamp").is_unique().all()
    assert {tuple(key) for key in rows.select("account", "conid").iter_rows()} == rig.open_holdings()
    assert rig.gateway.statistics.errors[2100] == 0
    assert rig.gateway.statistics.peak_lines <= 90


async def test_a_queued_row_names_the_strategies_of_a_contract_that_found_no_line(rig: Rig) -> None:
    conid = rig.gateway.book.held()[0].conid
    StrategyRegistry(rig.database, rig.clock).add_active("condors", [conid])

    await rig.refresh()

    named = rig.rows().filter(pl.col("conid") == conid).get_column("strategy_ids").to_list()
    assert named[0] == ["condors"]


async def test_items_of_an_unmanaged_account_become_dead_letters_and_fail_no_run(rig: Rig) -> None:
    await rig.refresh()
    rig.settings = rig.settings.model_copy(update={"ib_accounts": ("SIM0000002",)})
    rejected = {key for key in rig.open_holdings() if key[0] == "SIM0000001"}

    for _ in range(6):
        rig.clock.advance(600)
        await rig.refresh(RefreshScope())

    assert {item.key for item in rig.queue.items(QueueState.DEAD)} == rejected
    assert rig.queue.stats().pending == 0
    assert rig.rows().filter(pl.col("account") == "SIM0000001").height == len(rejected)


async def test_a_batch_that_takes_longer_than_its_lease_keeps_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("v6_pipeline.refresh.worker.BATCH_LEASE_SECONDS", 30)
    ensure = AccountDownloads.ensure

    async def slowly(self: AccountDownloads, needed: dict[str, datetime]) -> dict[str, AccountFeedError]:
        for _ in range(4):  # longer than the lease, in steps in which the keeper comes to its turn
            rig.clock.advance(20)
            await eventually(lambda: rig.queue.items(QueueState.LEASED)[0].leased_until == rig.clock.now + THIRTY)
        return await ensure(self, needed)

    monkeypatch.setattr(AccountDownloads, "ensure", slowly)
    monkeypatch.setattr("v6_pipeline.refresh.worker.RENEW_BATCH_EVERY_SECONDS", 0.01)

    assert (await rig.refresh()).refreshed == 60


async def test_an_active_holding_without_a_line_is_due_at_priority_1(rig: Rig) -> None:
    holding = rig.gateway.book.held()[0]
    StrategyRegistry(rig.database, rig.clock).add_active("s", [holding.conid], account=holding.account)
    await rig.refresh()
    rig.clock.advance(600)
    worker = rig.worker()
    worker._registry.initialize()

    worker._enqueue(RefreshScope())

    priorities = {item.key: item.priority for item in rig.queue.items()}
    assert priorities.pop((holding.account, holding.conid)) == QueuePriority.OVERFLOW
    assert set(priorities.values()) == {QueuePriority.NORMAL}


async def test_a_position_opened_again_while_quotes_come_in_is_not_closed(rig: Rig) -> None:
    await rig.refresh()
    closed = rig.gateway.book.held()[0]
    rig.gateway.account_faults.close_position(closed.account, closed.conid)
    rig.clock.advance(60)
    worker = rig.worker()
    collect = BatchQuotes.collect

    async def reopened_during_quotes(self: BatchQuotes, contracts: Any) -> Any:
        quotes = await collect(self, contracts)
        if not rig.is_held(closed.account, closed.conid):
            rig.gateway.account_faults.open_position(closed.account, closed.conid, 3)
        await eventually(lambda: (closed.account, closed.conid) in worker._messages)
        return quotes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchQuotes, "collect", reopened_during_quotes)
        report = await worker.run(EVERYTHING)

    assert report.closed == 0
    assert (closed.account, closed.conid) in rig.open_holdings()
    rows = rig.rows().filter((pl.col("account") == closed.account) & (pl.col("conid") == closed.conid))
    assert 0 not in rows.get_column("position").to_list()


async def test_an_account_that_is_not_selected_is_neither_read_nor_written(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"ib_accounts": ("SIM0000002",)})

    await rig.refresh()

    assert set(rig.rows().get_column("account")) == {"SIM0000002"}
    assert set(rig.rows(ACCOUNT_VALUES).get_column("account")) == {"SIM0000002"}
