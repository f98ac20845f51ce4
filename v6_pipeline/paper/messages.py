"""Encoders of outgoing messages: pure functions to `wire.Message`, one for each message.

Fields are in the order of IBKR's TWS API at server versions 176 to 178.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from v6_pipeline.paper.contracts import BILL, BOND, Contract
from v6_pipeline.paper.ledger import Booking
from v6_pipeline.paper.trading_hours import hours, last_trade_time, time_zone
from v6_pipeline.paper.wire import Field, Message

NO_PRICE = -1.0
"""IB's "no quote": a bid or ask of -1 with size 0."""

UNSET = sys.float_info.max
"""IB's "no value" in the place of a number: the largest double."""

UNSET_GREEK = -2.0
"""IB's "not computed" for delta, gamma, vega and theta."""

OPEN_ORDER_END: Message = (53, 1)
COMPLETED_ORDERS_END: Message = (102,)
POSITION_END: Message = (62, 1)
"""The initial positions are complete."""

LEDGER_PREFIX = "$LEDGER-"
"""Precedes the tags of one currency in account updates, from TWS 10.47 on."""


@dataclass(frozen=True, slots=True)
class AccountValue:
    """One row of account data; `currency` is empty for values that are not amounts of money."""

    tag: str
    value: str
    currency: str


def quantity(value: float) -> Field:
    """Return a position as IB writes it: an integer if it has no decimals."""
    return int(value) if float(value).is_integer() else value


def handshake(server_version: int, now: datetime) -> Message:
    """The reply to the client's version range; `now` is aware."""
    return server_version, f"{now:%Y%m%d %H:%M:%S} UTC"


def error(request_id: int, code: int, text: str) -> Message:
    """An error, a warning or a notice; `request_id` is -1 if it belongs to no request."""
    return 4, 2, request_id, code, text, ""


def next_valid_id(order_id: int) -> Message:
    """The next order id; clients also take it as the start of their request ids."""
    return 9, 1, order_id


def managed_accounts(accounts: tuple[str, ...]) -> Message:
    """The accounts that the login manages."""
    return 15, 1, ",".join(accounts)


def current_time(now: datetime) -> Message:
    """The server's time in whole seconds since 1970."""
    return 49, 1, int(now.timestamp())


def executions_end(request_id: int) -> Message:
    """No (more) executions."""
    return 55, 1, request_id


def execution_details(request_id: int, contract: Contract, fill: Booking, execution_id: str) -> Message:
    """One fill of the day, as of an order placed in TWS; the price in quoted units."""
    shares = quantity(abs(fill.quantity))
    order_id, permanent_id, client_id, is_liquidation = 0, 900_000_000 + fill.number, 0, 0
    return (
        11,
        request_id,
        order_id,
        *_contract_fields(contract, contract.exchanges[0]),
        execution_id,
        f"{fill.when.at:%Y%m%d %H:%M:%S} US/Eastern",
        fill.account,
        contract.exchanges[-1],
        "BOT" if fill.quantity > 0 else "SLD",
        shares,
        fill.price,
        permanent_id,
        client_id,
        is_liquidation,
        shares,
        fill.price,
        *("", "", "", ""),
        2,
        0,
    )


def commission_report(execution_id: str, commission: float, currency: str, realized_pnl: float) -> Message:
    """What a fill cost, as a positive amount, and the profit that it realized; no yield."""
    return 59, 1, execution_id, commission, currency, realized_pnl, UNSET, ""


def position(account: str, contract: Contract, held: float, average_cost: float) -> Message:
    """One position; the exchange is a stock's primary one, empty for any other contract."""
    return (
        61,
        3,
        account,
        *_contract_fields(contract, contract.position_exchange),
        quantity(held),
        float(average_cost),
    )


def position_multi(request_id: int, account: str, contract: Contract, held: float, average_cost: float) -> Message:
    """One position of reqPositionsMulti, with an empty model code."""
    fields = _contract_fields(contract, contract.position_exchange)
    return 71, 1, request_id, account, *fields, quantity(held), float(average_cost), ""


def position_multi_end(request_id: int) -> Message:
    """The initial positions of reqPositionsMulti are complete."""
    return 72, 1, request_id


def account_value(account: str, row: AccountValue) -> Message:
    """One account value of the account-updates feed."""
    return 6, 2, row.tag, row.value, row.currency, account


def portfolio_value(
    account: str,
    contract: Contract,
    held: float,
    market_price: float,
    market_value: float,
    average_cost: float,
    unrealized_pnl: float,
    realized_pnl: float,
) -> Message:
    """One portfolio row; prices in quoted units, values in the contract's currency."""
    return (
        7,
        8,
        *_contract_fields(contract, contract.primary_exchange),
        quantity(held),
        market_price,
        market_value,
        average_cost,
        unrealized_pnl,
        realized_pnl,
        account,
    )


def account_time(now: datetime) -> Message:
    """Time of the last change of the account feed, hours and minutes."""
    return 8, 1, f"{now:%H:%M}"


def account_download_end(account: str) -> Message:
    """The initial account download is complete."""
    return 54, 1, account


def account_summary(request_id: int, account: str, row: AccountValue) -> Message:
    """One row of an account summary."""
    return 63, 1, request_id, account, row.tag, row.value, row.currency


def account_summary_end(request_id: int) -> Message:
    """The initial account summary is complete."""
    return 64, 1, request_id


def account_update_multi(request_id: int, account: str, row: AccountValue) -> Message:
    """One account value of reqAccountUpdatesMulti, with an empty model code."""
    return 73, 1, request_id, account, "", row.tag, row.value, row.currency


def account_update_multi_end(request_id: int) -> Message:
    """The initial values of reqAccountUpdatesMulti are complete."""
    return 74, 1, request_id


def pnl(request_id: int, daily: float, unrealized: float, realized: float) -> Message:
    """Profit and loss of an account, in its base currency."""
    return 94, request_id, daily, unrealized, realized


def pnl_single(
    request_id: int, held: float, daily: float, unrealized: float, realized: float | None, value: float
) -> Message:
    """Profit and loss of one position, in the account's base currency; `None` becomes IB's `UNSET`."""
    return 95, request_id, quantity(held), daily, unrealized, UNSET if realized is None else realized, value


def contract_details(request_id: int, contract: Contract, exchange: str, today: date) -> Message:
    """A contract's definition, requested for `exchange`."""
    trading, liquid = hours(contract, today)
    zone = time_zone(contract)
    return (
        10,
        request_id,
        contract.symbol,
        contract.sec_type,
        f"{contract.expiry}-{last_trade_time(contract)}-{zone}" if contract.expiry else "",
        contract.strike,
        contract.right,
        exchange,
        contract.currency,
        contract.local_symbol,
        contract.market_name,
        contract.trading_class,
        contract.conid,
        contract.min_tick,
        contract.multiplier,
        "ACTIVETIM,DAY,GTC,LMT,MKT,STP",
        ",".join(contract.exchanges),
        contract.price_magnifier,
        contract.underlying_conid,
        contract.long_name,
        contract.primary_exchange,
        contract.expiry[:6],
        contract.industry,
        "",  # category
        "",  # subcategory
        zone,
        trading,
        liquid,
        "",  # economic value rule
        "",  # economic value multiplier
        0,  # security ids
        1,  # aggregated group
        contract.underlying_symbol,
        contract.underlying_sec_type,
        ",".join("26" for _ in contract.exchanges),  # market rules
        contract.expiry,
        contract.stock_type,
        1.0,  # smallest size
        1.0,  # size increment
        100.0 if contract.sec_type == "STK" else 1.0,
    )


def definition(request_id: int, contract: Contract, exchange: str, today: date) -> Message:
    """A contract's definition in the message of its kind: bonds and bills have one of their own."""
    if contract.sec_type in {BOND, BILL}:
        return bond_details(request_id, contract, exchange)
    return contract_details(request_id, contract, exchange, today)


def bond_details(request_id: int, contract: Contract, exchange: str) -> Message:
    """A bond's or bill's definition (bondContractData): it has neither magnifier nor underlying."""
    return (
        18,
        request_id,
        contract.symbol,
        contract.sec_type,
        "",  # CUSIP, which needs a subscription
        4.25 if contract.sec_type == BOND else 0.0,  # coupon
        contract.expiry,
        "",  # issue date
        *("", "", ""),  # ratings, type of bond and of coupon
        *(0, 0, 0),  # convertible, callable, putable
        "",  # description
        exchange,
        contract.currency,
        contract.market_name,
        contract.trading_class,
        contract.conid,
        contract.min_tick,
        "ACTIVETIM,DAY,GTC,LMT,MKT",
        ",".join(contract.exchanges),
        *("", "", 0),  # next option: date, type, partial
        "",  # notes
        contract.long_name,
        *("", ""),  # economic value: rule and multiplier
        0,  # security ids
        1,  # aggregated group
        ",".join("26" for _ in contract.exchanges),  # market rules
        1.0,  # smallest size
        1.0,  # size increment
        1.0,  # suggested size increment
    )


def contract_details_end(request_id: int) -> Message:
    """No more contracts match."""
    return 52, 1, request_id


def historical_data(request_id: int, start: str, end: str, bars: Sequence[Message]) -> Message:
    """All bars of a request; below server version 196 this is also its end.

    A bar is its time, open, high, low, close, volume, average price and the number of trades.
    """
    return 17, request_id, start, end, len(bars), *(field for bar in bars for field in bar)


def market_data_type(ticker_id: int, kind: int) -> Message:
    """Type of the data that are sent: 1 live, 2 frozen, 3 delayed, 4 delayed and frozen."""
    return 58, 1, ticker_id, kind


def tick_parameters(ticker_id: int, min_tick: float) -> Message:
    """Tick size, best-quote exchange code and snapshot permission of a subscription."""
    return 81, ticker_id, min_tick, "9c0001", 3


def tick_price(ticker_id: int, tick_type: int, price: float, size: float, attributes: int = 0) -> Message:
    """A price with its size; bit 0 of `attributes` is set if it can be executed against automatically."""
    return 1, 6, ticker_id, tick_type, price, quantity(size), attributes


def tick_size(ticker_id: int, tick_type: int, size: float) -> Message:
    """A size alone."""
    return 2, 6, ticker_id, tick_type, quantity(size)


def tick_generic(ticker_id: int, tick_type: int, value: float) -> Message:
    """A number that is neither price nor size, such as 49, the halt of a contract."""
    return 45, 6, ticker_id, tick_type, value


def tick_string(ticker_id: int, tick_type: int, value: str) -> Message:
    """A text value."""
    return 46, 6, ticker_id, tick_type, value


def tick_option_computation(
    ticker_id: int,
    tick_type: int,
    *,
    implied_vol: float | None,
    delta: float | None,
    option_price: float | None,
    gamma: float | None,
    vega: float | None,
    theta: float | None,
    underlying_price: float | None,
) -> Message:
    """Greeks; `None` becomes IB's -1 or -2. Dividends are not simulated: their present value is 0."""
    return (
        21,
        ticker_id,
        tick_type,
        1,  # computed from prices, not returns
        NO_PRICE if implied_vol is None else implied_vol,
        UNSET_GREEK if delta is None else delta,
        NO_PRICE if option_price is None else option_price,
        0.0,
        UNSET_GREEK if gamma is None else gamma,
        UNSET_GREEK if vega is None else vega,
        UNSET_GREEK if theta is None else theta,
        NO_PRICE if underlying_price is None else underlying_price,
    )


def tick_snapshot_end(ticker_id: int) -> Message:
    """A snapshot is complete."""
    return 57, 1, ticker_id


def _contract_fields(contract: Contract, exchange: str) -> tuple[Field, ...]:
    return (
        contract.conid,
        contract.symbol,
        contract.sec_type,
        contract.expiry,
        contract.strike,
        contract.right,
        contract.multiplier,
        exchange,
        contract.currency,
        contract.local_symbol,
        contract.trading_class,
    )
