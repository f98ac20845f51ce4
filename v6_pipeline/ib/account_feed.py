"""The account feed: portfolio values and account figures of one account, without a market-data line.

IB serves one managed account at a time over all clients (2100: another client took the feed; 2101: refused), so a
download subscribes, reads to the end and unsubscribes. A lease in the state database decides which process may do so
(``refresh.account_downloads``).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime

from ib_async import AccountValue, PortfolioItem

from v6_pipeline.errors import AccountFeedError, GatewayError, RequestTimeoutError
from v6_pipeline.ib.account_values import account_values, is_ready
from v6_pipeline.ib.client import ReadOnlyIB
from v6_pipeline.ib.codes import Reaction, may_refuse, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import spec_from_ib
from v6_pipeline.ib.requests import NO_REQUEST
from v6_pipeline.model import AccountValues, ContractSpec, known
from v6_pipeline.state.instants import Clock

log = logging.getLogger(__name__)

_CENT = 0.01
"""IB rounds the amounts of a portfolio row to cents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortfolioValue:
    """IB's own valuation of a position; money in the contract's currency, ``average_cost`` including the multiplier."""

    contract: ContractSpec
    position: float
    market_price: float | None
    market_value: float | None
    average_cost: float | None
    unrealized_pnl: float | None
    realized_pnl: float | None
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountDownload:
    """A complete download of one account. ``portfolio`` has every position by conid, those closed today with 0."""

    account: str
    started_at: datetime
    completed_at: datetime
    portfolio: dict[int, PortfolioValue]
    values: AccountValues


class AccountFeed:
    """Downloads accounts over one connection.

    ``timeout`` is in seconds for one account; ``pnl_timeout`` for the daily P&L, which IB may not send at all.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        clock: Clock,
        *,
        timeout: float = 60,
        pnl_timeout: float = 3,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._timeout = timeout
        self._pnl_timeout = pnl_timeout

    async def download(self, account: str) -> AccountDownload:
        """Subscribe to the feed of ``account``, read it to its end, and unsubscribe.

        Raises:
            AccountFeedError: another client has or took the feed, the end did not come in time, or IB's servers were in
                a reset. Everything received is discarded, so that a position missing from it is not closed.
        """
        ib = self._connection.ib
        started_at = self._clock()
        reading = _Reading(account, self._clock)
        reading.listen_to(ib)
        try:
            # IB.reqAccountUpdatesAsync can only subscribe, so both calls go through the client.
            ib.client.reqAccountUpdates(True, account)  # noqa: FBT003
            await self._connection.request(
                reading.finished, f"the account download of {account}", timeout=self._timeout
            )
        except RequestTimeoutError as error:
            said = f"; the gateway said {'; '.join(reading.errors)}" if reading.errors else ""
            raise AccountFeedError(f"{error}{said}; the partial download is discarded") from error
        finally:
            reading.stop_listening_to(ib)
            if ib.isConnected():
                ib.client.reqAccountUpdates(False, account)  # noqa: FBT003
        if not reading.was_ready:
            raise AccountFeedError(
                f"account download of {account}: IB says AccountReady=false, its servers are in a reset and values may "
                "be missing or wrong; the download is discarded, and the next run tries again"
            )
        completed_at = self._clock()
        daily_pnl = await self._daily_pnl(account)
        return AccountDownload(
            account=account,
            started_at=started_at,
            completed_at=completed_at,
            portfolio=reading.portfolio,
            values=account_values(account, reading.values, daily_pnl=daily_pnl, timestamp=completed_at),
        )

    async def _daily_pnl(self, account: str) -> float | None:
        """Return the account's P&L of the day; None if that feed does not answer: the valuation does not need it."""
        ib = self._connection.ib
        pnl = ib.reqPnL(account)
        try:
            async with self._connection.deadline(self._pnl_timeout):
                while known(pnl.dailyPnL) is None:
                    await ib.pnlEvent
        except TimeoutError:
            log.info("no daily P&L for %s within %g s", account, self._pnl_timeout)
        except (GatewayError, ConnectionError) as error:
            log.info("no daily P&L for %s: %s", account, error)
        finally:
            if ib.isConnected():
                ib.cancelPnL(account)
        return known(pnl.dailyPnL)


class _Reading:
    """The part of one account's download received so far, and a future that completes at its end."""

    def __init__(self, account: str, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self.portfolio: dict[int, PortfolioValue] = {}
        self.values: dict[tuple[str, str], str] = {}
        self.was_ready = True
        self.errors: list[str] = []
        """Errors that name no request, and may be the reason if the download does not end."""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def listen_to(self, ib: ReadOnlyIB) -> None:
        ib.updatePortfolioEvent += self._on_item
        ib.accountValueEvent += self._on_value
        ib.accountDownloadEndEvent += self._on_end
        ib.errorEvent += self._on_error
        ib.disconnectedEvent += self._on_disconnected

    def stop_listening_to(self, ib: ReadOnlyIB) -> None:
        ib.updatePortfolioEvent -= self._on_item
        ib.accountValueEvent -= self._on_value
        ib.accountDownloadEndEvent -= self._on_end
        ib.errorEvent -= self._on_error
        ib.disconnectedEvent -= self._on_disconnected

    def _on_item(self, item: PortfolioItem) -> None:
        if item.account == self._account and not self.finished.done():
            self.portfolio[item.contract.conId] = _portfolio_value(item, self._clock())

    def _on_value(self, value: AccountValue) -> None:
        if value.account == self._account and not self.finished.done():
            self.values[value.tag, value.currency] = value.value
            # Ready again does not say that what came before was right.
            self.was_ready = self.was_ready and is_ready({(value.tag, value.currency): value.value})

    def _on_end(self, account: str) -> None:
        if account == self._account and not self.finished.done():
            self.finished.set_result(None)

    def _on_error(self, req_id: int, code: int, text: str, _contract: object) -> None:
        reaction = reaction_to(code)
        if req_id == NO_REQUEST and reaction is Reaction.FAIL_REQUEST:
            # For an account that the login does not manage, IB sends 321 without a request id, and never an end.
            self._fail(AccountFeedError(f"account feed of {self._account} refused: {code} {text}"))
        elif req_id == NO_REQUEST and may_refuse(code, text):
            self.errors.append(f"{code} {text}")
        if reaction is Reaction.FEED_LOST:
            self._fail(
                AccountFeedError(
                    f"account feed of {self._account}: {code} {text}; another client uses it, and IB serves one "
                    "account at a time: close that client's account window or end its subscription"
                )
            )

    def _on_disconnected(self) -> None:
        self._fail(AccountFeedError(f"connection closed during the account download of {self._account}"))

    def _fail(self, error: AccountFeedError) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)


def _portfolio_value(item: PortfolioItem, received_at: datetime) -> PortfolioValue:
    """Convert a portfolio row, of which IB's unset numbers and texts are unknown.

    A price of 0 with a value of 0 says "no data" as well as "worthless"; only the row's own profit shows which: of a
    worthless position it is the whole cost. A negative price is none, but of a future or a spread.
    """
    contract = spec_from_ib(item.contract)
    position, cost = float(item.position), known(item.averageCost)
    price, value = known(item.marketPrice), known(item.marketValue)
    unrealized, realized = known(item.unrealizedPNL), known(item.realizedPNL)
    if position == 0:
        value, unrealized, realized = 0.0, 0.0, _realized_at_the_end(unrealized, realized)
    elif price is not None and price <= 0 and not contract.sec_type.is_signed:
        is_nothing = price != 0 or value != 0 or unrealized is None or cost is None
        if is_nothing or abs((unrealized or 0) + position * (cost or 0)) > _CENT:
            price = value = unrealized = None
    return PortfolioValue(
        contract=contract,
        position=position,
        market_price=price,
        market_value=value,
        average_cost=cost,
        unrealized_pnl=unrealized,
        realized_pnl=realized,
        received_at=received_at,
    )


def _realized_at_the_end(unrealized: float | None, realized: float | None) -> float | None:
    """Return the profit that a closed position has realized.

    IB keeps that of a closed CFD as unrealized on its row of position 0 (taken from reports); earlier parts of it may
    have been realized before. The same amount in both is one profit.
    """
    if not unrealized or realized == unrealized:
        return realized
    return unrealized + (realized or 0.0)
