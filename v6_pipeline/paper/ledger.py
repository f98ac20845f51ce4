"""The one ledger of the accounts: an append-only journal of bookings, and the holdings and cash that follow from it.

The past, the live positions, realized profits, account values, statements and fills are all read from it. Rules:

* What is paid in full (stocks, options, bonds, funds, ...) moves cash when it trades. What is margined (futures, CFDs,
  spreads) moves cash when it realizes; its unrealized profit is part of the account's value.
* A commission is part of the cost of what it opens and of the profit of what it closes, as IB has it.
* The premium of an option that is exercised or assigned for shares goes into the cost of the shares, and the option
  itself realizes 0; an index option ends at 0 and its cash is a booking of its own (reported from real accounts).
* A booking counts on its `report_date`. An expiry, assignment or exercise of a Friday is reported on the next session,
  and the option is held until then (reported from real statements).
* A currency pair that is held is IB's virtual position: no cash moves with it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from math import copysign

from v6_pipeline.paper.contracts import (
    BILL,
    BOND,
    CASH,
    CFD,
    CRYPTO,
    EVENT_CONTRACT,
    FUND,
    FUTURE,
    OPTION,
    SPREADS,
    STOCK,
    STRUCTURED,
    WARRANT,
    Contract,
    Holding,
)

Key = tuple[str, int]
OTHERS_OWNED = frozenset({BOND, BILL, FUND, CRYPTO, WARRANT, STRUCTURED, EVENT_CONTRACT, "CMDTY"})
OWNED = frozenset({STOCK, OPTION}) | OTHERS_OWNED
"""Security types that are paid for in full."""
MARGINED = frozenset({FUTURE, CFD, *SPREADS})
"""Security types that only settle their gains."""
_FLAT = 1e-9


class Deed(StrEnum):
    """Cause of a booking, named as in a statement."""

    TRADE = "Trade"
    EXPIRATION = "Expiration"
    ASSIGNMENT = "Assignment"
    EXERCISE = "Exercise"
    DELIVERY = "Delivery"
    SETTLEMENT = "Cash Settlement"
    CONVERSION = "Conversion"
    DIVIDEND = "Dividends"
    WITHHOLDING = "Withholding Tax"
    IN_LIEU = "Payment In Lieu Of Dividends"
    INTEREST_RECEIVED = "Broker Interest Received"
    INTEREST_PAID = "Broker Interest Paid"
    FEE = "Other Fees"
    DEPOSIT = "Deposits/Withdrawals"
    SPLIT = "FS"
    RENAME = "IC"
    TRANSFER = "INTERNAL"


CASH_DEEDS = frozenset(
    {
        *(Deed.DIVIDEND, Deed.WITHHOLDING, Deed.IN_LIEU, Deed.INTEREST_RECEIVED, Deed.INTEREST_PAID, Deed.FEE),
        Deed.DEPOSIT,
    }
)
"""Deeds that are cash transactions."""
OPTION_ENDS = frozenset({Deed.EXPIRATION, Deed.ASSIGNMENT, Deed.EXERCISE})
"""Deeds that end an option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When something happened (`at`, in New York's time), the day that it was traded for, and the day of its report."""

    at: datetime
    trade_date: date
    report_date: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """One entry of the journal.

    `price` is in quoted units, `commission` negative. `flows` are the changes of cash by currency, the commission
    included. `conid` is 0 for cash that belongs to no contract. `note` has IB's codes.
    """

    number: int
    account: str
    deed: Deed
    when: Moment
    currency: str
    conid: int = 0
    quantity: float = 0.0
    price: float = 0.0
    commission: float = 0.0
    flows: tuple[tuple[str, float], ...] = ()
    realized_pnl: float = 0.0
    opens: bool = False
    note: str = ""


class Ledger:
    """Holdings and cash of all accounts, and the journal from which they follow.

    With `keeps_closed` a closed holding stays with quantity 0, as IB lists it until the end of the day. `begun` are the
    quantities at the begin of the day and `traded` the money that trades have moved since, by account and conid: both
    make the profit of the day.
    """

    def __init__(
        self,
        contracts: Mapping[int, Contract],
        holdings: Iterable[Holding] = (),
        cash: Mapping[tuple[str, str], float] | None = None,
        *,
        keeps_closed: bool = False,
    ) -> None:
        self.contracts = contracts
        self.holdings: dict[Key, Holding] = {
            (row.account, row.conid): Holding(row.account, row.conid, row.quantity, row.average_cost)
            for row in holdings
        }
        self.cash: dict[tuple[str, str], float] = dict(cash or {})
        self.opened_on: dict[Key, date] = {}
        self.journal: list[Booking] = []
        self.begun: dict[Key, float] = {key: row.quantity for key, row in self.holdings.items()}
        self.traded: dict[Key, float] = {}
        self._keeps_closed = keeps_closed

    def quantity(self, account: str, conid: int) -> float:
        """Return the quantity that an account holds of a contract."""
        holding = self.holdings.get((account, conid))
        return holding.quantity if holding else 0.0

    def trade(
        self,
        account: str,
        conid: int,
        quantity: float,
        price: float,
        when: Moment,
        *,
        deed: Deed = Deed.TRADE,
        commission: float = 0.0,
        unit: float | None = None,
        carry: float = 0.0,
        note: str = "",
    ) -> Booking:
        """Book a trade: the same side averages into the cost, anything else realizes profit.

        `price` is in quoted units; `unit` is the money for one unit, if that is not price times multiplier exactly.
        `carry` is the cost of an option that goes into what is delivered for it; `note` has IB's codes.
        """
        contract = self.contracts[conid]
        if unit is None:
            unit = price * contract.value_per_point
        holding = self._holding(account, conid)
        held, basis = holding.quantity, unit + (carry / quantity if carry else 0.0)
        closing = copysign(min(abs(held), abs(quantity)), held) if held * quantity < 0 else 0.0
        opening = quantity + closing
        if abs(opening) < _FLAT:
            opening = 0.0
        share = abs(closing / quantity)
        realized = closing * (basis - holding.average_cost) + commission * share if closing else 0.0
        left = held - closing
        if opening:
            if not left:
                self.opened_on[account, conid] = when.trade_date
            paid = basis - commission * (1 - share) / opening
            if left:
                paid = (left * holding.average_cost + opening * paid) / (left + opening)
            holding.average_cost = paid
        holding.quantity = left + opening
        flows: tuple[tuple[str, float], ...] = ()
        if contract.sec_type in OWNED:
            flows = ((contract.currency, -quantity * unit + commission),)
        elif contract.sec_type in MARGINED and realized:
            flows = ((contract.currency, realized),)
        self._traded(account, conid, -quantity * unit + commission)
        return self._book(
            holding,
            Booking(
                number=len(self.journal) + 1,
                account=account,
                deed=deed,
                when=when,
                currency=contract.currency,
                conid=conid,
                quantity=quantity,
                price=price,
                commission=commission,
                flows=flows,
                realized_pnl=realized,
                opens=not closing,
                note=note,
            ),
        )

    def move(
        self,
        account: str,
        conid: int,
        quantity: float,
        price: float,
        when: Moment,
        deed: Deed,
        *,
        cost: float = 0.0,
        note: str = "",
    ) -> Booking:
        """Book a change of quantity without cash or profit: a transfer, a split, an exercised option.

        `price` is the market's, for what the change is worth; `cost` is per unit, of what comes in.
        """
        contract = self.contracts[conid]
        holding = self._holding(account, conid)
        held = holding.quantity
        if held * quantity >= 0:
            if not held:
                self.opened_on[account, conid] = when.trade_date
            holding.average_cost = (held * holding.average_cost + quantity * cost) / (held + quantity)
        holding.quantity = held + quantity
        self._traded(account, conid, -quantity * price * contract.value_per_point)
        return self._book(
            holding,
            Booking(
                number=len(self.journal) + 1,
                account=account,
                deed=deed,
                when=when,
                currency=contract.currency,
                conid=conid,
                quantity=quantity,
                price=price,
                note=note,
            ),
        )

    def pay(
        self, account: str, deed: Deed, currency: str, amount: float, when: Moment, *, conid: int = 0, note: str = ""
    ) -> Booking:
        """Book cash: a cash transaction, or with a contract the settlement of an index option."""
        is_profit = deed is Deed.SETTLEMENT
        if is_profit:
            self._traded(account, conid, amount)
        booking = Booking(
            number=len(self.journal) + 1,
            account=account,
            deed=deed,
            when=when,
            currency=currency,
            conid=conid,
            flows=((currency, amount),),
            realized_pnl=amount if is_profit else 0.0,
            note=note,
        )
        return self._book(self.holdings.get((account, conid)), booking)

    def convert(
        self,
        account: str,
        pair: Contract,
        quantity: float,
        price: float,
        when: Moment,
        *,
        commission: float = 0.0,
        note: str = "",
    ) -> Booking:
        """Book a currency conversion: `quantity` of the pair's first currency at a price in its second one."""
        booking = Booking(
            number=len(self.journal) + 1,
            account=account,
            deed=Deed.CONVERSION,
            when=when,
            currency=pair.currency,
            conid=pair.conid,
            quantity=quantity,
            price=price,
            commission=commission,
            flows=((pair.symbol, quantity), (pair.currency, -quantity * price + commission)),
            note=note,
        )
        return self._book(None, booking)

    def is_virtual(self, conid: int) -> bool:
        """Return whether a holding is a virtual one, of a currency pair."""
        return self.contracts[conid].sec_type == CASH

    def value(self, holding: Holding, price: float) -> float:
        """Return what a holding contributes to its account's value, in its currency: 0 for a virtual one."""
        contract = self.contracts[holding.conid]
        worth = holding.quantity * price * contract.value_per_point
        if contract.sec_type in OWNED:
            return worth
        return worth - holding.quantity * holding.average_cost if contract.sec_type in MARGINED else 0.0

    def daily_pnl(self, account: str, conid: int, price: float, close: float) -> float:
        """Return the profit of the day in one contract: what was held from its `close`, and what was traded since."""
        key, points = (account, conid), self.contracts[conid].value_per_point
        begun = self.begun.get(key, 0.0)
        change = self.quantity(account, conid) * price - begun * close
        return change * points + self.traded.get(key, 0.0)

    def _holding(self, account: str, conid: int) -> Holding:
        return self.holdings.setdefault((account, conid), Holding(account, conid, 0.0, 0.0))

    def _traded(self, account: str, conid: int, amount: float) -> None:
        self.traded[account, conid] = self.traded.get((account, conid), 0.0) + amount

    def _book(self, holding: Holding | None, booking: Booking) -> Booking:
        self.journal.append(booking)
        for currency, amount in booking.flows:
            self.cash[booking.account, currency] = self.cash.get((booking.account, currency), 0.0) + amount
        if holding is not None:
            # As it goes over the wire.
            holding.realized_pnl = round(holding.realized_pnl + booking.realized_pnl, 6)
            if abs(holding.quantity) < _FLAT:
                holding.quantity = holding.average_cost = 0.0
                self.opened_on.pop((holding.account, holding.conid), None)
                if not self._keeps_closed:
                    self.holdings.pop((holding.account, holding.conid), None)
        return booking
