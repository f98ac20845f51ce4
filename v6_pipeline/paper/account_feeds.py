"""Account requests: IB's rules for positions, account updates, summaries, profit and loss. `book` has the numbers."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from v6_pipeline.paper import messages
from v6_pipeline.paper.book import LEDGER_TAGS, Book
from v6_pipeline.paper.config import AccountConflict, GatewayConfig
from v6_pipeline.paper.contracts import Holding
from v6_pipeline.paper.market_data import validation_error
from v6_pipeline.paper.messages import AccountValue
from v6_pipeline.paper.requests import (
    parse_account_summary,
    parse_account_updates,
    parse_multi,
    parse_pnl,
    parse_versioned_id,
)
from v6_pipeline.paper.session import ClientSession, PnLFeed, ValueFeed
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.wire import Fields, Message

MAX_SUMMARIES = 2
"""Account summary subscriptions that a client may hold at once (IBKR's TWS API, "Account Summary")."""

MAX_ACCOUNTS = 50
"""A login of more accounts is refused reqPositions (IBKR's TWS API, "Positions")."""

_GIVEN = frozenset({"market_price", "market_value", "unrealized_pnl", "realized_pnl"})
"""Fields of a portfolio row that a file of holdings may prescribe."""

EVICTED = "New account data requested from TWS. API client has been unsubscribed from account data."
REFUSED = "Unable to subscribe to account as the following clients are subscribed to a different account."
TOO_MANY_ACCOUNTS = "Position requests for all accounts are not supported for this login: use reqPositionsMulti"
"""Reported is only that an error without a request comes; its code and words are a guess."""

_CFD = "CFD"


class CutOff(StrEnum):
    """How a download ends early: no more rows, a closed connection, or the end of the feed with 2100."""

    SILENT = "silent"
    DROP = "drop"
    EVICT = "evict"


@dataclass(frozen=True, slots=True)
class Cut:
    """An ordered early end of a download, after `rows` rows."""

    how: CutOff
    rows: int


class InReset(StrEnum):
    """Content of the feeds while IB's servers are in a reset and ``AccountReady`` is false.

    Values may then be missing or wrong (IBKR's TWS API, "Account Updates"). `EMPTY` lists no position and sends values
    of 0, `ZERO` sends values of 0, `STALE` sends positions and values as they are.
    """

    EMPTY = "empty"
    ZERO = "zero"
    STALE = "stale"


class AccountDesk:
    """Serves account data to all clients; `sessions` lists the logged-in ones.

    Faults set `account_cuts` and `position_cuts`, one for each of the next downloads, `refusals`, the number of the
    next requests for account updates that are refused with 2101, `in_reset` while the accounts are not ready, and
    `after_downloads`, the trades that follow the end of the next download of an account at once.
    """

    def __init__(
        self,
        config: GatewayConfig,
        book: Book,
        statistics: Statistics,
        sessions: Callable[[], Iterable[ClientSession]],
    ) -> None:
        self.conflict = config.account_conflict
        self.account_cuts: deque[Cut] = deque()
        self.position_cuts: deque[Cut] = deque()
        self.refusals = 0
        self.in_reset: InReset | None = None
        self.after_downloads: dict[str, list[Callable[[], object]]] = {}
        self._config = config
        self._book = book
        self._statistics = statistics
        self._sessions = sessions

    # Positions

    def positions(self, session: ClientSession, _fields: Fields) -> None:
        """Serve reqPositions: all positions of all accounts and an end; changes follow until cancelled."""
        if len(self._book.accounts) > MAX_ACCOUNTS:
            session.error(-1, 321, validation_error(TOO_MANY_ACCOUNTS))
            return
        session.subscriptions.positions = True
        cut = self.position_cuts.popleft() if self.position_cuts else None
        for holding in self._held()[: cut.rows if cut else None]:
            session.send(self._position(holding))
        if cut is None:
            session.send(messages.POSITION_END)
        elif cut.how == CutOff.DROP:
            session.close()

    def cancel_positions(self, session: ClientSession, _fields: Fields) -> None:
        """Serve cancelPositions: send no further position changes."""
        session.subscriptions.positions = False

    def positions_multi(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqPositionsMulti: the positions of one account and an end; changes follow until cancelled."""
        request_id, account = parse_multi(fields)
        if not self._is_managed(session, request_id, account):
            return
        session.subscriptions.positions_multi[request_id] = account
        for holding in self._held(account):
            session.send(self._position_multi(request_id, holding))
        session.send(messages.position_multi_end(request_id))

    def cancel_positions_multi(self, session: ClientSession, fields: Fields) -> None:
        """Serve cancelPositionsMulti."""
        session.subscriptions.positions_multi.pop(parse_versioned_id(fields), None)

    def _held(self, account: str | None = None, *, closed: bool = False) -> list[Holding]:
        """Return the holdings that the feeds list at this moment."""
        return [] if self.in_reset is InReset.EMPTY else self._book.held(account, closed=closed)

    def position_changed(self, holding: Holding) -> None:
        """Send a changed holding to the position subscribers and to the subscribers of the account's portfolio.

        Changes while the link to IB is down are never sent: Lean's issue 249 reports fills that were lost so.
        """
        if not self._book.market.link.is_up:
            return
        for session in self._sessions():
            if session.subscriptions.positions:
                session.send(self._position(holding))
            for request_id, account in session.subscriptions.positions_multi.items():
                if account == holding.account:
                    session.send(self._position_multi(request_id, holding))
            if session.subscriptions.account == holding.account:
                self._send_portfolio(session, [holding])

    def _position(self, holding: Holding) -> Message:
        contract = self._book.valuation(holding).contract
        return messages.position(holding.account, contract, holding.quantity, holding.average_cost)

    def _position_multi(self, request_id: int, holding: Holding) -> Message:
        contract = self._book.valuation(holding).contract
        return messages.position_multi(request_id, holding.account, contract, holding.quantity, holding.average_cost)

    # Account updates

    def account_updates(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqAccountUpdates: one managed account at a time over all clients.

        IBKR's TWS API, "Account Updates" and message codes 2100 and 2101: a subscription to another account replaces
        the one before, whose client receives 2100 (even if it is the same client), or is rejected with 2101 while a
        different client holds another account. Several clients may subscribe to the same account.
        """
        subscribe, account = parse_account_updates(fields)
        account = account or self._book.accounts[0]
        if not self._is_managed(session, -1, account):
            return
        if not subscribe:
            session.subscriptions.account = None
            return
        if self.refusals:
            self.refusals -= 1
            session.error(-1, 2101, REFUSED)
            return
        others = [peer for peer in self._sessions() if peer.subscriptions.account not in {None, account}]
        if self.conflict == AccountConflict.REFUSE and any(peer is not session for peer in others):
            session.error(-1, 2101, REFUSED)
            return
        for peer in others:
            self.evict(peer)
        session.subscriptions.account = account
        rows = self._held(account, closed=True)
        if self.account_cuts:
            self._send_part(session, rows, self.account_cuts.popleft())
            return
        self._send_portfolio(session, rows)
        session.send(messages.account_download_end(account))
        for trade in self.after_downloads.pop(account, ()):
            trade()

    def evict(self, session: ClientSession) -> None:
        """End a client's account updates with 2100."""
        session.subscriptions.account = None
        session.error(-1, 2100, EVICTED)

    def _send_part(self, session: ClientSession, rows: list[Holding], cut: Cut) -> None:
        self._send_rows(session, rows[: cut.rows])
        if cut.how == CutOff.EVICT:
            self.evict(session)
        elif cut.how == CutOff.DROP:
            session.close()

    def _send_portfolio(self, session: ClientSession, holdings: Iterable[Holding]) -> None:
        """Send portfolio rows, then the account's values and time."""
        account = session.subscriptions.account
        if account is None:
            return
        self._send_rows(session, holdings)
        for value in self._values(account):
            session.send(messages.account_value(account, self._worded(value)))
        session.send(messages.account_time(self._config.utcnow()))

    def _values(self, account: str) -> list[AccountValue]:
        """Return the account's values; in a reset they are not ready, and may be 0."""
        rows = self._book.account_values(account)
        if self.in_reset is None:
            return rows
        if self.in_reset is not InReset.STALE:
            rows = [replace(row, value="0.00") if _is_amount(row) else row for row in rows]
        return [replace(row, value="false") if row.tag == "AccountReady" else row for row in rows]

    def _worded(self, row: AccountValue) -> AccountValue:
        """Return a value as the simulated release of TWS words it."""
        of_one_currency = row.tag in LEDGER_TAGS and row.currency
        if of_one_currency and (self._config.has_ledger_prefix or self._book.market.universe.given.has_prefix):
            return replace(row, tag=messages.LEDGER_PREFIX + row.tag)
        return row

    def _send_rows(self, session: ClientSession, holdings: Iterable[Holding]) -> None:
        for holding in holdings:
            row = self._book.valuation(holding)
            values = {
                "position": holding.quantity,
                "market_price": row.market_price,
                "market_value": row.market_value,
                "average_cost": holding.average_cost,
                "unrealized_pnl": row.unrealized_pnl,
                "realized_pnl": holding.realized_pnl,
            }
            if row.contract.sec_type == _CFD and not holding.quantity:
                # Reported: a closed CFD keeps its profit as unrealized.
                values |= {"unrealized_pnl": holding.realized_pnl, "realized_pnl": 0.0}
            given = self._book.given_row(holding)
            if given is not None:
                values |= {name: getattr(given, name) for name in values.keys() & _GIVEN}
            session.send(messages.portfolio_value(holding.account, row.contract, *values.values()))
            self._statistics.last_portfolio[holding.account, holding.conid] = values

    def account_updates_multi(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqAccountUpdatesMulti: account values without portfolio, exempt from the one-account rule."""
        request_id, account = parse_multi(fields)
        account = account or self._book.accounts[0]
        if not self._is_managed(session, request_id, account):
            return
        session.subscriptions.multis[request_id] = feed = ValueFeed((account,), messages.account_update_multi)
        self._send_changes(session, request_id, feed)
        session.send(messages.account_update_multi_end(request_id))

    def cancel_account_updates_multi(self, session: ClientSession, fields: Fields) -> None:
        """Serve cancelAccountUpdatesMulti."""
        session.subscriptions.multis.pop(parse_versioned_id(fields), None)

    # Summaries

    def account_summary(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqAccountSummary: the requested values and an end; changes follow with each portfolio update."""
        request = parse_account_summary(fields)
        if request.group != "All" and request.group not in self._book.accounts:
            session.error(request.request_id, 321, validation_error(f"Invalid group '{request.group}'."))
            return
        if len(session.subscriptions.summaries.keys() - {request.request_id}) >= MAX_SUMMARIES:
            text = "Error processing request.-'bQ' : cause - Maximum number of account summary requests exceeded"
            session.error(request.request_id, 322, text)
            return
        accounts = self._book.accounts if request.group == "All" else (request.group,)
        feed = ValueFeed(accounts, messages.account_summary, request.tags)
        session.subscriptions.summaries[request.request_id] = feed
        self._send_changes(session, request.request_id, feed)
        session.send(messages.account_summary_end(request.request_id))

    def cancel_account_summary(self, session: ClientSession, fields: Fields) -> None:
        """Serve cancelAccountSummary."""
        session.subscriptions.summaries.pop(parse_versioned_id(fields), None)

    def _send_changes(self, session: ClientSession, request_id: int, feed: ValueFeed) -> None:
        """Send the rows that are new to a feed or have another value than before."""
        for account in feed.accounts:
            rows = self._values(account)
            for row in rows if feed.tags is None else select_rows(rows, feed.tags):
                key = (account, row.tag, row.currency)
                if feed.sent.get(key) != row.value:
                    feed.sent[key] = row.value
                    session.send(feed.encode(request_id, account, row))

    def _is_managed(self, session: ClientSession, request_id: int, account: str) -> bool:
        """Return whether the login manages an account; a request for any other is refused with 321."""
        if account in self._book.accounts:
            return True
        session.error(request_id, 321, validation_error(f"Invalid account code '{account}'."))
        return False

    # Profit and loss

    def pnl(self, session: ClientSession, fields: Fields, *, single: bool = False) -> None:
        """Serve reqPnL: the account's profit and loss, now and at each tick that changes it.

        `single` serves reqPnLSingle, the same for one contract; IB never answers for a contract that is not held.
        """
        request = parse_pnl(fields, single=single)
        if self._is_managed(session, request.request_id, request.account):
            session.subscriptions.pnl[request.request_id] = PnLFeed(request.account, request.conid)
            self._send_pnl(session)

    def cancel_pnl(self, session: ClientSession, fields: Fields) -> None:
        """Serve cancelPnL and cancelPnLSingle."""
        session.subscriptions.pnl.pop(fields.integer(), None)

    def _send_pnl(self, session: ClientSession) -> None:
        for request_id, feed in session.subscriptions.pnl.items():
            message = self._pnl_message(request_id, feed)
            if message is not None and message != feed.sent:
                feed.sent = message
                session.send(message)

    def _pnl_message(self, request_id: int, feed: PnLFeed) -> Message | None:
        if feed.conid is None:
            return messages.pnl(request_id, *self._book.pnl(self._book.held(feed.account, closed=True)))
        holding = self._book.holdings.get((feed.account, feed.conid))
        if holding is None:
            return None
        daily, unrealized, realized = self._book.pnl([holding])
        value = self._book.valuation(holding).market_value
        # IB has no number for the realized profit until there is one.
        return messages.pnl_single(request_id, holding.quantity, daily, unrealized, realized or None, value)

    # Pushes

    def tick(self) -> None:
        """Send the profit and loss that changed."""
        for session in self._sessions():
            self._send_pnl(session)

    def portfolio_tick(self) -> None:
        """Send the three-minute update: portfolios, account values, summaries."""
        for session in self._sessions():
            if session.subscriptions.account is not None:
                self._send_portfolio(session, self._held(session.subscriptions.account, closed=True))
            for feeds in (session.subscriptions.summaries, session.subscriptions.multis):
                for request_id, feed in feeds.items():
                    self._send_changes(session, request_id, feed)


def _is_amount(row: AccountValue) -> bool:
    """Return whether a value is an amount of money, which a reset may set to 0."""
    return bool(row.currency) and row.tag not in {"AccountOrGroup", "Currency", "RealCurrency", "ExchangeRate"}


def select_rows(rows: list[AccountValue], tags: tuple[str, ...]) -> list[AccountValue]:
    """Return the rows that summary tags request: values by tag, then the ledgers.

    ``$LEDGER`` is the BASE ledger, ``$LEDGER:EUR`` one currency's, ``$LEDGER:ALL`` every one.
    """
    chosen = sorted((row for row in rows if row.tag in tags and row.tag not in LEDGER_TAGS), key=lambda row: row.tag)
    for tag in tags:
        name, _, currency = tag.partition(":")
        if name == "$LEDGER":
            wanted = currency or "BASE"
            chosen += [row for row in rows if row.tag in LEDGER_TAGS and wanted in {"ALL", row.currency}]
    return chosen
