"""What the accounts held on each past day, and what changed it: the plan of `past_orders`, carried out.

Belongs here: quantities, average costs and realized profits by day. How a statement says it is in
`flex_statements`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from v6_pipeline.paper.contracts import Universe
from v6_pipeline.paper.past_orders import Deed, Order, Planner
from v6_pipeline.paper.trading_hours import is_trading_day

PAST_DAYS = 800
"""How many days before its start the gateway remembers."""

_FLAT = 1e-9


@dataclass(frozen=True, slots=True)
class Position:
    """What an account held at the end of a day; `average_cost` includes the multiplier."""

    account: str
    conid: int
    quantity: float
    average_cost: float
    opened_on: date


@dataclass(frozen=True, slots=True)
class Change:
    """An order carried out, and the profit that it realized, in the contract's currency."""

    order: Order
    realized_pnl: float
    opens: bool


@dataclass(frozen=True, slots=True)
class PastDay:
    """One session: positions at its end, sorted by account and conid, and what changed them on it."""

    day: date
    positions: tuple[Position, ...]
    changes: tuple[Change, ...]


class Past:
    """The accounts' past, the same for every universe that is built alike.

    Args:
        universe: how it ends: on the last session every quantity is the universe's own. Costs are those that the past
            gives, not the universe's.
        sessions: in order, the last not after the universe's `as_of`; by default those of the last `PAST_DAYS` days by
            the simulation's own calendar.

    Attributes:
        universe: with the contracts that expired meanwhile.
    """

    def __init__(self, universe: Universe, sessions: Sequence[date] | None = None) -> None:
        days = (universe.as_of - timedelta(days=ago) for ago in range(PAST_DAYS, -1, -1))
        self.sessions = tuple(day for day in days if is_trading_day(day)) if sessions is None else tuple(sessions)
        plan = Planner(universe, self.sessions)
        self.universe = plan.universe
        self._days: dict[date, PastDay] = {}
        held = {
            key: Position(row.account, row.conid, row.quantity, row.average_cost, self.sessions[0])
            for key, row in plan.opening.items()
            if row.quantity
        }
        for day in self.sessions:
            changes = tuple(self._carry_out(held, order, day) for order in plan.orders[day])
            self._days[day] = PastDay(day, tuple(held[key] for key in sorted(held)), changes)

    def between(self, first: date, last: date) -> list[PastDay]:
        """The sessions of a range of days."""
        return [
            self._days[day]
            for day in self.sessions[bisect_left(self.sessions, first) : bisect_right(self.sessions, last)]
        ]

    def _carry_out(self, held: dict[tuple[str, int], Position], order: Order, day: date) -> Change:
        """Change what is held; more of the same side averages into the cost, anything else realizes profit."""
        key = order.account, order.conid
        before = held.get(key) or Position(*key, 0.0, 0.0, day)
        cost = order.price * self.universe.contracts[order.conid].value_per_point
        quantity = before.quantity + order.quantity
        if before.quantity * order.quantity >= 0:
            average = (before.quantity * before.average_cost + order.quantity * cost) / quantity
            held[key] = Position(*key, quantity, average, before.opened_on)
            return Change(order, 0.0, opens=True)
        turned = before.quantity * quantity < 0
        closed = before.quantity if turned else -order.quantity
        if abs(quantity) < _FLAT:
            del held[key]
        else:
            held[key] = Position(
                *key, quantity, cost if turned else before.average_cost, day if turned else before.opened_on
            )
        return Change(order, closed * (cost - before.average_cost), opens=False)


__all__ = ["PAST_DAYS", "Change", "Deed", "Past", "PastDay", "Position"]
