"""The streamer's calls to the state database, each in a thread, so that a busy database delays no tick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from v6_pipeline.model import BaseCurrency, Holding, QueuePriority
from v6_pipeline.state.account import downloads
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.keys import Key
from v6_pipeline.state.queue.items import NewItem
from v6_pipeline.state.queue.queue import PositionQueue


class StreamerState:
    """The streamer's calls for holdings, the queue and exchange rates."""

    def __init__(self, database: StateDatabase, queue: PositionQueue) -> None:
        self._database = database
        self._queue = queue

    async def take_in_download(
        self, held: list[Holding], accounts: Iterable[str], *, begun_at: datetime
    ) -> list[Holding]:
        """Store a complete position download; return the known holdings that are missing from it."""
        missing = await ask(holdings_store.replace_accounts, self._database, list(accounts), held, observed_at=begun_at)
        return list(missing)

    async def take_in_changes(self, changed: list[Holding]) -> None:
        """Store holdings that the position feed has changed."""
        await ask(holdings_store.upsert_holdings, self._database, changed)

    async def verify(self, holdings: list[Holding]) -> None:
        """Queue holdings with priority ``VERIFY``, so that the worker compares them with the account download."""
        items = [
            NewItem(item.account, item.contract.conid, item.contract.symbol, QueuePriority.VERIFY) for item in holdings
        ]
        if items:
            await ask(self._queue.insert_many, items)

    async def enqueue(self, priorities: Mapping[Key, QueuePriority], symbols: Mapping[Key, str]) -> None:
        """Queue holdings."""
        items = [NewItem(key[0], key[1], symbols[key], priority) for key, priority in priorities.items()]
        if items:
            await ask(self._queue.insert_many, items)

    async def base_currencies(self) -> dict[str, BaseCurrency]:
        """Read each account's base currency and exchange rates, from its newest download."""
        return await ask(self._base_currencies)

    def _base_currencies(self) -> dict[str, BaseCurrency]:
        rates: dict[str, dict[str, float]] = {}
        base: dict[str, str] = {}
        for row in downloads.list_rates(self._database):
            rates.setdefault(row.account, {})[row.currency] = row.rate
            base[row.account] = row.base_currency
        return {account: BaseCurrency(base[account], rates[account]) for account in base}
