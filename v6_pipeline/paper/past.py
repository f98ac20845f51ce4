"""The accounts' past: a plan of orders for each past day, from hashes, and the positions that follow from it.

Stocks and futures are traded a little up and down every week or so and end at the quantities of the universe. Options
held at the start were opened within the last five weeks. Before that, options are opened each week that expire or are
exercised or assigned, and their shares are sold or bought back on the next session. Futures are not rolled, and
currency positions are not among a statement's open positions.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from v6_pipeline.paper.contracts import CASH, FUTURE, OPTION, Contract, Holding, Universe
from v6_pipeline.paper.instruments import UnderlyingSpec
from v6_pipeline.paper.prices import daily_close, unit
from v6_pipeline.paper.trading_hours import is_trading_day
from v6_pipeline.paper.universe import OPTIONED, option

PAST_DAYS = 800
"""Days before its start that the gateway's past covers."""

_FLAT = 1e-9
_SESSIONS_A_TRADE = 5
_OPENED_WITHIN = 25
_OPTION_DAYS = 24
# Distances in strikes from the money and signs of the two options that an account opens each week.
_LEGS = (("P", 1, -1), ("C", 2, 1))


class Deed(StrEnum):
    """Cause of a change of quantity, named as in a statement."""

    TRADE = "Trade"
    EXPIRATION = "Expiration"
    ASSIGNMENT = "Assignment"
    EXERCISE = "Exercise"
    DELIVERY = "Delivery"


@dataclass(frozen=True, slots=True)
class Order:
    """A change of one account's quantity of a contract; `price` in quoted units."""

    account: str
    conid: int
    quantity: float
    price: float
    deed: Deed = Deed.TRADE


@dataclass(frozen=True, slots=True)
class Position:
    """A holding of an account at the end of a day; `average_cost` includes the multiplier."""

    account: str
    conid: int
    quantity: float
    average_cost: float
    opened_on: date


@dataclass(frozen=True, slots=True)
class Change:
    """An executed order and the profit that it realized, in the contract's currency."""

    order: Order
    realized_pnl: float
    opens: bool


@dataclass(frozen=True, slots=True)
class PastDay:
    """One session: the positions at its end, sorted by account and conid, and its changes."""

    day: date
    positions: tuple[Position, ...]
    changes: tuple[Change, ...]


class Past:
    """The accounts' past; its `universe` includes the contracts that expired.

    On the last session every quantity is that of the given universe; costs follow from the past. `sessions` are in
    order, the last not after the universe's `as_of`; by default those of the last `PAST_DAYS` days.
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
        """Return the sessions of a range of days."""
        return [
            self._days[day]
            for day in self.sessions[bisect_left(self.sessions, first) : bisect_right(self.sessions, last)]
        ]

    def _carry_out(self, held: dict[tuple[str, int], Position], order: Order, day: date) -> Change:
        """Execute an order; more of the same side averages into the cost, anything else realizes profit."""
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


class Planner:
    """Plans the `orders` of each session; `opening` holdings are those before the first one."""

    def __init__(self, universe: Universe, sessions: Sequence[date]) -> None:
        self.universe = universe
        self.opening: dict[tuple[str, int], Holding] = {}
        self.orders: dict[date, list[Order]] = {day: [] for day in sessions}
        self._sessions = sessions
        for holding in universe.holdings:
            sec_type = universe.contracts[holding.conid].sec_type
            if sec_type == OPTION:
                self._open_lately(holding)
            elif sec_type != CASH:
                self._trade_up_and_down(holding)
        expired = list(self._expired())
        contracts = [*universe.contracts.values(), *{contract.conid: contract for _, contract, *_ in expired}.values()]
        self.universe = Universe(
            seed=universe.seed,
            as_of=universe.as_of,
            accounts=universe.accounts,
            contracts=contracts,
            holdings=universe.holdings,
        )
        for account, contract, quantity, opened_on in expired:
            self._open_and_end(account, contract, quantity, opened_on)

    def _close(self, conid: int, day: date) -> float:
        price = daily_close(self.universe, conid, day)
        assert price is not None  # noqa: S101 - nothing is planned after an expiry
        return price

    def _order(self, day: date, account: str, conid: int, quantity: float) -> None:
        self.orders[day].append(Order(account, conid, quantity, self._close(conid, day)))

    def _random(self, conid: int, account: str, salt: int, number: int = 0) -> float:
        return unit(self.universe.seed, conid, 64 * salt + self.universe.accounts.index(account), number)

    def _trade_up_and_down(self, holding: Holding) -> None:
        is_future = self.universe.contracts[holding.conid].sec_type == FUTURE
        lot = 1.0 if is_future else max(1.0, round(abs(holding.quantity) / 10))
        shift = int(self._random(holding.conid, holding.account, 1) * _SESSIONS_A_TRADE)
        last = len(self._sessions) - 1

        def quantity(index: int) -> float:
            block = (last - index + shift) // _SESSIONS_A_TRADE
            # The last block has the universe's quantity; half of the others do.
            step = int(self._random(holding.conid, holding.account, 2, block) * 4) if block else 0
            return holding.quantity + (0.0, 0.0, lot, -lot)[step]

        self.opening[holding.account, holding.conid] = Holding(
            holding.account, holding.conid, quantity(0), holding.average_cost
        )
        for index, day in enumerate(self._sessions[1:], start=1):
            if change := quantity(index) - quantity(index - 1):
                self._order(day, holding.account, holding.conid, change)

    def _open_lately(self, holding: Holding) -> None:
        ago = int(self._random(holding.conid, holding.account, 3) * min(_OPENED_WITHIN, len(self._sessions)))
        self._order(self._sessions[-1 - ago], holding.account, holding.conid, holding.quantity)

    def _expired(self) -> Iterator[tuple[str, Contract, float, date]]:
        """Yield account, contract, quantity and day of opening of every option that ended before the last session."""
        taken = set(self.universe.contracts)
        known: dict[str, Contract] = {}
        for week, expiry in enumerate(_last_sessions_of_weeks(self._sessions)):
            opened = next(day for day in self._sessions if day >= expiry - timedelta(days=_OPTION_DAYS))
            for number, account in enumerate(self.universe.accounts):
                for leg, (right, distance, sign) in enumerate(_LEGS):
                    spec = OPTIONED[(week + 5 * number + 3 * leg) % len(OPTIONED)]
                    contract = option(spec, expiry, self._strike(spec, opened, right, distance), right, set())
                    if contract.local_symbol not in known:
                        known[contract.local_symbol] = option(spec, expiry, contract.strike, right, taken)
                    contract = known[contract.local_symbol]
                    lots = 1 + int(3 * self._random(contract.conid, account, 4))
                    yield account, contract, float(sign * lots), opened

    def _strike(self, spec: UnderlyingSpec, day: date, right: str, distance: int) -> float:
        nearest = round(self._close(spec.conid, day) / spec.strike_step)
        return (nearest + (distance if right == "C" else -distance)) * spec.strike_step

    def _open_and_end(self, account: str, contract: Contract, quantity: float, opened_on: date) -> None:
        self._order(opened_on, account, contract.conid, quantity)
        expiry = date.fromisoformat(contract.expiry)
        value = self._close(contract.conid, expiry)
        deed = Deed.EXPIRATION if not value else Deed.EXERCISE if quantity > 0 else Deed.ASSIGNMENT
        underlying = self.universe.contracts[contract.underlying_conid]
        # An index option settles in cash; for others shares are delivered at the strike, and the option ends at 0.
        price = 0.0 if underlying.is_tradable else value
        self.orders[expiry].append(Order(account, contract.conid, -quantity, price, deed))
        if value and underlying.is_tradable:
            shares = quantity * float(contract.multiplier) * (1 if contract.right == "C" else -1)
            self.orders[expiry].append(Order(account, underlying.conid, shares, contract.strike, Deed.DELIVERY))
            after = self._sessions[self._sessions.index(expiry) + 1]
            self._order(after, account, underlying.conid, -shares)


def _last_sessions_of_weeks(sessions: Sequence[date]) -> list[date]:
    """Return the last session of each week, except weeks too early for an opening before, and the very last."""
    weeks = {day.isocalendar()[:2]: day for day in sessions}
    return [day for day in weeks.values() if day < sessions[-1] and day >= sessions[0] + timedelta(days=_OPTION_DAYS)]
