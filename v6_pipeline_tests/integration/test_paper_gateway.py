"""The paper gateway through its socket, with the real ib_async client: what the product will rely on.

ib_async is imported inside the running loop, because eventkit looks for one while it is imported.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import AccountConflict, GatewayConfig, PaperGateway, quote_at, session
from v6_pipeline.paper.wire import encode_payload, frame

if TYPE_CHECKING:
    from ib_async import IB, Contract, Ticker

FIRST, SECOND = "SIM0000001", "SIM0000002"
AAPL, SPX, IBM = 265598, 416904, 8314
NOW = datetime(2026, 11, 20, 15, 30, 12, tzinfo=UTC)


class Clock:
    """Monotonic seconds that stand still until told otherwise."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Client:
    """A connected ib_async client and the errors it was sent: (request id, code, text)."""

    ib: "IB"
    errors: list[tuple[int, int, str]] = field(default_factory=list)

    def codes(self) -> list[int]:
        """Codes without the farm notices of the login."""
        return [code for _, code, _ in self.errors if code not in {2104, 2106, 2158}]

    def text(self, code: int) -> str:
        return next(text for _, each, text in self.errors if each == code)


async def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds; the deadline is generous because it is only ever reached in failure."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"not within {seconds:g} s")
        await asyncio.sleep(0.005)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(clock: Clock) -> GatewayConfig:
    """Nothing moves by itself."""
    return GatewayConfig(as_of=date(2026, 11, 20), tick_seconds=None, clock=clock, utcnow=lambda: NOW)


Connect = Callable[..., Any]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exits:
        yield exits


@pytest.fixture
async def gateway(config: GatewayConfig, stack: AsyncExitStack) -> PaperGateway:
    return await stack.enter_async_context(PaperGateway(config))


@pytest.fixture
async def connect(gateway: PaperGateway, stack: AsyncExitStack) -> Connect:
    async def connect_client(client_id: int = 1, *, to: PaperGateway | None = None, **options: Any) -> Client:
        from ib_async import IB
        from ib_async.ib import StartupFetch

        client = Client(IB())

        def record(request_id: int, code: int, text: str, _contract: object) -> None:
            client.errors.append((request_id, code, text))

        client.ib.errorEvent += record
        client.ib.client.MaxRequests = 0
        stack.callback(client.ib.disconnect)
        options = {"fetchFields": StartupFetch(0), "timeout": 20, **options}
        await client.ib.connectAsync("127.0.0.1", (to or gateway).port, client_id, **options)
        return client

    return connect_client


def contract_of(conid: int, exchange: str = "SMART") -> "Contract":
    from ib_async import Contract

    return Contract(conId=conid, exchange=exchange)


def an_option(gateway: PaperGateway, symbol: str = "SPX") -> int:
    return next(c.conid for c in gateway.universe.contracts.values() if (c.symbol, c.sec_type) == (symbol, "OPT"))


async def settled(client: Client) -> None:
    """Everything the gateway sent before now has arrived: messages keep their order."""
    await asyncio.wait_for(client.ib.reqCurrentTimeAsync(), 20)


# Connection


async def test_a_plain_default_connect_works_and_fetches_everything(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(raiseSyncErrors=True, fetchFields=all_fetch_fields())
    assert client.ib.client.serverVersion() == 178
    assert client.ib.managedAccounts() == [FIRST, SECOND]
    assert len(client.ib.positions()) == 60
    assert client.ib.openTrades() == []
    assert {value.account for value in client.ib.accountValues()} == {FIRST, SECOND}
    assert client.codes() == []
    assert gateway.statistics.unknown_messages == {}


async def test_a_default_connect_to_a_single_account_fetches_its_portfolio(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    single = await stack.enter_async_context(PaperGateway(replace(config, accounts=(FIRST,))))
    client = await connect(0, to=single, raiseSyncErrors=True, fetchFields=all_fetch_fields())
    assert len(client.ib.portfolio(FIRST)) == 60
    assert single.statistics.unknown_messages == {}


def all_fetch_fields() -> Any:
    from ib_async.ib import StartupFetchALL

    return StartupFetchALL


async def test_requests_without_state_are_answered(connect: Connect) -> None:
    client = await connect(0)
    assert await asyncio.wait_for(client.ib.reqAllOpenOrdersAsync(), 20) == []
    assert await asyncio.wait_for(client.ib.reqCompletedOrdersAsync(False), 20) == []
    assert await asyncio.wait_for(client.ib.reqExecutionsAsync(), 20) == []
    heard: list[str] = []
    client.ib.wrapper.managedAccounts = heard.append
    client.ib.client.reqManagedAccts()
    client.ib.client.setServerLogLevel(2)
    await settled(client)
    assert heard == [f"{FIRST},{SECOND}"]
    assert client.codes() == []


async def test_the_time_is_the_gateways(connect: Connect) -> None:
    client = await connect()
    assert await client.ib.reqCurrentTimeAsync() == NOW


async def test_a_client_id_in_use_is_refused_with_326_and_the_first_client_stays(
    gateway: PaperGateway, connect: Connect
) -> None:
    from ib_async import IB

    first = await connect(7)
    second = Client(IB())
    second.ib.errorEvent += lambda *error: second.errors.append(error[:3])
    with pytest.raises((TimeoutError, ConnectionError)):
        await second.ib.connectAsync("127.0.0.1", gateway.port, clientId=7, timeout=0.5)
    assert second.codes() == [326]
    assert "client id is already in use" in second.text(326)
    await eventually(lambda: len(gateway._open) == 1)
    await settled(first)
    assert gateway.statistics.connections == {7: 1}
    assert gateway.statistics.clients == {7}, "the refused client's end is not the first one's"


async def test_a_client_id_is_free_again_after_its_client_left(gateway: PaperGateway, connect: Connect) -> None:
    first = await connect(7)
    first.ib.disconnect()
    await eventually(lambda: not gateway.statistics.clients)
    await connect(7)
    assert gateway.statistics.connections == {7: 2}


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"API\0" + struct.pack(">I", 0xFFFFFFFF),
        b"API\0" + struct.pack(">I", 9) + b"v100..150",
        b"API\0" + struct.pack(">I", 9) + b"v157..178" + struct.pack(">I", 4) + b"\xff\xfe\0\0",
        b"API\0" + struct.pack(">I", 9) + b"v157..178" + struct.pack(">I", 7) + b"61\x001\x002\0",
        b"API\0" + struct.pack(">I", 9) + b"v157..178" + struct.pack(">I", 0),
    ],
)
async def test_garbage_ends_the_connection_it_came_from_and_no_other(
    gateway: PaperGateway, connect: Connect, garbage: bytes
) -> None:
    client = await connect()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(garbage)
    await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await settled(client)
    assert gateway.statistics.bad_clients == 1
    assert gateway.statistics.clients == {1}


async def test_a_message_nobody_knows_is_counted_and_answered(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    client.ib.client.send(9999, 1)
    client.ib.client.reqHeadTimeStamp(55, contract_of(AAPL), "TRADES", 1, 1)
    await settled(client)
    assert [(request_id, code) for request_id, code, _ in client.errors if code == 320] == [(-1, 320), (55, 320)]
    assert gateway.statistics.unknown_messages == {9999: 1, 87: 1}


async def test_a_malformed_message_is_answered_and_the_connection_stays(connect: Connect) -> None:
    client = await connect()
    client.ib.client.send(1, 11, 77, "no conid")
    await settled(client)
    assert client.codes() == [320]
    assert client.errors[-1][0] == 77


async def test_it_listens_on_loopback_only(gateway: PaperGateway) -> None:
    assert len(gateway.addresses) == 2
    assert {address[0] for address in gateway.addresses} == {"127.0.0.1"}
    with pytest.raises(TypeError):
        GatewayConfig(host="0.0.0.0")  # type: ignore[call-arg]


async def test_a_taken_port_is_one_clear_line(gateway: PaperGateway, config: GatewayConfig) -> None:
    with pytest.raises(GatewayError) as problem:
        await PaperGateway(replace(config, port=gateway.port)).start()
    assert f"127.0.0.1:{gateway.port}" in str(problem.value)
    assert "\n" not in str(problem.value)


async def test_a_taken_control_port_leaves_nothing_listening(gateway: PaperGateway, config: GatewayConfig) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(GatewayError, match="--control-port"):
        await PaperGateway(replace(config, port=port, control_port=gateway.control_port)).start()
    async with PaperGateway(replace(config, port=port)) as again:
        assert again.port == port


async def test_stopping_disconnects_every_client(config: GatewayConfig, connect: Connect) -> None:
    gateway = PaperGateway(config)
    await gateway.start()
    client = await connect(to=gateway)
    await gateway.stop()
    await eventually(lambda: not client.ib.isConnected())


async def test_a_client_that_reads_nothing_is_cut_off(gateway: PaperGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_UNSENT_BYTES", 1 << 16)
    every_spx_option = (9, 8, 1, 0, "SPX", "OPT", "", 0.0, "", "", "", "", "", "", "", False, "", "", "")
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as connection:
        connection.sendall(b"API\0" + frame(b"v157..178") + frame(encode_payload((71, 2, 9, ""))))
        await eventually(lambda: gateway.statistics.clients == {9})
        connection.sendall(frame(encode_payload(every_spx_option)) * 90)
        await eventually(lambda: not gateway.statistics.clients)


async def test_a_failure_while_serving_a_client_surfaces_when_the_gateway_stops(
    config: GatewayConfig, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = PaperGateway(config)
    await gateway.start()
    client = await connect(to=gateway)
    monkeypatch.setattr(gateway.book, "held", lambda *_: 1 / 0)
    client.ib.client.reqPositions()
    await eventually(lambda: not client.ib.isConnected())
    with pytest.raises(ZeroDivisionError):
        await gateway.stop()


async def test_a_failure_while_ticking_stops_the_gateway_and_surfaces(
    config: GatewayConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = PaperGateway(replace(config, tick_seconds=0.05))
    monkeypatch.setattr(gateway, "tick_once", lambda: 1 / 0)
    await gateway.start()
    await asyncio.wait_for(gateway.wait_stopped(), 20)
    with pytest.raises(ZeroDivisionError):
        await gateway.stop()


# Positions


async def test_positions_carry_an_empty_exchange_but_for_stocks(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    positions = await client.ib.reqPositionsAsync()
    exchanges: dict[str, set[str]] = {}
    for position in positions:
        exchanges.setdefault(position.contract.secType, set()).add(position.contract.exchange)
    assert exchanges.pop("STK") == {"NASDAQ", "NYSE", "ARCA", "IBIS"}
    assert exchanges == {"OPT": {""}, "FUT": {""}, "CASH": {""}}
    sent = {(p.account, p.contract.conId): (p.position, p.avgCost) for p in positions}
    assert sent == {(h.account, h.conid): (h.quantity, h.average_cost) for h in gateway.universe.holdings}


async def test_every_subscriber_hears_of_a_position_opened_resized_and_closed(
    gateway: PaperGateway, connect: Connect
) -> None:
    clients = [await connect(1), await connect(2)]
    silent = await connect(3)
    silent.ib.client.cancelPositions()
    heard: list[list[tuple[str, int, float]]] = [[], [], []]
    for client, log in zip([*clients, silent], heard, strict=True):
        client.ib.positionEvent += lambda p, log=log: log.append((p.account, p.contract.conId, p.position))
        await settled(client)
    gateway.open_position(SECOND, IBM, 5, 1110.0)
    gateway.resize_position(SECOND, IBM, 8)
    gateway.close_position(SECOND, IBM)
    await eventually(lambda: len(heard[0]) == 3 and len(heard[1]) == 3)
    await settled(silent)
    assert heard == [[(SECOND, IBM, 5.0), (SECOND, IBM, 8.0), (SECOND, IBM, 0.0)]] * 2 + [[]]


# Account updates


async def test_an_account_download_is_complete_and_matches_the_prices(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    times: list[str] = []
    client.ib.wrapper.updateAccountTime = times.append
    await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(SECOND), 20)
    assert times == ["15:30"]
    rows = {item.contract.conId: item for item in client.ib.portfolio(SECOND)}
    assert rows.keys() == {holding.conid for holding in gateway.book.held(SECOND)}
    for conid, row in rows.items():
        contract = gateway.universe.contracts[conid]
        mark = quote_at(gateway.universe, conid, 0).mark
        assert row.marketPrice == mark
        assert row.marketValue == pytest.approx(row.position * mark * contract.value_per_point)
        assert row.unrealizedPNL == pytest.approx(row.marketValue - row.position * row.averageCost, abs=1e-4)
    values = {(value.tag, value.currency): value.value for value in client.ib.accountValues(SECOND)}
    assert values["AccountReady", ""] == "true"
    assert float(values["NetLiquidation", "USD"]) > 0
    assert {currency for tag, currency in values if tag == "CashBalance"} == {"USD", "EUR", "BASE"}
    assert values["ExchangeRate", "BASE"] == "1.00"


async def test_another_account_evicts_the_first_client_with_2100_and_its_feed_ends(
    gateway: PaperGateway, connect: Connect
) -> None:
    first, second = await connect(1), await connect(2)
    updates: list[str] = []
    first.ib.updatePortfolioEvent += lambda item: updates.append(item.account)
    await first.ib.reqAccountUpdatesAsync(FIRST)
    await asyncio.wait_for(second.ib.reqAccountUpdatesAsync(SECOND), 20)
    await settled(first)
    assert first.codes() == [2100]
    assert second.codes() == []
    updates.clear()
    gateway.portfolio_tick()
    gateway.resize_position(FIRST, AAPL, 1)
    await settled(first)
    assert updates == []


async def test_the_same_client_changing_accounts_is_told_2100_too(gateway: PaperGateway, connect: Connect) -> None:
    """The documented text of 2101 speaks of a different client only, so refusing does not apply here."""
    client = await connect()
    gateway.set_account_conflict(AccountConflict.REFUSE)
    await client.ib.reqAccountUpdatesAsync(FIRST)
    await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(SECOND), 20)
    assert client.codes() == [2100]


async def test_an_account_given_back_evicts_nobody(connect: Connect) -> None:
    first, second = await connect(1), await connect(2)
    await first.ib.reqAccountUpdatesAsync(FIRST)
    first.ib.client.reqAccountUpdates(False, FIRST)
    await settled(first)
    await asyncio.wait_for(second.ib.reqAccountUpdatesAsync(SECOND), 20)
    await settled(first)
    assert first.codes() == []


async def test_one_account_serves_several_clients(gateway: PaperGateway, connect: Connect) -> None:
    clients = [await connect(1), await connect(2)]
    for client in clients:
        await asyncio.wait_for(client.ib.reqAccountUpdatesAsync(FIRST), 20)
    gateway.resize_position(FIRST, AAPL, 123)
    for client in clients:
        await settled(client)
        assert {i.position for i in client.ib.portfolio(FIRST) if i.contract.conId == AAPL} == {123}
        assert client.codes() == []


async def test_where_conflicts_are_refused_the_newcomer_gets_2101_and_the_first_client_keeps_its_feed(
    gateway: PaperGateway, connect: Connect
) -> None:
    gateway.set_account_conflict(AccountConflict.REFUSE)
    first, second = await connect(1), await connect(2)
    await first.ib.reqAccountUpdatesAsync(FIRST)
    second.ib.client.reqAccountUpdates(True, SECOND)
    await settled(second)
    assert second.codes() == [2101]
    assert second.ib.portfolio(SECOND) == []
    gateway.resize_position(FIRST, AAPL, 123)
    await settled(first)
    assert first.codes() == []
    assert 123 in {item.position for item in first.ib.portfolio(FIRST)}


async def test_an_account_that_is_not_managed_is_refused(connect: Connect) -> None:
    client = await connect()
    client.ib.client.reqAccountUpdates(True, "U1234567")
    await settled(client)
    assert client.codes() == [321]


async def test_marks_of_unstreamed_holdings_move_every_portfolio_seconds_by_the_clock(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client = await connect()
    await client.ib.reqAccountUpdatesAsync(FIRST)
    updates: list[float] = []
    client.ib.updatePortfolioEvent += lambda i: updates.append(i.marketPrice) if i.contract.conId == AAPL else None
    clock.now += 179.0
    gateway.tick_once()
    await settled(client)
    assert updates == []
    clock.now += 1.0
    gateway.tick_once()
    await settled(client)
    assert updates == [quote_at(gateway.universe, AAPL, 1).mark]
    assert gateway.statistics.last_portfolio[FIRST, AAPL]["market_price"] == updates[0]


async def test_a_closed_position_stays_in_the_download_with_its_realized_profit(
    gateway: PaperGateway, connect: Connect
) -> None:
    gateway.close_position(FIRST, AAPL)
    client = await connect()
    rows: dict[int, Any] = {}
    client.ib.updatePortfolioEvent += lambda item: rows.update({item.contract.conId: item})
    await client.ib.reqAccountUpdatesAsync(FIRST)
    assert rows[AAPL].position == 0
    assert rows[AAPL].realizedPNL != 0
    values = {
        (value.tag, value.currency): float(value.value)
        for value in client.ib.accountValues(FIRST)
        if value.tag == "RealizedPnL"
    }
    assert values["RealizedPnL", "USD"] == pytest.approx(rows[AAPL].realizedPNL, abs=0.01)


async def test_multi_account_values_follow_every_account_until_cancelled(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    changes: list[tuple[str, str]] = []
    for account in (FIRST, SECOND):
        await asyncio.wait_for(client.ib.reqAccountUpdatesMultiAsync(account), 20)
    client.ib.accountValueEvent += lambda value: changes.append((value.account, value.tag))
    gateway.portfolio_tick()
    await settled(client)
    assert {(FIRST, "NetLiquidation"), (SECOND, "NetLiquidation")} <= set(changes)
    assert (FIRST, "AccountType") not in changes
    for request_id in range(client.ib.client.getReqId()):
        client.ib.client.cancelAccountUpdatesMulti(request_id)
    await settled(client)
    changes.clear()
    gateway.portfolio_tick()
    await settled(client)
    assert changes == []
    assert client.codes() == []


async def test_the_portfolio_update_does_not_move_what_is_streamed(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.portfolio_tick()
    assert gateway.market.sequence(AAPL) == 0
    assert max(gateway.market.sequence(holding.conid) for holding in gateway.book.held()) == 1


async def test_an_account_summary_has_the_tags_asked_for_and_later_only_changes(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    summary = await asyncio.wait_for(client.ib.accountSummaryAsync(), 20)
    keys = {(value.account, value.tag, value.currency) for value in summary}
    assert {(FIRST, "NetLiquidation", "USD"), (SECOND, "BuyingPower", "USD")} <= keys
    assert {(SECOND, "CashBalance", currency) for currency in ("USD", "EUR", "BASE")} <= keys
    changes: list[str] = []
    client.ib.accountSummaryEvent += lambda value: changes.append(value.tag)
    gateway.portfolio_tick()
    await settled(client)
    assert "NetLiquidation" in changes
    assert not {"AccountType", "Currency", "RealizedPnL"} & set(changes)


async def test_a_third_account_summary_is_refused(connect: Connect) -> None:
    client = await connect()
    for request_id in (11, 12, 13):
        client.ib.client.reqAccountSummary(request_id, "All", "NetLiquidation")
    client.ib.client.cancelAccountSummary(11)
    client.ib.client.reqAccountSummary(14, FIRST, "NetLiquidation")
    await settled(client)
    assert [error[:2] for error in client.errors if error[1] == 322] == [(13, 322)]


async def test_profit_and_loss_of_an_account_and_of_one_contract(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    option = an_option(gateway)
    total = client.ib.reqPnL(FIRST)
    single = client.ib.reqPnLSingle(FIRST, "", AAPL)
    nothing = client.ib.reqPnLSingle(FIRST, "", option)
    await settled(client)
    row = gateway.book.valuation(gateway.book.holdings[FIRST, AAPL])
    assert (single.position, single.value) == (row.holding.quantity, row.market_value)
    assert single.unrealizedPnL == row.unrealized_pnl
    assert single.dailyPnL == row.daily_pnl
    assert (total.dailyPnL, total.unrealizedPnL) == gateway.book.pnl(gateway.book.held(FIRST))[:2]
    assert nothing.value != nothing.value, "for a contract that is not held IB does not answer at all"
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.tick_once()
    await settled(client)
    assert single.value == gateway.book.valuation(gateway.book.holdings[FIRST, AAPL]).market_value != row.market_value
    told: list[object] = []
    client.ib.pnlSingleEvent += told.append
    gateway.quiet()
    gateway.tick_once()
    await settled(client)
    assert told == [], "what did not change is not sent again"
    client.ib.cancelPnLSingle(FIRST, "", AAPL)
    client.ib.cancelPnL(FIRST)
    await settled(client)
    assert client.codes() == []


# Contracts


async def test_details_of_a_conid_alone_make_a_contract_that_can_be_requested(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    conid = an_option(gateway)
    own = gateway.universe.contracts[conid]
    (details,) = await client.ib.reqContractDetailsAsync(contract_of(conid, ""))
    contract = details.contract
    assert contract is not None
    assert (contract.conId, contract.strike, contract.right, contract.exchange) == (
        conid,
        own.strike,
        own.right,
        "SMART",
    )
    assert (contract.lastTradeDateOrContractMonth, contract.localSymbol) == (own.expiry, own.local_symbol)
    assert (details.lastTradeTime, details.realExpirationDate, details.contractMonth) == (
        "16:00:00",
        own.expiry,
        own.expiry[:6],
    )
    assert (details.minTick, details.underConId, details.priceMagnifier) == (0.05, SPX, 1)
    assert details.validExchanges.split(",")[0] == "SMART"
    assert details.longName == "S&P 500 Stock Index"
    assert details.marketName == "SPXW"
    assert details.timeZoneId == "US/Eastern"
    assert details.tradingSessions()[0].start.date() == NOW.date()
    assert len(details.liquidSessions()) == 4  # Friday 20 to Wednesday 25 November, but for the weekend


async def test_details_of_a_future_name_its_exchange_and_magnifier(connect: Connect) -> None:
    from ib_async import Future

    client = await connect()
    found = await client.ib.reqContractDetailsAsync(Future("ZC", exchange="CBOT"))
    assert [details.contract.exchange for details in found if details.contract] == ["CBOT"] * 3
    assert {(details.priceMagnifier, details.contract.multiplier) for details in found if details.contract} == {
        (100, "5000")
    }


async def test_an_unknown_contract_is_error_200_with_ibs_text(connect: Connect) -> None:
    client = await connect()
    assert await client.ib.reqContractDetailsAsync(contract_of(12345, "")) == []
    client.ib.reqMktData(contract_of(12345))
    await settled(client)
    assert client.codes() == [200, 200]
    assert client.text(200) == "No security definition has been found for the request"


async def test_a_description_without_security_type_is_321(connect: Connect) -> None:
    from ib_async import Contract

    client = await connect()
    client.ib.client.reqContractDetails(60, Contract(symbol="AAPL"))
    await settled(client)
    assert client.codes() == [321]


async def test_an_ambiguous_contract_is_error_200(gateway: PaperGateway, connect: Connect) -> None:
    from ib_async import Option

    client = await connect()
    client.ib.client.reqMktData(50, Option("SPX", exchange="SMART"), "", False, False, [])
    await settled(client)
    assert client.codes() == [200]
    assert gateway.statistics.lines == 0


# Market data


def seen(ticker: "Ticker", *, greeks: bool) -> dict[str, float]:
    """What ib_async holds, under the names of the statistics."""
    values = {
        "bid": ticker.bid,
        "bid_size": ticker.bidSize,
        "ask": ticker.ask,
        "ask_size": ticker.askSize,
        "last": ticker.last,
        "last_size": ticker.lastSize,
        "volume": ticker.volume,
        "close": ticker.close,
        "mark": ticker.markPrice,
    }
    model = ticker.modelGreeks
    if greeks and model is not None:
        values |= {
            "implied_vol": model.impliedVol or 0.0,
            "delta": model.delta or 0.0,
            "gamma": model.gamma or 0.0,
            "vega": model.vega or 0.0,
            "theta": model.theta or 0.0,
            "option_price": model.optPrice or 0.0,
            "underlying_price": model.undPrice or 0.0,
        }
    return values


async def test_a_stream_delivers_exactly_what_the_statistics_and_the_price_function_say(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    option = an_option(gateway)
    tickers = {conid: client.ib.reqMktData(contract_of(conid), "221") for conid in (option, AAPL)}
    closes: list[float] = []
    tickers[AAPL].updateEvent += lambda ticker: closes.extend(t.price for t in ticker.ticks if t.tickType == 9)
    for sequence in range(12):
        await settled(client)
        for conid, ticker in tickers.items():
            quote = quote_at(gateway.universe, conid, sequence)
            values = seen(ticker, greeks=conid == option)
            assert values | {"sequence": sequence} == gateway.statistics.last_values[conid]
            assert (ticker.bid, ticker.ask, ticker.last) == (quote.bid, quote.ask, quote.last)
            assert ticker.markPrice == quote.mark
            assert ticker.marketDataType == 1
        if sequence < 11:
            gateway.tick_once()
    assert len(closes) == 1, "only what changed is sent again"
    model = tickers[option].modelGreeks
    assert model is not None
    assert model.undPrice == quote_at(gateway.universe, option, 11).underlying_price
    for computation, price in ((tickers[option].bidGreeks, "bid"), (tickers[option].askGreeks, "ask")):
        assert computation is not None
        assert computation.optPrice == gateway.statistics.last_values[option][price]
    assert tickers[AAPL].minTick == 0.01
    assert tickers[AAPL].lastTimestamp == NOW


async def test_without_generic_tick_221_there_is_no_mark_price(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert ticker.bid > 0
    assert ticker.markPrice != ticker.markPrice
    assert "mark" not in gateway.statistics.last_values[AAPL]


async def test_prices_move_by_themselves_every_tick_seconds(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    moving = await stack.enter_async_context(PaperGateway(replace(config, tick_seconds=0.05)))
    client = await connect(to=moving)
    client.ib.reqMktData(contract_of(AAPL))
    await eventually(lambda: moving.market.sequence(AAPL) >= 3)
    assert moving.market.sequence(IBM) == 0, "only streamed contracts move"


async def test_a_late_subscriber_begins_with_a_full_burst_of_the_current_price(
    gateway: PaperGateway, connect: Connect
) -> None:
    first, second = await connect(1), await connect(2)
    first.ib.reqMktData(contract_of(AAPL))
    await settled(first)
    gateway.tick_once()
    ticker = second.ib.reqMktData(contract_of(AAPL))
    await settled(second)
    assert (ticker.bid, ticker.close) == (
        quote_at(gateway.universe, AAPL, 1).bid,
        quote_at(gateway.universe, AAPL, 1).close,
    )


async def test_a_quiet_contract_sends_nothing_until_it_resumes(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    gateway.quiet([AAPL])
    quiet, loud = (client.ib.reqMktData(contract_of(conid)) for conid in (AAPL, IBM))
    await settled(client)
    gateway.tick_once()
    await settled(client)
    assert quiet.bid != quiet.bid
    assert loud.bid == quote_at(gateway.universe, IBM, 1).bid
    gateway.resume([AAPL])
    gateway.tick_once()
    await settled(client)
    assert quiet.bid == quote_at(gateway.universe, AAPL, 1).bid


async def test_an_index_sends_its_last_price_only(connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(SPX, "CBOE"))
    await settled(client)
    assert ticker.last > 0
    assert ticker.bid != ticker.bid


async def test_a_snapshot_is_one_burst_and_an_end_and_gives_its_line_back(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    (ticker,) = await asyncio.wait_for(client.ib.reqTickersAsync(contract_of(AAPL)), 20)
    assert ticker.bid == quote_at(gateway.universe, AAPL, 0).bid
    assert (gateway.statistics.lines, gateway.statistics.peak_lines) == (0, 1)
    gateway.tick_once()
    await settled(client)
    assert ticker.bid == quote_at(gateway.universe, AAPL, 0).bid


async def test_an_open_snapshot_holds_a_line_until_it_ends_or_its_client_leaves(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    slow = await stack.enter_async_context(PaperGateway(replace(config, snapshot_seconds=3600.0)))
    client = await connect(to=slow)
    ticker = client.ib.reqMktData(contract_of(AAPL), snapshot=True)
    await settled(client)
    assert slow.statistics.lines == 1
    slow.tick_once()
    await settled(client)
    assert ticker.bid == quote_at(slow.universe, AAPL, 0).bid, "a snapshot does not stream"
    assert slow.market.sequence(AAPL) == 0
    client.ib.disconnect()
    await eventually(lambda: slow.statistics.lines == 0)


async def test_a_cancelled_snapshot_does_not_end_later(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    slow = await stack.enter_async_context(PaperGateway(replace(config, snapshot_seconds=0.05)))
    client = await connect(to=slow)
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    client.ib.client.reqMktData(70, contract_of(AAPL), "", True, False, [])
    client.ib.client.cancelMktData(70)
    await asyncio.wait_for(client.ib.reqTickersAsync(contract_of(IBM)), 20)
    assert slow.statistics.lines == 0
    assert problems == []
    assert client.codes() == []


async def test_a_snapshot_ends_after_snapshot_seconds(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    slow = await stack.enter_async_context(PaperGateway(replace(config, snapshot_seconds=0.05)))
    client = await connect(to=slow)
    await asyncio.wait_for(client.ib.reqTickersAsync(contract_of(AAPL)), 20)
    assert slow.statistics.lines == 0


@pytest.mark.parametrize(
    ("exchange", "generic", "snapshot", "regulatory", "cause"),
    [
        ("", "", False, False, "Please enter exchange"),
        ("SMART", "221", True, False, "Snapshot market data subscription is not applicable to generic ticks"),
        ("SMART", "", False, True, "Regulatory snapshots are not simulated"),
    ],
)
async def test_an_invalid_request_is_321_with_its_cause(
    gateway: PaperGateway,
    connect: Connect,
    exchange: str,
    generic: str,
    snapshot: bool,
    regulatory: bool,
    cause: str,
) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL, exchange), generic, snapshot, regulatory)
    await settled(client)
    assert client.codes() == [321]
    assert client.text(321) == f"Error validating request.-'bN' : cause - {cause}"
    assert gateway.statistics.subscriptions_total == {}


async def test_the_line_limit_counts_all_clients_and_lines_given_back_are_free(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    narrow = await stack.enter_async_context(PaperGateway(replace(config, lines=3)))
    first, second = await connect(1, to=narrow), await connect(2, to=narrow)
    conids = [contract.conid for contract in narrow.universe.contracts.values() if contract.sec_type == "STK"]
    for conid in conids[:2]:
        first.ib.reqMktData(contract_of(conid))
    await settled(first)
    for conid in conids[2:4]:
        second.ib.reqMktData(contract_of(conid))
    await settled(second)
    assert (first.codes(), second.codes()) == ([], [101])
    assert second.text(101) == "Max number of tickers has been reached"
    assert (narrow.statistics.lines, narrow.statistics.peak_lines) == (3, 3)
    first.ib.cancelMktData(contract_of(conids[0]))
    await settled(first)
    second.ib.reqMktData(contract_of(conids[4]))
    await settled(second)
    assert second.codes() == [101]
    first.ib.disconnect()
    await eventually(lambda: narrow.statistics.lines == 2)
    assert sum(narrow.statistics.subscriptions_total.values()) == 4


async def test_two_requests_for_one_contract_take_two_lines(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL))
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert gateway.statistics.subscriptions == {AAPL: 2}
    client.ib.cancelMktData(contract_of(AAPL))
    await settled(client)
    assert gateway.statistics.subscriptions == {AAPL: 1}


async def test_a_lowered_limit_keeps_what_streams_and_refuses_what_is_new(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    gateway.set_lines(0)
    client.ib.reqMktData(contract_of(IBM))
    await settled(client)
    assert client.codes() == [101]
    assert gateway.statistics.subscriptions == {AAPL: 1}


async def test_cancelling_an_unknown_ticker_is_300(connect: Connect) -> None:
    client = await connect()
    client.ib.client.cancelMktData(4711)
    await settled(client)
    assert client.errors[-1] == (4711, 300, "Can't find EId with tickerId:4711")


async def test_a_ticker_id_in_use_is_322(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    for conid in (AAPL, IBM):
        client.ib.client.reqMktData(4711, contract_of(conid), "", False, False, [])
    await settled(client)
    assert client.codes() == [322]
    assert gateway.statistics.subscriptions == {AAPL: 1}


async def test_a_denied_contract_is_354_and_takes_no_line_until_it_is_allowed(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    gateway.deny([AAPL])
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert client.codes() == [354]
    assert client.text(354).startswith("Requested market data is not subscribed")
    assert gateway.statistics.lines == 0
    gateway.allow([AAPL])
    ticker = client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert ticker.bid > 0


async def test_a_denied_contract_is_served_delayed_where_delayed_data_were_asked_for(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    option = an_option(gateway)
    gateway.deny([option])
    client.ib.reqMarketDataType(3)
    delayed, live = (client.ib.reqMktData(contract_of(conid)) for conid in (option, AAPL))
    await settled(client)
    assert client.codes() == [10167]
    assert (delayed.marketDataType, live.marketDataType) == (3, 1)
    assert delayed.bid == quote_at(gateway.universe, option, 0).bid
    assert delayed.modelGreeks is not None


async def test_an_impossible_market_data_type_is_refused(connect: Connect) -> None:
    client = await connect()
    client.ib.reqMarketDataType(9)
    await settled(client)
    assert client.codes() == [321]


# Rate and orders


async def test_a_hundred_messages_in_each_second_are_within_the_rate(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client = await connect()
    for _ in range(3):
        clock.now += 1.0
        for _ in range(99):
            client.ib.client.reqIds(1)
        await settled(client)
    assert client.codes() == []
    assert gateway.statistics.peak_rate_by_client == {1: 100}


async def test_one_message_too_many_is_error_100_and_refused(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client, other = await connect(1), await connect(2)
    clock.now += 1.0
    for _ in range(100):
        client.ib.client.reqIds(1)
    client.ib.reqMktData(contract_of(AAPL))
    await settled(client)
    assert client.codes() == [100]
    assert client.text(100) == "Max rate of messages per second has been exceeded:max=100 rec=101 (1)"
    assert gateway.statistics.subscriptions == {}
    await settled(other)
    assert other.codes() == []


async def test_the_third_breach_of_the_rate_ends_the_connection(
    gateway: PaperGateway, connect: Connect, clock: Clock
) -> None:
    client = await connect()
    clock.now += 1.0
    for _ in range(400):
        client.ib.client.reqIds(1)
    await eventually(lambda: not client.ib.isConnected())
    assert client.codes() == [100, 100, 100]
    assert client.errors[-1][2].endswith("(3)")
    await eventually(lambda: not gateway.statistics.clients)


async def test_every_order_message_is_refused_and_counted(gateway: PaperGateway, connect: Connect) -> None:
    from ib_async import LimitOrder, Order

    client = await connect()
    trade = client.ib.placeOrder(contract_of(AAPL), LimitOrder("BUY", 1, 1.0))
    client.ib.cancelOrder(Order(orderId=5))
    client.ib.reqGlobalCancel()
    client.ib.exerciseOptions(contract_of(an_option(gateway)), 1, 1, FIRST, 0)
    await settled(client)
    assert gateway.statistics.order_messages == 4
    assert client.codes() == [321] * 4
    assert client.text(321).endswith("The API interface is currently in Read-Only mode.")
    assert trade.order.orderId in {request_id for request_id, _, _ in client.errors}
    assert len(gateway.book.held()) == 60


# Statistics


async def test_statistics_see_what_a_client_did(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect(5)
    before = gateway.statistics.messages[5]
    client.ib.reqMktData(contract_of(AAPL))
    client.ib.cancelMktData(contract_of(AAPL))
    await settled(client)
    report = gateway.statistics.snapshot()
    assert report["messages"] == {"5": before + 3}
    assert report["subscriptions"] == {}
    assert report["subscriptions_total"] == {str(AAPL): 1}
    assert report["clients"] == [5]
    assert report["errors"] == {"2104": 1, "2106": 1, "2158": 1}
    assert gateway.statistics.ticks_sent > 0
