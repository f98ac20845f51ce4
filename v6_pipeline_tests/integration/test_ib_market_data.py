"""Market data: one line per contract, and each line that ends is known to have ended."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.ib.market_data import MarketData, Refusal
from v6_pipeline.model import ContractSpec, Quote, SecType
from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.conftest import OpenConnection, eventually
from v6_pipeline_tests.integration.scripted_gateway import Line, ScriptedGateway
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")

AAPL, SPY = 265598, 756733
MARKET_DATA, CANCEL = 1, 2


class Received:
    """Reports of a ``MarketData``."""

    def __init__(self) -> None:
        self.quotes: list[tuple[int, Quote]] = []
        self.refusals: list[Refusal] = []

    def listen(self, connection: IBConnectionManager) -> MarketData:
        market = MarketData(
            connection,
            on_quote=lambda conid, quote: self.quotes.append((conid, quote)),
            on_refused=self.refusals.append,
        )
        market.attach()
        return market


@pytest.fixture
def received() -> Received:
    return Received()


@pytest.fixture
def market(connection: IBConnectionManager, received: Received) -> MarketData:
    return received.listen(connection)


def a_spec(conid: int = 5, exchange: str = "SMART") -> ContractSpec:
    return ContractSpec(conid=conid, symbol="X", sec_type=SecType.STOCK, currency="USD", exchange=exchange)


def refused(code: int, text: str) -> Line:
    return (4, 2, ScriptedGateway.REQ_ID, code, text, "")


def asked(scripted: ScriptedGateway) -> list[list[str]]:
    """Market-data requests as they came: version, request id, conid, …, exchange at 10."""
    return [fields for fields in scripted.received if fields[0] == str(MARKET_DATA)]


def an_option(gateway: PaperGateway) -> int:
    return next(item.conid for item in gateway.universe.contracts.values() if item.sec_type == "OPT")


async def test_quotes_come_as_the_gateway_sends_them(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    market.subscribe(await qualify(connection, AAPL))
    await connection.round_trip()
    gateway.tick_once()
    await connection.round_trip()

    sent = gateway.statistics.last_values[AAPL]
    conid, quote = received.quotes[-1]
    assert (conid, quote.bid, quote.ask, quote.last) == (AAPL, sent["bid"], sent["ask"], sent["last"])
    assert quote.mark == sent["mark"]
    assert quote.market_data_type == 1
    assert quote.price_time is not None
    assert quote.price_time.utcoffset() == timedelta()
    assert market.quote(AAPL) == quote


async def test_an_options_greeks_come_with_its_quote(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData
) -> None:
    conid = an_option(gateway)
    market.subscribe(await qualify(connection, conid))
    await connection.round_trip()

    quote = market.quote(conid)
    assert quote is not None
    assert quote.delta is not None
    assert quote.underlying_price is not None


async def test_subscribing_twice_takes_one_line(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData
) -> None:
    """ib_async would take a second line, of which only one could be cancelled."""
    spec = await qualify(connection, AAPL)
    market.subscribe(spec)
    market.subscribe(spec)
    await connection.round_trip()
    assert gateway.statistics.subscriptions == Counter({AAPL: 1})
    assert market.conids == {AAPL}

    market.cancel(AAPL)
    await connection.round_trip()
    assert gateway.statistics.lines == 0


async def test_a_contract_without_an_exchange_is_refused_before_the_wire(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData
) -> None:
    with pytest.raises(GatewayError, match="contract 5 has no exchange: qualify it first"):
        market.subscribe(a_spec(exchange=""))
    await connection.round_trip()

    assert market.conids == frozenset()
    assert gateway.statistics.errors[321] == 0


async def test_a_cancel_frees_the_line_and_one_too_many_does_nothing(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    market.subscribe(await qualify(connection, AAPL))
    market.cancel(AAPL)
    market.cancel(AAPL)
    await connection.round_trip()
    received.quotes.clear()
    gateway.tick_once()
    await connection.round_trip()

    assert gateway.statistics.lines == 0
    assert gateway.statistics.errors[300] == 0
    assert market.quote(AAPL) is None
    assert received.quotes == []


async def test_a_later_subscription_begins_with_an_empty_quote(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData
) -> None:
    """ib_async keeps the ticker, with the bid of long ago."""
    spec = await qualify(connection, AAPL)
    market.subscribe(spec)
    await connection.round_trip()
    market.cancel(AAPL)
    gateway.contract_faults.quiet([AAPL])
    market.subscribe(spec)
    await connection.round_trip()

    assert market.quote(AAPL) == Quote()


async def test_a_refused_contract_is_reported_once_and_forgotten(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    gateway.contract_faults.deny([AAPL])
    spec = await qualify(connection, AAPL)
    market.subscribe(spec)
    await connection.round_trip()

    assert [(item.conid, item.code, item.reaction) for item in received.refusals] == [
        (AAPL, 354, Reaction.FAIL_REQUEST)
    ]
    assert market.conids == frozenset()
    market.cancel(AAPL)
    await connection.round_trip()
    assert gateway.statistics.errors[300] == 0

    gateway.contract_faults.allow([AAPL])
    market.subscribe(spec)
    await connection.round_trip()
    assert market.quote(AAPL) is not None
    assert len(received.refusals) == 1


async def test_lines_that_are_all_taken_differ_from_a_missing_permission(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    gateway.contract_faults.set_lines(1)
    market.subscribe(await qualify(connection, AAPL))
    market.subscribe(await qualify(connection, SPY))
    await connection.round_trip()

    assert [(item.conid, item.code, item.reaction) for item in received.refusals] == [
        (SPY, 101, Reaction.LINES_EXHAUSTED)
    ]
    assert market.conids == {AAPL}
    assert gateway.statistics.subscriptions == Counter({AAPL: 1})


@pytest.mark.parametrize("code", [10089, 10090, 10091, 10167])
async def test_an_advisory_leaves_the_stream(code: int, open_connection: OpenConnection, received: Received) -> None:
    advisory = (4, 2, ScriptedGateway.REQ_ID, code, "Part of requested market data is not subscribed.", "")
    price = (1, 6, ScriptedGateway.REQ_ID, 1, 10.5, 3, 0)
    async with ScriptedGateway({MARKET_DATA: [advisory, price], 49: [(49, 1, 1772461800)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        market = received.listen(connection)
        market.subscribe(a_spec())
        await connection.round_trip()

        assert received.refusals == []
        assert received.quotes[-1][1].bid == 10.5


async def test_a_refused_mark_price_is_left_out_and_the_rest_asked_for_once_more(
    open_connection: OpenConnection, received: Received
) -> None:
    """321 for a contract that has no mark price; it says the same of a request that is wrong for another reason."""
    wrong = refused(321, "Error validating request: incorrect generic tick list of 221")
    async with ScriptedGateway({MARKET_DATA: [wrong], 49: [(49, 1, 1772461800)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        market = received.listen(connection)
        market.subscribe(a_spec())
        await eventually(lambda: received.refusals)

        assert ["221" in fields for fields in asked(scripted)] == [True, False]
        assert [item.code for item in received.refusals] == [321]
        assert market.conids == frozenset()


async def test_a_request_id_in_use_is_followed_by_one_request_with_another(
    open_connection: OpenConnection, received: Received
) -> None:
    answers: dict[int, list[Line]] = {MARKET_DATA: [refused(102, "Duplicate ticker id")], 49: [(49, 1, 1772461800)]}
    async with ScriptedGateway(answers) as scripted:
        market = received.listen(await open_connection(port=scripted.port))
        market.subscribe(a_spec())
        await eventually(lambda: received.refusals)

        first, second = asked(scripted)
        assert first[2] != second[2]
        assert first[3:] == second[3:]
        assert [item.code for item in received.refusals] == [102]
        assert market.conids == frozenset()


async def test_after_a_request_id_in_use_the_second_request_streams(
    open_connection: OpenConnection, received: Received
) -> None:
    async with ScriptedGateway({49: [(49, 1, 1772461800)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        market = received.listen(connection)
        market.subscribe(a_spec())
        await eventually(lambda: asked(scripted))
        scripted.error(int(asked(scripted)[0][2]), 102, "Duplicate ticker id")
        await eventually(lambda: len(asked(scripted)) == 2)
        scripted.say(1, 6, asked(scripted)[1][2], 1, 10.5, 3, 0)
        await connection.round_trip()

        assert received.refusals == []
        assert market.conids == {5}
        assert received.quotes[-1][1].bid == 10.5


@pytest.mark.parametrize(("exchange", "exchanges"), [("CBOE", ["CBOE", "SMART"]), ("SMART", ["SMART"])])
async def test_a_contract_that_is_unknown_at_its_exchange_is_asked_for_once_more_at_smart(
    open_connection: OpenConnection, received: Received, exchange: str, exchanges: list[str]
) -> None:
    answers = {MARKET_DATA: [refused(200, "No security definition has been found for the request")]}
    async with ScriptedGateway(answers) as scripted:
        market = received.listen(await open_connection(port=scripted.port))
        market.subscribe(a_spec(exchange=exchange))
        await eventually(lambda: received.refusals)

        assert [(fields[3], fields[10]) for fields in asked(scripted)] == [("5", place) for place in exchanges]
        assert [item.code for item in received.refusals] == [200]
        assert market.conids == frozenset()


async def test_an_error_of_another_request_ends_no_stream(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    market.subscribe(await qualify(connection, AAPL))
    await connection.round_trip()
    for request_id in (-1, 9999):
        gateway._sessions[1].error(request_id, 354, "Requested market data is not subscribed.")
    await connection.round_trip()

    assert received.refusals == []
    assert market.conids == {AAPL}


async def test_the_cancel_of_what_the_gateway_has_ended_already_is_harmless(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    market: MarketData,
    caplog: pytest.LogCaptureFixture,
) -> None:
    market.subscribe(await qualify(connection, AAPL))
    await connection.round_trip()
    gateway._market_data.disconnected(gateway._sessions[1])
    market.cancel(AAPL)
    await connection.round_trip()

    assert gateway.statistics.errors[300] == 1
    assert 300 not in connection.error_counts
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_unknown_request_that_was_not_cancelled_is_counted_and_warned_of_once(
    gateway: PaperGateway,
    connection: IBConnectionManager,
    market: MarketData,
    caplog: pytest.LogCaptureFixture,
) -> None:
    market.subscribe(await qualify(connection, AAPL))
    for request_id in (9998, 9999):
        gateway._sessions[1].error(request_id, 300, f"Can't find EId with tickerId:{request_id}")
    await connection.round_trip()

    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["gateway: 300 Can't find EId with tickerId:9998 (request 9998) -> inform"]
    assert connection.error_counts[300] == 2
    assert market.conids == {AAPL}


async def test_what_is_cancelled_and_asked_for_again_ticks_on_one_line(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    specs = {conid: await qualify(connection, conid) for conid in (AAPL, SPY)}
    for spec in specs.values():
        market.subscribe(spec)
    await connection.round_trip()

    for conid, spec in specs.items():
        market.cancel(conid)
        market.subscribe(spec)
    await connection.round_trip()

    assert gateway.statistics.subscriptions == Counter({AAPL: 1, SPY: 1})
    assert gateway.statistics.subscriptions_total == Counter({AAPL: 2, SPY: 2})
    assert gateway.statistics.peak_lines == 2
    received.quotes.clear()
    gateway.tick_once()
    await connection.round_trip()
    assert {conid for conid, _ in received.quotes} == {AAPL, SPY}


async def test_after_a_loss_that_dropped_all_nothing_is_cancelled(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    specs = {conid: await qualify(connection, conid) for conid in (AAPL, SPY)}
    for spec in specs.values():
        market.subscribe(spec)
    await connection.round_trip()
    gateway._market_data.disconnected(gateway._sessions[1])  # as after 1101

    market.drop_all()
    for spec in specs.values():
        market.subscribe(spec)
    await connection.round_trip()

    assert gateway.statistics.subscriptions == Counter({AAPL: 1, SPY: 1})
    assert gateway.statistics.errors[300] == 0
    received.quotes.clear()
    gateway.tick_once()
    await connection.round_trip()
    # ib_async reports each packet that arrives, and the network may cut one tick in two.
    assert {conid for conid, _ in received.quotes} == {AAPL, SPY}

    for conid in specs:
        market.cancel(conid)
    await connection.round_trip()
    assert gateway.statistics.lines == 0


async def test_a_new_connection_begins_without_subscriptions(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    spec = await qualify(connection, AAPL)
    market.subscribe(spec)
    await connection.close()
    await eventually(lambda: not gateway.statistics.clients)
    await connection.connect()
    market.attach()
    assert market.conids == frozenset()

    market.subscribe(spec)
    await connection.round_trip()
    received.quotes.clear()
    gateway.tick_once()
    await connection.round_trip()
    assert gateway.statistics.subscriptions == Counter({AAPL: 1})
    assert {conid for conid, _ in received.quotes} == {AAPL}


async def test_attaching_twice_reports_each_quote_once(
    gateway: PaperGateway, connection: IBConnectionManager, market: MarketData, received: Received
) -> None:
    market.attach()
    market.subscribe(await qualify(connection, AAPL))
    await connection.round_trip()
    received.quotes.clear()
    gateway.tick_once()
    await connection.round_trip()

    # A tick that came in two packets is two different quotes; reported twice, it would be the same one again.
    assert received.quotes
    assert len(received.quotes) == len(set(received.quotes))


async def test_cancelling_after_the_connection_went_is_no_error(
    connection: IBConnectionManager, market: MarketData
) -> None:
    """Lines are given back in ``finally`` clauses, where another error would hide the first."""
    market.subscribe(await qualify(connection, AAPL))
    await connection.close()

    market.cancel(AAPL)

    assert market.conids == frozenset()


async def test_subscribing_without_a_connection_is_one(connection: IBConnectionManager, market: MarketData) -> None:
    await connection.close()

    with pytest.raises(GatewayError, match="not connected"):
        market.subscribe(a_spec())
    assert market.conids == frozenset()


async def test_a_tick_is_dated_when_it_came(connection: IBConnectionManager, market: MarketData) -> None:
    before = datetime.now(UTC)
    market.subscribe(await qualify(connection, AAPL))
    await connection.round_trip()

    quote = market.quote(AAPL)
    assert quote is not None
    assert quote.price_time is not None
    assert before <= quote.price_time <= datetime.now(UTC)


async def test_a_tick_is_dated_by_the_clock_passed_in(connection: IBConnectionManager, clock: ManualClock) -> None:
    """ib_async's own stamps are the system's; a row must not mix two clocks."""
    market = MarketData(connection, on_quote=lambda *_: None, on_refused=lambda _: None, clock=clock)
    market.attach()
    market.subscribe(await qualify(connection, AAPL))
    await connection.round_trip()

    quote = market.quote(AAPL)
    assert quote is not None
    assert quote.price_time == clock.now
