"""Qualified contracts: from the cache in the state database, else looked up by ``ib.contracts`` and cached."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from v6_pipeline.errors import GatewayError, RequestTimeoutError, StateError, UnknownContractError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify, qualify_all
from v6_pipeline.ib.session import leased_connection
from v6_pipeline.model import ContractSpec
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import contracts as rows
from v6_pipeline.state.answers import ask
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.leases.process import ProcessIdentity

log = logging.getLogger(__name__)

RETRY_AFTER = timedelta(hours=1)
"""Retry after this a contract that the broker did not know or gave no data for: around its reset it may know none."""
OLD_AFTER = timedelta(days=7)
"""Refetch a definition after this: a corporate action may keep the conid, and change symbol or multiplier."""
MOST_OLD = 50
"""Definitions refetched at a time, the oldest first: about a second of the message rate."""
REFETCH_TIMEOUT_SECONDS = 5.0
"""Time-out for refetching a contract's definition."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The cache's answer: contracts, which of them to refetch, and which to look up for the first time."""

    known: dict[int, ContractSpec]
    old: list[int]
    missing: list[int]


class ContractCache:
    """Looks contracts up and caches them. The connection must be up to look up a contract that is not cached."""

    def __init__(self, database: StateDatabase, connection: IBConnectionManager, clock: Clock) -> None:
        self._database = database
        self._connection = connection
        self._clock = clock
        self._keeps_old_until: datetime | None = None

    async def qualified(self, conids: Iterable[int]) -> dict[int, ContractSpec]:
        """Return contracts with their exchange, by conid; those that cannot be qualified now are left out and logged.

        An old definition is refetched; if that fails, the old one serves.
        """
        wanted = sorted(set(conids))
        if not wanted:
            return {}
        found = await ask(self._look_up, wanted)
        known = found.known
        if found.missing:
            known |= await self._keep(await qualify_all(self._connection, found.missing))
        keeps_old = self._keeps_old_until is not None and self._clock() < self._keeps_old_until
        if found.old and self._connection.is_connected and not keeps_old:
            known |= await self._refetch(found.old)
        return known

    async def refused(self) -> frozenset[int]:
        """Return the contracts that the broker did not know or refused within the last hour: a request would fail."""
        return await ask(rows.refused, self._database, since=self._clock() - RETRY_AFTER)

    async def note_refused(self, codes: Mapping[int, int]) -> None:
        """Store the broker's codes for contracts that it refuses market data for, for later refreshes."""
        await ask(rows.mark_refused, self._database, codes, failed_at=self._clock())

    async def forget_refused(self) -> None:
        """Forget the refusals, after a new login: it may subscribe to other market data."""
        await ask(rows.forget_refused, self._database)

    def _look_up(self, conids: list[int]) -> _Found:
        now = self._clock()
        cached, failures = rows.get(self._database, conids), rows.failures(self._database)
        known = {conid: item.spec for conid, item in cached.items() if item.qualified_at is not None}
        failed = {conid for conid, failure in failures.items() if failure.failed_at > now - RETRY_AFTER}
        old = [
            (item.qualified_at, conid)
            for conid, item in cached.items()
            if item.qualified_at is not None
            and item.qualified_at <= now - OLD_AFTER
            and conid not in failed
            and not item.spec.has_expired(now.date())  # UTC's date, which changes in New York's evening
        ]
        return _Found(
            known=known,
            old=[conid for _, conid in sorted(old)[:MOST_OLD]],
            missing=[conid for conid in conids if conid not in known and conid not in failed],
        )

    async def _refetch(self, conids: list[int]) -> dict[int, ContractSpec]:
        """Return the new definitions. No failure here may keep a contract from its market data."""
        answers = dict(zip(conids, await asyncio.gather(*map(self._qualify_briefly, conids)), strict=True))
        try:
            specs = await self._keep(answers)
        except StateError as error:
            log.warning("new definitions of contracts are not stored: %s", error)
            specs = {}
        if not specs and self._connection.is_connected:
            # Or every batch would wait for a gateway that serves no definitions at the moment.
            self._keeps_old_until = self._clock() + RETRY_AFTER
        return specs

    async def _qualify_briefly(self, conid: int) -> ContractSpec | GatewayError:
        try:
            async with asyncio.timeout(REFETCH_TIMEOUT_SECONDS):
                return await qualify(self._connection, conid)
        except TimeoutError:
            return RequestTimeoutError(f"no new definition of contract {conid} within {REFETCH_TIMEOUT_SECONDS:g} s")
        except GatewayError as error:
            return error

    async def _keep(self, answers: Mapping[int, ContractSpec | GatewayError]) -> dict[int, ContractSpec]:
        """Cache the answers, and return the contracts that were found."""
        specs = {conid: answer for conid, answer in answers.items() if isinstance(answer, ContractSpec)}
        unknown = [conid for conid, answer in answers.items() if isinstance(answer, UnknownContractError)]
        for conid in unknown:
            log.warning("%s", answers[conid])
        failed = [conid for conid in answers if conid not in specs and conid not in unknown]
        if failed:
            # One line, because a lost connection fails thousands at once.
            log.warning("%d contracts could not be looked up, the first: %s", len(failed), answers[failed[0]])
        await ask(rows.save_answers, self._database, list(specs.values()), unknown, answered_at=self._clock())
        return specs


async def check_contracts(
    settings: Settings, database: StateDatabase, conids: Iterable[int], clock: Clock | None = None
) -> None:
    """Check that the broker knows each conid that a user named; look up and cache those that are not cached.

    A mistyped conid would wait for ever for a position that can never come.

    Raises:
        UnknownContractError: the broker has no contract with some of these conids; the error names them all.
        GatewayError: a conid that is not cached cannot be looked up now.
    """
    wanted = list(dict.fromkeys(conids))
    known = rows.get(database, wanted)
    missing = [conid for conid in wanted if conid not in known]
    if not missing:
        return
    clock = clock or database.now
    owner = f"{ProcessIdentity.current().owner}/check"
    async with leased_connection(settings, database, owner=owner, clock=clock) as gateway:
        answers = await qualify_all(gateway, missing)
    specs = [answer for answer in answers.values() if isinstance(answer, ContractSpec)]
    await ask(rows.save, database, specs, qualified_at=clock())
    unknown = [conid for conid, answer in answers.items() if isinstance(answer, UnknownContractError)]
    if unknown:
        listed = ", ".join(map(str, unknown))
        raise UnknownContractError(
            f"the gateway knows no contract with conid {listed}: check the number; nothing was added"
        )
    for answer in answers.values():
        if isinstance(answer, GatewayError):
            raise answer
