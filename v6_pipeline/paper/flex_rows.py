"""Rows of the sections of a Flex statement, by attribute; `flex_statements` writes them.

The attributes are those that a query can choose in IB's activity statements; dates are ``yyyymmdd``. Prices are in the
main unit of the currency, whatever unit the exchange quotes; a position in bonds or bills is its face value.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date

from v6_pipeline.paper.accounting import DayAccount
from v6_pipeline.paper.contracts import BILL, BOND, FUTURE, OPTION, Contract
from v6_pipeline.paper.instruments import BASE_CURRENCY
from v6_pipeline.paper.ledger import CASH_DEEDS, OPTION_ENDS, Booking, Deed
from v6_pipeline.paper.past import Past, PastDay, Position

Row = Mapping[str, object]
_FACE = 1000.0
_NO_ACCOUNT = "-"
_TRADES = frozenset({Deed.TRADE, Deed.CONVERSION})
_REORGANIZATIONS = frozenset({Deed.SPLIT, Deed.RENAME})


def of_account(account: str, span: Sequence[PastDay], deeds: Iterable[Deed]) -> Iterator[Booking]:
    """Yield an account's bookings of some deeds."""
    wanted = frozenset(deeds)
    for day in span:
        for booking in day.changes:
            if booking.account == account and booking.deed in wanted:
                yield booking


def open_positions(past: Past, account: str, day: PastDay, *, lots: bool) -> Iterator[Row]:
    """Yield the positions at the end of a day, with `lots` also by lot."""
    for position in day.positions:
        if position.account == account:
            yield _open_position(past, day.day, position, position.quantity, "SUMMARY")
            for quantity in _lots(position.quantity) if lots else ():
                yield _open_position(past, day.day, position, quantity, "LOT")


def _lots(quantity: float) -> list[float]:
    """Split a quantity into two lots if it can be halved, else into one."""
    half = float(int(quantity / 2))
    return [half, quantity - half] if half else [quantity]


def _open_position(past: Past, day: date, position: Position, quantity: float, level: str) -> Row:
    contract = past.universe.contracts[position.conid]
    price = past.mark(position.conid, day)
    points = contract.value_per_point
    value, cost = quantity * price * points, quantity * position.average_cost
    basis = position.average_cost / points / contract.price_magnifier
    return {
        **contract_row(past, position.account, contract, day),
        "reportDate": day_text(day),
        "position": number(_units(contract, quantity), 10),
        "markPrice": number(price / contract.price_magnifier),
        "positionValue": number(value),
        "openPrice": number(basis),
        "costBasisPrice": number(basis),
        "costBasisMoney": number(cost),
        "fifoPnlUnrealized": number(value - cost),
        "side": "Long" if quantity > 0 else "Short",
        "levelOfDetail": level,
        "openDateTime": f"{day_text(position.opened_on)};110000" if level == "LOT" else "",
        "code": "",
    }


def trades(
    past: Past, account: str, span: Sequence[PastDay], *, booked: bool, orders: bool
) -> Iterator[tuple[str, Row]]:
    """Yield element and row of each trade: with `booked` also options that end, with `orders` the level ORDER too."""
    deeds = _TRADES | OPTION_ENDS | {Deed.DELIVERY} if booked else _TRADES
    for booking in of_account(account, span, deeds):
        row = _trade(past, booking)
        if orders and booking.deed in _TRADES:
            yield "Order", {**row, "levelOfDetail": "ORDER", "tradeID": "", "ibExecID": ""}
        yield "Trade", row


def _trade(past: Past, booking: Booking) -> Row:
    contract = past.universe.contracts[booking.conid]
    money = booking.quantity * booking.price * contract.value_per_point
    is_booked = booking.deed not in _TRADES
    report = booking.when.report_date
    return {
        **contract_row(past, booking.account, contract, report),
        "tradeID": trade_id(booking),
        "ibExecID": "" if is_booked else f"0000{booking.number:04x}.{report:%Y%m%d}.01.01",
        "transactionID": trade_id(booking),
        "reportDate": day_text(report),
        "tradeDate": day_text(booking.when.trade_date),
        "dateTime": f"{booking.when.at:%Y%m%d;%H%M%S}",
        "transactionType": "BookTrade" if is_booked else "ExchTrade",
        "exchange": "IDEALFX" if booking.deed is Deed.CONVERSION else "" if is_booked else contract.exchanges[-1],
        "buySell": "BUY" if booking.quantity > 0 else "SELL",
        "openCloseIndicator": "" if booking.deed is Deed.CONVERSION else "O" if booking.opens else "C",
        "quantity": number(_units(contract, booking.quantity), 10),
        "tradePrice": number(booking.price / contract.price_magnifier),
        "tradeMoney": number(money),
        "proceeds": number(-money),
        "ibCommission": number(booking.commission),
        "ibCommissionCurrency": contract.currency,
        "netCash": number(booking.commission - money),
        "fifoPnlRealized": number(booking.realized_pnl),
        "notes": booking.note,
        "levelOfDetail": "EXECUTION",
    }


def exercises(past: Past, account: str, span: Sequence[PastDay]) -> Iterator[Row]:
    """Yield the options that ended, the shares that were delivered for them, and the cash of index options.

    The cash stands in a row of quantity 0, with the proceeds (reported from real accounts).
    """
    for booking in of_account(account, span, OPTION_ENDS | {Deed.DELIVERY, Deed.SETTLEMENT}):
        contract = past.universe.contracts[booking.conid]
        kind = str(booking.deed)
        if booking.deed is Deed.DELIVERY:
            kind = "Buy" if booking.quantity > 0 else "Sell"
        is_cash = booking.deed is Deed.SETTLEMENT
        proceeds = sum(amount for _, amount in booking.flows) if is_cash else 0.0
        if booking.deed is Deed.DELIVERY:
            proceeds = -booking.quantity * booking.price * contract.value_per_point
        yield {
            **contract_row(past, account, contract, booking.when.report_date),
            "date": day_text(booking.when.trade_date),
            "reportDate": day_text(booking.when.report_date),
            "transactionType": kind,
            "quantity": number(booking.quantity),
            "tradePrice": number(booking.price),
            "closePrice": number(past.mark(booking.conid, booking.when.trade_date)),
            "proceeds": number(proceeds),
            "realizedPnl": number(0.0 if is_cash else booking.realized_pnl),
            "tradeID": "" if is_cash else trade_id(booking),
        }


def transfers(past: Past, account: str, span: Sequence[PastDay]) -> Iterator[Row]:
    """Yield the transfers in kind."""
    for booking in of_account(account, span, {Deed.TRANSFER}):
        contract = past.universe.contracts[booking.conid]
        others = [other for other in past.universe.accounts if other != account]
        yield {
            **contract_row(past, account, contract, booking.when.report_date),
            "date": day_text(booking.when.trade_date),
            "dateTime": f"{booking.when.at:%Y%m%d;%H%M%S}",
            "reportDate": day_text(booking.when.report_date),
            "type": "INTERNAL",
            "direction": "IN" if booking.quantity > 0 else "OUT",
            "account": others[0] if others else "",
            "quantity": number(_units(contract, booking.quantity), 10),
            "transferPrice": "0",
            "positionAmount": number(booking.quantity * booking.price * contract.value_per_point),
            "cashTransfer": "0",
            "transactionID": trade_id(booking),
            "levelOfDetail": "TRANSFER",
        }


def corporate_actions(past: Past, account: str, span: Sequence[PastDay]) -> Iterator[Row]:
    """Yield splits and exchanges of stocks, as SUMMARY without an account (reported) and as DETAIL."""
    found = list(of_account(account, span, _REORGANIZATIONS))
    for level in ("SUMMARY", "DETAIL"):
        for booking in found:
            contract = past.universe.contracts[booking.conid]
            row = contract_row(past, account, contract, booking.when.report_date)
            yield {
                **row,
                "accountId": account if level == "DETAIL" else _NO_ACCOUNT,
                "reportDate": day_text(booking.when.report_date),
                "dateTime": f"{booking.when.at:%Y%m%d;%H%M%S}",
                "type": str(booking.deed),
                "actionDescription": f"{contract.symbol} {booking.deed}",
                "quantity": number(_units(contract, booking.quantity), 10),
                "amount": "0",
                "proceeds": "0",
                "value": number(booking.quantity * booking.price * contract.value_per_point),
                "fifoPnlRealized": "0",
                "mtmPnl": "0",
                "actionID": str(1_000 + booking.when.report_date.toordinal() % 1_000),
                "transactionID": trade_id(booking) if level == "DETAIL" else "",
                "levelOfDetail": level,
            }


def cash_transactions(past: Past, account: str, span: Sequence[PastDay]) -> Iterator[Row]:
    """Yield dividends, taxes, interest, fees and deposits."""
    for booking in of_account(account, span, CASH_DEEDS):
        contract = past.universe.contracts.get(booking.conid)
        report = booking.when.report_date
        head: Row = (
            contract_row(past, account, contract, report)
            if contract
            else {
                "accountId": account,
                "currency": booking.currency,
                "fxRateToBase": number(past.rate(booking.currency, report)),
                "assetCategory": "",
                "symbol": "",
                "conid": "",
            }
        )
        yield {
            **head,
            "dateTime": f"{booking.when.at:%Y%m%d;%H%M%S}",
            "settleDate": day_text(report),
            "reportDate": day_text(report),
            "amount": number(sum(amount for _, amount in booking.flows)),
            "type": str(booking.deed),
            "tradeID": "",
            "transactionID": trade_id(booking),
            "levelOfDetail": "DETAIL",
        }


def cash_report(account: str, days: Sequence[DayAccount], first: date, last: date) -> Iterator[Row]:
    """Yield the cash of each currency, and of all in the base currency."""
    head = {"accountId": account, "fromDate": day_text(first), "toDate": day_text(last)}
    for currency in sorted(days[-1].cash):
        flows = [day.flows.get((currency, deed), 0.0) for day in days for deed in Deed]
        ending = days[-1].cash[currency]
        yield {
            **head,
            "currency": currency,
            "levelOfDetail": "Currency",
            "startingCash": number(ending - sum(flows)),
            **_report(days, currency),
            "endingCash": number(ending),
            "endingSettledCash": number(ending),
        }
    base = sum(amount * days[-1].rates[currency] for currency, amount in days[-1].cash.items())
    yield {**head, "currency": "BASE_SUMMARY", "levelOfDetail": "BaseCurrency", "endingCash": number(base)}


def _report(days: Sequence[DayAccount], currency: str) -> Row:
    def total(*deeds: Deed) -> str:
        return number(sum(day.flows.get((currency, deed), 0.0) for day in days for deed in deeds))

    return {
        "depositWithdrawals": total(Deed.DEPOSIT),
        "dividends": total(Deed.DIVIDEND),
        "paymentInLieu": total(Deed.IN_LIEU),
        "withholdingTax": total(Deed.WITHHOLDING),
        "brokerInterest": total(Deed.INTEREST_RECEIVED, Deed.INTEREST_PAID),
        "otherFees": total(Deed.FEE),
        "netTrades": total(Deed.TRADE, Deed.CONVERSION, Deed.DELIVERY, Deed.SETTLEMENT, *sorted(OPTION_ENDS)),
    }


def change_in_nav(account: str, days: Sequence[DayAccount], first: date, last: date) -> Row:
    """Return by what the account's value changed, in the base currency; the parts sum up to it."""
    parts: dict[str, float] = {}
    for day in days:
        for name, amount in day.parts.items():
            parts[name] = parts.get(name, 0.0) + amount
    return {
        "accountId": account,
        "fromDate": day_text(first),
        "toDate": day_text(last),
        "startingValue": number(days[0].before, 8),
        **{name: number(amount, 8) for name, amount in parts.items()},
        "endingValue": number(days[-1].total, 8),
    }


def equity_summary(account: str, days: Sequence[DayAccount]) -> Iterator[Row]:
    """Yield the value of the account at the end of each day; gains of futures are among its cash."""
    for day in days:
        worth = day.by_kind
        yield {
            "accountId": account,
            "currency": BASE_CURRENCY,
            "reportDate": day_text(day.day),
            "cash": number(day.total - sum(worth.values())),
            "stock": number(worth.get("STK", 0.0)),
            "options": number(worth.get("OPT", 0.0)),
            "bonds": number(worth.get("BOND", 0.0) + worth.get("BILL", 0.0)),
            "funds": number(worth.get("FUND", 0.0)),
            "crypto": number(worth.get("CRYPTO", 0.0)),
            "total": number(day.total, 8),
        }


def mtm_summary(past: Past, account: str, days: Sequence[DayAccount]) -> Iterator[Row]:
    """Yield IB's own profit of each contract and day, in the base currency."""
    for day in days:
        for line in day.lines:
            contract = past.universe.contracts[line.conid]
            rate = day.rates[contract.currency]
            yield {
                **contract_row(past, account, contract, day.day),
                "reportDate": day_text(day.day),
                "prevCloseQuantity": number(_units(contract, line.begun), 10),
                "prevClosePrice": number(line.before / contract.price_magnifier),
                "closeQuantity": number(_units(contract, line.held), 10),
                "closePrice": number(line.price / contract.price_magnifier),
                "priorOpenMtm": number(line.begun * (line.price - line.before) * contract.value_per_point * rate),
                "transactionMtm": number(
                    (line.mtm - line.begun * (line.price - line.before) * contract.value_per_point) * rate
                ),
                "commissions": number(line.commission * rate),
                "other": "0",
                "total": number((line.mtm + line.commission) * rate),
            }


def contract_row(past: Past, account: str, contract: Contract, day: date) -> Row:
    """Return the attributes that describe a contract; futures of the last account are under its number and ``F``."""
    is_option = contract.sec_type == OPTION
    name = " ".join(
        (contract.symbol, contract.expiry, f"{contract.strike:g}", contract.right)
        if is_option
        else (contract.long_name,)
    )
    is_derived = contract.sec_type in {OPTION, FUTURE}
    has_suffix = contract.sec_type == FUTURE and account == past.universe.accounts[-1]
    return {
        "accountId": f"{account}F" if has_suffix else account,
        "acctAlias": "",
        "model": "",
        "currency": contract.currency,
        "fxRateToBase": number(past.rate(contract.currency, day)),
        "assetCategory": contract.sec_type,
        "subCategory": contract.right or contract.stock_type,
        "symbol": contract.local_symbol,
        "description": name,
        "conid": contract.conid,
        "listingExchange": contract.primary_exchange or contract.exchanges[0],
        "underlyingConid": (contract.underlying_conid or "") if is_derived else "",
        "underlyingSymbol": contract.underlying_symbol or contract.symbol,
        "multiplier": contract.multiplier or "1",
        "strike": f"{contract.strike:g}" if is_option else "",
        "expiry": contract.expiry,
        "putCall": contract.right,
    }


def _units(contract: Contract, quantity: float) -> float:
    """Return a quantity as a statement has it."""
    return quantity * _FACE if contract.sec_type in {BOND, BILL} else quantity


def trade_id(booking: Booking) -> str:
    """Return the id of a booking, the same in every statement."""
    return f"{booking.when.report_date.toordinal()}{booking.number:06d}"


def day_text(day: date) -> str:
    """Format a day as ``yyyymmdd``."""
    return f"{day:%Y%m%d}"


def number(value: float, digits: int = 6) -> str:
    """Format an amount as IB does: no exponent, no rounding noise, no trailing zeros."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
