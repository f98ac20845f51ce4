"""The accounts' past: the ledger of each past day, replayed from a plan that `past_plan` makes from hashes.

It ends in the universe's quantities, before the first booking of the live day: the live ledger begins with the
holdings, costs and cash that the past ends with.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

from v6_pipeline.paper.contracts import CASH, Holding, Universe
from v6_pipeline.paper.ledger import OWNED, Booking, Key, Ledger
from v6_pipeline.paper.past_plan import Planner
from v6_pipeline.paper.past_replay import Replay
from v6_pipeline.paper.prices import daily_close, daily_exchange_rate
from v6_pipeline.paper.trading_hours import is_european, is_trading_day, session_before

PAST_DAYS = 800
"""Days before its start that the gateway's past covers."""
_STARTING_CASH = {"USD": 750_000.0, "EUR": 80_000.0}


@dataclass(frozen=True, slots=True)
class Position:
    """A holding of an account at the end of a day; `average_cost` includes the multiplier."""

    account: str
    conid: int
    quantity: float
    average_cost: float
    opened_on: date


@dataclass(frozen=True, slots=True)
class PastDay:
    """One day: the positions at its end, sorted by account and conid, what was booked, and the cash at its end."""

    day: date
    positions: tuple[Position, ...]
    changes: tuple[Booking, ...]
    cash: dict[tuple[str, str], float]


class Past:
    """The accounts' past; its `universe` includes the contracts that are gone.

    On the last session every quantity is that of the given universe; costs follow from the past. `sessions` are in
    order, the last not after the universe's `as_of`; by default those of the last `PAST_DAYS` days. A holiday on which
    another country's exchange traded for an account is a day too. Nothing is booked on `as_of`: it is the live day,
    whose ledger `with_live` adds.
    """

    def __init__(self, universe: Universe, sessions: Sequence[date] | None = None) -> None:
        days = (universe.as_of - timedelta(days=ago) for ago in range(PAST_DAYS, -1, -1))
        self.sessions = tuple(day for day in days if is_trading_day(day)) if sessions is None else tuple(sessions)
        plan = Planner(universe, self.sessions)
        self.universe = plan.universe
        self._live: Ledger | None = None
        self._marks: dict[tuple[int, date], float] = {}
        virtual = list(self._virtual(universe))
        ledger = Ledger(self.universe.contracts, [*plan.opening, *virtual])
        replay = Replay(ledger, plan)
        self._all = tuple(sorted({*self.sessions, *plan.acts}))
        self._days: dict[date, PastDay] = {}
        kept: dict[Key, Position] = {}
        for row in plan.opening:
            ledger.opened_on[row.account, row.conid] = self.sessions[0]
        touched = set(ledger.holdings)
        for day in self._all:
            begin = len(ledger.journal)
            replay.play(day)
            bookings = tuple(ledger.journal[begin:])
            touched.update((item.account, item.conid) for item in bookings)
            for key in touched:
                self._keep(kept, ledger, key)
            touched = set()
            self._days[day] = PastDay(day, tuple(kept[key] for key in sorted(kept)), bookings, dict(ledger.cash))
        self.holdings = tuple(
            Holding(row.account, row.conid, row.quantity, row.average_cost)
            for row in (ledger.holdings[row.account, row.conid] for row in universe.holdings)
        )
        self.opened_on = dict(ledger.opened_on)
        self.cash = opening_cash(universe, self.holdings)
        self._begin_with_cash({key: self.cash.get(key, 0.0) - amount for key, amount in ledger.cash.items()})

    @staticmethod
    def _virtual(universe: Universe) -> Iterator[Holding]:
        """Yield the virtual positions in currencies: they come from a conversion at the last close."""
        before = session_before(universe.as_of)
        for row in universe.holdings:
            if universe.contracts[row.conid].sec_type == CASH:
                cost = daily_close(universe, row.conid, before) or row.average_cost
                yield Holding(row.account, row.conid, row.quantity, cost)

    def _begin_with_cash(self, before: dict[tuple[str, str], float]) -> None:
        """Add the cash that was there before the first day, so that the last one ends with the live day's."""
        before = {**{key: amount for key, amount in self.cash.items() if key not in before}, **before}
        for day in self._days.values():
            for key, amount in before.items():
                day.cash[key] = day.cash.get(key, 0.0) + amount

    @staticmethod
    def _keep(kept: dict[Key, Position], ledger: Ledger, key: Key) -> None:
        holding = ledger.holdings.get(key)
        if holding is None or ledger.is_virtual(key[1]):
            kept.pop(key, None)
        else:
            kept[key] = Position(*key, holding.quantity, holding.average_cost, ledger.opened_on[key])

    def with_live(self, live: Ledger) -> Self:
        """Return this past with a ledger for the live day."""
        found = copy(self)
        found._live = live  # noqa: SLF001 - of the same class
        return found

    def between(self, first: date, last: date) -> list[PastDay]:
        """Return the days of a range that have a statement: sessions, and holidays with a booking."""
        days = self._all[bisect_left(self._all, first) : bisect_right(self._all, last)]
        return [self._day(day) for day in days]

    def before(self, day: date) -> PastDay | None:
        """Return the last day before a day; `None` before the first one."""
        index = bisect_left(self._all, day)
        return self._day(self._all[index - 1]) if index else None

    def mark(self, conid: int, day: date) -> float:
        """Return the price of a contract in the statement of a day; on a holiday that of the session before."""
        price = self._marks.get((conid, day))
        if price is None:
            is_closed = not is_trading_day(day) and not is_european(self.universe.contracts[conid])
            price = daily_close(self.universe, conid, session_before(day) if is_closed else day) or 0.0
            if day < self.universe.as_of:
                self._marks[conid, day] = price
        return price

    def rate(self, currency: str, day: date) -> float:
        """Return the value of a currency in the base currency in the statement of a day."""
        return daily_exchange_rate(self.universe, currency, day if is_trading_day(day) else session_before(day))

    def value(self, position: Position, day: date) -> float:
        """Return what a position contributes to its account's value at the end of a day, in its currency."""
        contract = self.universe.contracts[position.conid]
        worth = position.quantity * self.mark(position.conid, day) * contract.value_per_point
        return worth if contract.sec_type in OWNED else worth - position.quantity * position.average_cost

    def _day(self, day: date) -> PastDay:
        if self._live is None or day != self.universe.as_of:
            return self._days[day]
        live = self._live
        rows = sorted((key, row) for key, row in list(live.holdings.items()) if row.quantity)
        positions = tuple(
            Position(*key, row.quantity, row.average_cost, live.opened_on.get(key, day))
            for key, row in rows
            if not live.is_virtual(key[1])
        )
        return PastDay(day, positions, tuple(live.journal), dict(live.cash))


def opening_cash(universe: Universe, holdings: Sequence[Holding]) -> dict[tuple[str, str], float]:
    """Return the cash with which the live day begins.

    The cost of the holdings is paid, and enough remains to carry them: an account of thousands of short options is as
    solvent as one of a few.
    """
    cash = {(account, currency): amount for account in universe.accounts for currency, amount in _STARTING_CASH.items()}
    for holding in holdings:
        contract = universe.contracts[holding.conid]
        key, cost = (holding.account, contract.currency), holding.quantity * holding.average_cost
        cash.setdefault(key, 0.0)
        if contract.sec_type in OWNED:
            cash[key] += abs(cost) / 2 - cost
    return cash
