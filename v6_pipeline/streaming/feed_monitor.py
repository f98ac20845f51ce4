"""What the streamer makes of the broker's notices: since when it is blind, what to subscribe again, whether to go on.

Between the connection, whose message codes and ticks it hears, and ``FeedHealth``, which judges. It subscribes nothing
itself: what has to be asked for again goes through the routing like everything else, a line at a time, so that a line
limit that has fallen meanwhile is found out by one error 101 and not by eighty.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from v6_pipeline.ib.codes import Reaction, farm_of, farms_away, reaction_to
from v6_pipeline.ib.connection import ConnectionState, IBConnectionManager
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.model import IBRegion
from v6_pipeline.streaming.feed_health import FeedHealth
from v6_pipeline.streaming.status import FeedStatus
from v6_pipeline.streaming.stream_lines import StreamLines
from v6_pipeline.streaming.streamed_contracts import StreamedContracts

log = logging.getLogger(__name__)

LINK_TIMEOUT = timedelta(minutes=5)
"""A gateway without its link to IB is left to itself for that long; then a new session is tried, for the notice of its
return may be lost."""


class FeedMonitor:
    """Watches the feeds of one streamer, over all its connections.

    Args:
        connection: whose notices are heard.
        lines: what is subscribed.
        contracts: the records of the streamed contracts.
        is_open: whether the exchange is in session at an instant.
        region: decides when the broker's resets are.
        clock: UTC now.
        wake: set when the routing has something new to do.
        resync: set when positions are to be asked for again.
    """

    def __init__(
        self,
        connection: IBConnectionManager,
        lines: StreamLines,
        contracts: StreamedContracts,
        *,
        is_open: Callable[[datetime], bool],
        region: IBRegion,
        clock: Callable[[], datetime],
        wake: asyncio.Event,
        resync: asyncio.Event,
    ) -> None:
        self._connection = connection
        self._lines = lines
        self._health = FeedHealth(contracts, is_open)
        self._region = region
        self._clock = clock
        self._wake = wake
        self._resync = resync
        self._in_session = False
        self._disconnected_since: datetime | None = clock()
        self._to_renew: set[int] = set()
        connection.add_error_listener(self._on_error)

    @property
    def blind_since(self) -> datetime | None:
        """Since when data of some streamed contract is away or not believed; ``None`` if all of it flows."""
        doubts = (self._disconnected_since, self._health.stale_since)
        return min((moment for moment in doubts if moment is not None), default=None)

    @property
    def is_linked(self) -> bool:
        """Whether there is a session, and a link from the gateway to IB, as far as is known."""
        return self._disconnected_since is None

    @property
    def is_paused(self) -> bool:
        """Whether another login has the market data: a new request would only wait."""
        return self._health.competing_since is not None

    def is_blind(self, conid: int) -> bool:
        """Whether a subscribed contract's data is away: without a tick no row is made of it."""
        return not self.is_linked or self._health.is_blind(conid)

    @property
    def feeds(self) -> dict[str, FeedStatus]:
        """The feeds that do not flow, by name."""
        return self._health.describe()

    @property
    def competing_since(self) -> datetime | None:
        """Start of another login's hold on the market data; ``None`` while there is none."""
        return self._health.competing_since

    @property
    def expected_outage(self) -> str | None:
        """The broker's reset that is expected now, if any."""
        outage = expected_outage(self._clock(), self._region)
        return str(outage) if outage else None

    def begin_session(self) -> None:
        """A new connection, on which nothing is subscribed yet."""
        self._health.begin_session()
        self._to_renew.clear()
        self._in_session = True

    def positions_known(self) -> None:
        """A position download is complete: from here on the streamer sees, if the gateway does."""
        if self._connection.state is ConnectionState.CONNECTED:
            self._disconnected_since = None

    def end_session(self) -> None:
        """The connection is gone, or about to be."""
        self._in_session = False
        self._disconnected_since = self._disconnected_since or self._clock()

    def ticked(self, conid: int) -> None:
        """A contract brought data."""
        was_paused = self.is_paused
        self._health.ticked(conid, self._clock())
        if was_paused and not self.is_paused:
            log.warning("market data is back: contract %d ticks", conid)
            self._wake.set()
        if self._connection.state is ConnectionState.LINK_LOST and not self._health.is_blind(conid):
            log.warning("contract %d ticks, so the link to IB is back although nothing said so", conid)
            self._connection.link_proven()
            self._resync.set()

    def take_renewals(self) -> set[int]:
        """Contracts whose subscription is to be ended and made anew; asking takes them."""
        renew, self._to_renew = self._to_renew, set()
        return renew

    async def look(self, now: datetime) -> None:
        """Once a second: find what should tick and does not, and a gateway that will not find its link again."""
        if self._in_session and self.is_linked:
            for renewal in self._health.due(now):
                log.warning("%s: %d contracts are subscribed again", renewal.reason, len(renewal.conids))
                self._to_renew |= renewal.conids
                self._wake.set()
        lost_since = self._disconnected_since
        if self._connection.state is not ConnectionState.LINK_LOST or lost_since is None:
            return
        if now - lost_since >= LINK_TIMEOUT and expected_outage(now, self._region) is None:
            await self._connection.close(f"no link to IB since {lost_since:%H:%M} UTC")

    def _on_error(self, _req_id: int, code: int, text: str) -> None:
        now = self._clock()
        match reaction_to(code, text):
            case Reaction.LINK_LOST:
                self._health.link_lost(now)
                self._disconnected_since = self._disconnected_since or now
            case Reaction.VERIFY if self._in_session:
                self._health.link_restored(now, farms_away=farms_away(text))
                self._resync.set()
            case Reaction.RESUBSCRIBE if self._in_session:
                # First the feeds, whose state depends on what streamed until now.
                self._health.resubscribed(now)
                self._lines.market_data_lost()
                self._resync.set()
            case Reaction.FARM_BROKEN:
                self._health.farm_broken(farm_of(text), now)
            case Reaction.FARM_OK:
                self._health.farm_ok(farm_of(text), now)
            case Reaction.COMPETING_SESSION if self._health.competing_session(now):
                log.warning(
                    "%d %s: another login of this username has the market data (TWS, phone, live or paper); streams "
                    "pause until it ends, values still come from the account: end that login, or use a username of "
                    "its own for the API",
                    code,
                    text,
                )
            case _:
                pass
