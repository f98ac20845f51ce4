"""Ids and parsers of incoming messages; field lists are those of IBKR's TWS API at server versions 176 to 178.

Belongs here: pure parsing (`wire.Fields` in, small dataclasses out). `handlers` dispatches the requests.
"""

import enum
from dataclasses import dataclass

from v6_pipeline.paper.wire import Fields, WireError


class RequestId(enum.IntEnum):
    """Ids of incoming messages that the gateway knows."""

    MARKET_DATA = 1
    CANCEL_MARKET_DATA = 2
    PLACE_ORDER = 3
    CANCEL_ORDER = 4
    OPEN_ORDERS = 5
    ACCOUNT_UPDATES = 6
    EXECUTIONS = 7
    NEXT_VALID_ID = 8
    CONTRACT_DETAILS = 9
    SERVER_LOG_LEVEL = 14
    AUTO_OPEN_ORDERS = 15
    ALL_OPEN_ORDERS = 16
    MANAGED_ACCOUNTS = 17
    HISTORICAL_DATA = 20
    EXERCISE_OPTIONS = 21
    CANCEL_HISTORICAL_DATA = 25
    CURRENT_TIME = 49
    GLOBAL_CANCEL = 58
    MARKET_DATA_TYPE = 59
    POSITIONS = 61
    ACCOUNT_SUMMARY = 62
    CANCEL_ACCOUNT_SUMMARY = 63
    CANCEL_POSITIONS = 64
    START_API = 71
    POSITIONS_MULTI = 74
    CANCEL_POSITIONS_MULTI = 75
    ACCOUNT_UPDATES_MULTI = 76
    CANCEL_ACCOUNT_UPDATES_MULTI = 77
    PNL = 92
    CANCEL_PNL = 93
    PNL_SINGLE = 94
    CANCEL_PNL_SINGLE = 95
    COMPLETED_ORDERS = 99


ORDER_REQUESTS = frozenset(
    {RequestId.PLACE_ORDER, RequestId.CANCEL_ORDER, RequestId.EXERCISE_OPTIONS, RequestId.GLOBAL_CANCEL}
)
"""Messages that would change orders: always counted and refused."""

REQUEST_ID_INDEX = {
    **dict.fromkeys((3, 20, 22, 78, 79, 81, 83, 84, 86, 87, 88, 89, 90, 96, 97, 98, 100, 101, 102, 103, 104), 1),
    **dict.fromkeys((1, 2, 4, 10, 11, 21, 23, 25, 50, 51, 52, 53, 54, 55, 56, 57, 67, 68, 69, 70, 74, 75), 2),
    **dict.fromkeys((7, 9, 62, 63, 76, 77), 2),
    **dict.fromkeys((92, 93, 94, 95), 1),
}
"""Index of the field with the request id, which an error names; other messages have none."""


@dataclass(frozen=True, slots=True)
class ContractQuery:
    """The contract fields of a request; empty text and 0 mean "any"."""

    conid: int
    symbol: str
    sec_type: str
    expiry: str
    strike: float
    right: str
    multiplier: str
    exchange: str
    primary_exchange: str
    currency: str
    local_symbol: str
    trading_class: str


@dataclass(frozen=True, slots=True)
class MarketDataRequest:
    """reqMktData: a stream, or a snapshot."""

    ticker_id: int
    query: ContractQuery
    generic_ticks: frozenset[str]
    snapshot: bool
    regulatory_snapshot: bool


@dataclass(frozen=True, slots=True)
class HistoricalDataRequest:
    """reqHistoricalData, with its texts unparsed."""

    request_id: int
    query: ContractQuery
    include_expired: bool
    end: str
    bar_size: str
    duration: str
    use_rth: bool
    what_to_show: str
    format_date: int
    keep_up_to_date: bool


@dataclass(frozen=True, slots=True)
class AccountSummaryRequest:
    """reqAccountSummary."""

    request_id: int
    group: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PnLRequest:
    """reqPnL, or reqPnLSingle when `conid` is set."""

    request_id: int
    account: str
    conid: int | None


def parse_contract(fields: Fields) -> ContractQuery:
    """Parse the twelve contract fields of most requests."""
    return ContractQuery(
        conid=fields.integer(),
        symbol=fields.text(),
        sec_type=fields.text(),
        expiry=fields.text(),
        strike=fields.number(),
        right=fields.text(),
        multiplier=fields.text(),
        exchange=fields.text(),
        primary_exchange=fields.text(),
        currency=fields.text(),
        local_symbol=fields.text(),
        trading_class=fields.text(),
    )


def parse_start_api(fields: Fields) -> int:
    """Parse START_API: the client id."""
    fields.skip(1)
    client_id = fields.integer()
    if client_id < 0:
        raise WireError(f"client id {client_id} is negative")
    return client_id


def parse_market_data(fields: Fields) -> MarketDataRequest:
    """Parse reqMktData; the legs of a combination are skipped."""
    fields.skip(1)
    ticker_id = fields.integer()
    query = parse_contract(fields)
    if query.sec_type == "BAG":
        fields.skip(4 * fields.integer())
    if fields.flag():
        fields.skip(3)  # the delta-neutral contract: conid, delta, price
    generic = fields.text()
    return MarketDataRequest(
        ticker_id=ticker_id,
        query=query,
        generic_ticks=frozenset(part.strip() for part in generic.split(",") if part.strip()),
        snapshot=fields.flag(),
        regulatory_snapshot=fields.flag(),
    )


def parse_contract_details(fields: Fields) -> tuple[int, ContractQuery]:
    """Parse reqContractDetails: request id and contract fields."""
    fields.skip(1)
    return fields.integer(), parse_contract(fields)


def parse_historical_data(fields: Fields) -> HistoricalDataRequest:
    """Parse reqHistoricalData, which has no version; the legs of a combination are skipped."""
    request_id = fields.integer()
    query = parse_contract(fields)
    include_expired, end, bar_size, duration = fields.flag(), fields.text(), fields.text(), fields.text()
    use_rth, what_to_show, format_date = fields.flag(), fields.text(), fields.integer()
    if query.sec_type == "BAG":
        fields.skip(4 * fields.integer())
    return HistoricalDataRequest(
        request_id=request_id,
        query=query,
        include_expired=include_expired,
        end=end,
        bar_size=bar_size,
        duration=duration,
        use_rth=use_rth,
        what_to_show=what_to_show,
        format_date=format_date,
        keep_up_to_date=fields.flag(),
    )


def parse_account_updates(fields: Fields) -> tuple[bool, str]:
    """Parse reqAccountUpdates: subscribe or not, and the account (empty is the first one)."""
    fields.skip(1)
    return fields.flag(), fields.text()


def parse_multi(fields: Fields) -> tuple[int, str]:
    """Parse reqPositionsMulti or reqAccountUpdatesMulti: request id and account; the model code is ignored."""
    fields.skip(1)
    return fields.integer(), fields.text()


def parse_account_summary(fields: Fields) -> AccountSummaryRequest:
    """Parse reqAccountSummary; tags are comma separated and may be ``$LEDGER``, ``$LEDGER:CUR``, ``$LEDGER:ALL``."""
    fields.skip(1)
    request_id, group, tags = fields.integer(), fields.text(), fields.text()
    return AccountSummaryRequest(request_id, group, tuple(tag.strip() for tag in tags.split(",") if tag.strip()))


def parse_pnl(fields: Fields, *, single: bool) -> PnLRequest:
    """Parse reqPnL or reqPnLSingle; the model code is ignored."""
    request_id, account, _model = fields.integer(), fields.text(), fields.text()
    return PnLRequest(request_id, account, fields.integer() if single else None)


def parse_versioned_id(fields: Fields) -> int:
    """Parse a message of version and one integer: cancels, reqMarketDataType."""
    fields.skip(1)
    return fields.integer()


def parse_executions(fields: Fields) -> tuple[int, str]:
    """Parse reqExecutions: the request's id and the account of its filter, empty for all; the rest is ignored."""
    fields.skip(1)
    request_id, _client_id = fields.integer(), fields.text()
    return request_id, fields.text()
