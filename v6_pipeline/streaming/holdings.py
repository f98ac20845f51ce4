"""The broker's position feed: complete downloads, and the changes after them, which it keeps until they are stored.

Does not belong here: which holdings stream (``routing``), and the rows made from holdings (``portfolio``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.positions import download_positions, subscribe_positions
from v6_pipeline.model import Holding
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.keys import Key
from v6_pipeline.state.position_feed import StreamerState
from v6_pipeline.streaming.portfolio import Portfolio

log = logging.getLogger(__name__)

RECHECK_SECONDS = 60.0


class HoldingsFeed:
    """Follows the broker's positions; call ``begin_session`` after each connect. ``on_change`` runs on the loop."""

    def __init__(
        self,
        connection: IBConnectionManager,
        state: StreamerState,
        portfolio: Portfolio,
        *,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._state = state
        self._portfolio = portfolio
        self._clock = clock
        self._on_change = on_change
        self._changes: dict[Key, Holding] = {}
        self.is_complete = False
        """True once a download of this session is complete."""
        self.recheck_seconds: float | None = None
        """Time after which to download again: the last download omitted known positions that no worker has closed.

        In a reset of IB's servers (``AccountReady`` false) the feed may be empty, and no message follows its end.
        """

    async def begin_session(self) -> None:
        """Subscribe to the positions and download them; raises what ``download`` raises."""
        self._changes.clear()
        subscribe_positions(self._connection, self._on_position, self._clock)
        await self.download()
        self.is_complete = True

    def end_session(self) -> None:
        """End the session: every position event counts as a change until the next download."""
        self.is_complete = False

    async def download(self) -> None:
        """Download and store the positions; have known ones that are not in the download verified.

        Raises:
            GatewayError: the download failed.
            StateError: it could not be stored.
        """
        begun_at = self._clock()
        accounts = [account for account in self._connection.accounts if self._portfolio.keeps(account)]
        downloaded = await download_positions(self._connection, self._clock, accounts=accounts)
        kept = [holding for holding in downloaded if self._portfolio.keeps(holding.account)]
        missing = await self._state.take_in_download(kept, accounts, begun_at=begun_at)
        self.recheck_seconds = RECHECK_SECONDS if missing else None
        if missing:
            # One feed that omits a position proves nothing: the worker compares it with the account download.
            log.info("%d holdings are no longer among the positions: to be verified", len(missing))
            await self._state.verify(missing)
        # What changed during the outage. At the first start no holding is known, so nothing counts as changed.
        missed = {item.key: item for item in kept if len(self._portfolio) and self._portfolio.differs(item)}
        self._portfolio.replace(kept)
        # The download's own events say the same as its result; only events after its end are further changes.
        later = {key: item for key, item in self._changes.items() if self._portfolio.differs(item)}
        self._changes = missed | later
        log.info("%d positions in %d accounts", len(kept), len(accounts))

    async def store_changes(self) -> list[Holding]:
        """Store the changes since the last call, and return them; raises ``StateError`` and keeps them if it fails."""
        changed = list(self._changes.values())
        if changed:
            await self._state.take_in_changes(changed)
            self._changes = {key: item for key, item in self._changes.items() if item not in changed}
        return changed

    def _on_position(self, holding: Holding) -> None:
        if not self._portfolio.keeps(holding.account):
            return
        # A later download reports every position again; only one that differs is a change.
        if not self.is_complete or holding.key in self._changes or self._portfolio.differs(holding):
            self._changes[holding.key] = holding
            self._on_change()
