"""Carries out the plan of the past, day by day, on a ledger. One of several accounts is flat for some days."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Protocol

from v6_pipeline.paper.contracts import CASH, CFD, FUTURE, OPTION, STOCK, Contract, Universe
from v6_pipeline.paper.ledger import Deed, Key, Ledger, Moment
from v6_pipeline.paper.prices import daily_close
from v6_pipeline.paper.trading_hours import NEW_YORK

_PERCENT_WITHHELD = 15.0
_FLAT = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A planned trade; `price` in quoted units."""

    account: str
    conid: int
    quantity: float
    price: float
    when: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The planned end of an option; `value` is its intrinsic value, and `shares` of `underlying` are delivered."""

    account: str
    contract: Contract
    quantity: float
    value: float
    when: Moment
    underlying: int = 0
    shares: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A planned currency conversion; IB's automatic ones have the note ``AFx``."""

    account: str
    pair: Contract
    quantity: float
    price: float
    when: Moment
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cash:
    """Planned cash of an account."""

    account: str
    deed: Deed
    currency: str
    amount: float
    when: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Dividend:
    """A dividend: those who hold the stock at the begin of this day are paid later."""

    conid: int
    per_share: float
    paid: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A stock split: `ratio` new shares for one."""

    conid: int
    ratio: float
    when: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An exchange of a stock for its successor, one for one."""

    old: int
    new: int
    price: float
    when: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A transfer in kind of all that one account holds of a stock to another one."""

    sender: str
    receiver: str
    conid: int
    price: float
    when: Moment


Act = Trade | Ending | Conversion | Cash | Dividend | Split | Exchange | Transfer


class Plan(Protocol):
    """What a replay needs. The account is flat from the end of the first flat day to the begin of the last."""

    universe: Universe
    acts: dict[date, list[Act]]
    flat_account: str | None
    flat_days: Sequence[date]


@dataclass(slots=True)
class Replay:
    """Plays a plan on a ledger. While an account is flat, its trades only change what it buys back afterwards."""

    ledger: Ledger
    plan: Plan
    _target: dict[Key, float] = field(default_factory=dict)
    _due: dict[date, list[tuple[str, Dividend, float]]] = field(default_factory=dict)

    def play(self, day: date) -> None:
        """Carry out the acts of a day."""
        for account, dividend, quantity in self._due.pop(day, ()):
            self._pay(account, dividend, quantity)
        if self.plan.flat_days and day == self.plan.flat_days[-1]:
            self._buy_back(day)
        for act in self.plan.acts.get(day, ()):
            self._carry_out(act)
        if self.plan.flat_days and day == self.plan.flat_days[0]:
            self._flatten(day)

    def _carry_out(self, act: Act) -> None:
        match act:
            case Trade():
                self._trade(act)
            case Ending():
                self._end(act)
            case Conversion():
                commission = 0.0 if act.note else -2.0
                self.ledger.convert(
                    act.account, act.pair, act.quantity, act.price, act.when, commission=commission, note=act.note
                )
            case Cash():
                self.ledger.pay(act.account, act.deed, act.currency, act.amount, act.when)
            case Dividend():
                for account in self._holders(act.conid):
                    due = self._due.setdefault(act.paid.report_date, [])
                    due.append((account, act, self.ledger.quantity(account, act.conid)))
            case _:
                self._reorganize(act)

    def _reorganize(self, act: Split | Exchange | Transfer) -> None:
        match act:
            case Split():
                for account in self._holders(act.conid):
                    added = self.ledger.quantity(account, act.conid) * (act.ratio - 1)
                    self.ledger.move(account, act.conid, added, 0.0, act.when, Deed.SPLIT)
            case Exchange():
                for account in self._holders(act.old):
                    self._move(account, act.old, account, act.new, act.price, act.when, Deed.RENAME)
            case Transfer():
                self._move(act.sender, act.conid, act.receiver, act.conid, act.price, act.when, Deed.TRANSFER)

    def _holders(self, conid: int) -> list[str]:
        return [account for account, held in self.ledger.holdings if held == conid]

    def _move(self, sender: str, old: int, receiver: str, new: int, price: float, when: Moment, deed: Deed) -> None:
        holding = self.ledger.holdings.get((sender, old))
        if holding is not None:
            quantity, cost = holding.quantity, holding.average_cost
            self.ledger.move(sender, old, -quantity, price, when, deed)
            self.ledger.move(receiver, new, quantity, price, when, deed, cost=cost)

    def _is_flat(self, account: str, day: date) -> bool:
        days = self.plan.flat_days
        return bool(days) and account == self.plan.flat_account and days[0] < day < days[-1]

    def _trade(self, act: Trade) -> None:
        if self._is_flat(act.account, act.when.report_date):
            self._aim(act.account, act.conid, act.quantity)
            return
        fee = commission(self.ledger.contracts[act.conid], act.quantity)
        self.ledger.trade(act.account, act.conid, act.quantity, act.price, act.when, commission=fee)

    def _end(self, act: Ending) -> None:
        """End an option: it expires, settles in cash, or is exercised or assigned for shares."""
        account, conid = act.account, act.contract.conid
        if self._is_flat(account, act.when.report_date):
            self._aim(account, conid, -act.quantity)
            if act.shares:
                self._aim(account, act.underlying, act.shares)
            return
        deed = Deed.EXPIRATION if not act.value else Deed.EXERCISE if act.quantity > 0 else Deed.ASSIGNMENT
        note = {Deed.EXPIRATION: "Ep", Deed.EXERCISE: "Ex", Deed.ASSIGNMENT: "A"}[deed]
        holding = self.ledger.holdings.get((account, conid))
        quantity = holding.quantity if holding else 0.0
        if holding is None or not quantity:
            return
        if not act.shares:
            self.ledger.trade(account, conid, -quantity, 0.0, act.when, deed=deed, note=note)
            if act.value:
                cash = quantity * act.value * act.contract.value_per_point
                self.ledger.pay(account, Deed.SETTLEMENT, act.contract.currency, cash, act.when, conid=conid)
            return
        carry = quantity * holding.average_cost
        self.ledger.move(account, conid, -quantity, 0.0, act.when, deed, note=note)
        self.ledger.trade(
            account,
            act.underlying,
            act.shares * quantity / act.quantity,
            act.contract.strike,
            act.when,
            deed=Deed.DELIVERY,
            carry=carry,
            note=note,
        )

    def _pay(self, account: str, dividend: Dividend, quantity: float) -> None:
        currency = self.ledger.contracts[dividend.conid].currency
        amount = round(quantity * dividend.per_share, 2)
        if quantity < 0:
            self.ledger.pay(account, Deed.IN_LIEU, currency, amount, dividend.paid, conid=dividend.conid)
        elif quantity > 0:
            self.ledger.pay(account, Deed.DIVIDEND, currency, amount, dividend.paid, conid=dividend.conid)
            tax = -round(amount * _PERCENT_WITHHELD / 100, 2)
            self.ledger.pay(account, Deed.WITHHOLDING, currency, tax, dividend.paid, conid=dividend.conid)

    def _aim(self, account: str, conid: int, quantity: float) -> None:
        self._target[account, conid] = self._target.get((account, conid), 0.0) + quantity

    def _flatten(self, day: date) -> None:
        account = self.plan.flat_account or ""
        for key, holding in sorted(self.ledger.holdings.items(), key=lambda item: item[0]):
            if key[0] == account and not self.ledger.is_virtual(key[1]):
                self._target[key] = holding.quantity
                self._at_close(key, -holding.quantity, day, time(15, 45))

    def _buy_back(self, day: date) -> None:
        for key, quantity in sorted(self._target.items()):
            if abs(quantity) > _FLAT:
                self._at_close(key, quantity, day, time(9, 45))

    def _at_close(self, key: Key, quantity: float, day: date, at: time) -> None:
        price = daily_close(self.plan.universe, key[1], day) or 0.0
        when = Moment(at=datetime.combine(day, at, tzinfo=NEW_YORK), trade_date=day, report_date=day)
        self.ledger.trade(*key, quantity, price, when, commission=commission(self.ledger.contracts[key[1]], quantity))


def commission(contract: Contract, quantity: float) -> float:
    """Return what IB charges for a trade, as a negative amount in the contract's currency."""
    each, least = {STOCK: (0.005, 1.0), OPTION: (0.65, 1.0), FUTURE: (2.25, 0.0), CFD: (0.005, 1.0)}.get(
        contract.sec_type, (0.0, 1.0)
    )
    return 0.0 if contract.sec_type == CASH else -round(max(least, each * abs(quantity)), 6)
