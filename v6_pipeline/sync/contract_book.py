"""Qualified contracts: from the cache in the state database, else asked of the broker and cached.

Only what a market-data request needs to be right; how a contract is looked up is in ``v6_pipeline.ib.contracts``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from v6_pipeline.errors import UnknownContractError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify_all
from v6_pipeline.model import ContractSpec
from v6_pipeline.state import contracts as cache
from v6_pipeline.state.database import StateDatabase

log = logging.getLogger(__name__)

ASK_AGAIN_AFTER = timedelta(hours=20)
"""A contract that the broker did not know is asked for again after that: within a day, after the nightly reset."""
_NO_DEFINITION = 200


class ContractBook:
    """Looks contracts up, each at most once.

    Args:
        database: holds the cache.
        connection: asked for what is not cached; must be connected then.
        clock: UTC now.
    """

    def __init__(self, database: StateDatabase, connection: IBConnectionManager, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._connection = connection
        self._clock = clock

    async def qualified(self, conids: Iterable[int]) -> dict[int, ContractSpec]:
        """Contracts with their exchange, by conid; those that cannot be qualified now are left out and logged."""
        wanted = sorted(set(conids))
        if not wanted:
            return {}
        known, missing = await asyncio.to_thread(self._look_up, wanted)
        if missing:
            known |= await self._ask(missing)
        return known

    def _look_up(self, conids: list[int]) -> tuple[dict[int, ContractSpec], list[int]]:
        asked_since = self._clock() - ASK_AGAIN_AFTER
        with self._database.read() as connection:
            found = cache.get(connection, conids)
            failures = cache.failures(connection)
        known = {conid: item.spec for conid, item in found.items() if item.qualified_at is not None}
        missing = [
            conid
            for conid in conids
            if conid not in known and not (conid in failures and failures[conid].failed_at > asked_since)
        ]
        return known, missing

    async def _ask(self, conids: list[int]) -> dict[int, ContractSpec]:
        answers = await qualify_all(self._connection, conids)
        specs = {conid: answer for conid, answer in answers.items() if isinstance(answer, ContractSpec)}
        unknown = [conid for conid, answer in answers.items() if isinstance(answer, UnknownContractError)]
        for conid in unknown:
            log.warning("%s", answers[conid])
        failed = [conid for conid in conids if conid not in specs and conid not in unknown]
        if failed:
            # One line, for a connection that goes fails thousands at once.
            log.warning("%d contracts could not be looked up, the first: %s", len(failed), answers[failed[0]])
        await asyncio.to_thread(self._remember, list(specs.values()), unknown)
        return specs

    def _remember(self, specs: list[ContractSpec], unknown: list[int]) -> None:
        now = self._clock()
        with self._database.write() as connection:
            cache.save(connection, specs, qualified_at=now)
            for conid in unknown:
                cache.mark_unknown(connection, conid, code=_NO_DEFINITION, failed_at=now)
