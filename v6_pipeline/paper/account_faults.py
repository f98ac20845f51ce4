"""Faults of positions and account updates, and overnight changes of positions.

Every public method but `heal` is an action; see `actions`. `account_feeds` cuts downloads off.
"""

from collections.abc import Callable, Collection
from enum import StrEnum

from v6_pipeline.paper.account_feeds import AccountDesk, Cut, CutOff, InReset
from v6_pipeline.paper.actions import holding_reply
from v6_pipeline.paper.book import Book
from v6_pipeline.paper.config import AccountConflict
from v6_pipeline.paper.contracts import Holding
from v6_pipeline.paper.fields import Count, Number, Rows
from v6_pipeline.paper.session import ClientSession


class PositionCutOff(StrEnum):
    """How a position download ends early; position subscriptions cannot be evicted."""

    SILENT = "silent"
    DROP = "drop"


class AccountFaults:
    """Faults of the accounts of one gateway; `sessions` lists the logged-in clients."""

    def __init__(self, book: Book, desk: AccountDesk, sessions: Callable[[], Collection[ClientSession]]) -> None:
        self._book = book
        self._desk = desk
        self._sessions = sessions

    def open_position(self, account: str, conid: int, quantity: Number, average_cost: Number | None = None) -> Holding:
        """Open a position; see `Book.open` for the errors."""
        return self._changed(self._book.open(account, conid, quantity, average_cost))

    def resize_position(self, account: str, conid: int, quantity: Number) -> Holding:
        """Trade a position to another quantity; see `Book.resize` for the errors."""
        return self._changed(self._book.resize(account, conid, quantity))

    def close_position(self, account: str, conid: int) -> Holding:
        """Close a position; see `Book.resize` for the errors."""
        return self._changed(self._book.resize(account, conid, 0.0))

    def flatten(self, account: str, overnight: bool = False) -> dict[str, object]:  # noqa: FBT001, FBT002  (a field)
        """Close every position of an account; overnight ones are not in the next day's portfolio at all."""
        closed = [self._changed(self._book.resize(account, each.conid, 0.0)) for each in self._book.held(account)]
        if overnight:
            self._book.forget_closed(account)
        return {"account": account, "closed": len(closed)}

    def assign(self, account: str, conid: int) -> dict[str, object]:
        """Exercise or assign an option; returns the holdings that changed. See `Book.assign` for the errors."""
        changed = [self._changed(holding) for holding in self._book.assign(account, conid)]
        return {"positions": [holding_reply(holding) for holding in changed]}

    def rename(self, conid: int, symbol: str) -> dict[str, object]:
        """Change a contract's symbol, as a corporate action does; its conid stays, and position messages name it."""
        contract = self._book.market.universe.rename(conid, symbol)
        for holding in self._book.held():
            if holding.conid == conid:
                self._desk.position_changed(holding)
        return {"conid": conid, "symbol": contract.symbol, "local_symbol": contract.local_symbol}

    def set_account_conflict(self, mode: AccountConflict) -> None:
        """Change what happens when two clients want different accounts."""
        self._desk.conflict = mode

    def cut_account_download(self, how: CutOff = CutOff.SILENT, rows: Rows = 3, count: Count = 1) -> None:
        """End each of the next account downloads after `rows` rows."""
        self._desk.account_cuts.extend([Cut(how, rows)] * count)

    def cut_position_download(
        self, how: PositionCutOff = PositionCutOff.SILENT, rows: Rows = 3, count: Count = 1
    ) -> None:
        """End each of the next position downloads after `rows` rows."""
        self._desk.position_cuts.extend([Cut(CutOff(how), rows)] * count)

    def evict_account_feed(self, account: str | None = None) -> None:
        """Send 2100 to the clients that are subscribed to this account, or to any, and end their subscription."""
        for session in self._sessions():
            subscribed = session.subscriptions.account
            if subscribed is not None and account in {None, subscribed}:
                self._desk.evict(session)

    def refuse_account_feed(self, count: Count = 1) -> None:
        """Answer the next requests for account updates with 2101."""
        self._desk.refusals = count

    def account_not_ready(self, feeds: InReset = InReset.EMPTY) -> None:
        """Reset IB's servers: AccountReady is false until `account_ready`, and the feeds are empty, 0 or stale."""
        self._desk.in_reset = feeds

    def trade_after_download(self, account: str, conid: int, quantity: Number) -> None:
        """Trade a position to another quantity the moment after the next download of its account has ended."""
        trades = self._desk.after_downloads.setdefault(account, [])
        trades.append(lambda: self.resize_position(account, conid, quantity))

    def account_ready(self) -> None:
        """End the reset of IB's servers; nothing is sent until the next update or request."""
        self._desk.in_reset = None

    def heal(self) -> None:
        """Cancel the faults that are still to come, and end a reset of IB's servers."""
        self._desk.in_reset = None
        self._desk.after_downloads.clear()
        self._desk.account_cuts.clear()
        self._desk.position_cuts.clear()
        self._desk.refusals = 0

    def _changed(self, holding: Holding) -> Holding:
        self._desk.position_changed(holding)
        return holding
