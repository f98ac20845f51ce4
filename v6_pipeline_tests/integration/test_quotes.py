"""Batch quotes: through free lines only, and every line comes back whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.model import ContractSpec, SlotPurpose
from v6_pipeline.paper import PaperGateway
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.contract_book import ContractBook
from v6_pipeline.sync.quotes import LINES_PAUSE, BatchQuotes
from v6_pipeline.sync.slots import AcquiredSlots, SlotLedger
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.state.samples import option, stock

pytestmark = pytest.mark.usefixtures("quiet_loop")

AAPL, SPY = 265598, 756733
ME, OTHER = "batch", "streamer"


class WatchedLedger(SlotLedger):
    """Notes what was granted, and how many lines the gateway had in use at each release."""

    def __init__(self, gateway: PaperGateway, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gateway = gateway
        self.granted: list[tuple[int, ...]] = []
        self.in_use_at_release: list[int] = []

    def acquire(self, conids: Iterable[int], **options: Any) -> AcquiredSlots:
        answer = super().acquire(conids, **options)
        self.granted.append(answer.granted)
        return answer

    def release(self, holder: str, conids: Iterable[int] | None = None) -> int:
        self.in_use_at_release.append(self._gateway.statistics.lines)
        return super().release(holder, conids)


MakeLedger = Callable[[int], WatchedLedger]


@pytest.fixture
def make_ledger(gateway: PaperGateway, database: StateDatabase, clock: ManualClock) -> MakeLedger:
    return lambda ceiling: WatchedLedger(gateway, database, ceiling=ceiling, batch_floor=0, clock=clock)


def batch_quotes(
    connection: IBConnectionManager,
    database: StateDatabase,
    ledger: SlotLedger,
    clock: ManualClock,
    deadline_seconds: float = 10,
) -> BatchQuotes:
    book = ContractBook(database, connection, clock)
    return BatchQuotes(connection, book, ledger, holder=ME, clock=clock, deadline_seconds=deadline_seconds)


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

    assert set(ledger.granted[0]) == {item.conid for item in options}
    assert set(ledger.granted[1]) == {AAPL, SPY}


async def test_only_free_lines_are_used(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    ledger, options = make_ledger(5), options_of(gateway, 8)
    ledger.acquire([1, 2], holder=OTHER, purpose=SlotPurpose.STREAM, ttl_seconds=60)

    quotes = await batch_quotes(connection, database, ledger, clock).collect(options)

    assert len(quotes) == 8
    assert gateway.statistics.peak_lines == 3
    assert {slot.holder for slot in ledger.usage().slots} == {OTHER}


async def test_without_a_free_line_nothing_is_asked_for(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    ledger = make_ledger(2)
    ledger.acquire([1, 2], holder=OTHER, purpose=SlotPurpose.STREAM, ttl_seconds=60)

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
    await ContractBook(database, connection, clock).qualified([item.conid for item in options])
    slow = await open_connection(2, messages_per_second=6)

    await batch_quotes(slow, database, ledger, clock).collect(options)

    assert gateway.statistics.peak_lines == 4
    assert ledger.in_use_at_release == [0]


async def test_a_denied_contract_is_skipped_and_not_asked_for_again(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.deny([AAPL])
    ledger = make_ledger(10)
    quotes = batch_quotes(connection, database, ledger, clock)

    assert (await quotes.collect([stock(AAPL), stock(SPY)])).keys() == {SPY}
    assert (await quotes.collect([stock(AAPL), stock(SPY)])).keys() == {SPY}

    assert gateway.statistics.errors[354] == 1
    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)


async def test_a_silent_contract_holds_its_line_until_the_deadline_only(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.quiet([AAPL])
    ledger = make_ledger(10)
    quotes = batch_quotes(connection, database, ledger, clock, deadline_seconds=0.3)

    assert (await quotes.collect([stock(AAPL), stock(SPY)])).keys() == {SPY}

    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)


async def test_a_contract_that_the_broker_does_not_know_is_skipped(
    connection: IBConnectionManager, database: StateDatabase, make_ledger: MakeLedger, clock: ManualClock
) -> None:
    ledger = make_ledger(10)

    quotes = await batch_quotes(connection, database, ledger, clock).collect([stock(1), stock(AAPL)])

    assert quotes.keys() == {AAPL}
    assert ledger.granted == [(AAPL,)]


async def test_lines_that_tws_holds_are_not_asked_for_again_at_once(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.set_lines(0)
    ledger = make_ledger(1)
    quotes = batch_quotes(connection, database, ledger, clock)

    assert await quotes.collect([stock(AAPL), stock(SPY)]) == {}
    assert await quotes.collect([stock(AAPL)]) == {}
    assert gateway.statistics.errors[101] == 1
    assert len(ledger.usage().slots) == 0

    gateway.set_lines(100)
    clock.advance(LINES_PAUSE.total_seconds())
    assert (await quotes.collect([stock(AAPL)])).keys() == {AAPL}


async def test_a_connection_that_goes_gives_its_lines_back(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.quiet()
    ledger = make_ledger(10)
    collecting = asyncio.create_task(
        batch_quotes(connection, database, ledger, clock, deadline_seconds=0.3).collect([stock(AAPL)])
    )
    await eventually(lambda: gateway.statistics.lines == 1)
    await connection.close()

    assert await collecting == {}
    assert len(ledger.usage().slots) == 0


async def test_a_cancelled_collection_gives_its_lines_back(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    database: StateDatabase,
    make_ledger: MakeLedger,
    clock: ManualClock,
) -> None:
    gateway.quiet()
    ledger = make_ledger(10)
    await qualify(connection, AAPL)
    collecting = asyncio.create_task(
        batch_quotes(connection, database, ledger, clock, deadline_seconds=60).collect([stock(AAPL)])
    )
    await eventually(lambda: gateway.statistics.lines == 1)
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)

    assert (gateway.statistics.lines, len(ledger.usage().slots)) == (0, 0)
