"""Which contracts to stream and which holdings to queue: one pure function.

No sockets, no database: data in, decision out. ``IBPositionStreamer`` carries the decision out, and ``SlotLedger`` may
still refuse a line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from v6_pipeline.model import Holding, QueuePriority


@dataclass(frozen=True, slots=True)
class Route:
    """A holding and what the registry says of it.

    ``priority`` is the best one of the active strategies it serves (lower is more important), ``None`` if it serves
    none. ``refused`` holds where the broker gives no market data for the contract (not subscribed, unknown): it can
    only be queued.
    """

    holding: Holding
    priority: int | None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A holding to put into the queue."""

    account: str
    conid: int
    symbol: str
    priority: QueuePriority


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What to do next: cancel first, then subscribe, most important first. ``queue`` names every holding left over."""

    subscribe: tuple[int, ...]
    cancel: tuple[int, ...]
    queue: tuple[QueueEntry, ...]
    overflow: tuple[int, ...]
    """Active contracts beyond the capacity; they are in ``queue`` too, at priority 1."""


def plan_routes(routes: Iterable[Route], *, subscribed: frozenset[int], capacity: int) -> RoutePlan:
    """Decide for all holdings at once.

    A contract takes one line however many accounts hold it and strategies want it. Beyond ``capacity`` the most
    important stay; among equals those that stream already, so that nothing flaps.

    Args:
        routes: every holding of every account; those with position 0 are neither streamed nor queued.
        subscribed: contracts that stream now.
        capacity: lines that streams may take in all.
    """
    held = [route for route in routes if route.holding.position]
    wanted: dict[int, int] = {}
    for route in held:
        if route.priority is not None and not route.refused:
            conid = route.holding.contract.conid
            wanted[conid] = min(route.priority, wanted.get(conid, route.priority))
    ranked = sorted(wanted, key=lambda conid: (wanted[conid], conid not in subscribed, conid))
    stream, overflow = ranked[: max(capacity, 0)], ranked[max(capacity, 0) :]
    chosen = set(stream)
    return RoutePlan(
        subscribe=tuple(conid for conid in stream if conid not in subscribed),
        cancel=tuple(sorted(subscribed - chosen)),
        queue=tuple(_queue_entry(route) for route in held if route.holding.contract.conid not in chosen),
        overflow=tuple(overflow),
    )


def _queue_entry(route: Route) -> QueueEntry:
    """An active holding without a line is more urgent than one that no strategy asks for."""
    contract = route.holding.contract
    priority = QueuePriority.NORMAL if route.priority is None else QueuePriority.OVERFLOW
    return QueueEntry(route.holding.account, contract.conid, contract.symbol, priority)
