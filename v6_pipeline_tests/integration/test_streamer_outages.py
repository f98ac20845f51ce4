"""The streamer through the broker's moods: what it believes, what it asks for again, what it never makes up."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from v6_pipeline.state.queue.items import QueueState
from v6_pipeline.streaming.competing_session import RETRY
from v6_pipeline.streaming.feed_health import FIRST_BURST, VERIFY_WITHIN
from v6_pipeline.streaming.feed_monitor import LINK_TIMEOUT
from v6_pipeline.streaming.streamed_contracts import CONTRACT_VERIFY_WITHIN
from v6_pipeline.streaming.streamer import IBPositionStreamer
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.integration.streamer_rig import Rig, one_account_holding

pytestmark = pytest.mark.usefixtures("quick_flush")

NEW_YORK = ZoneInfo("America/New_York")
BELIEVED_AFTER = FIRST_BURST.total_seconds() + 1


def streamed(rig: Rig, count: int = 4) -> list[int]:
    """Make some held contracts active."""
    conids = rig.held()[:count]
    rig.registry.add_active("s", conids)
    return conids


def one_option(rig: Rig) -> tuple[str, int]:
    """A held option."""
    contracts = rig.gateway.universe.contracts
    return next(
        (item.account, item.conid) for item in rig.gateway.book.held() if contracts[item.conid].sec_type == "OPT"
    )


async def until_blind(streamer: IBPositionStreamer) -> None:
    await eventually(lambda: streamer.status().blind_since is not None, "blind")


async def until_seeing(streamer: IBPositionStreamer) -> None:
    await eventually(lambda: streamer.status().blind_since is None, "seeing again")


async def until_verifying(streamer: IBPositionStreamer) -> None:
    """Wait for the notice, so that a clock that is set afterwards is later than it."""
    await eventually(
        lambda: "verifying" in {feed.state for feed in streamer.status().feeds.values()}, "said to be back"
    )


async def two_looks(streamer: IBPositionStreamer) -> None:
    """Wait until the streamer has considered all changes of the test."""
    looks = streamer.upkeeps
    await eventually(lambda: streamer.upkeeps >= looks + 2, "two looks at what is due")


async def pass_time(rig: Rig, streamer: IBPositionStreamer, seconds: float) -> None:
    """Advance the clock in steps, so that the lines are renewed in between, as in reality."""
    while seconds > 0:
        rig.clock.advance(min(seconds, 20))
        seconds -= 20
        await two_looks(streamer)


def times_asked(rig: Rig, conids: list[int]) -> set[int]:
    return {rig.gateway.statistics.subscriptions_total[conid] for conid in conids}


async def test_a_fill_during_an_outage_is_found_and_data_is_believed_once_it_ticks(rig: Rig) -> None:
    account, conid = one_account_holding(rig)
    rig.registry.add_active("s", [conid])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {conid: 1})
        rig.gateway.perform("link_lost")
        await until_blind(streamer)
        rig.fill_silently(account, conid, 99)
        rig.clock.advance(5)

        rig.gateway.perform("link_restored")

        await eventually(lambda: [row["position"] for row in rig.rows(conid)[-1:]] == [99], "the fill")
        assert streamer.status().blind_since is not None
        rig.clock.advance(BELIEVED_AFTER)
        rig.gateway.tick_once()
        await until_seeing(streamer)
        assert times_asked(rig, [conid]) == {1}
        assert rig.queued() == dict.fromkeys(rig.queued(), 2) | {(account, conid): 0}, "it may have realized something"


async def test_a_streamer_that_logs_in_while_the_link_is_away_is_blind_until_it_is_back(rig: Rig) -> None:
    """The gateway says so at once, within the login itself."""
    conids = streamed(rig)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        rig.gateway.perform("drop")
        rig.gateway.perform("link_lost")
        logins = rig.gateway.statistics.connections.total()
        await eventually(lambda: rig.gateway.statistics.connections.total() > logins, "the next login")
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        await two_looks(streamer)
        assert streamer.status().blind_since is not None

        rig.gateway.perform("link_restored")
        await until_verifying(streamer)
        rig.clock.advance(BELIEVED_AFTER)
        rig.gateway.tick_once()
        await until_seeing(streamer)


async def test_data_said_to_be_kept_that_is_dead_is_asked_for_again_each_contract_once(rig: Rig) -> None:
    conids = streamed(rig)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        rig.gateway.perform("link_lost")
        await until_blind(streamer)

        rig.gateway.perform("link_restored", data="dead")
        await until_verifying(streamer)
        rig.clock.advance(VERIFY_WITHIN.total_seconds())
        rig.gateway.tick_once()

        await eventually(lambda: times_asked(rig, conids) == {2}, "asked for again")
        await until_seeing(streamer)
        assert rig.subscribed() == dict.fromkeys(conids, 1)
        assert rig.gateway.statistics.errors[300] == 0


async def test_market_data_that_was_lost_is_asked_for_again_at_once(rig: Rig) -> None:
    conids = streamed(rig)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        rig.gateway.perform("link_lost")
        await until_blind(streamer)

        rig.gateway.perform("link_restored", data="lost")

        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1), "subscribed again")
        await until_seeing(streamer)
        assert times_asked(rig, conids) == {2}
        assert rig.gateway.statistics.errors[300] == 0


async def test_no_row_is_made_up_while_data_is_away(rig: Rig) -> None:
    [conid] = streamed(rig, 1)
    async with rig.streaming() as streamer:
        await eventually(lambda: any(row["price_time"] for row in rig.rows(conid)), "a row with a price")
        rig.gateway.perform("link_lost")
        await until_blind(streamer)
        await two_looks(streamer)
        await eventually(lambda: streamer.status().writer.buffered == 0, "all ticks are written")
        rows = len(rig.rows(conid))

        await pass_time(rig, streamer, rig.settings.refresh_seconds - 1)
        assert len(rig.rows(conid)) == rows


async def test_a_gateway_that_stays_without_its_link_gets_a_new_session(rig: Rig) -> None:
    [conid] = streamed(rig, 1)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {conid: 1})
        rig.gateway.perform("notice", code=1100, text="Connectivity has been lost.")
        await until_blind(streamer)
        await pass_time(rig, streamer, LINK_TIMEOUT.total_seconds())
        await eventually(lambda: streamer.status().connects == 2, "a new session")
        await until_seeing(streamer)


async def test_in_the_nightly_reset_the_socket_is_kept(rig: Rig) -> None:
    rig.clock.now = datetime(2026, 3, 3, 5, 30, tzinfo=UTC)
    [conid] = streamed(rig, 1)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {conid: 1})
        rig.gateway.perform("link_lost")
        await until_blind(streamer)
        assert streamer.status().expected_outage == "IB's nightly reset until 06:45 UTC"
        await pass_time(rig, streamer, LINK_TIMEOUT.total_seconds())
        assert streamer.status().connects == 1


async def test_ticks_end_an_outage_whose_end_was_never_reported(rig: Rig) -> None:
    conids = streamed(rig)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        rig.gateway.perform("notice", code=2110, text="Connectivity between TWS and server is broken.")
        await until_blind(streamer)
        rig.clock.advance(BELIEVED_AFTER)
        rig.gateway.tick_once()
        await until_seeing(streamer)
        assert streamer.status().connection == "connected"


async def test_a_farm_that_blinks_and_comes_back_dead_is_asked_again_alone(rig: Rig) -> None:
    contracts = rig.gateway.universe.contracts
    options = [conid for conid in rig.held() if contracts[conid].sec_type == "OPT"][:3]
    stocks = [conid for conid in rig.held() if contracts[conid].sec_type == "STK"][:2]
    rig.registry.add_active("s", [*options, *stocks])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys([*options, *stocks], 1))
        rig.gateway.perform("farm_broken", farm="usopt")
        await until_blind(streamer)
        assert streamer.status().feeds["options"].reason == "farm usopt is broken"
        rig.clock.advance(3)

        rig.gateway.perform("farm_ok", farm="usopt", dead=True)
        await until_verifying(streamer)
        rig.clock.advance(VERIFY_WITHIN.total_seconds())
        rig.gateway.tick_once()

        await eventually(lambda: times_asked(rig, options) == {2}, "asked for again")
        await until_seeing(streamer)
        assert times_asked(rig, stocks) == {1}


async def test_one_stream_that_died_with_the_link_is_asked_for_again_alone(rig: Rig) -> None:
    contracts = rig.gateway.universe.contracts
    conids = [conid for conid in rig.held() if contracts[conid].sec_type == "OPT"][:3]
    rig.registry.add_active("s", conids)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        await two_looks(streamer)
        rig.gateway.tick_once()
        rig.gateway.perform("link_lost")
        await until_blind(streamer)
        rig.gateway.perform("link_restored")
        rig.gateway.perform("kill_streams", conids=conids[:1])
        await until_verifying(streamer)

        rig.clock.advance(BELIEVED_AFTER)
        rig.gateway.tick_once()
        await until_seeing(streamer)
        rig.clock.advance(CONTRACT_VERIFY_WITHIN.total_seconds())

        await eventually(lambda: times_asked(rig, conids[:1]) == {2}, "asked for again")
        assert times_asked(rig, conids[1:]) == {1}


async def test_another_login_pauses_the_streams_alarms_once_and_is_tried_slowly(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    conids = streamed(rig)
    other = next(conid for conid in rig.held() if conid not in conids)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        rig.gateway.perform("competing_session")
        await eventually(lambda: streamer.status().competing_session_since, "noticed")
        assert len([record for record in caplog.records if "another login" in record.message]) == 1

        rig.registry.add_active("later", [other])
        await eventually(lambda: 1 in {priority for key, priority in rig.queued().items() if key[1] == other})
        assert other not in rig.subscribed(), "a new request would only wait"

        await pass_time(rig, streamer, RETRY.total_seconds())
        await eventually(lambda: sum(rig.gateway.statistics.subscriptions_total[conid] for conid in conids) == 5)
        rig.clock.advance(5)
        rig.gateway.perform("competing_session_ended")
        rig.gateway.tick_once()

        await until_seeing(streamer)
        await eventually(lambda: other in rig.subscribed(), "what had waited streams")
        assert streamer.status().competing_session_since is None


async def test_while_another_login_has_the_data_values_come_from_the_account(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"refresh_seconds": 60})
    conids = streamed(rig)
    async with rig.streaming() as streamer:
        await eventually(lambda: all(rig.rows(conid) and rig.rows(conid)[-1]["price_time"] for conid in conids))
        rig.gateway.perform("competing_session")
        await eventually(lambda: streamer.status().competing_session_since, "noticed")
        paused_at = rig.clock.now
        assert not {key for key in rig.queued() if key[1] in conids}
        await two_looks(streamer)

        await pass_time(rig, streamer, 61)

        queued = {key[1]: priority for key, priority in rig.queued().items() if key[1] in conids}
        assert queued == dict.fromkeys(conids, 1)

        rig.queue.purge(QueueState.OPEN)
        await pass_time(rig, streamer, 40)
        assert not {key for key in rig.queued() if key[1] in conids}, "once in a refresh interval"
    newest = max(row["timestamp"] for conid in conids for row in rig.rows(conid))
    assert newest < paused_at + timedelta(seconds=1), "no row says that the old price still holds"


async def test_a_new_port_is_followed(rig: Rig) -> None:
    conids = streamed(rig)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        port = rig.gateway.perform("move_port")["port"]
        await eventually(lambda: streamer.status().connects == 2, "connected again")
        assert streamer.status().gateway == f"127.0.0.1:{port}"
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))


async def test_expired_assigned_and_unknown_contracts_are_ordinary_events(rig: Rig) -> None:
    contracts = rig.gateway.universe.contracts
    options = [
        (item.account, item.conid) for item in rig.gateway.book.held() if contracts[item.conid].sec_type == "OPT"
    ]
    (account, assigned), (_, unknown), (_, expired) = options[0], options[1], options[2]
    rig.gateway.perform("unqualify", conids=[unknown])
    rig.registry.add_active("s", [assigned, unknown, expired])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {assigned: 1, expired: 1})
        await eventually(lambda: {priority for key, priority in rig.queued().items() if key[1] == unknown} == {1})

        rig.gateway.perform("expire", conids=[expired])
        rig.gateway.perform("assign", account=account, conid=assigned)

        await eventually(lambda: [row["position"] for row in rig.rows(assigned)[-1:]] == [0], "the assigned is closed")
        await eventually(lambda: assigned not in rig.subscribed())
        await two_looks(streamer)
        assert streamer.status().state == "streaming"
        assert streamer.status().connects == 1
        assert rig.subscribed() == {expired: 1}, "silent, as what does not trade, and held as before"


async def test_an_expired_contract_loses_its_line_with_the_next_login_and_is_valued_from_the_queue(rig: Rig) -> None:
    account, expired = one_option(rig)
    rig.registry.add_active("s", [expired])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {expired: 1} and rig.lines() == {expired})
        rig.gateway.perform("expire", conids=[expired])
        rig.queue.purge(QueueState.OPEN)

        rig.gateway.perform("drop")

        await eventually(lambda: streamer.status().connects == 2, "a new session")
        await eventually(lambda: rig.queued().get((account, expired)) == 1, "valued from the queue")
        await eventually(lambda: streamer.status().refused.keys() == {expired}, "asked for once")
        await two_looks(streamer)
        assert (rig.subscribed(), rig.lines()) == ({}, set())
        assert rig.gateway.statistics.errors[200] == 1
        assert streamer.status().state == "streaming"

        rig.gateway.perform("close", account=account, conid=expired)

        await eventually(lambda: rig.queued().get((account, expired)) == 0, "closed at the gateway: verified at once")


async def test_an_option_gives_its_line_back_the_day_after_it_expired(rig: Rig) -> None:
    account, expired = one_option(rig)
    expiry = date.fromisoformat(rig.gateway.universe.contracts[expired].expiry)
    rig.clock.now = datetime.combine(expiry, time(23, 59, 50), NEW_YORK).astimezone(UTC)
    rig.registry.add_active("s", [expired])
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == {expired: 1})
        rig.gateway.perform("expire", conids=[expired])
        await two_looks(streamer)
        rig.queue.purge(QueueState.OPEN)

        rig.clock.advance(20)

        await eventually(lambda: rig.subscribed() == {} and rig.lines() == set(), "the line")
        await eventually(lambda: rig.queued() == {(account, expired): 2}, "still held: valued from the queue")
        assert streamer.status().state == "streaming"
        assert streamer.status().connects == 1


async def test_after_error_100_which_drops_a_message_without_saying_which_a_new_session_begins(rig: Rig) -> None:
    conids = streamed(rig)
    other = next(conid for conid in rig.held() if conid not in conids)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        rig.gateway.perform("exceed_rate")
        rig.registry.add_active("later", [other])

        await eventually(lambda: streamer.status().connects == 2, "a new session")
        await eventually(lambda: rig.subscribed() == dict.fromkeys([*conids, other], 1), "each once, the new one too")
        assert streamer.status().error_codes[100] == 1
