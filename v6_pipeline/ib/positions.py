"""The position feed: a complete download, and the changes after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import datetime

from ib_async import Position

from v6_pipeline.errors import PositionsRefusedError, RequestRefusedError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import spec_from_ib
from v6_pipeline.model import Holding, known
from v6_pipeline.state.instants import Clock

log = logging.getLogger(__name__)


async def download_positions(
    connection: IBConnectionManager, clock: Clock, *, accounts: Collection[str] = ()
) -> list[Holding]:
    """Return all positions, as of the gateway's ``positionEnd``; zero positions (closed) are left out.

    Where IB refuses the positions of all accounts at once, as it does for logins with more than 50 sub-accounts (IBKR's
    TWS API, "Positions"), they are requested for each of ``accounts``, by default for every account of the login.

    The subscription stays: ``subscribe_positions`` reports the later changes.

    Raises:
        PositionsRefusedError: IB refuses both; the message has its words and what to set.
        GatewayError: refused, silent or disconnected before the end; the partial download must not be used.
    """
    ib = connection.ib
    newest: dict[tuple[str, int], Position] = {}

    def keep(item: Position) -> None:
        newest[item.account, item.contract.conId] = item

    ib.positionEvent += keep
    try:
        await connection.download(ib.reqPositionsAsync(), "positions", ib.positionEvent)
    except RequestRefusedError as refusal:
        newest.clear()
        managed = connection.accounts
        wanted = [account for account in managed if account in accounts] if accounts else managed
        await _download_by_account(connection, wanted, refusal)
    finally:
        ib.positionEvent -= keep
    observed_at = clock()
    return [holding_from_ib(item, observed_at) for item in newest.values() if item.position]


async def _download_by_account(
    connection: IBConnectionManager, accounts: Collection[str], refusal: RequestRefusedError
) -> None:
    """Request the positions of each account; one that is refused fails all, since half a download closes positions."""
    log.info("%s; requested for each of %d accounts", refusal, len(accounts))
    ib = connection.ib
    answers = [ib.request_account_positions(account) for account in accounts]
    try:
        await connection.download(asyncio.gather(*answers), "positions by account", ib.positionEvent)
    except RequestRefusedError as second:
        raise PositionsRefusedError(
            f"{refusal}; account by account: {second}; set V6_IB_ACCOUNTS to the accounts to follow (a login with more "
            "than 50 sub-accounts gets positions only by account), or log in as a user who manages fewer"
        ) from second
    finally:
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*answers, return_exceptions=True)


def subscribe_positions(connection: IBConnectionManager, on_change: Callable[[Holding], None], clock: Clock) -> None:
    """Call ``on_change`` for each position message of this connection, zero positions included."""

    def handle(item: Position) -> None:
        on_change(holding_from_ib(item, clock()))

    connection.ib.positionEvent += handle


def holding_from_ib(item: Position, observed_at: datetime) -> Holding:
    """Convert ib_async's position."""
    return Holding(
        account=item.account,
        contract=spec_from_ib(item.contract),
        position=float(item.position),
        average_cost=known(item.avgCost),
        observed_at=observed_at,
    )
