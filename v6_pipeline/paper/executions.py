"""Executions of the live day: reqExecutions, with a commission report for each fill.

IB lists the fills of the day without a market data line, in read-only mode too. What is assigned, exercised or expires
is no fill. A commission report has no realized profit (IB's largest number) for what only opens.
"""

from collections.abc import Callable

from v6_pipeline.paper import messages
from v6_pipeline.paper.book import Book
from v6_pipeline.paper.ledger import Booking, Deed
from v6_pipeline.paper.requests import parse_executions
from v6_pipeline.paper.session import ClientSession
from v6_pipeline.paper.wire import Fields


def execution_id(booking: Booking) -> str:
    """Return IB's id of a fill, the same whenever it is sent."""
    return f"0000e0d5.{booking.number:08x}.01.01"


def serve_executions(book: Book) -> Callable[[ClientSession, Fields], None]:
    """Return the handler of reqExecutions: each fill of the day and its commission report, then an end."""

    def handle(session: ClientSession, fields: Fields) -> None:
        request_id, account = parse_executions(fields)
        for booking in list(book.ledger.journal):
            if booking.deed is Deed.TRADE and account in {"", booking.account}:
                contract = book.market.contract(booking.conid)
                name = execution_id(booking)
                session.send(messages.execution_details(request_id, contract, booking, name))
                realized = messages.UNSET if booking.opens else round(booking.realized_pnl, 6)
                session.send(messages.commission_report(name, abs(booking.commission), booking.currency, realized))
        session.send(messages.executions_end(request_id))

    return handle
