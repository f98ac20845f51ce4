"""An account's day in the base currency: what it is worth, and the parts by which that changed.

The parts come from the journal and from marks, so that their sum can be checked against positions, prices and cash.
"""

from dataclasses import dataclass, field
from datetime import date

from v6_pipeline.paper.ledger import OWNED, Booking, Deed
from v6_pipeline.paper.past import Past, PastDay

PARTS = {
    Deed.DIVIDEND: "dividends",
    Deed.IN_LIEU: "dividends",
    Deed.WITHHOLDING: "withholdingTax",
    Deed.INTEREST_RECEIVED: "interest",
    Deed.INTEREST_PAID: "interest",
    Deed.FEE: "otherFees",
    Deed.DEPOSIT: "depositsWithdrawals",
    Deed.TRANSFER: "assetTransfers",
    Deed.CONVERSION: "netFxTrading",
}
"""Part of the change in value by deed; all other deeds are part of ``mtm``."""


@dataclass(slots=True)
class Line:
    """The day of one contract in its currency: quantities and prices at both ends, money and commissions between."""

    conid: int
    begun: float = 0.0
    before: float = 0.0
    held: float = 0.0
    price: float = 0.0
    money: float = 0.0
    commission: float = 0.0
    points: float = 1.0

    @property
    def mtm(self) -> float:
        """Profit by the prices of both ends and of the trades between."""
        return (self.held * self.price - self.begun * self.before) * self.points + self.money


@dataclass(slots=True)
class DayAccount:
    """One account on one day. `by_kind` is what it owns by security type, `flows` are by currency and deed."""

    day: date
    total: float = 0.0
    before: float = 0.0
    cash: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    by_kind: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    flows: dict[tuple[str, Deed], float] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()


def day_account(past: Past, account: str, day: PastDay) -> DayAccount:
    """Return an account's day."""
    earlier = past.before(day.day)
    found = DayAccount(day.day)
    found.cash = {currency: amount for (owner, currency), amount in day.cash.items() if owner == account}
    lines = _lines(past, account, earlier, day)
    currencies = {*found.cash, *(past.universe.contracts[conid].currency for conid in lines)}
    found.rates = {currency: past.rate(currency, day.day) for currency in currencies}
    found.lines = tuple(lines[conid] for conid in sorted(lines))
    values = _values(past, account, day)
    found.total = sum(found.rates[currency] * amount for currency, amount in values.items())
    for position in day.positions:
        contract = past.universe.contracts[position.conid]
        if position.account == account and contract.sec_type in OWNED:
            worth = past.value(position, day.day) * found.rates[contract.currency]
            found.by_kind[contract.sec_type] = found.by_kind.get(contract.sec_type, 0.0) + worth
    _add_parts(past, found, account, day)
    if earlier is not None:
        _add_translation(past, found, account, earlier)
    return found


def _values(past: Past, account: str, day: PastDay) -> dict[str, float]:
    """Return the account's value by currency: its cash and its positions."""
    values = {currency: amount for (owner, currency), amount in day.cash.items() if owner == account}
    for position in day.positions:
        if position.account == account:
            currency = past.universe.contracts[position.conid].currency
            values[currency] = values.get(currency, 0.0) + past.value(position, day.day)
    return values


def _lines(past: Past, account: str, earlier: PastDay | None, day: PastDay) -> dict[int, Line]:
    lines: dict[int, Line] = {}

    def line(conid: int) -> Line:
        if conid not in lines:
            price, points = past.mark(conid, day.day), past.universe.contracts[conid].value_per_point
            lines[conid] = Line(conid, price=price, points=points)
        return lines[conid]

    for position in earlier.positions if earlier else ():
        if position.account == account and earlier is not None:
            found = line(position.conid)
            found.begun, found.before = position.quantity, past.mark(position.conid, earlier.day)
    for position in day.positions:
        if position.account == account:
            line(position.conid).held = position.quantity
    for booking in day.changes:
        if booking.account == account and booking.conid and booking.deed is not Deed.CONVERSION:
            _add(line(booking.conid), booking)
    return lines


def _add(line: Line, booking: Booking) -> None:
    if booking.deed is Deed.SETTLEMENT:
        line.money += booking.flows[0][1]
    else:
        line.money -= booking.quantity * booking.price * line.points
    line.commission += booking.commission


def _add_parts(past: Past, found: DayAccount, account: str, day: PastDay) -> None:
    parts = dict.fromkeys(("mtm", *PARTS.values(), "commissions", "fxTranslation"), 0.0)
    for line in found.lines:
        rate = found.rates[past.universe.contracts[line.conid].currency]
        parts["mtm"] += line.mtm * rate
        parts["commissions"] += line.commission * rate
    for booking in day.changes:
        if booking.account != account:
            continue
        for currency, amount in booking.flows:
            key = currency, booking.deed
            found.flows[key] = found.flows.get(key, 0.0) + amount
        if booking.deed is Deed.TRANSFER:
            contract = past.universe.contracts[booking.conid]
            worth = booking.quantity * booking.price * contract.value_per_point
            parts["assetTransfers"] += worth * found.rates[contract.currency]
        elif name := PARTS.get(booking.deed):
            amount = sum(amount * found.rates[currency] for currency, amount in booking.flows)
            fee = booking.commission * found.rates[booking.currency]
            parts[name] += amount - fee
            parts["commissions"] += fee
    found.parts = parts


def _add_translation(past: Past, found: DayAccount, account: str, earlier: PastDay) -> None:
    values = _values(past, account, earlier)
    for currency, amount in values.items():
        before = past.rate(currency, earlier.day)
        now = found.rates.get(currency) or past.rate(currency, found.day)
        found.parts["fxTranslation"] += amount * (now - before)
        found.before += amount * before
