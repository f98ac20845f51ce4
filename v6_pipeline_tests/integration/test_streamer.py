"""``IBPositionStreamer`` against the paper gateway, in one loop: routing goes on while the account changes."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from v6_pipeline.errors import FencedError, GatewayError, StateError
from v6_pipeline.state.account import downloads
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import GrantedBy, StreamerLease
from v6_pipeline.state.queue.items import QueueState
from v6_pipeline.state.slots.ceiling import PROBE_AFTER
from v6_pipeline.streamer import Authority, stream
from v6_pipeline.streaming.policy import ROUTE_AT_LEAST_EVERY
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.integration.streamer_rig import Rig, one_account_holding

pytestmark = pytest.mark.usefixtures("quick_flush")


async def test_a_contract_activated_while_running_is_streamed_and_deactivated_is_queued(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    async with rig.streaming():
        await eventually(lambda: (account, conid) in rig.queued())

        rig.registry.add_active("s", [conid])
        await eventually(lambda: rig.subscribed() == {conid: 1}, "subscribed")
        assert rig.lines() == {conid}
        await eventually(lambda: rig.rows(conid), "a row")

        rig.queue.purge(QueueState.OPEN)
        rig.registry.remove_active("s", [conid])
        await eventually(lambda: rig.subscribed() == {}, "cancelled")
        await eventually(lambda: rig.queued() == {(account, conid): 2}, "queued")
        assert rig.lines() == set()


async def test_a_position_opened_while_running_is_routed_by_its_selector(rig: Rig) -> None:
    rig.registry.add_selector("all-of-it", "symbol=IBM")
    contracts = rig.gateway.universe.contracts.values()
    opened = next(item for item in contracts if item.sec_type == "STK" and item.conid not in rig.held())
    rig.registry.add_selector("rolls", f"symbol={opened.symbol},sec_type=STK")
    async with rig.streaming():
        assert rig.subscribed() == {}

        rig.gateway.account_faults.open_position("SIM0000001", opened.conid, 5)

        await eventually(lambda: rig.subscribed() == {opened.conid: 1}, "subscribed")
        await eventually(lambda: rig.rows(opened.conid), "a row")
        assert rig.rows(opened.conid)[-1]["strategy_ids"] == ["rolls"]


async def test_a_position_that_changes_gets_a_row_at_once_though_nothing_ticks(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    rig.registry.add_active("s", [conid])
    async with rig.streaming():
        await eventually(lambda: rig.rows(conid) and rig.rows(conid)[-1]["price_time"], "a row with a price")
        priced_at = rig.rows(conid)[-1]["price_time"]
        rig.clock.advance(5)

        rig.gateway.account_faults.resize_position(account, conid, 77)

        await eventually(lambda: rig.rows(conid)[-1]["position"] == 77, "the new size")
        assert rig.rows(conid)[-1]["price_time"] == priced_at
        await eventually(lambda: rig.queued().get((account, conid)) == 0, "what it realized is asked of the account")


async def test_a_streamed_position_that_closes_gets_a_last_row_gives_its_line_back_and_is_verified(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    rig.registry.add_active("s", [conid])
    async with rig.streaming():
        await eventually(lambda: rig.subscribed() == {conid: 1})
        await eventually(lambda: rig.rows(conid))

        rig.clock.advance(1)
        rig.gateway.account_faults.close_position(account, conid)

        await eventually(lambda: rig.subscribed() == {}, "cancelled")
        await eventually(lambda: rig.rows(conid)[-1]["position"] == 0, "the closing row")
        assert rig.rows(conid)[-1]["market_value"] == 0
        await eventually(lambda: rig.queued().get((account, conid)) == 0, "queued for verification")
        await eventually(lambda: rig.lines() == set(), "the line is given back")


async def test_a_queued_position_that_changes_is_refreshed_first(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    async with rig.streaming():
        await eventually(lambda: rig.queued().get((account, conid)) == 2)

        rig.gateway.account_faults.resize_position(account, conid, 9)

        await eventually(lambda: rig.queued()[account, conid] == 0, "at the head of the queue")


async def test_the_last_row_has_the_last_values_delivered(rig: Rig) -> None:
    conid = next(item for item in rig.held() if rig.gateway.universe.contracts[item].sec_type == "OPT")
    rig.registry.add_active("s", [conid])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {conid: 1})
        for _ in range(5):
            rig.clock.advance(1)
            rig.gateway.tick_once()
            await eventually(lambda: streamer.status().last_tick_at == rig.clock.now)
        sent = rig.gateway.statistics.last_values[conid]
        await eventually(
            lambda: [row["bid"] for row in rig.rows(conid)[-1:]] == [pytest.approx(sent["bid"])], "the last bid"
        )
    last = rig.rows(conid)[-1]
    for name in ("ask", "last", "close", "delta", "gamma", "vega", "theta", "implied_vol", "underlying_price"):
        assert last[name] == pytest.approx(sent[name]), name
    assert (last["market_price"], last["price_source"]) == (pytest.approx(sent["mark"]), "mark")
    held = next(item for item in rig.gateway.book.held() if item.conid == conid)
    assert last["market_value"] == pytest.approx(held.quantity * sent["mark"] * 100)
    assert last["market_data_type"] == 1


async def test_a_contract_without_ticks_gets_a_row_every_refresh_interval(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"refresh_seconds": 60})
    _, conid = one_account_holding(rig)
    rig.registry.add_active("s", [conid])
    async with rig.streaming():
        await eventually(lambda: rig.rows(conid) and rig.rows(conid)[-1]["price_time"])
        first = rig.rows(conid)[-1]
        rig.gateway.contract_faults.quiet()

        for seconds in (30, 31):  # in steps, for a line that is not renewed within a minute is lost
            renewed_until = rig.clock.advance(seconds)
            await eventually(partial(rig.slots_last, renewed_until), "the line renewed")

        await eventually(lambda: rig.rows(conid)[-1]["timestamp"] > first["timestamp"], "a row of the silent contract")
        assert rig.rows(conid)[-1]["price_time"] == first["price_time"]


async def test_a_subscribed_contract_that_has_no_price_is_valued_by_the_queue(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"refresh_seconds": 60})
    account, conid = one_account_holding(rig)
    rig.gateway.contract_faults.quiet()
    rig.registry.add_active("s", [conid])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {conid: 1})
        await eventually(lambda: rig.rows(conid), "a row without a price")
        looks = streamer.upkeeps
        await eventually(lambda: streamer.upkeeps >= looks + 2, "seen without a price")

        for seconds in (30, 31):
            renewed_until = rig.clock.advance(seconds)
            await eventually(partial(rig.slots_last, renewed_until), "the line renewed")

        await eventually(lambda: rig.queued().get((account, conid)) == 1, "queued at priority 1")
        assert rig.rows(conid)[-1]["market_price"] is None


async def test_a_contract_without_market_data_is_queued_at_priority_1_and_holds_no_line(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    rig.gateway.contract_faults.deny([conid])
    rig.registry.add_active("s", [conid])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.queued().get((account, conid)) == 1, "queued at priority 1")
        assert rig.lines() == set()
        assert streamer.status().refused[conid].startswith("354")
        assert rig.gateway.statistics.subscriptions_total[conid] == 0


async def test_lines_that_tws_holds_are_not_asked_for_again_at_once(rig: Rig) -> None:
    conids = rig.held()[:5]
    rig.gateway.contract_faults.set_lines(3)
    rig.registry.add_active("s", conids)
    async with rig.streaming():
        await eventually(lambda: rig.gateway.statistics.errors[101] >= 1, "a refusal")
        # Of the three lines that there are, one is left to batches.
        await eventually(lambda: len(rig.lines()) == len(rig.subscribed()) == 2)
        refused = rig.gateway.statistics.errors[101]
        assert refused <= 2, "two requests are on their way at most before the first answer"
        rig.clock.advance(ROUTE_AT_LEAST_EVERY.total_seconds())
        await eventually(lambda: {key[1] for key, priority in rig.queued().items() if priority == 1} >= set(conids[2:]))
        assert len(rig.lines()) == 2
        assert rig.gateway.statistics.errors[101] == refused

        rig.gateway.contract_faults.set_lines(100)
        rig.clock.advance(PROBE_AFTER[0].total_seconds())
        await eventually(lambda: len(rig.subscribed()) == 5, "all five once one more was tried")


async def test_more_active_contracts_than_lines_queue_the_least_important_at_priority_1(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"market_data_lines": 23, "reserved_lines": 10, "batch_lines": 10})
    first, second, third, fourth = rig.held()[:4]
    rig.registry.add_active("important", [third, fourth, second], priority=1)
    rig.registry.add_active("unimportant", [first], priority=9)
    async with rig.streaming() as streamer:
        await eventually(lambda: set(rig.subscribed()) == {second, third, fourth})
        await eventually(lambda: {key[1] for key, priority in rig.queued().items() if priority == 1} == {first})
        status = streamer.status()
        assert (status.overflow_contracts, status.overflow_sample) == (1, (first,))


async def test_positions_missing_after_a_reconnect_are_verified_and_not_closed(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    rig.registry.add_active("s", [conid])
    async with rig.streaming():
        await eventually(lambda: rig.subscribed() == {conid: 1})
    rig.gateway.account_faults.close_position(account, conid)
    rig.clock.advance(10)

    async with rig.streaming(epoch=2):
        await eventually(lambda: rig.queued().get((account, conid)) == 0, "queued for verification")
        with rig.database.read() as connection:
            assert (account, conid) in {item.key for item in holdings_store.list_open(connection)}
        assert rig.subscribed() == {}


async def test_a_lost_connection_is_made_again_and_everything_streams_once(rig: Rig) -> None:
    conids = rig.held()[:4]
    rig.registry.add_active("s", conids)
    async with rig.streaming() as streamer:
        await eventually(lambda: len(rig.subscribed()) == 4)

        rig.drop_clients()

        await eventually(lambda: streamer.status().connects == 2, "reconnected")
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1), "subscribed again, each once")
        await eventually(lambda: rig.lines() == set(conids))
        assert streamer.status().blind_since is None


async def test_a_busy_state_database_interrupts_routing_and_ends_no_stream(rig: Rig) -> None:
    _, conid = one_account_holding(rig)
    async with rig.streaming() as streamer:
        reload_if_changed = streamer._registry.reload_if_changed
        failures = 0

        def fail_twice() -> bool:
            nonlocal failures
            failures += 1
            if failures == 2:
                streamer._registry.reload_if_changed = reload_if_changed  # type: ignore[method-assign]
            raise StateError("locked by another process")

        streamer._registry.reload_if_changed = fail_twice  # type: ignore[method-assign]
        await eventually(lambda: failures == 2)
        rig.registry.add_active("s", [conid])

        await eventually(lambda: rig.subscribed() == {conid: 1}, "routed all the same")


async def test_a_line_whose_cancel_was_not_confirmed_is_given_back_with_the_next_pass(rig: Rig) -> None:
    _, conid = one_account_holding(rig)
    rig.registry.add_active("s", [conid])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {conid: 1})
        confirm = streamer._connection.round_trip

        async def fail_once(**_: object) -> None:
            streamer._connection.round_trip = confirm  # type: ignore[method-assign]
            raise GatewayError("no answer in time")

        streamer._connection.round_trip = fail_once  # type: ignore[method-assign]
        rig.registry.remove_active("s")
        await eventually(lambda: rig.subscribed() == {}, "cancelled")
        await eventually(lambda: rig.lines() == set(), "the line given back")


async def test_the_end_leaves_no_line_and_no_unwritten_row(rig: Rig) -> None:
    conids = rig.held()[:3]
    rig.registry.add_active("s", conids)
    async with rig.streaming() as streamer:
        await eventually(lambda: len(rig.subscribed()) == 3)
        rig.clock.advance(1)
        rig.gateway.tick_once()
        await eventually(lambda: (streamer.status().ticks or 0) > 3)
    assert rig.subscribed() == {}
    assert rig.lines() == set()
    assert rig.gateway.statistics.errors[300] == 0
    assert streamer.status().writer.buffered == 0


async def test_a_second_streamer_in_a_process_is_refused(rig: Rig) -> None:
    async with rig.streaming() as first:
        with pytest.raises(RuntimeError, match="one IBPositionStreamer per process"):
            await first.run(asyncio.Event())


async def test_without_a_gateway_a_streamer_run_by_hand_fails_at_once(rig: Rig) -> None:
    await rig.gateway.stop()

    with pytest.raises(GatewayError, match="no gateway at"):
        await stream(rig.settings, asyncio.Event(), authority=Authority.ALONE, clock=rig.clock)
    assert StreamerLease(rig.database, rig.clock).read().status["state"] == "failed"
    assert StreamerLease(rig.database, rig.clock).read().owner is None


async def test_a_streamer_whose_lease_ends_stops_and_gives_everything_back(rig: Rig) -> None:
    conids = rig.held()[:3]
    rig.registry.add_active("s", conids)
    lease = StreamerLease(rig.database, rig.clock)
    epoch = lease.claim("sensor", granted_by=GrantedBy.SENSOR, ttl_seconds=120)
    running = asyncio.create_task(
        stream(rig.settings, asyncio.Event(), authority=Authority.SPAWNED, epoch=epoch, clock=rig.clock)
    )
    await eventually(lambda: len(rig.subscribed()) == 3)
    assert lease.read().pid == ProcessIdentity.current().pid

    rig.clock.advance(121)

    await asyncio.wait_for(running, 20)
    assert rig.subscribed() == {}
    assert rig.lines() == set()
    assert rig.gateway.statistics.clients == set()


async def test_a_stop_request_ends_the_stream_within_its_next_report(rig: Rig) -> None:
    lease = StreamerLease(rig.database, rig.clock)
    running = asyncio.create_task(stream(rig.settings, asyncio.Event(), authority=Authority.ALONE, clock=rig.clock))
    await eventually(lambda: lease.read().status.get("state") == "streaming")

    lease.request_stop()

    await asyncio.wait_for(running, 20)
    assert lease.read().owner is None


async def test_a_new_state_database_next_to_an_old_lake_costs_one_start(rig: Rig) -> None:
    """Epochs begin at 1 again, and the table has seen higher ones."""
    async with rig.streaming(epoch=57):
        pass

    with pytest.raises(FencedError, match=r"belongs to epoch 57 now: epoch 1 must stop writing; .* start again"):
        await stream(rig.settings, asyncio.Event(), authority=Authority.ALONE, clock=rig.clock)

    stop = asyncio.Event()
    running = asyncio.create_task(stream(rig.settings, stop, authority=Authority.ALONE, clock=rig.clock))
    lease = StreamerLease(rig.database, rig.clock)
    await eventually(lambda: lease.read().status.get("state") == "streaming")
    assert lease.read().epoch == 58
    stop.set()
    await running


async def test_a_streamer_next_to_a_live_one_is_refused_with_its_pid(rig: Rig) -> None:
    lease = StreamerLease(rig.database, rig.clock)
    lease.claim("other", granted_by=GrantedBy.SELF, ttl_seconds=120, process=ProcessIdentity.current())

    with pytest.raises(FencedError, match=f"a streamer runs already \\(pid {ProcessIdentity.current().pid}"):
        await stream(rig.settings, asyncio.Event(), authority=Authority.ALONE, clock=rig.clock)
    assert rig.gateway.statistics.connections == {}


async def test_a_supervised_streamer_idles_until_granted_and_again_after_the_loss(rig: Rig) -> None:
    lease = StreamerLease(rig.database, rig.clock)
    stop = asyncio.Event()
    running = asyncio.create_task(stream(rig.settings, stop, authority=Authority.OWNED, clock=rig.clock))
    try:
        lease.grant(ttl_seconds=120)
        await eventually(lambda: rig.gateway.statistics.clients == {60}, "streams once granted")
        rig.clock.advance(121)
        await eventually(lambda: rig.gateway.statistics.clients == set(), "stops when the lease ends")

        lease.grant(ttl_seconds=120)
        await eventually(lambda: rig.gateway.statistics.clients == {60}, "streams again")
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)


async def test_base_currency_and_rates_come_from_the_account_downloads(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    with rig.database.write() as connection:
        downloads.save_rates(
            connection, account=account, base_currency="CHF", rates={"USD": 0.8, "EUR": 0.9}, observed_at=rig.clock()
        )
    rig.registry.add_active("s", [conid])
    async with rig.streaming():
        await eventually(lambda: rig.rows(conid))
        await eventually(lambda: rig.rows(conid)[-1]["base_currency"] == "CHF")
        assert rig.rows(conid)[-1]["fx_rate_to_base"] in {0.8, 0.9}
