"""Flex statements of the simulated accounts, as XML. `past` has the days, `flex_rows` the rows.

The server (`flex_server`) serves the statements.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from xml.sax.saxutils import quoteattr

from v6_pipeline.paper import flex_rows
from v6_pipeline.paper.accounting import DayAccount, day_account
from v6_pipeline.paper.flex_rows import Row, day_text
from v6_pipeline.paper.instruments import BASE_CURRENCY
from v6_pipeline.paper.past import Past, PastDay


class Section(StrEnum):
    """The sections that a statement may have."""

    ACCOUNT = "AccountInformation"
    POSITIONS = "OpenPositions"
    TRADES = "Trades"
    EXERCISES = "OptionEAE"
    TRANSFERS = "Transfers"
    CORPORATE_ACTIONS = "CorporateActions"
    CASH_TRANSACTIONS = "CashTransactions"
    CASH_REPORT = "CashReport"
    CHANGE_IN_NAV = "ChangeInNAV"
    EQUITY = "EquitySummaryInBase"
    MTM = "MTMPerformanceSummaryInBase"


READ = frozenset(
    {
        *(Section.ACCOUNT, Section.POSITIONS, Section.TRADES, Section.EXERCISES),
        *(Section.TRANSFERS, Section.CORPORATE_ACTIONS),
    }
)
"""The sections that the product asks its users for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexQuery:
    """Options of a query.

    `by_day` is "Breakout by Day", a statement per account and day; `lots` adds rows of level LOT and `orders` rows of
    level ORDER; `book_trades` adds exercises, assignments and expirations to the trades, as IB does; sections in
    `empty` are present and empty.
    """

    by_day: bool = True
    lots: bool = False
    orders: bool = False
    book_trades: bool = False
    sections: frozenset[Section] = READ
    empty: frozenset[Section] = frozenset()
    name: str = "Daily positions"


AS_IB = FlexQuery(lots=True, orders=True, book_trades=True)
"""A query with all levels of detail, as many users have it."""


def statements(past: Past, first: date, last: date, query: FlexQuery, *, generated: datetime) -> Iterator[str]:
    """Yield the document of a range of days in pieces; without a day in the range it has no statements.

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
                "fromDate": day_text(begins),
                "toDate": day_text(ends),
                "period": "",
                "whenGenerated": f"{generated:%Y%m%d;%H%M%S}",
            }
            yield f"<FlexStatement{_attributes(head)}>\n"
            yield from _sections(past, account, span, query, (begins, ends))
            yield "</FlexStatement>\n"
    yield "</FlexStatements>\n</FlexQueryResponse>\n"


def _sections(
    past: Past, account: str, span: list[PastDay], query: FlexQuery, dates: tuple[date, date]
) -> Iterator[str]:
    if Section.ACCOUNT in query.sections:
        about = {"accountId": account, "currency": BASE_CURRENCY, "name": "Simulated", "accountType": "Individual"}
        yield f"<{Section.ACCOUNT}{_attributes(about)} />\n"
    days = functools.cache(lambda: [day_account(past, account, day) for day in span])
    if Section.CHANGE_IN_NAV in query.sections:
        yield f"<{Section.CHANGE_IN_NAV}{_attributes(flex_rows.change_in_nav(account, days(), *dates))} />\n"
    for section, found in _rows(past, account, span, query):
        if section in query.sections:
            yield from _section(section, () if section in query.empty else found)
    yield from _summaries(past, account, query, dates, days) if query.sections & _SUMMARIES else ()


_SUMMARIES = frozenset({Section.CASH_REPORT, Section.EQUITY, Section.MTM})


def _summaries(
    past: Past, account: str, query: FlexQuery, dates: tuple[date, date], days: Callable[[], list[DayAccount]]
) -> Iterator[str]:
    rows = {
        Section.CASH_REPORT: ("CashReportCurrency", flex_rows.cash_report(account, days(), *dates)),
        Section.EQUITY: ("EquitySummaryByReportDateInBase", flex_rows.equity_summary(account, days())),
        Section.MTM: ("MTMPerformanceSummaryUnderlying", flex_rows.mtm_summary(past, account, days())),
    }
    for section, (element, found) in rows.items():
        if section in query.sections:
            yield from _section(section, () if section in query.empty else ((element, row) for row in found))


def _section(section: Section, rows: Iterable[tuple[str, Row]]) -> Iterator[str]:
    yield f"<{section}>\n"
    for element, row in rows:
        yield f"<{element}{_attributes(row)} />\n"
    yield f"</{section}>\n"


def _rows(
    past: Past, account: str, span: list[PastDay], query: FlexQuery
) -> Iterator[tuple[Section, Iterable[tuple[str, Row]]]]:
    """Yield the rows of each section that lists bookings or positions, with their elements."""
    positions = flex_rows.open_positions(past, account, span[-1], lots=query.lots)
    yield Section.POSITIONS, (("OpenPosition", row) for row in positions)
    yield (
        Section.TRADES,
        flex_rows.trades(past, account, span, booked=query.book_trades, orders=query.orders),
    )
    yield Section.EXERCISES, (("OptionEAE", row) for row in flex_rows.exercises(past, account, span))
    yield Section.TRANSFERS, (("Transfer", row) for row in flex_rows.transfers(past, account, span))
    actions = flex_rows.corporate_actions(past, account, span)
    yield Section.CORPORATE_ACTIONS, (("CorporateAction", row) for row in actions)
    cash = flex_rows.cash_transactions(past, account, span)
    yield Section.CASH_TRANSACTIONS, (("CashTransaction", row) for row in cash)


def _attributes(row: Row) -> str:
    return "".join([f" {name}={_quoted(str(value))}" for name, value in row.items()])


# Most values repeat those of the row before: quoting them again took two thirds of the time.
_quoted = functools.lru_cache(maxsize=16_384)(quoteattr)
