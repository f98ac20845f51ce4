"""Batch quotes: through free lines only, and every line comes back whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from v6_pipeline.errors import RequestTimeoutError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.model import ContractSpec, SlotPurpose
from v6_pipeline.paper import PaperGateway
from v6_pipeline.refresh.quotes import SLOT_TTL_SECONDS, BatchQuotes, QuoteTimeouts
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.slots.allocation import AcquiredSlots
from v6_pipeline.state.slots.ceiling import PROBE_AFTER
from v6_pipeline.state.slots.ledger import SlotChanges
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.state.samples import option, stock

pytestmark = pytest.mark.usefixtures("quiet_loop")

AAPL, SPY = 265598, 756733
ME, OTHER = "batch", "streamer"


class WatchedLedger(StepLedger):
    """Notes what was granted and confirmed, and how many lines the gateway had in use at each release."""

    def __init__(self, gateway: PaperGateway, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gateway = gateway
        self.granted: list[int] = []
        self.confirmed: list[int] = []
        self.in_use_at_release: list[int] = []

    def record_and_acquire(self, changes: SlotChanges, conids: Iterable[int] = (), **options: Any) -> AcquiredSlots:
        self.confirmed += changes.confirmed
        if changes.released:
            self.in_use_at_release.append(self._gateway.statistics.lines)
        answer = super().record_and_acquire(changes, conids, **options)
        self.granted += answer.granted
        return answer


MakeLedger = Callable[[int], WatchedLedger]


@pytest.fixture
def make_ledger(gateway: PaperGateway, database: StateDatabase, clock: ManualClock) -> MakeLedger:
    return lambda ceiling: WatchedLedger(gateway, database, ceiling=ceiling, batch_floor=0, clock=clock)


def batch_quotes(
    connection: IBConnectionManager,
    database: StateDatabase,
    ledger: StepLedger,
    clock: ManualClock,
    timeouts: QuoteTimeouts | None = None,
) -> BatchQuotes:
    book = ContractCache(database, connection, clock)
    return BatchQuotes(connection, book, ledger, holder=ME, clock=clock, timeouts=timeouts)


def stream(ledger: StepLedger, conids: list[int]) -> None:
    """Lines of a streamer, confirmed."""
    while conids:
        granted = ledger.acquire(conids, holder=OTHER, purpose=SlotPurpose.STREAM, ttl_seconds=60).granted
        assert granted
        ledger.confirm(OTHER, granted)
        conids = [conid for conid in conids if conid not in granted]


def options_of(gateway: PaperGateway, count: int) -> list[ContractSpec]:
    listed = [item.conid for item in gateway.universe.contracts.values() if item.sec_type == "OPT"]
    return [option(conid) for conid in listed[:count]]


async def test_quotes_are_complete_and_the_lines_are_free_again(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    ledger, (an_option,) = make_ledger(10), options_of(gateway, 1)

    quotes = await batch_quotes(connection, database, ledger, clock).collect([stock(AAPL), an_option])

    assert quotes.keys() == {AAPL, an_option.conid}
    assert quotes[AAPL].bid == gateway.statistics.last_values[AAPL]["bid"]
    assert quotes[an_option.conid].delta is not None
    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)
    assert gateway.statistics.errors[300] == 0


async def test_options_come_first(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    """The account feed values everything; only a line gives an option's greeks."""
    ledger, options = make_ledger(2), options_of(gateway, 2)

    await batch_quotes(connection, database, ledger, clock).collect([stock(AAPL), *options, stock(SPY)])

    assert set(ledger.granted[:2]) == {item.conid for item in options}
    assert set(ledger.granted[2:]) == {AAPL, SPY}


async def test_only_free_lines_are_used(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    ledger, options = make_ledger(5), options_of(gateway, 8)
    stream(ledger, [1, 2])

    quotes = await batch_quotes(connection, database, ledger, clock).collect(options)

    assert len(quotes) == 8
    assert gateway.statistics.peak_lines <= 3
    assert {slot.holder for slot in ledger.usage().slots} == {OTHER}


async def test_without_a_free_line_nothing_is_asked_for(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    ledger = make_ledger(2)
    stream(ledger, [1, 2])

    assert await batch_quotes(connection, database, ledger, clock).collect([stock(AAPL)]) == {}
    assert gateway.statistics.peak_lines == 0


async def test_a_line_is_given_back_after_its_cancel_has_reached_the_gateway(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    open_connection: OpenConnection,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    """ib_async holds messages back to keep the rate; given back before, the line would be used twice."""
    ledger, options = make_ledger(10), options_of(gateway, 4)
    await ContractCache(database, connection, clock).qualified([item.conid for item in options])
    slow = await open_connection(2, messages_per_second=6)

    await batch_quotes(slow, database, ledger, clock).collect(options)

    held_at_release = [lines for lines in ledger.in_use_at_release if lines]
    # Two at a time: when the ledger hears that two are free, the gateway has at most the next two.
    assert max(held_at_release, default=0) <= 2
    assert gateway.statistics.peak_lines <= 4
    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)


async def test_a_denied_contract_is_skipped_and_not_asked_for_again(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.deny([AAPL])
    ledger = make_ledger(10)
    quotes = batch_quotes(connection, database, ledger, clock)

    assert (await quotes.collect([stock(AAPL), stock(SPY)])).keys() == {SPY}
    assert (await quotes.collect([stock(AAPL), stock(SPY)])).keys() == {SPY}

    assert gateway.statistics.errors[354] == 1
    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)


async def test_a_contract_without_data_is_asked_for_by_one_refresh_an_hour_or_after_a_new_login(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    """An account without a subscription to options would spend its whole message rate on them with every refresh."""
    gateway.contract_faults.deny([AAPL])
    ledger = make_ledger(10)
    for minutes, asked in ((0, 1), (5, 1), (54, 1), (1, 2), (5, 2)):
        clock.advance(60 * minutes)
        assert await batch_quotes(connection, database, ledger, clock).collect([stock(AAPL)]) == {}
        assert gateway.statistics.errors[354] == asked

    gateway.contract_faults.allow([AAPL])
    await ContractCache(database, connection, clock).forget_refused()

    assert (await batch_quotes(connection, database, ledger, clock).collect([stock(AAPL)])).keys() == {AAPL}


async def test_a_silent_contract_holds_its_line_until_the_deadline_only(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.quiet([AAPL])
    ledger = make_ledger(10)
    quotes = batch_quotes(connection, database, ledger, clock, QuoteTimeouts(deadline=0.3))

    assert (await quotes.collect([stock(AAPL), stock(SPY)])).keys() == {SPY}

    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)


@pytest.mark.parametrize("remark", [None, "advise", "remark"])
async def test_a_silent_contract_costs_refreshes_two_requests_an_hour(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
    remark: str | None,
) -> None:
    """Neither refused nor served: without this, it had a line for six seconds in each refresh."""
    gateway.contract_faults.quiet([AAPL])
    if remark:
        words = {"code": 10089} if remark == "advise" else {"code": 10999, "text": "Of no list"}
        gateway.perform(remark, conids=[AAPL], **words)
    ledger, timeouts = make_ledger(10), QuoteTimeouts(deadline=0.2)
    asked: list[int] = []
    for minutes in (0, 5, 54, 2):
        clock.advance(60 * minutes)
        quotes = batch_quotes(connection, database, ledger, clock, timeouts)
        served = stock(SPY) if remark is None or not asked else None
        task = asyncio.create_task(quotes.collect([stock(AAPL), *([served] if served else [])]))
        while not task.done():
            gateway.tick_once()
            await asyncio.sleep(0.01)
        assert (await task).keys() == ({SPY} if served else set())
        asked.append(gateway.statistics.subscriptions_total[AAPL])

    assert asked == [2, 2, 2, 4]
    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)


@pytest.mark.parametrize("why", ["the exchange is closed", "nothing ticks"])
async def test_silence_that_proves_nothing_does_not_leave_a_contract_out(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
    why: str,
) -> None:
    is_closed = why == "the exchange is closed"
    gateway.contract_faults.quiet([AAPL] if is_closed else None)
    if is_closed:
        clock.advance(12 * 3600)
    ledger = make_ledger(10)
    for refreshes in (1, 2):
        await batch_quotes(connection, database, ledger, clock, QuoteTimeouts(deadline=0.2)).collect(
            [stock(AAPL), stock(SPY)]
        )
        assert gateway.statistics.subscriptions_total[AAPL] == refreshes, "one request in each refresh"


async def test_a_contract_that_the_broker_does_not_know_is_skipped(
    connection: IBConnectionManager, database: StateDatabase, make_ledger: MakeLedger, clock: ManualClock
) -> None:
    ledger = make_ledger(10)

    quotes = await batch_quotes(connection, database, ledger, clock).collect([stock(1), stock(AAPL)])

    assert quotes.keys() == {AAPL}
    assert ledger.granted == [AAPL]


async def test_lines_that_tws_holds_are_not_asked_for_again_at_once(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.set_lines(0)
    ledger = make_ledger(1)
    quotes = batch_quotes(connection, database, ledger, clock, QuoteTimeouts(for_others=0.5))

    assert await quotes.collect([stock(AAPL), stock(SPY)]) == {}
    assert await quotes.collect([stock(AAPL)]) == {}
    assert gateway.statistics.errors[101] == 1
    assert len(ledger.usage().slots) == 0

    gateway.contract_faults.set_lines(100)
    clock.advance(PROBE_AFTER[0].total_seconds())
    assert (await quotes.collect([stock(AAPL)])).keys() == {AAPL}


async def test_lines_that_others_hold_are_waited_for(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    """Another batch has them all: a worker that gave up at once would write options without greeks."""
    ledger, (an_option,) = make_ledger(2), options_of(gateway, 1)
    ledger.record_and_acquire(SlotChanges(), [1, 2], holder="other batch", purpose=SlotPurpose.BATCH, ttl_seconds=60)
    ledger.confirm("other batch", [1, 2])
    collecting = asyncio.create_task(batch_quotes(connection, database, ledger, clock).collect([an_option]))
    await eventually(lambda: [item.holder for item in ledger.usage().demands] == [ME], "a place in the line")
    assert gateway.statistics.lines == 0

    ledger.release("other batch", [1])

    assert (await collecting).keys() == {an_option.conid}
    assert ledger.usage().demands == ()


async def test_a_batch_waits_for_a_bounded_time_only(
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
    gateway: PaperGateway,
) -> None:
    ledger, (an_option,) = make_ledger(1), options_of(gateway, 1)
    ledger.acquire([1], holder="other batch", purpose=SlotPurpose.BATCH, ttl_seconds=60)
    ledger.confirm("other batch", [1])
    quotes = batch_quotes(connection, database, ledger, clock, QuoteTimeouts(for_options=0.3, poll=0.05))

    assert await quotes.collect([an_option]) == {}

    assert ledger.usage().demands == ()


async def test_a_line_that_a_stream_waits_for_is_given_up_and_taken_again_later(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.quiet()
    ledger, options = StepLedger(database, ceiling=3, batch_floor=1, clock=clock), options_of(gateway, 3)
    timeouts = QuoteTimeouts(deadline=60, poll=0.05)
    collecting = asyncio.create_task(batch_quotes(connection, database, ledger, clock, timeouts).collect(options))
    await eventually(lambda: gateway.statistics.lines == ledger.usage().standing == 3)

    assert ledger.acquire([1], holder=OTHER, purpose=SlotPurpose.STREAM, ttl_seconds=60).granted == ()
    await eventually(lambda: gateway.statistics.lines == 2, "a line given up")
    await eventually(lambda: ledger.usage().free == 1, "and given back")
    stream(ledger, [1])
    await asyncio.sleep(0)
    assert ledger.usage().batches == 2

    gateway.contract_faults.resume()
    gateway.tick_once()
    assert (await collecting).keys() == {item.conid for item in options}
    assert gateway.statistics.peak_lines == 3


async def test_a_competing_session_ends_the_quoting_of_this_run(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.quiet()
    ledger = make_ledger(10)
    quotes = batch_quotes(connection, database, ledger, clock, QuoteTimeouts(deadline=60))
    collecting = asyncio.create_task(quotes.collect([stock(AAPL)]))
    await eventually(lambda: gateway.statistics.lines == 1)

    for session in list(gateway._open):
        session.error(1, 10197, "No market data during competing live session")

    assert await collecting == {}
    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)
    gateway.contract_faults.resume()
    assert await quotes.collect([stock(AAPL)]) == {}
    assert gateway.statistics.subscriptions_total[AAPL] == 1


async def test_a_cancel_that_is_not_confirmed_leaves_its_line_in_use(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given back, it would be used twice: the gateway may have it still. It expires."""
    gateway.contract_faults.quiet()
    ledger = make_ledger(10)
    quotes = batch_quotes(connection, database, ledger, clock, QuoteTimeouts(deadline=0.2, poll=0.05))
    collecting = asyncio.create_task(quotes.collect([stock(AAPL)]))
    await eventually(lambda: ledger.usage().standing == 1)

    async def no_answer(**_options: Any) -> None:
        raise RequestTimeoutError("the gateway did not answer")

    with monkeypatch.context() as silent:
        silent.setattr(connection, "round_trip", no_answer)
        assert await collecting == {}

    assert [slot.closing_at is not None for slot in ledger.usage().slots] == [True]
    clock.advance(SLOT_TTL_SECONDS)
    assert ledger.usage().slots == ()


async def test_workers_share_the_lines_evenly(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    open_connection: OpenConnection,
    database: StateDatabase,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.quiet()
    ledger, options = StepLedger(database, ceiling=6, batch_floor=6, clock=clock), options_of(gateway, 12)
    timeouts = QuoteTimeouts(deadline=0.5, poll=0.05)
    book = ContractCache(database, connection, clock)
    await book.qualified([item.conid for item in options])
    other = await open_connection(2)

    def worker(name: str, using: IBConnectionManager) -> BatchQuotes:
        book = ContractCache(database, using, clock)
        return BatchQuotes(using, book, ledger, holder=name, clock=clock, timeouts=timeouts)

    first = asyncio.create_task(worker("first", connection).collect(options))
    await eventually(lambda: ledger.usage().batches == 6, "all lines, while no other worker wants any")
    second = asyncio.create_task(worker("second", other).collect(options))

    def held() -> list[int]:
        return sorted(Counter(slot.holder for slot in ledger.usage().slots).values())

    await eventually(lambda: held() == [3, 3], "half each")
    gateway.contract_faults.resume()
    gateway.tick_once()
    await asyncio.gather(first, second)
    assert gateway.statistics.peak_lines <= 6
    assert ledger.usage().slots == ()


async def test_a_connection_that_the_gateway_ends_gives_its_lines_back(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.quiet()
    ledger = make_ledger(10)
    collecting = asyncio.create_task(
        batch_quotes(connection, database, ledger, clock, QuoteTimeouts(deadline=0.3)).collect([stock(AAPL)])
    )
    await eventually(lambda: gateway.statistics.lines == 1)
    gateway.perform("drop")

    assert await collecting == {}
    assert len(ledger.usage().slots) == 0


async def test_a_connection_that_fell_silent_leaves_its_lines_in_use(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    """It is closed for its silence, so it is not known whether the gateway has noticed."""
    gateway.contract_faults.quiet()
    ledger = make_ledger(10)
    collecting = asyncio.create_task(
        batch_quotes(connection, database, ledger, clock, QuoteTimeouts(deadline=0.3)).collect([stock(AAPL)])
    )
    await eventually(lambda: ledger.usage().standing == 1)
    gateway.perform("blackhole", seconds=60)
    await connection.close("heartbeat: no answer")

    assert await collecting == {}
    assert gateway.statistics.lines == len(ledger.usage().slots) == 1
    clock.advance(SLOT_TTL_SECONDS)
    assert ledger.usage().slots == ()


async def test_a_cancelled_collection_gives_its_lines_back(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.contract_faults.quiet()
    ledger = make_ledger(10)
    await qualify(connection, AAPL)
    collecting = asyncio.create_task(
        batch_quotes(connection, database, ledger, clock, QuoteTimeouts(deadline=60)).collect([stock(AAPL)])
    )
    await eventually(lambda: gateway.statistics.lines == 1)
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)

    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)


async def test_a_line_that_had_to_be_asked_for_once_more_is_confirmed_by_the_answer_to_that(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    """A contract without a mark price is refused at first; the second request may draw error 101 all the same."""
    gateway.contract_faults.quiet()
    ledger = make_ledger(10)
    await qualify(connection, AAPL)
    gateway.perform("reject_market_data", code=321, conids=[AAPL])
    gateway.contract_faults.set_lines(0)

    timeouts = QuoteTimeouts(deadline=0.2, for_others=0.2, poll=0.05)
    assert await batch_quotes(connection, database, ledger, clock, timeouts).collect([stock(AAPL)]) == {}

    assert gateway.statistics.errors[101] == 1
    assert ledger.granted
    assert ledger.confirmed == []
