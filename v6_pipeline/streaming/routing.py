"""Decides which contracts stream and which holdings are queued, and which line capacity to rely on.

Pure: no sockets, no database. ``IBPositionStreamer`` carries the decision out, and ``SlotLedger`` may still refuse a
line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from v6_pipeline.model import Holding, QueuePriority
from v6_pipeline.state.keys import Key

RISE_AFTER = timedelta(seconds=5)
"""Regained capacity is used once it has lasted this long, so that streams do not flap."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Route:
    """A holding, its strategies' priority, and what is known of its contract.

    ``priority`` is the best one of the active strategies it serves (lower is more important), ``None`` if it serves
    none. ``refused``: the broker gives no market data for the contract (not subscribed, unknown), so it can only be
    queued. ``silent``: a stream of the contract brought no tick, so it streams only if no other contract needs the
    line. ``since`` is when the contract was first wanted; ``None`` comes before all others.
    """

    holding: Holding
    priority: int | None
    refused: bool = False
    silent: bool = False
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A holding to put into the queue."""

    account: str
    conid: int
    symbol: str
    priority: QueuePriority


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """The next steps: cancel, then subscribe, the most important first. ``queue`` has all holdings without a line."""

    subscribe: tuple[int, ...]
    cancel: tuple[int, ...]
    queue: tuple[QueueEntry, ...]
    overflow: tuple[int, ...]
    """Active contracts beyond the capacity; they are in ``queue`` too, at priority 1."""
    priorities: dict[int, int]
    """Best priority of each contract that can stream, by conid."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A contract's rank, over all its holdings."""

    silent: bool
    priority: int
    since: datetime


def plan_routes(routes: Iterable[Route], *, subscribed: frozenset[int], capacity: int) -> RoutePlan:
    """Plan the routes of all holdings at once.

    A contract takes one line however many accounts hold it and strategies want it. If the lines do not
    suffice, the most important contracts get them; among equals those that already stream, then those wanted first.

    Args:
        routes: every holding of every account; those with position 0 are neither streamed nor queued.
        subscribed: contracts that stream now.
        capacity: number of lines that streams may take in total.
    """
    held = [route for route in routes if route.holding.position]
    wanted = _claims(held)
    ranked = sorted(
        wanted,
        key=lambda conid: (
            wanted[conid].silent,
            wanted[conid].priority,
            conid not in subscribed,
            wanted[conid].since,
            conid,
        ),
    )
    stream, overflow = ranked[: max(capacity, 0)], ranked[max(capacity, 0) :]
    chosen = set(stream)
    return RoutePlan(
        subscribe=tuple(conid for conid in stream if conid not in subscribed),
        cancel=tuple(sorted(subscribed - chosen)),
        queue=tuple(_queue_entry(route) for route in held if route.holding.contract.conid not in chosen),
        overflow=tuple(overflow),
        priorities={conid: claim.priority for conid, claim in wanted.items()},
    )


def _claims(held: Iterable[Route]) -> dict[int, _Claim]:
    claims: dict[int, _Claim] = {}
    for route in held:
        if route.priority is None or route.refused:
            continue
        conid, since = route.holding.contract.conid, route.since or _LONG_AGO
        other = claims.get(conid)
        claims[conid] = _Claim(
            silent=route.silent and (other is None or other.silent),
            priority=route.priority if other is None else min(route.priority, other.priority),
            since=since if other is None else min(since, other.since),
        )
    return claims


def _queue_entry(route: Route) -> QueueEntry:
    """Queue an active holding without a line before one that serves no strategy."""
    contract = route.holding.contract
    priority = QueuePriority.NORMAL if route.priority is None else QueuePriority.OVERFLOW
    return QueueEntry(route.holding.account, contract.conid, contract.symbol, priority)


def queue_priorities(
    plan: RoutePlan, routes: Iterable[Route], without_line: Collection[int]
) -> dict[Key, QueuePriority]:
    """Return the priority of each holding to queue: the plan's, and those whose contract got no line after all."""
    priorities: dict[Key, QueuePriority] = {(item.account, item.conid): item.priority for item in plan.queue}
    held = (route.holding for route in routes if route.holding.position)
    return priorities | {
        holding.key: QueuePriority.OVERFLOW for holding in held if holding.contract.conid in without_line
    }


class StreamCapacity:
    """The line capacity that routing may rely on."""

    def __init__(self) -> None:
        self.offered: int | None = None
        self._usable: int | None = None
        self._more: tuple[datetime, int] | None = None

    def usable(self, offered: int, now: datetime, *, probing: bool = False) -> int:
        """Return the number of lines to plan with: a decrease counts at once, an increase after ``RISE_AFTER``.

        While the ledger is ``probing``, an increase counts at once: it has waited for minutes and adds single lines.
        """
        self.offered = offered
        if self._usable is None or offered <= self._usable or probing:
            self._usable, self._more = offered, None
            return offered
        since, least = self._more or (now, offered)
        self._more = (since, min(least, offered))
        if now - since >= RISE_AFTER:
            self._usable, self._more = self._more[1], None
        return self._usable
