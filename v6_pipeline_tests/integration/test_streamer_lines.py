"""The streamer and its lines: taken from batches, shed when there are fewer, taken again when they come back."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest

from v6_pipeline.errors import StateError
from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.account import contracts
from v6_pipeline.state.slots.ceiling import PROBE_AFTER, RETRY_AFTER
from v6_pipeline.streaming.stream_lines import GIVE_UP_SECONDS
from v6_pipeline.streaming.streamed_contracts import SILENT_AFTER
from v6_pipeline.streaming.streamer import IBPositionStreamer
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.integration.streamer_rig import Rig
from v6_pipeline_tests.step_ledger import StepLedger

pytestmark = pytest.mark.usefixtures("quick_flush")

CEILING, FLOOR = 12, 3


@pytest.fixture
def few_lines(rig: Rig) -> Rig:
    changes = {"market_data_lines": CEILING + 10, "reserved_lines": 10, "batch_lines": FLOOR}
    rig.settings = rig.settings.model_copy(update=changes)
    return rig


def ledger_of(rig: Rig) -> StepLedger:
    return StepLedger.from_settings(rig.settings, rig.database, rig.clock)


def hold(ledger: StepLedger, count: int) -> list[int]:
    """A batch's lines, confirmed."""
    wanted = list(range(1, count + 1))
    for conid in wanted:
        assert ledger.acquire([conid], holder="run", purpose=SlotPurpose.BATCH, ttl_seconds=600).granted
        ledger.confirm("run", [conid])
    return wanted


def refuse(ledger: StepLedger) -> None:
    """A batch's new line draws error 101."""
    assert ledger.acquire([999], holder="run", purpose=SlotPurpose.BATCH, ttl_seconds=600).granted
    ledger.report_exhausted("run", 999)


def _ticked(streamer: IBPositionStreamer, before: int) -> bool:
    return bool((streamer.status().ticks or 0) > before)


async def pass_time(rig: Rig, streamer: IBPositionStreamer, seconds: float) -> None:
    """While what streams goes on ticking; in steps, or the lines would not be renewed in time."""
    for _ in range(round(seconds / 30)):
        rig.clock.advance(30)
        await eventually(lambda: rig.slots_last(rig.clock()), "the lines are renewed")
        ticks = streamer.status().ticks or 0
        rig.gateway.tick_once()
        await eventually(partial(_ticked, streamer, ticks), "ticks")


async def test_a_new_active_contract_takes_its_line_from_a_batch_and_is_not_queued_during_that(few_lines: Rig) -> None:
    rig, ledger = few_lines, ledger_of(few_lines)
    hold(ledger, CEILING)
    async with rig.streaming():
        [first, second] = rig.held()[:2]
        await eventually(rig.queued)
        rig.registry.add_active("s", [first, second])
        await eventually(lambda: len(ledger.to_yield("run")) == 2, "a demand")
        assert rig.gateway.statistics.lines == 0

        ledger.release("run", ledger.to_yield("run"))

        await eventually(lambda: rig.subscribed() == {first: 1, second: 1}, "both stream")
        assert 1 not in set(rig.queued().values())
        await eventually(lambda: ledger.usage().demands == (), "the demand is met")


async def test_the_lines_of_a_dead_streamer_are_free_once_the_next_one_has_connected(few_lines: Rig) -> None:
    """Its process could not be seen to have died, as after a restart of its container; its lines had 100 s to go."""
    rig, ledger = few_lines, ledger_of(few_lines)
    for conid in range(1, CEILING - FLOOR + 1):
        assert ledger.acquire([conid], holder="streamer/1", purpose=SlotPurpose.STREAM, ttl_seconds=600).granted
        ledger.confirm("streamer/1", [conid])
    active = rig.held()[:2]
    rig.registry.add_active("s", active, priority=5)
    async with rig.streaming(epoch=2):
        await eventually(lambda: set(rig.subscribed()) == set(active), "both stream")


async def test_streams_are_shed_to_what_was_learned_and_come_back_with_the_lines(few_lines: Rig) -> None:
    rig, ledger = few_lines, ledger_of(few_lines)
    active = rig.held()[:9]
    rig.registry.add_active("important", active[:2], priority=1)
    rig.registry.add_active("s", active[2:], priority=5)
    async with rig.streaming():
        await eventually(lambda: len(rig.subscribed()) == ledger.usage().standing == CEILING - FLOOR)
        rig.gateway.contract_faults.set_lines(4)
        refuse(ledger)
        await eventually(lambda: len(rig.subscribed()) == len(rig.lines()) == 6, "nine less the floor")
        rig.clock.advance(RETRY_AFTER.total_seconds())
        refuse(ledger)
        await eventually(lambda: len(rig.subscribed()) == 2, "half of six less its half")
        assert set(rig.subscribed()) == set(active[:2])
        await eventually(
            lambda: {key[1] for key, priority in rig.queued().items() if priority == 1} >= set(active[2:]), "queued"
        )

        rig.gateway.contract_faults.set_lines(100)
        rig.clock.advance(PROBE_AFTER[0].total_seconds())

        await eventually(lambda: set(rig.subscribed()) == set(active), "all stream again")
        await eventually(lambda: ledger.usage().learned.learned is None, "nothing is learned any more")
        assert rig.gateway.statistics.errors[101] == 0


async def test_an_attempt_that_fails_draws_one_error_and_leaves_the_batches_their_part(few_lines: Rig) -> None:
    rig, ledger = few_lines, ledger_of(few_lines)
    active = rig.held()[:9]
    rig.registry.add_active("s", active)
    async with rig.streaming():
        await eventually(lambda: ledger.usage().standing == 9)
        rig.gateway.contract_faults.set_lines(7)
        refuse(ledger)
        await eventually(lambda: len(rig.subscribed()) == 6)

        rig.clock.advance(PROBE_AFTER[0].total_seconds())

        await eventually(lambda: rig.gateway.statistics.errors[101] == 1, "an attempt")
        await eventually(lambda: len(rig.subscribed()) == len(rig.lines()) == 4, "seven less the floor")
        assert ledger.usage().ceiling == 7


async def test_one_that_waits_takes_the_line_of_a_contract_that_is_deactivated(few_lines: Rig) -> None:
    rig = few_lines
    active = rig.held()[:10]
    rig.registry.add_active("s", active)
    async with rig.streaming() as streamer:
        await eventually(lambda: len(rig.subscribed()) == CEILING - FLOOR)
        [waiting] = set(active) - set(rig.subscribed())
        gone = next(iter(rig.subscribed()))

        rig.registry.remove_active("s", [gone])

        await eventually(lambda: set(rig.subscribed()) == set(active) - {gone})
        assert waiting in rig.subscribed()
        assert streamer.status().overflow_contracts == 0


async def test_a_contract_that_never_ticks_makes_room_for_one_that_waits(few_lines: Rig) -> None:
    rig = few_lines
    active = rig.held()[:10]
    rig.registry.add_active("s", active)
    mute = active[0]
    rig.gateway.contract_faults.quiet([mute])
    async with rig.streaming() as streamer:
        await eventually(lambda: len(rig.subscribed()) == CEILING - FLOOR and mute in rig.subscribed())
        await eventually(lambda: len(rig.lines()) == CEILING - FLOOR)
        [waiting] = set(active) - set(rig.subscribed())

        # It is asked for again after 30 s and after another minute: then its silence has had its minute.
        await pass_time(rig, streamer, 4 * SILENT_AFTER.total_seconds())

        others = set(active) - {mute}
        assert waiting in others
        await eventually(lambda: set(rig.subscribed()) == others, "the line changes hands")
        assert len(others) == CEILING - FLOOR


async def test_a_contract_that_was_refused_a_line_does_not_count_as_silent(few_lines: Rig) -> None:
    """It would stand behind all others for as long as they tick, whatever its priority."""
    rig = few_lines
    active = rig.held()[:9]
    urgent = active.pop()
    rig.registry.add_active("s", active, priority=5)
    async with rig.streaming() as streamer:
        await eventually(lambda: set(rig.subscribed()) == set(active) == rig.lines())
        rig.gateway.contract_faults.set_lines(len(active))
        rig.registry.add_active("urgent", [urgent], priority=1)
        await eventually(lambda: rig.gateway.statistics.errors[101] == 1, "refused")
        rig.registry.remove_active("urgent", [urgent])
        rig.gateway.contract_faults.set_lines(100)
        await pass_time(rig, streamer, SILENT_AFTER.total_seconds() + 30)

        rig.registry.add_active("urgent", [urgent], priority=1)

        await eventually(lambda: urgent in rig.subscribed(), "it streams")


async def test_the_lines_of_a_session_that_fell_silent_stay_in_the_ledger_until_the_gateway_lets_it_in_again(
    few_lines: Rig,
) -> None:
    """The gateway has not noticed, and would have more lines in use than there are if others took them."""
    rig, ledger = few_lines, ledger_of(few_lines)
    active = rig.held()[:9]
    rig.registry.add_active("s", active)
    async with rig.streaming() as streamer:
        await eventually(lambda: ledger.usage().standing == 9)
        rig.gateway.perform("blackhole", seconds=600, client_id=rig.settings.ib_client_id)
        await streamer._connection.close("heartbeat: no answer")
        await eventually(lambda: streamer.status().streamed_contracts == 0, "the session has ended")

        assert len(rig.gateway.statistics.subscriptions) == len(rig.lines()) == 9

        rig.gateway.perform("heal")
        await eventually(lambda: streamer.status().connects == 2, "in again")
        await eventually(lambda: rig.subscribed() == dict.fromkeys(active, 1), "each once")
        await eventually(lambda: ledger.usage().standing == 9)


async def test_lines_that_cannot_be_renewed_are_given_up_before_they_are_anothers(
    few_lines: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, ledger = few_lines, ledger_of(few_lines)
    active = rig.held()[:9]
    rig.registry.add_active("s", active)
    failed = 0

    def away(*_arguments: object, **_options: object) -> frozenset[int]:
        nonlocal failed
        failed += 1
        raise StateError("the state database is away")

    async with rig.streaming() as streamer:
        await eventually(lambda: ledger.usage().standing == 9)
        for name in ("renew", "record_and_acquire"):
            monkeypatch.setattr(streamer._ledger, name, away)
        rig.clock.advance(GIVE_UP_SECONDS - 1)
        await eventually(lambda: failed > 3, "tried")
        assert len(rig.subscribed()) == 9

        rig.clock.advance(1)

        await eventually(lambda: rig.subscribed() == {}, "cancelled at the gateway")
        assert len(rig.lines()) == 9, "no process could have taken them yet"

        for name in ("renew", "record_and_acquire"):
            monkeypatch.setattr(streamer._ledger, name, getattr(ledger, name))
        await eventually(lambda: rig.subscribed() == dict.fromkeys(active, 1), "they stream again")
        await eventually(lambda: ledger.usage().standing == len(rig.lines()) == 9)


async def test_a_new_login_lets_refreshes_ask_again_for_what_was_not_sold(rig: Rig) -> None:
    def refused() -> frozenset[int]:
        with rig.database.read() as connection:
            return contracts.refused(connection, since=rig.clock() - timedelta(days=1))

    with rig.database.write() as connection:
        contracts.mark_refused(connection, {1: 354}, failed_at=rig.clock())
    assert refused() == {1}

    async with rig.streaming():
        assert refused() == frozenset()
