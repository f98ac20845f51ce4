"""The paper gateway through IBKR's own client (``ibapi``): a second opinion on every field that ib_async might forgive.

The client is of threads: one reads the socket, one runs the message loop. Each test waits for what it needs, and joins
both before it ends.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import pytest
from ibapi.client import EClient
from ibapi.contract import Contract
from ibapi.wrapper import EWrapper

from v6_pipeline.paper import GatewayConfig, GatewayThread, quote_at
from v6_pipeline.paper.prices import daily_close
from v6_pipeline_tests.integration.paper.client import AAPL, FIRST, IBM, an_option

SECONDS = 20.0
CALLBACKS = (
    *("managedAccounts", "nextValidId", "error", "position", "positionEnd"),
    *("updatePortfolio", "updateAccountValue", "accountDownloadEnd", "pnlSingle"),
    *("tickPrice", "tickSize", "tickGeneric", "tickOptionComputation", "marketDataType", "tickSnapshotEnd"),
    *("contractDetails", "contractDetailsEnd", "historicalData", "historicalDataEnd", "currentTime"),
)


class OfficialClient(EWrapper, EClient):  # type: ignore[misc]
    """Keeps every callback: its name and its arguments."""

    def __init__(self) -> None:
        EWrapper.__init__(self)
        EClient.__init__(self, wrapper=self)
        self.received: list[tuple[str, tuple[Any, ...]]] = []
        for name in CALLBACKS:
            setattr(self, name, self._recorder(name))

    def _recorder(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.received.append((name, arguments))

    def calls(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for event, arguments in list(self.received) if event == name]

    def errors(self) -> list[tuple[int, int]]:
        """Request id and code, without the notices of farms."""
        return [(row[0], row[2]) for row in self.calls("error") if row[2] not in {2104, 2106, 2158}]

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.received[-5:]
            time.sleep(0.005)

    def leave(self) -> None:
        """Disconnect once all that was sent is read: a message during the disconnect ends its loop with an error.

        The client's own race: ``disconnect`` forgets the server's version, by which the loop reads.
        """
        if self.isConnected():
            before = len(self.calls("currentTime"))
            self.reqCurrentTime()
            self.wait(lambda: len(self.calls("currentTime")) > before)
            self.disconnect()

    def wait_for(self, name: str) -> tuple[Any, ...]:
        self.wait(lambda: self.calls(name))
        return self.calls(name)[0]


@pytest.fixture
def running() -> Iterator[GatewayThread]:
    with GatewayThread(GatewayConfig(as_of=date(2026, 11, 20), tick_seconds=None, control_port=None)) as thread:
        yield thread


@pytest.fixture
def client(running: GatewayThread) -> Iterator[OfficialClient]:
    official = OfficialClient()
    official.connect("127.0.0.1", running.port, 5)
    loop = threading.Thread(target=official.run, name="message loop")
    loop.start()
    official.wait_for("nextValidId")
    yield official
    official.leave()
    loop.join(SECONDS)
    assert not loop.is_alive()


def a_contract(conid: int, exchange: str = "SMART") -> Contract:
    contract = Contract()
    contract.conId, contract.exchange = conid, exchange
    return contract


def test_it_logs_in_and_leaves(running: GatewayThread, client: OfficialClient) -> None:
    assert client.serverVersion() == 178
    assert client.wait_for("managedAccounts") == (f"{FIRST},SIM0000002",)
    assert running.call(lambda gateway: gateway.statistics.clients) == {5}
    client.leave()
    client.wait(lambda: not running.call(lambda gateway: set(gateway.statistics.clients)))
    assert client.errors() == []


def test_positions_and_account_updates_are_complete(running: GatewayThread, client: OfficialClient) -> None:
    client.reqPositions()
    client.wait_for("positionEnd")
    held = {(row[0], row[1].conId): (float(row[2]), row[3]) for row in client.calls("position")}
    assert held == {(h.account, h.conid): (h.quantity, h.average_cost) for h in running.gateway.universe.holdings}

    client.reqAccountUpdates(True, FIRST)
    assert client.wait_for("accountDownloadEnd") == (FIRST,)
    rows = {row[0].conId: row for row in client.calls("updatePortfolio")}
    assert {(FIRST, conid) for conid in rows} == {key for key in held if key[0] == FIRST}
    assert rows[AAPL][2] == quote_at(running.gateway.universe, AAPL, 0).mark
    assert ("AccountReady", "true", "", FIRST) in client.calls("updateAccountValue")
    client.reqAccountUpdates(False, FIRST)
    assert client.errors() == []


def test_market_data_come_with_greeks_until_cancelled(running: GatewayThread, client: OfficialClient) -> None:
    option = an_option(running.gateway)
    client.reqMktData(1, a_contract(option), "221", False, False, [])
    client.wait(lambda: 13 in {row[1] for row in client.calls("tickOptionComputation")})
    quote = quote_at(running.gateway.universe, option, 0)
    prices = {row[1]: row[2] for row in client.calls("tickPrice")}
    assert (prices[1], prices[2], prices[37]) == (quote.bid, quote.ask, quote.mark)
    model = next(row for row in client.calls("tickOptionComputation") if row[1] == 13)
    greeks = (quote.implied_vol, quote.delta, quote.option_price, 0.0, quote.gamma, quote.vega, quote.theta)
    assert model == (1, 13, 1, *greeks, quote.underlying_price)
    assert client.calls("marketDataType") == [(1, 1)]

    running.call(lambda gateway: gateway.perform("halt", conids=[option]))
    running.call(lambda gateway: gateway.perform("tick"))
    assert client.wait_for("tickGeneric") == (1, 49, 1.0)

    client.cancelMktData(1)
    client.wait(lambda: running.call(lambda gateway: gateway.statistics.lines) == 0)
    assert client.errors() == []


def test_a_snapshot_ends_and_profit_of_one_contract_is_unset_where_ib_has_none(
    running: GatewayThread, client: OfficialClient
) -> None:
    client.reqMktData(2, a_contract(AAPL), "", True, False, [])
    assert client.wait_for("tickSnapshotEnd") == (2,)
    client.reqPnLSingle(3, FIRST, "", AAPL)
    _, position, _, _, realized, value = client.wait_for("pnlSingle")
    holding = running.gateway.book.holdings[FIRST, AAPL]
    assert (float(position), value) == (holding.quantity, running.gateway.book.valuation(holding).market_value)
    assert realized == 1.7976931348623157e308
    assert client.errors() == []


def test_contract_details_carry_what_the_contract_is(running: GatewayThread, client: OfficialClient) -> None:
    option = an_option(running.gateway)
    client.reqContractDetails(4, a_contract(option, ""))
    client.wait_for("contractDetailsEnd")
    ((_, details),) = client.calls("contractDetails")
    own = running.gateway.universe.contracts[option]
    found = details.contract
    assert (found.conId, found.symbol, found.secType, found.strike, found.right, found.multiplier) == (
        option,
        own.symbol,
        "OPT",
        own.strike,
        own.right,
        own.multiplier,
    )
    assert found.lastTradeDateOrContractMonth.startswith(own.expiry)
    assert (details.minTick, details.underConId, details.timeZoneId) == (
        own.min_tick,
        own.underlying_conid,
        "US/Eastern",
    )
    assert (details.stockType, float(details.minSize), float(details.suggestedSizeIncrement)) == ("", 1.0, 1.0)


def test_historical_bars_and_their_end(running: GatewayThread, client: OfficialClient) -> None:
    day = date(2025, 11, 19)
    client.reqHistoricalData(9, a_contract(AAPL), "20251119-21:35:00", "1 D", "1 day", "TRADES", 1, 1, False, [])
    ended = client.wait_for("historicalDataEnd")
    bars = {row[1].date: row[1] for row in client.calls("historicalData")}
    assert ended == (9, "20251118 16:35:00 US/Eastern", "20251119 16:35:00 US/Eastern")
    assert bars["20251119"].close == daily_close(running.gateway.universe, AAPL, day)
    client.cancelHistoricalData(9)
    client.wait(client.errors)
    assert client.errors() == [(9, 366)]


def test_errors_reach_the_request_that_they_are_about(running: GatewayThread, client: OfficialClient) -> None:
    running.call(lambda gateway: gateway.perform("deny", conids=[IBM]))
    client.reqContractDetails(6, a_contract(12345))
    client.reqMktData(7, a_contract(12345), "", False, False, [])
    client.reqMktData(8, a_contract(IBM), "", False, False, [])
    client.wait(lambda: len(client.errors()) == 3)
    assert client.errors() == [(6, 200), (7, 200), (8, 354)]
    assert running.call(lambda gateway: gateway.statistics.lines) == 0
