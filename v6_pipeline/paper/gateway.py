"""The paper gateway: its parts and its life cycle.

Belongs here: starting, ticking, stopping, serving connections, and the thread for callers without an event loop. IB's
rules are in the desks (`market_data`, `history`, `account_feeds`) and in `session`; faults are in the modules named so.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.account_faults import AccountFaults
from v6_pipeline.paper.account_feeds import AccountDesk
from v6_pipeline.paper.actions import Actions, Reply, action_table
from v6_pipeline.paper.book import Book
from v6_pipeline.paper.config import GatewayConfig
from v6_pipeline.paper.connection_faults import ConnectionFaults
from v6_pipeline.paper.contract_faults import ContractFaults
from v6_pipeline.paper.contracts import Universe
from v6_pipeline.paper.control import ControlServer
from v6_pipeline.paper.executions import serve_executions
from v6_pipeline.paper.flex_server import FlexConfig, FlexServer
from v6_pipeline.paper.flex_statements import AS_IB
from v6_pipeline.paper.handlers import Dispatcher
from v6_pipeline.paper.history import HistoryDesk, HistoryFaults
from v6_pipeline.paper.link_faults import LinkFaults
from v6_pipeline.paper.listener import Listener
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.market_data import MarketDataDesk
from v6_pipeline.paper.past import Past
from v6_pipeline.paper.scenario import Player, Scenario, shipped_scenario
from v6_pipeline.paper.session import ClientSession
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.timers import Timers
from v6_pipeline.paper.trading_hours import NEW_YORK
from v6_pipeline.paper.world import build_world

T = TypeVar("T")

_STOP_SECONDS = 2.0
_THREAD_START_SECONDS = 30.0
_THREAD_STOP_SECONDS = 10.0


class PaperGateway:
    """Speaks IB's socket protocol for a simulated market and accounts, on loopback only.

    Used as an async context manager, or with `start` and `stop`. All other methods must be called in its event loop.

    `perform` carries out an action by name; the fault classes have the same actions as typed methods, which do not
    check that accounts and contracts exist.
    """

    def __init__(self, config: GatewayConfig | None = None) -> None:
        self.config = config or GatewayConfig()
        self.universe: Universe
        self.universe, past = build_world(
            seed=self.config.seed,
            as_of=self.config.as_of or self.config.utcnow().astimezone(NEW_YORK).date(),
            accounts=self.config.accounts,
            positions=self.config.positions,
            flat_accounts=self.config.flat_accounts,
            unusual=self.config.unusual,
            file=self.config.holdings,
        )
        self.statistics = Statistics(self.config.clock, self.config.utcnow)
        self.market = Market(
            self.universe,
            self.statistics,
            self.config.lines,
            self.config.utcnow if self.config.keeps_hours else None,
        )
        self.book = Book(self.market, past, self.config.utcnow)
        # A file of holdings prescribes costs and has no past until a statement needs one.
        self._past = functools.cache(lambda: (past or Past(self.universe)).with_live(self.book.ledger))
        self.flex = FlexServer(
            self._past,
            FlexConfig(
                port=self.config.flex_port or 0, query=AS_IB, clock=self.config.clock, utcnow=self.config.utcnow
            ),
        )
        self._sessions: dict[int, ClientSession] = {}
        self._open: set[ClientSession] = set()
        self._connections: set[asyncio.Task[object]] = set()
        self._failures: list[BaseException] = []
        self._stopping = asyncio.Event()
        self._timers = Timers(self._failed)
        self._market_data = MarketDataDesk(self.config, self.market, self.statistics)
        self._accounts = AccountDesk(self.config, self.book, self.statistics, self._logged_in)
        self._history = HistoryDesk(self.config, self.market, self.statistics)
        desks = (self._market_data, self._history, self._accounts)
        self._dispatcher = Dispatcher(self.config, *desks, self.statistics, serve_executions(self.book))
        self._listener = Listener(self._serve_client, self._timers)
        self._control_listener = Listener(self._serve_control, self._timers)
        self._control = ControlServer(self)
        self.connection_faults = ConnectionFaults(self._listener, self._timers, lambda: list(self._open), self._release)
        self.link_faults = LinkFaults(self.market, self._market_data, self._timers, self._logged_in)
        self.contract_faults = ContractFaults(self.market, self._market_data, self.statistics, self._logged_in)
        self.history_faults = HistoryFaults(self._history)
        self.account_faults = AccountFaults(self.book, self._accounts, self._logged_in)
        self.actions = Actions(action_table(self), self.market, self.statistics)
        self._player = Player(self.actions, self._timers)
        self._ticker: asyncio.Task[None] | None = None
        self._portfolio_sent_at = self.config.clock()

    # Life

    async def start(self) -> None:
        """Listen and begin to tick.

        Raises:
            GatewayError: a port is taken, or the gateway is already running.
        """
        if self._listener.addresses:
            raise GatewayError("the paper gateway is already running")
        await self._listener.open(self.config.port, "--port")
        try:
            if self.config.control_port is not None:
                await self._control_listener.open(self.config.control_port, "--control-port")
            if self.config.flex_port is not None:
                self.flex.start()
        except GatewayError:
            await self.stop()
            raise
        self._portfolio_sent_at = self.config.clock()
        if self.config.tick_seconds is not None:
            self._ticker = asyncio.create_task(self._tick_forever(self.config.tick_seconds), name="paper gateway ticks")

    async def stop(self) -> None:
        """End all connections and stop listening; a second call does nothing.

        Raises:
            Exception: a failure of a connection, the ticker or a scenario while the gateway ran.
        """
        self._stopping.set()
        await self._timers.close()
        self._listener.close()
        self._control_listener.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for session in list(self._open):
            session.close()
        self._control.close()
        try:
            self.flex.stop()
        except Exception as problem:  # noqa: BLE001 - raised at the end, after everything else has stopped
            self._failures.append(problem)
        waiting = self._connections - {task for task in (asyncio.current_task(),) if task is not None}
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=_STOP_SECONDS)
            for session in list(self._open) if late else ():
                session.abort()
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._ticker = None
        if self._failures:
            raise self._failures.pop()

    async def wait_stopped(self) -> None:
        """Wait until `stop` is called, here or through the control port."""
        await self._stopping.wait()

    def request_stop(self) -> None:
        """End `wait_stopped`, whose caller then calls `stop`."""
        self._stopping.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The API port; the first one, after `move_port`."""
        return self._listener.port

    @property
    def control_port(self) -> int:
        """The control port."""
        return self._control_listener.port

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses on which the gateway listens; loopback only."""
        return self._listener.addresses + self._control_listener.addresses

    # Time

    def tick_once(self) -> None:
        """Advance every streamed contract by one, send the changes, and the portfolio if it is due by the clock."""
        self._market_data.tick(self._sessions.values())
        if self.config.clock() - self._portfolio_sent_at >= self.config.portfolio_seconds:
            self.portfolio_tick()
        if self.market.link.is_up:
            self._accounts.tick()

    def portfolio_tick(self) -> None:
        """Advance held contracts without a stream by one; send portfolios, account values and summaries."""
        self._portfolio_sent_at = self.config.clock()
        if not self.market.link.is_up:
            return
        held = {holding.conid for holding in self.book.held()}
        self.market.advance(held - self.statistics.subscriptions.keys())
        self._accounts.portfolio_tick()

    # Actions

    def perform(self, name: str, **fields: object) -> Reply:
        """Carry out an action by name, as the control port and scenario files do; see `actions` for the names.

        Raises:
            GatewayError: there is no such action, or a field is wrong; nothing was done.
        """
        return self.actions.perform(name, fields)

    def play(self, scenario: Scenario) -> None:
        """Begin a scenario now. An impossible action stops the gateway; `stop` then raises its error."""
        self._player.play(scenario)

    def play_shipped(self, scenario: str) -> None:
        """Begin a scenario that comes with the package."""
        self.play(shipped_scenario(scenario, self.actions))

    def heal(self) -> None:
        """End every fault, active or still to come; the line limit and positions stay."""
        market = (self.link_faults, self.contract_faults, self.history_faults)
        for faults in (self.connection_faults, *market, self.account_faults, self.flex.faults):
            faults.heal()

    # Connections

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = ClientSession(
            reader,
            writer,
            config=self.config,
            statistics=self.statistics,
            dispatch=self._dispatcher.dispatch,
            claim=self._claim,
            greet=self.link_faults.greet,
        )
        self._open.add(session)
        self.connection_faults.apply(session)
        with self._tracked():
            try:
                await session.run()
            finally:
                self._open.discard(session)
                self._release(session)

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._tracked():
            await self._control.serve(reader, writer)

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[None]:
        """Register the running task for `stop`, and its failure for `stop` to raise."""
        task = asyncio.current_task()
        if task is None:
            raise GatewayError("a connection is served outside a task")
        self._connections.add(task)
        try:
            yield
        except Exception as problem:
            self._failures.append(problem)
            raise
        finally:
            self._connections.discard(task)

    def _claim(self, session: ClientSession) -> bool:
        if session.client_id in self._sessions or self.connection_faults.is_occupied(session.client_id):
            return False
        self._sessions[session.client_id] = session
        self.statistics.clients.add(session.client_id)
        self.connection_faults.apply(session)
        return True

    def _release(self, session: ClientSession) -> None:
        self._market_data.disconnected(session)
        self._history.disconnected(session)
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
            self.statistics.clients.discard(session.client_id)

    def _logged_in(self) -> list[ClientSession]:
        return list(self._sessions.values())

    def _failed(self, problem: BaseException) -> None:
        """Stop the gateway after a failure, so that it does not appear to work."""
        self._failures.append(problem)
        self._stopping.set()

    async def _tick_forever(self, seconds: float) -> None:
        try:
            while True:
                await asyncio.sleep(seconds)
                self.tick_once()
        except Exception as problem:
            self._failed(problem)
            raise


class GatewayThread:
    """A paper gateway in a thread of its own, for callers without an event loop; a context manager.

    `call` runs a function in the gateway's loop; ports and the universe may be read from any thread.

    Raises:
        GatewayError: the gateway could not start; the message has the reason.
    """

    def __init__(self, config: GatewayConfig | None = None) -> None:
        self.gateway: PaperGateway
        self._config = config or GatewayConfig()
        self._started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="paper gateway", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        """The API port."""
        return self.gateway.port

    @property
    def control_port(self) -> int:
        """The control port."""
        return self.gateway.control_port

    def call(self, function: Callable[[PaperGateway], T], timeout: float = 10.0) -> T:
        """Run `function` with the gateway in its loop and return what it returns, or raise what it raises."""
        if self._loop is None:
            raise GatewayError("the paper gateway's thread is not running")

        async def run() -> T:
            return function(self.gateway)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop = self._started.result(_THREAD_START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.gateway.request_stop)
        self._thread.join(_THREAD_STOP_SECONDS)
        self._loop = None
        if self._thread.is_alive():
            raise GatewayError(f"the paper gateway's thread did not end within {_THREAD_STOP_SECONDS:g} s")
        if self._failure is not None and problem is None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as problem:  # noqa: BLE001 - raised in the thread that waits for it
            if self._started.done():
                self._failure = problem
            else:
                self._started.set_exception(problem)

    async def _serve(self) -> None:
        self.gateway = PaperGateway(self._config)
        async with self.gateway:
            self._started.set_result(asyncio.get_running_loop())
            await self.gateway.wait_stopped()
