"""The plan of the accounts' past, from hashes: who trades what on which day.

Stocks and futures are traded up and down every week or so, partly, to nothing and to the other side, and end at the
quantities of the universe; futures trade in the evening too, for the next day. Stocks, and futures overnight, are also
bought and sold within a day. Options held at the start were opened within the last five weeks. Before that, options are
opened each week that expire, settle in cash, or are exercised or assigned on a Friday, which is booked on the next
session; their shares are sold or bought back on the session after. One index option a month settles in the morning.
Dividends, interest, fees, deposits and currency conversions are paid; one stock splits, one becomes another, and one is
transferred to the other account. Futures are not rolled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta

from v6_pipeline.paper.contracts import CASH, FUTURE, INDEX, OPTION, STOCK, Contract, Holding, Universe
from v6_pipeline.paper.instruments import CURRENCY_PAIRS, UNDERLYINGS, UnderlyingSpec
from v6_pipeline.paper.ledger import Deed, Moment
from v6_pipeline.paper.past_replay import Act, Cash, Conversion, Dividend, Ending, Exchange, Split, Trade, Transfer
from v6_pipeline.paper.prices import daily_close, daily_exchange_rate, to_tick, unit
from v6_pipeline.paper.trading_hours import NEW_YORK, is_european, is_trading_day, session_before
from v6_pipeline.paper.universe import OPTIONED, option

_SESSIONS_A_TRADE = 5
_OPENED_WITHIN = 25
_OPTION_DAYS = 24
# Distances in strikes from the money and signs of the two options that an account opens each week.
_LEGS = (("P", 1, -1), ("C", 2, 1))
# Sessions before the end: the account with the last name is flat from the first to the last of these.
_FLAT_AGO = (17, 13)
_EXCHANGE_AGO, _SPLIT_AGO, _TRANSFER_AGO = 20, 18, 11
_SPLIT_RATIO = 10.0
_OLD, _NEW, _SPLITTING = 665375414, 808825105, 15124833
_TRANSFERRED = 8314  # IBM, which no account holds at the end
_EVENING, _LATE = time(19, 5), time(17, 20)
_DAY_TRADED = ("QQQ", "AAPL", "TSLA")


def _stock(conid: int, symbol: str, name: str, price: float, *, like: int = 0) -> Contract:
    return Contract(
        conid=conid,
        symbol=symbol,
        sec_type=STOCK,
        currency="USD",
        local_symbol=symbol,
        trading_class=symbol,
        exchanges=("SMART", "NASDAQ"),
        primary_exchange="NASDAQ",
        min_tick=0.01,
        long_name=name,
        market_name=symbol,
        stock_type="COMMON",
        base_price=price,
        underlying_conid=like,
        volatility=0.3,
    )


class Planner:
    """Plans the `acts` of each day; `opening` holdings are those before the first one."""

    def __init__(self, universe: Universe, sessions: Sequence[date]) -> None:
        self.universe = universe
        self.opening: list[Holding] = []
        self.acts: dict[date, list[Act]] = {}
        self.flat_account = universe.accounts[-1] if len(universe.accounts) > 1 else None
        # Nothing is booked on the live day.
        self._sessions = [day for day in sessions if day < universe.as_of]
        self._index = {day: number for number, day in enumerate(self._sessions)}
        self.flat_days = self._ago(*_FLAT_AGO)
        expired = list(self._expired())
        self.universe = self._with(contract for _, contract, *_ in expired)
        for holding in universe.holdings:
            contract = universe.contracts[holding.conid]
            if contract.sec_type in {STOCK, FUTURE} and contract.base_price >= 0:
                self._trade_up_and_down(holding)
            elif contract.sec_type != CASH:
                self._open_lately(holding)
        for account, contract, quantity, opened_on in expired:
            self._open_and_end(account, contract, quantity, opened_on)
        for day in self._sessions:
            self._trade_within(day)
            self._pay(day)
        self._reorganize()
        self._trade_on_holidays()

    def _with(self, contracts: Iterator[Contract]) -> Universe:
        universe = self.universe
        gone = (
            _stock(_OLD, "ZT0", "ZT0 HOLDINGS", 38.0),
            _stock(_NEW, "VNOM", "VIPER ENERGY INC", 0.0, like=_OLD),
            _stock(_SPLITTING, "NFLX", "NETFLIX INC", 110.0),
        )
        found = Universe(
            seed=universe.seed,
            as_of=universe.as_of,
            accounts=universe.accounts,
            contracts={item.conid: item for item in (*universe.contracts.values(), *gone, *contracts)}.values(),
            holdings=universe.holdings,
            given=universe.given,
        )
        if days := self._ago(_SPLIT_AGO, _SPLIT_AGO):
            found.splits[_SPLITTING] = days[0], _SPLIT_RATIO
        return found

    def _ago(self, first: int, last: int) -> Sequence[date]:
        """Return sessions counted from the end; none if the past is too short."""
        return self._sessions[-first : len(self._sessions) - last + 1] if len(self._sessions) > first + 10 else ()

    # Trades

    def _close(self, conid: int, day: date) -> float:
        price = daily_close(self.universe, conid, day)
        assert price is not None  # noqa: S101 - nothing is planned after an expiry
        return price

    def _when(self, day: date, at: time, *, evening: bool = False) -> Moment:
        on = day - timedelta(days=1) if evening else day
        return Moment(at=datetime.combine(on, at, tzinfo=NEW_YORK), trade_date=day, report_date=day)

    def _act(self, day: date, act: Act) -> None:
        self.acts.setdefault(day, []).append(act)

    def _trade(self, day: date, account: str, conid: int, quantity: float, at: time = time(11), part: int = 0) -> None:
        """Plan a trade at a price of the day."""
        contract = self.universe.contracts[conid]
        off = 0.006 * (self._random(conid, account, 5 + part, day.toordinal()) - 0.5)
        price = to_tick(self._close(conid, day) * (1 + off), contract.min_tick)
        if contract.sec_type == OPTION:
            price = max(price, contract.min_tick)
        when = self._when(day, at, evening=at == _EVENING)
        self._act(day, Trade(account=account, conid=conid, quantity=quantity, price=price, when=when))

    def _random(self, conid: int, account: str, salt: int, number: int = 0) -> float:
        return unit(self.universe.seed, conid, 64 * salt + self.universe.accounts.index(account), number)

    def _trade_up_and_down(self, holding: Holding) -> None:
        contract = self.universe.contracts[holding.conid]
        whole = abs(holding.quantity) >= 1
        lot = 1.0 if contract.sec_type == FUTURE else max(1.0, round(abs(holding.quantity) / 10)) if whole else 0.0
        turned = -float(round(holding.quantity / 2)) or -lot
        steps = (0.0, 0.0, lot, -lot, 0.0, lot, -lot, -holding.quantity, turned - holding.quantity, 0.0)
        shift = int(self._random(holding.conid, holding.account, 1) * _SESSIONS_A_TRADE)
        last = len(self._sessions) - 1

        def quantity(index: int) -> float:
            block = (last - index + shift) // _SESSIONS_A_TRADE
            # The last block has the universe's quantity.
            step = int(self._random(holding.conid, holding.account, 2, block) * len(steps)) if block else 0
            return holding.quantity + steps[step]

        if quantity(0):
            self.opening.append(Holding(holding.account, holding.conid, quantity(0), holding.average_cost))
        for index, day in enumerate(self._sessions[1:], start=1):
            if change := quantity(index) - quantity(index - 1):
                is_late = self._random(holding.conid, holding.account, 6, index) < 0.3
                at = (_EVENING if contract.sec_type == FUTURE else _LATE) if is_late else time(11)
                self._trade(day, holding.account, holding.conid, change, time(11) if is_european(contract) else at)

    def _open_lately(self, holding: Holding) -> None:
        ago = int(self._random(holding.conid, holding.account, 3) * min(_OPENED_WITHIN, len(self._sessions)))
        self._trade(self._sessions[-1 - ago], holding.account, holding.conid, holding.quantity)

    def _trade_within(self, day: date) -> None:
        """Buy and sell within one day, and futures from the evening before to the morning."""
        number = self._index[day]
        accounts = self.universe.accounts
        account = accounts[number // 3 % len(accounts)]
        if number % 3 == 0:
            symbol = _DAY_TRADED[number // 3 % len(_DAY_TRADED)]
            conid = next(spec.conid for spec in UNDERLYINGS if spec.symbol == symbol)
            lots = 10.0 * (1 + int(self._random(conid, account, 7, number) * 10))
            self._trade(day, account, conid, lots, time(10, 15), part=3)
            self._trade(day, account, conid, -lots, time(14, 40), part=4)
        elif number % 7 == 1:
            future = next(c for c in self.universe.contracts.values() if (c.symbol, c.sec_type) == ("ES", FUTURE))
            self._trade(day, account, future.conid, -1.0, _EVENING, part=3)
            self._trade(day, account, future.conid, 1.0, time(8, 20), part=4)

    def _trade_on_holidays(self) -> None:
        """Buy a little of a European stock on US holidays that are weekdays, and sell it on the next session."""
        for conid, contract in self.universe.contracts.items():
            if contract.symbol != "SAP" or not is_european(contract) or not self._sessions:
                continue
            day = self._sessions[0]
            while day < self._sessions[-1]:
                day += timedelta(days=1)
                following = next((later for later in self._sessions if later > day), None)
                if day.weekday() < 5 and not is_trading_day(day) and (day.month, day.day) != (1, 1) and following:
                    account = self.universe.accounts[-1]
                    self._trade(day, account, conid, 40.0, time(9, 30))
                    self._trade(following, account, conid, -40.0, time(9, 40))

    # Options that end

    def _expired(self) -> Iterator[tuple[str, Contract, float, date]]:
        """Yield account, contract, quantity and day of opening of every option that ended before the last session."""
        taken = set(self.universe.contracts)
        known: dict[str, Contract] = {}
        spx = next(spec for spec in OPTIONED if spec.symbol == "SPX")
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
            if 15 <= expiry.day <= 21:
                strike = self._strike(spx, opened, "C", -2 if week % 2 else 1)
                morning = option(replace(spx, option_class="SPX"), expiry, strike, "C", taken)
                yield self.universe.accounts[0], morning, -1.0, opened

    def _strike(self, spec: UnderlyingSpec, day: date, right: str, distance: int) -> float:
        nearest = round(self._close(spec.conid, day) / spec.strike_step)
        return (nearest + (distance if right == "C" else -distance)) * spec.strike_step

    def _open_and_end(self, account: str, contract: Contract, quantity: float, opened_on: date) -> None:
        self._trade(opened_on, account, contract.conid, quantity)
        expiry = date.fromisoformat(contract.expiry)
        value = self._close(contract.conid, expiry)
        underlying = self.universe.contracts[contract.underlying_conid]
        booked_on = self._sessions[self._index[expiry] + 1]
        when = Moment(at=datetime.combine(expiry, time(16, 20), NEW_YORK), trade_date=expiry, report_date=booked_on)
        # An index option settles in cash; for others shares are delivered at the strike.
        delivers = bool(value) and underlying.sec_type != INDEX
        shares = quantity * float(contract.multiplier) * (1 if contract.right == "C" else -1) if delivers else 0.0
        ending = Ending(
            account=account,
            contract=contract,
            quantity=quantity,
            value=value,
            when=when,
            underlying=underlying.conid,
            shares=shares,
        )
        # What ends is booked overnight, before the day trades.
        self.acts.setdefault(booked_on, []).insert(0, ending)
        if shares:
            after = self._sessions[min(self._index[booked_on] + 1, len(self._sessions) - 1)]
            self._trade(after, account, underlying.conid, -shares, time(10))

    # Cash

    def _pay(self, day: date) -> None:
        """Plan dividends, interest, fees, deposits and conversions."""
        before = session_before(day)
        quarter = (day.month - 1) // 3
        for spec in UNDERLYINGS:
            if spec.sec_type == STOCK and spec.currency == "USD" and day.month % 3 == spec.conid % 3:
                ex = date(day.year, day.month, 8 + spec.conid % 8)
                if before < ex <= day:
                    self._dividend(day, spec)
        for account in self.universe.accounts:
            # Interest of the month before, on its first days; fees with it.
            if before < date(day.year, day.month, 4) <= day:
                earned = round(40 + 200 * self._random(1, account, 8, day.toordinal()), 2)
                self._cash(day, account, Deed.INTEREST_RECEIVED, "USD", earned)
                self._cash(day, account, Deed.INTEREST_PAID, "EUR", -round(earned / 10, 2))
                self._cash(day, account, Deed.FEE, "USD", -14.5)
                if day.month % 3 == 1:
                    self._cash(day, account, Deed.DEPOSIT, "USD", 5_000.0 + 1_000.0 * quarter)
            if before < date(day.year, day.month, 12) <= day:
                self._convert(day, account, 2_000.0)
                self._convert(day, account, -0.15, note="AFx")

    def _cash(self, day: date, account: str, deed: Deed, currency: str, amount: float) -> None:
        when = self._when(day, time(20, 20))
        self._act(day, Cash(account=account, deed=deed, currency=currency, amount=amount, when=when))

    def _dividend(self, ex: date, spec: UnderlyingSpec) -> None:
        index = self._index[ex] + 8
        if index < len(self._sessions):
            paid = self._when(self._sessions[index], time(20, 20))
            per_share = round(spec.base_price * 0.004, 2)
            self.acts.setdefault(ex, []).insert(0, Dividend(conid=spec.conid, per_share=per_share, paid=paid))

    def _convert(self, day: date, account: str, quantity: float, *, note: str = "") -> None:
        pair = self.universe.contracts[CURRENCY_PAIRS["EUR"]]
        price = daily_exchange_rate(self.universe, "EUR", day)
        when = self._when(day, time(10, 15))
        self._act(day, Conversion(account=account, pair=pair, quantity=quantity, price=price, when=when, note=note))

    # Reorganizations

    def _reorganize(self) -> None:
        """Plan a split, an exchange of a stock for its successor, and a transfer between accounts, once each."""
        if not self.flat_days:
            return
        first = self.universe.accounts[0]
        bought, sold = self._sessions[-_EXCHANGE_AGO - 6], self._sessions[-7]
        [exchanged], [split], [moved] = (self._ago(ago, ago) for ago in (_EXCHANGE_AGO, _SPLIT_AGO, _TRANSFER_AGO))
        self._trade(bought, first, _OLD, 24.0)
        self._act(
            exchanged,
            Exchange(old=_OLD, new=_NEW, price=self._close(_OLD, exchanged), when=self._overnight(exchanged)),
        )
        self._trade(sold, first, _NEW, -24.0)
        self._trade(bought, first, _SPLITTING, 12.0)
        self.acts.setdefault(split, []).insert(
            0, Split(conid=_SPLITTING, ratio=_SPLIT_RATIO, when=self._overnight(split))
        )
        self._trade(sold, first, _SPLITTING, -12.0 * _SPLIT_RATIO)
        if self.flat_account is not None and _TRANSFERRED in self.universe.contracts:
            self._trade(bought, first, _TRANSFERRED, 60.0)
            price = self._close(_TRANSFERRED, moved)
            transfer = Transfer(
                sender=first,
                receiver=self.flat_account,
                conid=_TRANSFERRED,
                price=price,
                when=self._when(moved, time(20, 20)),
            )
            self._act(moved, transfer)
            self._trade(sold, self.flat_account, _TRANSFERRED, -60.0)

    def _overnight(self, day: date) -> Moment:
        at = datetime.combine(session_before(day), time(20, 25), tzinfo=NEW_YORK)
        return Moment(at=at, trade_date=day, report_date=day)


def _last_sessions_of_weeks(sessions: Sequence[date]) -> list[date]:
    """Return the last session of each week, except weeks too early for an opening before, and the very last."""
    weeks = {day.isocalendar()[:2]: day for day in sessions}
    # What ends is booked on the next session, and its shares are sold on the one after it.
    return [day for day in weeks.values() if day < sessions[-2] and day >= sessions[0] + timedelta(days=_OPTION_DAYS)]
