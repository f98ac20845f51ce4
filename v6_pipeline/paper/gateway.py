"""The paper gateway itself: the server's life and what may be done to it while it runs.

Belongs here: listening, ticking, stopping, and the methods that a test or the control port call. IB's rules are in the
desks (`market_data`, `account_feeds`) and in `session`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.account_feeds import AccountDesk
from v6_pipeline.paper.book import Book
from v6_pipeline.paper.config import LOOPBACK, AccountConflict, GatewayConfig, today
from v6_pipeline.paper.contracts import Holding, Universe
from v6_pipeline.paper.control import ControlServer
from v6_pipeline.paper.handlers import Dispatcher
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.market_data import MarketDataDesk
from v6_pipeline.paper.session import ClientSession
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.universe import build_universe

_STOP_SECONDS = 2.0


class PaperGateway:
    """Speaks IB's socket protocol for a simulated market and accounts, on loopback only.

    Used as an async context manager, or with `start` and `stop`. All other methods must be called in the loop it runs
    in.

    Attributes:
        universe: every contract and the opening positions.
        statistics: what clients did, seen from this side.
        book: positions and account values now.
        market: quotes and sequence numbers now.
    """

    def __init__(self, config: GatewayConfig | None = None) -> None:
        self.config = config or GatewayConfig()
        self.universe: Universe = build_universe(
            seed=self.config.seed,
            as_of=self.config.as_of or today(),
            accounts=self.config.accounts,
            positions=self.config.positions,
        )
        self.statistics = Statistics(self.config.clock)
        self.market = Market(self.universe, self.statistics, self.config.lines)
        self.book = Book(self.market)
        self._sessions: dict[int, ClientSession] = {}
        self._market_data = MarketDataDesk(self.config, self.market, self.statistics)
        self._accounts = AccountDesk(self.config, self.book, self.statistics, lambda: list(self._sessions.values()))
        self._dispatcher = Dispatcher(self.config, self._market_data, self._accounts, self.statistics)
        self._control = ControlServer(self)
        self._server: asyncio.Server | None = None
        self._control_server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[object]] = set()
        self._open: set[ClientSession] = set()
        self._failures: list[BaseException] = []
        self._stopping = asyncio.Event()
        self._portfolio_sent_at = self.config.clock()

    # Life

    async def start(self) -> None:
        """Listen and begin to tick.

        Raises:
            GatewayError: a port is taken, or the gateway runs already.
        """
        if self._server is not None:
            raise GatewayError("the paper gateway runs already")
        self._server = await self._listen(self._serve_client, self.config.port, "--port")
        if self.config.control_port is not None:
            try:
                self._control_server = await self._listen(
                    self._serve_control, self.config.control_port, "--control-port"
                )
            except GatewayError:
                await self.stop()
                raise
        self._portfolio_sent_at = self.config.clock()
        if self.config.tick_seconds is not None:
            self._ticker = asyncio.create_task(self._tick_forever(self.config.tick_seconds), name="paper gateway ticks")

    async def stop(self) -> None:
        """End all connections and stop listening; a second call does nothing.

        Raises:
            Exception: whatever a connection or the ticker failed with while the gateway ran, so that no failure is
                lost.
        """
        self._stopping.set()
        for server in (self._server, self._control_server):
            if server is not None:
                server.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for session in list(self._open):
            session.close()
        self._control.close()
        waiting = self._connections - {task for task in (asyncio.current_task(),) if task is not None}
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=_STOP_SECONDS)
            for session in list(self._open) if late else ():
                session.abort()
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._server = self._control_server = self._ticker = None
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

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The API port."""
        return _port_of(self._server)

    @property
    def control_port(self) -> int:
        """The control port."""
        return _port_of(self._control_server)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the gateway listens; loopback only."""
        servers = [server for server in (self._server, self._control_server) if server is not None]
        return [listener.getsockname() for server in servers for listener in server.sockets]

    # Time

    def tick_once(self) -> None:
        """Move every streamed contract on by one, send what changed, and the portfolio if it is due by the clock."""
        self._market_data.tick(self._sessions.values())
        if self.config.clock() - self._portfolio_sent_at >= self.config.portfolio_seconds:
            self.portfolio_tick()
        self._accounts.tick()

    def portfolio_tick(self) -> None:
        """Move held contracts that nobody streams on by one and send portfolios, account values and summaries."""
        self._portfolio_sent_at = self.config.clock()
        held = {holding.conid for holding in self.book.held()}
        self.market.advance(held - self.statistics.subscriptions.keys())
        self._accounts.portfolio_tick()

    # What may be changed while it runs

    def open_position(self, account: str, conid: int, quantity: float, average_cost: float | None = None) -> Holding:
        """Open a position; see `Book.open` for the errors."""
        return self._changed(self.book.open(account, conid, quantity, average_cost))

    def resize_position(self, account: str, conid: int, quantity: float) -> Holding:
        """Trade a position to another quantity; see `Book.resize` for the errors."""
        return self._changed(self.book.resize(account, conid, quantity))

    def close_position(self, account: str, conid: int) -> Holding:
        """Close a position; see `Book.resize` for the errors."""
        return self._changed(self.book.resize(account, conid, 0.0))

    def quiet(self, conids: Iterable[int] | None = None) -> None:
        """Send no ticks for these contracts, or for none at all, until `resume`.

        Raises:
            GatewayError: an unknown contract.
        """
        self.market.quiet(self._known(conids))

    def resume(self, conids: Iterable[int] | None = None) -> None:
        """Undo `quiet` for these contracts, or for all.

        Raises:
            GatewayError: an unknown contract.
        """
        self.market.resume(self._known(conids))

    def deny(self, conids: Iterable[int]) -> None:
        """Refuse new market data requests for these contracts with error 354, or serve them delayed where asked for.

        Raises:
            GatewayError: an unknown contract.
        """
        self.market.denied.update(self._known(conids) or ())

    def allow(self, conids: Iterable[int]) -> None:
        """Undo `deny`.

        Raises:
            GatewayError: an unknown contract.
        """
        self.market.denied.difference_update(self._known(conids) or ())

    def set_lines(self, lines: int) -> None:
        """Change the line limit; lines in use above it stay.

        Raises:
            GatewayError: a negative limit.
        """
        if lines < 0:
            raise GatewayError(f"lines cannot be {lines}")
        self.market.lines = lines

    def set_account_conflict(self, conflict: AccountConflict) -> None:
        """Change what happens when two clients want different accounts."""
        self._accounts.conflict = conflict

    def _changed(self, holding: Holding) -> Holding:
        self._accounts.position_changed(holding)
        return holding

    def _known(self, conids: Iterable[int] | None) -> list[int] | None:
        return None if conids is None else [self.market.contract(conid).conid for conid in conids]

    # Connections

    async def _listen(
        self,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        port: int,
        option: str,
    ) -> asyncio.Server:
        try:
            return await asyncio.start_server(serve, LOOPBACK, port)
        except OSError as problem:
            reason = problem.strerror or str(problem)
            raise GatewayError(
                f"cannot listen on {LOOPBACK}:{port}: {reason.splitlines()[0]}; choose another {option}"
            ) from problem

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = ClientSession(
            reader,
            writer,
            config=self.config,
            statistics=self.statistics,
            dispatch=self._dispatcher.dispatch,
            claim=self._claim,
        )
        self._open.add(session)
        with self._tracked():
            try:
                await session.run()
            finally:
                self._open.discard(session)
                self._market_data.disconnected(session)
                if self._sessions.get(session.client_id) is session:
                    del self._sessions[session.client_id]
                    self.statistics.clients.discard(session.client_id)

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._tracked():
            await self._control.serve(reader, writer)

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[None]:
        """Keep the running task where `stop` finds it, and its failure where `stop` raises it."""
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
        if session.client_id in self._sessions:
            return False
        self._sessions[session.client_id] = session
        self.statistics.clients.add(session.client_id)
        return True

    async def _tick_forever(self, seconds: float) -> None:
        try:
            while True:
                await asyncio.sleep(seconds)
                self.tick_once()
        except Exception as problem:
            # A gateway whose prices stand still for good must not go on looking alive.
            self._failures.append(problem)
            self._stopping.set()
            raise


def _port_of(server: asyncio.Server | None) -> int:
    if server is None or not server.sockets:
        raise GatewayError("the paper gateway does not listen there")
    port: int = server.sockets[0].getsockname()[1]
    return port
