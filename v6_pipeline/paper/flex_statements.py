"""Flex statements of the simulated accounts, as XML. `past` computes the days; `flex_server` serves the statements.

The attributes are those that a query can choose in IB's activity statements; dates are ``yyyymmdd``.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from xml.sax.saxutils import quoteattr

from v6_pipeline.paper.contracts import OPTION, Contract
from v6_pipeline.paper.instruments import BASE_CURRENCY
from v6_pipeline.paper.past import Change, Deed, Past, PastDay, Position
from v6_pipeline.paper.prices import daily_close, daily_exchange_rate

Row = Mapping[str, object]


class Section(StrEnum):
    """The sections that a statement may have."""

    ACCOUNT = "AccountInformation"
    POSITIONS = "OpenPositions"
    TRADES = "Trades"
    EXERCISES = "OptionEAE"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexQuery:
    """Options of a query.

    `by_day` is "Breakout by Day", a statement per account and session; `lots` adds rows of level LOT; `book_trades`
    adds exercises, assignments and expirations to the trades, as IB does; sections in `empty` are present and empty.
    """

    by_day: bool = True
    lots: bool = False
    book_trades: bool = False
    sections: frozenset[Section] = frozenset(Section)
    empty: frozenset[Section] = frozenset()
    name: str = "Daily positions"


def statements(past: Past, first: date, last: date, query: FlexQuery, *, generated: datetime) -> Iterator[str]:
    """Yield the document of a range of days in pieces; without a session in the range it has no statements.

    `first` and `last` are ``fd`` and ``td`` of the request; `generated` is in the time zone of the document.
    """
    days = past.between(first, last)
    spans = [[day] for day in days] if query.by_day else [days] if days else []
    accounts = past.universe.accounts
    yield f'<FlexQueryResponse queryName={quoteattr(query.name)} type="AF">\n'
    yield f'<FlexStatements count="{len(spans) * len(accounts)}">\n'
    for span in spans:
        begins, ends = (span[0].day, span[-1].day) if query.by_day else (first, last)
        for account in accounts:
            head = {
                "accountId": account,
                "fromDate": _day(begins),
                "toDate": _day(ends),
                "period": "",
                "whenGenerated": f"{generated:%Y%m%d;%H%M%S}",
            }
            yield f"<FlexStatement{_attributes(head)}>\n"
            yield from _sections(past, account, span, query)
            yield "</FlexStatement>\n"
    yield "</FlexStatements>\n</FlexQueryResponse>\n"


def _sections(past: Past, account: str, span: list[PastDay], query: FlexQuery) -> Iterator[str]:
    rows = {
        Section.POSITIONS: ("OpenPosition", _open_positions(past, account, span[-1], query)),
        Section.TRADES: ("Trade", _trades(past, account, span, query)),
        Section.EXERCISES: ("OptionEAE", _exercises(past, account, span)),
    }
    if Section.ACCOUNT in query.sections:
        about = {"accountId": account, "currency": BASE_CURRENCY, "name": "Simulated", "accountType": "Individual"}
        yield f"<{Section.ACCOUNT}{_attributes(about)} />\n"
    for section, (element, found) in rows.items():
        if section in query.sections:
            yield f"<{section}>\n"
            for row in () if section in query.empty else found:
                yield f"<{element}{_attributes(row)} />\n"
            yield f"</{section}>\n"


def _open_positions(past: Past, account: str, day: PastDay, query: FlexQuery) -> Iterator[Row]:
    for position in day.positions:
        if position.account == account:
            yield _open_position(past, day.day, position, position.quantity, "SUMMARY")
            for quantity in _lots(position.quantity) if query.lots else ():
                yield _open_position(past, day.day, position, quantity, "LOT")


def _lots(quantity: float) -> list[float]:
    """Split a quantity into two lots if it can be halved, else into one."""
    half = float(int(quantity / 2))
    return [half, quantity - half] if half else [quantity]


def _open_position(past: Past, day: date, position: Position, quantity: float, level: str) -> Row:
    contract = past.universe.contracts[position.conid]
    price = daily_close(past.universe, position.conid, day) or 0.0
    points = contract.value_per_point
    value, cost = quantity * price * points, quantity * position.average_cost
    return {
        **_contract(past, position.account, contract, day),
        "reportDate": _day(day),
        "position": _number(quantity),
        "markPrice": _number(price),
        "positionValue": _number(value),
        "openPrice": _number(position.average_cost / points),
        "costBasisPrice": _number(position.average_cost / points),
        "costBasisMoney": _number(cost),
        "fifoPnlUnrealized": _number(value - cost),
        "side": "Long" if quantity > 0 else "Short",
        "levelOfDetail": level,
        "openDateTime": f"{_day(position.opened_on)};110000" if level == "LOT" else "",
        "code": "",
    }


def _changes(account: str, span: list[PastDay]) -> Iterator[tuple[date, int, Change]]:
    for day in span:
        for number, change in enumerate(day.changes):
            if change.order.account == account:
                yield day.day, number, change


def _trades(past: Past, account: str, span: list[PastDay], query: FlexQuery) -> Iterator[Row]:
    for day, number, change in _changes(account, span):
        if change.order.deed == Deed.TRADE or query.book_trades:
            yield _trade(past, day, number, change)


def _trade(past: Past, day: date, number: int, change: Change) -> Row:
    order = change.order
    contract = past.universe.contracts[order.conid]
    money = order.quantity * order.price * contract.value_per_point
    booked = order.deed != Deed.TRADE
    return {
        **_contract(past, order.account, contract, day),
        "tradeID": _trade_id(day, number),
        "transactionID": _trade_id(day, number),
        "reportDate": _day(day),
        "tradeDate": _day(day),
        "dateTime": f"{_day(day)};{'162000' if booked else '110000'}",
        "transactionType": "BookTrade" if booked else "ExchTrade",
        "buySell": "BUY" if order.quantity > 0 else "SELL",
        "openCloseIndicator": "O" if change.opens else "C",
        "quantity": _number(order.quantity),
        "tradePrice": _number(order.price),
        "tradeMoney": _number(money),
        "proceeds": _number(-money),
        "ibCommission": "0",
        "netCash": _number(-money),
        "fifoPnlRealized": _number(change.realized_pnl),
        "notes": {Deed.EXPIRATION: "Ep", Deed.ASSIGNMENT: "A", Deed.EXERCISE: "Ex"}.get(order.deed, ""),
        "levelOfDetail": "EXECUTION",
    }


def _exercises(past: Past, account: str, span: list[PastDay]) -> Iterator[Row]:
    """Yield the options that ended, and the shares that were delivered for them."""
    for day, number, change in _changes(account, span):
        order = change.order
        if order.deed == Deed.TRADE:
            continue
        contract = past.universe.contracts[order.conid]
        kind = str(order.deed)
        if order.deed == Deed.DELIVERY:
            kind = "Buy" if order.quantity > 0 else "Sell"
        yield {
            **_contract(past, account, contract, day),
            "date": _day(day),
            "transactionType": kind,
            "quantity": _number(order.quantity),
            "tradePrice": _number(order.price),
            "closePrice": _number(daily_close(past.universe, order.conid, day) or 0.0),
            "proceeds": _number(-order.quantity * order.price * contract.value_per_point),
            "realizedPnl": _number(change.realized_pnl),
            "tradeID": _trade_id(day, number),
        }


def _contract(past: Past, account: str, contract: Contract, day: date) -> Row:
    is_option = contract.sec_type == OPTION
    name = " ".join(
        (contract.symbol, contract.expiry, f"{contract.strike:g}", contract.right)
        if is_option
        else (contract.long_name,)
    )
    return {
        "accountId": account,
        "acctAlias": "",
        "model": "",
        "currency": contract.currency,
        "fxRateToBase": _number(daily_exchange_rate(past.universe, contract.currency, day)),
        "assetCategory": contract.sec_type,
        "subCategory": contract.right or contract.stock_type,
        "symbol": contract.local_symbol,
        "description": name,
        "conid": contract.conid,
        "listingExchange": contract.primary_exchange or contract.exchanges[0],
        "underlyingConid": contract.underlying_conid or "",
        "underlyingSymbol": contract.underlying_symbol or contract.symbol,
        "multiplier": contract.multiplier or "1",
        "strike": f"{contract.strike:g}" if is_option else "",
        "expiry": contract.expiry,
        "putCall": contract.right,
    }


def _trade_id(day: date, number: int) -> str:
    return f"{day.toordinal()}{number:05d}"


def _attributes(row: Row) -> str:
    return "".join([f" {name}={_quoted(str(value))}" for name, value in row.items()])


# Most values repeat those of the row before: quoting them again took two thirds of the time.
_quoted = functools.lru_cache(maxsize=16_384)(quoteattr)


def _day(day: date) -> str:
    return f"{day:%Y%m%d}"


def _number(value: float) -> str:
    """Format an amount as IB does: no exponent, no rounding noise, no trailing zeros."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
