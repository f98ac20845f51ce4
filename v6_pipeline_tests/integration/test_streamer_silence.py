"""Contracts that never tick: whose line goes to one that waits, when, and what the log and the report say of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from v6_pipeline.streaming.streamer import IBPositionStreamer
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.integration.streamer_rig import Rig

pytestmark = pytest.mark.usefixtures("quick_flush")

LINES = 4
STEP_SECONDS = 5
SOON_SECONDS = 60
"""At most: two requests of ten seconds and the passes in between, of which a busy machine makes fewer in that time."""
IN_HOURS_SECONDS = 120
"""Two requests of half a minute, while nothing ticks that proves the market data to flow, likewise."""
NOT_SUBSCRIBED = 10089
WORDS = "Something that no list has yet."


@pytest.fixture
def four_lines(rig: Rig) -> Rig:
    changes = {"market_data_lines": LINES + 10, "reserved_lines": 10, "batch_lines": 0}
    rig.settings = rig.settings.model_copy(update=changes)
    return rig


def activate(rig: Rig, count: int = 2 * LINES) -> tuple[list[int], list[int]]:
    """Activate options; the first ``LINES`` of them get the lines, the others wait."""
    options = [conid for conid in rig.held() if rig.gateway.universe.contracts[conid].sec_type == "OPT"][:count]
    first, second = options[:LINES], options[LINES:]
    assert len(options) == count
    rig.registry.add_active("first", first, priority=1)
    if second:
        rig.registry.add_active("second", second, priority=5)
    return first, second


async def pass_time(rig: Rig, streamer: IBPositionStreamer, seconds: int, *, until: Callable[[], bool]) -> int:
    """In steps with two looks of the streamer each, and ticks of what streams; return how many seconds passed."""
    for second in range(0, seconds, STEP_SECONDS):
        if until():
            return second
        rig.clock.advance(STEP_SECONDS)
        rig.gateway.tick_once()
        looks = streamer.upkeeps + 2
        await eventually(lambda looks=looks: streamer.upkeeps >= looks, "two looks")  # type: ignore[misc]
    return seconds


def remark(rig: Rig, code: int, conids: list[int]) -> None:
    if code in {10089, 10090, 10091, 10167}:
        rig.gateway.perform("advise", code=code, conids=conids)
    else:
        rig.gateway.perform("remark", code=code, text=WORDS, conids=conids)


@pytest.mark.parametrize("code", [NOT_SUBSCRIBED, 10091, 10999, 2188])
async def test_four_that_are_remarked_on_and_silent_give_their_lines_to_four_that_tick(
    four_lines: Rig, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the code: 10999 and 2188 stand in no list."""
    rig = four_lines
    caplog.set_level(logging.WARNING)
    silent, ticking = activate(rig)
    rig.gateway.contract_faults.quiet(silent)
    remark(rig, code, silent)
    async with rig.streaming() as streamer:
        await eventually(lambda: set(rig.subscribed()) == set(silent), "the silent ones come first")

        def have_lines() -> bool:
            return set(rig.subscribed()) == set(ticking)

        await pass_time(rig, streamer, SOON_SECONDS, until=have_lines)
        await eventually(have_lines, "the four that tick stream")

        await eventually(
            lambda: {key[1] for key, priority in rig.queued().items() if priority == 1} >= set(silent), "queued"
        )
        assert all(rig.gateway.statistics.subscriptions_total[conid] == 2 for conid in silent), "two requests each"
        status = streamer.status()
        assert status.silent.keys() == set(silent)
        assert all(str(code) in reason for reason in status.silent.values()), "and named, with IB's words"

        await pass_time(rig, streamer, 60, until=lambda: False)
        assert set(rig.subscribed()) == set(ticking)
        remarks = [item.getMessage() for item in caplog.records if f"gateway: {code}" in item.getMessage()]
        assert len(remarks) == len(silent), "one warning each, although each was requested twice"
        assert all(any(f"contract {conid}" in line for line in remarks) for conid in silent)
        assert len(caplog.records) <= 4 * len(silent)


async def test_a_contract_without_a_remark_loses_its_line_in_its_trading_hours_too(four_lines: Rig) -> None:
    """Three others tick, so that market data flows."""
    rig = four_lines
    [mute, *others], [waiting, *_] = activate(rig, LINES + 1)
    rig.gateway.contract_faults.quiet([mute])
    async with rig.streaming() as streamer:
        await eventually(lambda: len(rig.subscribed()) == LINES)

        await pass_time(rig, streamer, SOON_SECONDS, until=lambda: waiting in rig.subscribed())

        await eventually(lambda: set(rig.subscribed()) == {*others, waiting})


async def test_four_without_a_remark_that_hold_all_lines_give_them_up_as_well(four_lines: Rig) -> None:
    """Nothing else ticks that could prove the market data to flow."""
    rig = four_lines
    silent, ticking = activate(rig)
    rig.gateway.contract_faults.quiet(silent)
    async with rig.streaming() as streamer:
        await eventually(lambda: set(rig.subscribed()) == set(silent))

        await pass_time(rig, streamer, IN_HOURS_SECONDS, until=lambda: set(rig.subscribed()) == set(ticking))

        await eventually(lambda: set(rig.subscribed()) & set(ticking), "one ticks")


async def test_a_contract_keeps_its_line_while_its_exchange_is_closed(four_lines: Rig) -> None:
    """It has nothing to send; another one that waits would have nothing either."""
    rig = four_lines
    silent, _ = activate(rig)
    rig.gateway.contract_faults.quiet()
    rig.clock.advance(12 * 3600)
    async with rig.streaming() as streamer:
        await eventually(lambda: set(rig.subscribed()) == set(silent))

        await pass_time(rig, streamer, 100, until=lambda: False)

        assert set(rig.subscribed()) == set(silent)
        assert streamer.status().silent == {}


@pytest.mark.parametrize("part", ["sizes alone", "a close alone", "greeks alone"])
async def test_whatever_ticks_at_all_keeps_its_line(four_lines: Rig, part: str) -> None:
    """An illiquid contract: its first values, and nothing after them."""
    rig = four_lines
    illiquid, _ = activate(rig)
    rig.gateway.contract_faults.quiet()
    rig.gateway.perform("advise", code=NOT_SUBSCRIBED, conids=illiquid)
    async with rig.streaming() as streamer:
        await eventually(lambda: set(rig.subscribed()) == set(illiquid))
        await eventually(lambda: len(rig.lines()) == LINES)
        send(rig, part)
        await eventually(lambda: (streamer.status().ticks or 0) >= LINES, "their first values")

        await pass_time(rig, streamer, 60, until=lambda: False)

        assert set(rig.subscribed()) == set(illiquid)
        assert streamer.status().silent == {}


def send(rig: Rig, part: str) -> None:
    """One tick for each stream: bid size, close price or model greeks, as the wire has them."""
    for session in rig.gateway._sessions.values():
        for ticker_id in session.subscriptions.market_data:
            if part == "sizes alone":
                session.send((2, 6, ticker_id, 0, 0))
            elif part == "a close alone":
                session.send((1, 6, ticker_id, 9, 12.5, 0, 0))
            else:
                session.send((21, ticker_id, 13, 0, 0.2, 0.5, 1.0, 0.0, 0.01, 0.1, -0.1, 100.0))


async def test_a_silent_contract_that_ticks_again_is_not_named_any_more(four_lines: Rig) -> None:
    rig = four_lines
    [mute, *_], _ = activate(rig, LINES)
    rig.gateway.contract_faults.quiet([mute])
    rig.gateway.perform("advise", code=NOT_SUBSCRIBED, conids=[mute])
    async with rig.streaming() as streamer:
        await pass_time(rig, streamer, 60, until=lambda: mute in streamer.status().silent)
        assert mute in rig.subscribed(), "no other contract needs its line"

        rig.gateway.contract_faults.resume([mute])
        rig.gateway.tick_once()

        await eventually(lambda: streamer.status().silent == {})
