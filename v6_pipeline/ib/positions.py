"""The position feed: a complete download, and the changes after it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from ib_async import Position

from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import spec_from_ib
from v6_pipeline.model import Holding, known
from v6_pipeline.state.instants import Clock


async def download_positions(connection: IBConnectionManager, clock: Clock) -> list[Holding]:
    """Return all positions of all accounts, as of the gateway's ``positionEnd``; zero positions (closed) are left out.

    The subscription stays: ``subscribe_positions`` reports the later changes.

    Raises:
        GatewayError: refused, silent or disconnected before the end; the partial download must not be used.
    """
    ib = connection.ib
    positions = await connection.download(ib.reqPositionsAsync(), "positions", ib.positionEvent)
    observed_at = clock()
    newest = {(item.account, item.contract.conId): item for item in positions}
    return [holding_from_ib(item, observed_at) for item in newest.values() if item.position]


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
