"""The positions and values of the accounts; prices come from `market`, and `account_feeds` sends them.

A forex position (CASH) is IB's virtual position: it has a profit but is not part of the account's value, because the
currency balances already contain it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.config import utcnow
from v6_pipeline.paper.contracts import OPTION, STOCK, Contract, Holding
from v6_pipeline.paper.given import GivenRow
from v6_pipeline.paper.instruments import BASE_CURRENCY
from v6_pipeline.paper.ledger import MARGINED, OTHERS_OWNED, OWNED, Deed, Ledger, Moment
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.messages import AccountValue
from v6_pipeline.paper.past import Past, opening_cash
from v6_pipeline.paper.trading_hours import NEW_YORK


@dataclass(frozen=True, slots=True)
class Valuation:
    """One holding at current prices, in the contract's currency; `market_price` is in quoted units."""

    holding: Holding
    contract: Contract
    market_price: float
    market_value: float
    unrealized_pnl: float
    daily_pnl: float


@dataclass(slots=True)
class _Sums:
    """Sums over one currency, or over all in the base currency."""

    cash: float = 0.0
    stock_value: float = 0.0
    option_value: float = 0.0
    other_value: float = 0.0
    futures_pnl: float = 0.0
    gross_value: float = 0.0
    futures_notional: float = 0.0
    unrealized: float = 0.0
    realized: float = 0.0

    @property
    def net_liquidation(self) -> float:
        return self.cash + self.stock_value + self.option_value + self.other_value + self.futures_pnl


class Book:
    """Holdings and cash of all accounts on the live day, by the ledger. They begin where a `past` ends.

    Without a past they begin with the universe's holdings at their costs. `utcnow` dates what is booked.
    """

    def __init__(self, market: Market, past: Past | None = None, utcnow: Callable[[], datetime] = utcnow) -> None:
        universe = market.universe
        self.market = market
        self.accounts = universe.accounts
        holdings = universe.holdings if past is None else past.holdings
        cash = opening_cash(universe, holdings) if past is None else past.cash
        self.ledger = Ledger(universe.contracts, holdings, cash, keeps_closed=True)
        if past is not None:
            self.ledger.opened_on.update(past.opened_on)
        self._utcnow = utcnow

    @property
    def holdings(self) -> dict[tuple[str, int], Holding]:
        """Holdings by account and conid, those that were closed today with quantity 0."""
        return self.ledger.holdings

    def held(self, account: str | None = None, *, closed: bool = False) -> list[Holding]:
        """Return the holdings of an account, or of all; with `closed` also those whose quantity is now 0."""
        return [
            holding
            for holding in self.holdings.values()
            if (account is None or holding.account == account) and (closed or holding.quantity)
        ]

    def open(self, account: str, conid: int, quantity: float, average_cost: float | None = None) -> Holding:
        """Open a position; without `average_cost` at the current mark.

        Raises:
            GatewayError: unknown account or contract, a contract that cannot be held, quantity 0, or an open position.
        """
        contract = self.market.contract(conid)
        if account not in self.accounts:
            raise GatewayError(f"the paper gateway has no account {account}")
        if not contract.is_tradable:
            raise GatewayError(f"{contract.local_symbol} ({conid}) is an index: no account can hold it")
        if quantity == 0:
            raise GatewayError(f"cannot open 0 of {conid}")
        holding = self.holdings.get((account, conid))
        if holding is not None and holding.quantity:
            raise GatewayError(f"{account} already holds {holding.quantity:g} of {conid}: resize it")
        return self._trade(account, conid, quantity, average_cost)

    def resize(self, account: str, conid: int, quantity: float) -> Holding:
        """Trade to a new quantity at the current mark; 0 closes the position.

        More of the same side averages into the cost; less, or the other side, realizes profit.

        Raises:
            GatewayError: no position is open.
        """
        self.market.contract(conid)
        holding = self._held(account, conid)
        return holding if holding.quantity == quantity else self._trade(account, conid, quantity - holding.quantity)

    def forget_closed(self, account: str) -> None:
        """Drop the closed positions of an account, which IB lists until the end of the day."""
        for holding in self.held(account, closed=True):
            if not holding.quantity:
                del self.holdings[account, holding.conid]

    def assign(self, account: str, conid: int) -> list[Holding]:
        """Settle an option overnight: it goes to 0, and each contract moves 100 of the underlying at the strike.

        A long call buys and a long put sells; a short option does the reverse. Index options settle in
        cash, which is not modelled: their position only ends.

        Raises:
            GatewayError: no position is open, or the contract is not an option.
        """
        contract = self.market.contract(conid)
        option = self._held(account, conid)
        if contract.sec_type != OPTION:
            raise GatewayError(f"{contract.local_symbol} ({conid}) is not an option: it cannot be assigned")
        units = option.quantity * float(contract.multiplier) * (1 if contract.right == "C" else -1)
        deed = Deed.EXERCISE if option.quantity > 0 else Deed.ASSIGNMENT
        self._trade(account, conid, -option.quantity, 0.0, deed=deed)
        underlying = self.market.contract(contract.underlying_conid)
        if not underlying.is_tradable:
            return [option]
        return [option, self._trade(account, underlying.conid, units, contract.strike, deed=Deed.DELIVERY)]

    def _held(self, account: str, conid: int) -> Holding:
        holding = self.holdings.get((account, conid))
        if holding is None or not holding.quantity:
            raise GatewayError(f"{account} holds nothing of {conid}")
        return holding

    def _trade(
        self, account: str, conid: int, quantity: float, unit: float | None = None, *, deed: Deed = Deed.TRADE
    ) -> Holding:
        """Book a trade now, at the mark or at the money for one unit."""
        points = self.market.contract(conid).value_per_point
        if unit is None:
            unit = round(self.market.quote(conid).mark * points, 6)
        day = self.market.universe.as_of
        when = Moment(at=self._utcnow().astimezone(NEW_YORK), trade_date=day, report_date=day)
        self.ledger.trade(account, conid, quantity, unit / points, when, unit=unit, deed=deed)
        return self.ledger.holdings[account, conid]

    def valuation(self, holding: Holding) -> Valuation:
        """Value a holding at the current mark."""
        contract = self.market.contract(holding.conid)
        quote = self.market.quote(holding.conid)
        value = round(holding.quantity * quote.mark * contract.value_per_point, 6)
        return Valuation(
            holding=holding,
            contract=contract,
            market_price=quote.mark,
            market_value=value,
            unrealized_pnl=round(value - holding.quantity * holding.average_cost, 6),
            daily_pnl=round(self.ledger.daily_pnl(holding.account, holding.conid, quote.mark, quote.close), 6),
        )

    def given_row(self, holding: Holding) -> GivenRow | None:
        """Return the portfolio row that a file prescribes for a holding, until its quantity changes."""
        row = self.market.universe.given.rows.get((holding.account, holding.conid))
        return row if row is not None and row.quantity == holding.quantity else None

    def pnl(self, holdings: Iterable[Holding]) -> tuple[float, float, float]:
        """Return daily, unrealized and realized profit of holdings, in the base currency."""
        daily = unrealized = realized = 0.0
        for holding in holdings:
            row = self.valuation(holding)
            rate = self.market.exchange_rate(row.contract.currency)
            daily += row.daily_pnl * rate
            unrealized += row.unrealized_pnl * rate
            realized += holding.realized_pnl * rate
        return round(daily, 6), round(unrealized, 6), round(realized, 6)

    def account_values(self, account: str) -> list[AccountValue]:
        """Return the account's values: in the base currency by tag, then the ledger of each currency and of BASE."""
        ledgers = self._ledgers(account)
        base = _Sums()
        for currency, ledger in ledgers.items():
            rate = self.market.exchange_rate(currency)
            for amount in _Sums.__slots__:
                setattr(base, amount, getattr(base, amount) + getattr(ledger, amount) * rate)
        name = self.market.universe.given.base
        rows = _summary_rows(account, name, base)
        for currency, ledger in ledgers.items():
            rows += _ledger_rows(account, currency, ledger, self.market.exchange_rate(currency), name)
        rows += _ledger_rows(account, "BASE", base, 1.0, name)
        return rows + [AccountValue(*value) for value in self.market.universe.given.extra_values]

    def _ledgers(self, account: str) -> dict[str, _Sums]:
        ledgers = {
            currency: _Sums(cash=cash) for (owner, currency), cash in self.ledger.cash.items() if owner == account
        }
        for holding in self.held(account, closed=True):
            row = self.valuation(holding)
            ledger = ledgers.setdefault(row.contract.currency, _Sums())
            ledger.realized += holding.realized_pnl
            ledger.unrealized += row.unrealized_pnl
            if row.contract.sec_type == STOCK:
                ledger.stock_value += row.market_value
            elif row.contract.sec_type == OPTION:
                ledger.option_value += row.market_value
            elif row.contract.sec_type in OTHERS_OWNED:
                ledger.other_value += row.market_value
            elif row.contract.sec_type in MARGINED:
                ledger.futures_pnl += row.unrealized_pnl
                ledger.futures_notional += abs(row.market_value)
            if row.contract.sec_type in OWNED:
                ledger.gross_value += abs(row.market_value)
        return ledgers


def _summary_rows(account: str, currency: str, base: _Sums) -> list[AccountValue]:
    maintenance = 0.25 * base.gross_value + 0.05 * base.futures_notional
    initial = 1.25 * maintenance
    net = base.net_liquidation
    amounts = {
        "AccruedCash": 0.0,
        "AvailableFunds": net - initial,
        "BuyingPower": max(0.0, 4 * (net - initial)),
        "EquityWithLoanValue": net,
        "ExcessLiquidity": net - maintenance,
        "GrossPositionValue": base.gross_value,
        "InitMarginReq": initial,
        "MaintMarginReq": maintenance,
        "NetLiquidation": net,
        "SettledCash": base.cash,
        "TotalCashValue": base.cash,
    }
    return [
        AccountValue("AccountCode", account, ""),
        AccountValue("AccountReady", "true", ""),
        AccountValue("AccountType", "INDIVIDUAL", ""),
        AccountValue("Cushion", f"{(net - maintenance) / net if net > 0 else 0.0:.6f}", ""),
        *(AccountValue(tag, f"{amount:.2f}", currency) for tag, amount in amounts.items()),
    ]


def _ledger_rows(
    account: str, currency: str, ledger: _Sums, rate: float, base: str = BASE_CURRENCY
) -> list[AccountValue]:
    values = {
        "AccountOrGroup": account,
        "CashBalance": f"{ledger.cash:.2f}",
        "Currency": currency,
        "ExchangeRate": f"{rate:.7f}".rstrip("0").ljust(4, "0") if rate != 1 else "1.00",
        "FuturesPNL": f"{ledger.futures_pnl:.2f}",
        "NetLiquidationByCurrency": f"{ledger.net_liquidation:.2f}",
        "OptionMarketValue": f"{ledger.option_value:.2f}",
        "RealCurrency": base if currency == "BASE" else currency,
        "RealizedPnL": f"{ledger.realized:.2f}",
        "StockMarketValue": f"{ledger.stock_value:.2f}",
        "TotalCashBalance": f"{ledger.cash:.2f}",
        "UnrealizedPnL": f"{ledger.unrealized:.2f}",
    }
    return [AccountValue(tag, value, currency) for tag, value in values.items()]


LEDGER_TAGS = frozenset(row.tag for row in _ledger_rows("", "", _Sums(), 1.0))
"""Tags that an account summary returns for ``$LEDGER``."""
