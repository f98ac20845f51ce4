"""Qualified contracts: from the cache in the state database, else asked of the broker and cached.

Only what a market-data request needs to be right; how a contract is looked up is in ``v6_pipeline.ib.contracts``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from v6_pipeline.errors import GatewayError, RequestTimeoutError, StateError, UnknownContractError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify, qualify_all
from v6_pipeline.model import ContractSpec
from v6_pipeline.state.account import contracts as cache
from v6_pipeline.state.database import StateDatabase

log = logging.getLogger(__name__)

RETRY_AFTER = timedelta(hours=1)
"""A contract that the broker did not know, or gave a refresh no data for, is asked for again after that: around its
reset it may not know any."""
OLD_AFTER = timedelta(days=7)
"""A definition is asked for anew after that: a corporate action may keep the conid, and change symbol or multiplier."""
MOST_OLD = 50
"""So many at a time, the oldest first: about a second of the message rate."""
PATIENCE_SECONDS = 5.0
"""For new definitions of contracts that have one."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the cache says: contracts, which of them to ask for anew, and what there is to ask for."""

    known: dict[int, ContractSpec]
    old: list[int]
    missing: list[int]


class ContractBook:
    """Looks contracts up, each at most once a week.

    Args:
        database: holds the cache.
        connection: asked for what is not cached; must be connected then.
        clock: UTC now.
    """

    def __init__(self, database: StateDatabase, connection: IBConnectionManager, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._connection = connection
        self._clock = clock
        self._leaves_old_until: datetime | None = None

    async def qualified(self, conids: Iterable[int]) -> dict[int, ContractSpec]:
        """Contracts with their exchange, by conid; those that cannot be qualified now are left out and logged.

        A contract whose definition is old is asked for anew; if that fails, the old one serves.
        """
        wanted = sorted(set(conids))
        if not wanted:
            return {}
        found = await asyncio.to_thread(self._look_up, wanted)
        known = found.known
        if found.missing:
            known |= await self._keep(await qualify_all(self._connection, found.missing))
        if found.old and self._connection.is_connected and not self._leaves_old():
            known |= await self._renewed(found.old)
        return known

    async def refused(self) -> frozenset[int]:
        """Contracts that the broker gave a refresh no market data for within the last hour: asking would be in vain."""
        return await asyncio.to_thread(cache.refused, self._database, since=self._clock() - RETRY_AFTER)

    async def note_refused(self, codes: Mapping[int, int]) -> None:
        """Keep the broker's codes for contracts that it gives no market data for, for the refreshes to come."""
        await asyncio.to_thread(cache.mark_refused, self._database, codes, failed_at=self._clock())

    async def forget_refused(self) -> None:
        """After a new login: what was not sold before may be sold now."""
        await asyncio.to_thread(cache.forget_refused, self._database)

    def _look_up(self, conids: list[int]) -> _Found:
        now = self._clock()
        cached = cache.get(self._database, conids)
        failures = cache.failures(self._database)
        known = {conid: item.spec for conid, item in cached.items() if item.qualified_at is not None}
        failed = {conid for conid, failure in failures.items() if failure.failed_at > now - RETRY_AFTER}
        old = [
            (item.qualified_at, conid)
            for conid, item in cached.items()
            if item.qualified_at is not None
            and item.qualified_at <= now - OLD_AFTER
            and conid not in failed
            and not item.spec.has_expired(now.date())  # the UTC date: from the evening of its last day in New York
        ]
        return _Found(
            known=known,
            old=[conid for _, conid in sorted(old)[:MOST_OLD]],
            missing=[conid for conid in conids if conid not in known and conid not in failed],
        )

    def _leaves_old(self) -> bool:
        return self._leaves_old_until is not None and self._clock() < self._leaves_old_until

    async def _renewed(self, conids: list[int]) -> dict[int, ContractSpec]:
        """What came of new definitions; nothing that goes wrong may keep a contract from its market data."""
        answers = dict(zip(conids, await asyncio.gather(*map(self._ask_briefly, conids)), strict=True))
        try:
            specs = await self._keep(answers)
        except StateError as error:
            log.warning("new definitions of contracts are not kept: %s", error)
            specs = {}
        if not specs and self._connection.is_connected:
            # Or every batch would wait for a gateway whose definitions are away.
            self._leaves_old_until = self._clock() + RETRY_AFTER
        return specs

    async def _ask_briefly(self, conid: int) -> ContractSpec | GatewayError:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await qualify(self._connection, conid)
        except TimeoutError:
            return RequestTimeoutError(f"no new definition of contract {conid} within {PATIENCE_SECONDS:g} s")
        except GatewayError as error:
            return error

    async def _keep(self, answers: Mapping[int, ContractSpec | GatewayError]) -> dict[int, ContractSpec]:
        """Cache what was answered; the contracts that were found."""
        specs = {conid: answer for conid, answer in answers.items() if isinstance(answer, ContractSpec)}
        unknown = [conid for conid, answer in answers.items() if isinstance(answer, UnknownContractError)]
        for conid in unknown:
            log.warning("%s", answers[conid])
        failed = [conid for conid in answers if conid not in specs and conid not in unknown]
        if failed:
            # One line, for a connection that goes fails thousands at once.
            log.warning("%d contracts could not be looked up, the first: %s", len(failed), answers[failed[0]])
        await asyncio.to_thread(
            cache.save_answers, self._database, list(specs.values()), unknown, answered_at=self._clock()
        )
        return specs
