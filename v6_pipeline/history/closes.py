"""``CloseFetcher``: the daily closes of many contracts, requested from IB once per contract and range of days.

Answers are stored in the state database, one transaction per contract: a run that was killed continues where it ended,
and no day is requested again. Rows of ``historical_closes`` are made in ``close_days``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from v6_pipeline.calendar import EXCHANGE, TradingCalendar
from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.close_plan import CloseReason, CloseWindow, close_window, is_forgotten
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.ib.contract_cache import ContractCache
from v6_pipeline.ib.historical_pacing import REQUESTS_PER_SECOND, HistoricalPacer
from v6_pipeline.ib.history import ANSWER_SECONDS, daily_closes, without_close
from v6_pipeline.ib.session import leased_connection
from v6_pipeline.model import ContractSpec
from v6_pipeline.settings import MarketHours, Settings
from v6_pipeline.state.account import closes as store
from v6_pipeline.state.account import contracts as cache
from v6_pipeline.state.account.closes import FetchedClose
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.process import ProcessIdentity

log = logging.getLogger(__name__)

AT_ONCE = 20
"""Open requests of one run at most; the permits of all runs may leave fewer."""
RECONNECTS = 8
"""Attempts in a row to reconnect, without a contract done in between."""
RECONNECT_SECONDS = 15.0
"""Longest pause between two attempts to reconnect."""
SILENT_CONTRACTS = 20
"""Contracts in a row without an answer after which IB's historical data farm counts as down."""
ASK_AGAIN_AFTER = timedelta(hours=20)
"""Wait before a request is repeated that IB had no data for: within a day, after the nightly reset."""
_MAY_CHANGE = timedelta(0)
# A permission or a definition may come later; IB's data of a past day does not.
_HOLDS_FOR = {
    CloseReason.NO_PERMISSION: ASK_AGAIN_AFTER,
    CloseReason.UNKNOWN_CONTRACT: ASK_AGAIN_AFTER,
    CloseReason.NO_ANSWER: _MAY_CHANGE,
}

Pending = dict[int, list[CloseWindow]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """Progress of a fetch; ``waiting`` are requests delayed by IB's pacing."""

    contracts_done: int
    contracts: int
    requests: int
    waiting: int
    closes: int


@dataclass(slots=True)
class CloseReport:
    """The result of a fetch: an entry per wanted (conid, day), and the known contracts.

    ``reused`` entries came from the state database; ``refusals`` counts requests that IB refused as too many.
    """

    entries: dict[tuple[int, date], FetchedClose] = field(default_factory=dict)
    contracts: dict[int, ContractSpec] = field(default_factory=dict)
    reused: int = 0
    requests: int = 0
    refusals: int = 0
    connections: int = 0

    @property
    def unanswered(self) -> list[FetchedClose]:
        """Entries whose request failed: the next fetch repeats it."""
        return [entry for entry in self.entries.values() if entry.reason == CloseReason.NO_ANSWER]


class CloseFetcher:
    """Fetch closes over a connection of its own; ``rate`` is in requests a second, over all runs."""

    def __init__(
        self,
        settings: Settings,
        database: StateDatabase,
        *,
        run_id: str,
        calendar: TradingCalendar,
        clock: Callable[[], datetime],
        policy: ConnectionPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rate: float = REQUESTS_PER_SECOND,
        at_once: int = AT_ONCE,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._settings = settings
        self._database = database
        self._calendar = calendar
        self._clock = clock
        self._policy = policy
        self._sleep = sleep
        self._at_once = at_once
        self._answer_seconds = answer_seconds
        self._owner = f"{ProcessIdentity.current().owner}/{run_id}"
        self._pacer = HistoricalPacer(database, settings.ib_address, holder=self._owner, clock=clock, rate=rate)
        self._progress: Callable[[FetchProgress], None] = lambda _: None
        self._done: set[int] = set()
        self._total = 0
        self._closes = 0
        self._silent = 0
        self._is_lost = False
        self._known: dict[tuple[int, date], FetchedClose] = {}
        self.report = CloseReport()

    async def fetch(
        self,
        wanted: Mapping[int, Collection[date]],
        contracts: Mapping[int, ContractSpec],
        *,
        refetch: bool = False,
        progress: Callable[[FetchProgress], None] | None = None,
    ) -> CloseReport:
        """Fetch the closes of contracts on trading days; ``wanted`` is conid to days.

        Contracts that are not in ``contracts`` are looked up. ``refetch`` requests answered closes again; ``progress``
        is called after each contract.

        Raises:
            GatewayError: the gateway cannot be used, was lost for too long, or answers no historical request; earlier
                answers are kept.
            CalendarError: a day is not a trading day.
            StateError: the state database failed.
        """
        self._progress = progress or self._progress
        self.report.contracts = dict(contracts)
        windows = self._windows(wanted)
        since = self._clock() if refetch else None
        pending = await ask(self._pending, wanted, windows, since)
        self.report.reused = len(self.report.entries)
        pending = await ask(self._without_expired, pending)
        self._total = len(pending)
        async with self._pacer.permits(self._at_once) if pending else contextlib.nullcontext():
            attempts = 0
            while pending:
                before = len(self._done)
                try:
                    await self._connected(pending)
                    break
                except GatewayError as error:
                    attempts = 1 if len(self._done) > before else attempts + 1
                    if not self._is_lost or attempts > RECONNECTS:
                        raise
                    log.warning("%s; connecting again (%d of %d)", error, attempts, RECONNECTS)
                await self._sleep(min(RECONNECT_SECONDS, 2.0 ** (attempts - 1)))
                pending = await ask(self._pending, wanted, windows, since)
                pending = await ask(self._without_expired, pending)
        self.report.requests = self._pacer.made
        self.report.refusals = self._pacer.refusals
        return self.report

    def _windows(self, wanted: Mapping[int, Collection[date]]) -> dict[date, CloseWindow]:
        until_end = self._settings.market_hours is MarketHours.ALWAYS
        days = {day for each in wanted.values() for day in each}
        return {day: close_window(self._calendar, day, until_end=until_end) for day in days}

    def _pending(
        self, wanted: Mapping[int, Collection[date]], windows: Mapping[date, CloseWindow], since: datetime | None
    ) -> Pending:
        """Return the windows still to be requested, and put known entries into the report."""
        if not windows:
            return {}
        now = self._clock()
        known = store.find(self._database, wanted, first=min(windows), last=max(windows))
        cached = cache.get(self._database, wanted)
        for conid, found in cached.items():
            # From the cache: a run that requests nothing must write the same rows as the run that requested them.
            self.report.contracts[conid] = found.spec
        self._known |= {
            key: entry
            for key, entry in known.items()
            if entry.close is not None and key[1] in windows and entry.fetched_at >= windows[key[1]].cut_off
        }
        pending: Pending = {}
        for conid, days in wanted.items():
            for day in sorted(set(days)):
                entry = known.get((conid, day))
                if entry is not None and holds(entry, windows[day], now=now, since=since):
                    self.report.entries[entry.key] = entry
                else:
                    pending.setdefault(conid, []).append(windows[day])
        return pending

    def _without_expired(self, pending: Pending) -> Pending:
        """Finish expired contracts without a request: IB has no history of them."""
        now = self._clock()
        today = now.astimezone(EXCHANGE).date()
        expired = [
            without_close(conid, window.day, CloseReason.EXPIRED, now)
            for conid, windows in pending.items()
            if conid in self.report.contracts and is_forgotten(self.report.contracts[conid], today)
            for window in windows
        ]
        self._save(expired)
        gone = {entry.conid for entry in expired}
        return {conid: windows for conid, windows in pending.items() if conid not in gone}

    async def _connected(self, pending: Pending) -> None:
        """Request the pending closes over one connection.

        Raises:
            GatewayError: there is none, or it was lost.
        """
        first = not self.report.connections
        self._is_lost = not first
        async with leased_connection(
            self._settings, self._database, owner=self._owner, clock=self._clock, policy=self._policy
        ) as connection:
            self.report.connections += 1
            try:
                await self._drain(connection, pending)
            except GatewayError:
                self._is_lost = not connection.is_connected
                raise

    async def _drain(self, connection: IBConnectionManager, pending: Pending) -> None:
        specs = await self._qualified(connection, pending)
        waiting = deque(conid for conid in pending if conid in specs)
        workers = [
            asyncio.create_task(self._work(connection, waiting, specs, pending), name="historical closes")
            for _ in range(min(self._at_once, len(waiting)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _qualified(self, connection: IBConnectionManager, pending: Pending) -> dict[int, ContractSpec]:
        """Return the contracts that can be requested; finish the others with their reason."""
        specs = await ContractCache(self._database, connection, self._clock).qualified(pending)
        self.report.contracts |= specs
        missing = [conid for conid in pending if conid not in specs]
        if not missing:
            return specs
        if not connection.is_connected:
            raise GatewayError(f"connection to {connection.address} closed while contracts were looked up")
        unknown = cache.failures(self._database)
        for conid in missing:
            reason = CloseReason.UNKNOWN_CONTRACT if conid in unknown else CloseReason.NO_ANSWER
            now = self._clock()
            await self._finish(conid, [without_close(conid, window.day, reason, now) for window in pending[conid]])
        return specs

    async def _work(
        self,
        connection: IBConnectionManager,
        waiting: deque[int],
        specs: Mapping[int, ContractSpec],
        pending: Mapping[int, Sequence[CloseWindow]],
    ) -> None:
        while waiting:
            conid = waiting.popleft()
            entries = await daily_closes(
                connection,
                self._pacer,
                specs[conid],
                pending[conid],
                clock=self._clock,
                timeout=self._answer_seconds,
            )
            await self._finish(conid, entries)
            silent = all(entry.reason == CloseReason.NO_ANSWER for entry in entries)
            self._silent = self._silent + 1 if silent else 0
            if self._silent >= SILENT_CONTRACTS:
                raise GatewayError(
                    f"the gateway at {connection.address} answered no historical request of {self._silent} contracts "
                    "in a row: see whether its historical data farm is connected (2106), then run this again"
                )

    async def _finish(self, conid: int, entries: Sequence[FetchedClose]) -> None:
        """Store the answers for a contract, and report progress."""
        await ask(self._save, entries)
        self._done.add(conid)
        self._closes += sum(entry.close is not None for entry in entries)
        self._progress(
            FetchProgress(
                contracts_done=len(self._done),
                contracts=self._total,
                requests=self._pacer.made,
                waiting=self._pacer.waiting,
                closes=self._closes,
            )
        )

    def _save(self, entries: Sequence[FetchedClose]) -> None:
        """Store answers; a known final close is not replaced by the reason why IB has none now.

        IB has no history of an option that has expired since.
        """
        kept = [entry if entry.close is not None else self._known.get(entry.key, entry) for entry in entries]
        if kept:
            store.save(self._database, kept)
            self.report.entries |= {entry.key: entry for entry in kept}


def holds(entry: FetchedClose, window: CloseWindow, *, now: datetime, since: datetime | None = None) -> bool:
    """Return whether an answer is final, so that the day is not requested again.

    An answer from before the cut-off of its ``window`` is not final, nor is one from before ``since``.
    """
    if entry.fetched_at < window.cut_off or (since is not None and entry.fetched_at < since):
        return False
    if entry.reason is None:
        return True
    limit = _HOLDS_FOR.get(CloseReason(entry.reason))
    return limit is None or now - entry.fetched_at < limit
