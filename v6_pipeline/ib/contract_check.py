"""Whether conids that a person names exist: by the cache, else by asking the broker once.

A mistyped conid would wait for ever for a position that can never come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from v6_pipeline.errors import GatewayError, UnknownContractError
from v6_pipeline.ib.contracts import qualify_all
from v6_pipeline.ib.session import leased_connection
from v6_pipeline.model import ContractSpec
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import contracts as cache
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.leases.leases import ProcessIdentity


async def check_contracts(
    settings: Settings, database: StateDatabase, conids: Iterable[int], clock: Clock = utc_now
) -> None:
    """See that every conid is one of the broker's; those that are not in the cache are asked for and cached.

    Raises:
        UnknownContractError: the broker knows none with this conid; all such are named.
        GatewayError: what is not in the cache cannot be asked for now.
    """
    wanted = list(dict.fromkeys(conids))
    known = cache.get(database, wanted)
    missing = [conid for conid in wanted if conid not in known]
    if not missing:
        return
    owner = f"{ProcessIdentity.current().owner}/check"
    async with leased_connection(settings, database, owner=owner, clock=clock) as gateway:
        answers = await qualify_all(gateway, missing)
    found = [item for item in answers.values() if isinstance(item, ContractSpec)]
    await asyncio.to_thread(cache.save, database, found, qualified_at=clock())
    unknown = [conid for conid, answer in answers.items() if isinstance(answer, UnknownContractError)]
    if unknown:
        listed = ", ".join(map(str, unknown))
        raise UnknownContractError(
            f"the gateway knows no contract with conid {listed}: check the number; nothing was added"
        )
    for answer in answers.values():
        if isinstance(answer, GatewayError):
            raise answer
