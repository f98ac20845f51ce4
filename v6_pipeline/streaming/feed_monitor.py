"""The streamer's reaction to the broker's notices: since when it is blind, what to subscribe again, when to reconnect.

Sits between the connection, whose message codes and ticks arrive here, and ``FeedHealth``, which judges. It subscribes
nothing itself: renewals go through the routing, a line at a time, so that a line limit that has fallen in the meantime
costs one error 101 instead of eighty.
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
from v6_pipeline.streaming.stream_lines import StreamLines
from v6_pipeline.streaming.streamed_contracts import StreamedContracts

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Number of contracts that a log line names."""
LINK_TIMEOUT = timedelta(minutes=5)
"""A gateway that lost its link to IB has this long to restore it; then a new session is tried, as the notice of the
link's return may be lost."""


class FeedMonitor:
    """Monitors the feeds of one streamer, over all its connections.

    Args:
        is_open: True if the exchange is in session at an instant.
        wake: set when routes change.
        resync: set when positions are to be downloaded again.
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
        self.health = FeedHealth(contracts, is_open)
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
        """When the data of any streamed contract first went away or into doubt; ``None`` if all of it flows."""
        doubts = (self._disconnected_since, self.health.stale_since)
        return min((moment for moment in doubts if moment is not None), default=None)

    @property
    def is_linked(self) -> bool:
        """True while there is a session and, as far as is known, a link from the gateway to IB."""
        return self._disconnected_since is None

    @property
    def is_paused(self) -> bool:
        """True while another login has the market data: a new request would only wait."""
        return self.health.competing_since is not None

    def is_blind(self, conid: int) -> bool:
        """Return True if a subscribed contract's data is away: then only ticks make rows of it."""
        return not self.is_linked or self.health.is_blind(conid)

    @property
    def expected_outage(self) -> str | None:
        """The broker's reset that is expected now, if any."""
        outage = expected_outage(self._clock(), self._region)
        return str(outage) if outage else None

    def begin_session(self) -> None:
        """Begin a connection, on which nothing is subscribed yet."""
        self.health.begin_session()
        self._to_renew.clear()
        self._in_session = True

    def positions_known(self) -> None:
        """Count the streamer as linked: a position download is complete, so the gateway had its link to IB."""
        if self._connection.state is ConnectionState.CONNECTED:
            self._disconnected_since = None

    def end_session(self) -> None:
        """Count the streamer as blind: the connection is gone, or about to be."""
        self._in_session = False
        self._disconnected_since = self._disconnected_since or self._clock()

    def ticked(self, conid: int) -> None:
        """Take a contract's tick as proof of its feed and of the link."""
        was_paused = self.is_paused
        self.health.ticked(conid, self._clock())
        if was_paused and not self.is_paused:
            log.warning("market data is back: contract %d ticks", conid)
            self._wake.set()
        if self._connection.state is ConnectionState.LINK_LOST and not self.health.is_blind(conid):
            log.warning("contract %d ticks, so the link to IB is back although no notice came", conid)
            self._connection.link_proven()
            self._resync.set()

    def take_renewals(self) -> set[int]:
        """Return the contracts to cancel and subscribe again, each of them once."""
        renew, self._to_renew = self._to_renew, set()
        return renew

    async def look(self, now: datetime) -> None:
        """Find contracts that should tick but do not, and a gateway whose link stays down. Call this once a second."""
        if self._in_session and self.is_linked:
            for renewal in self.health.due(now):
                level = logging.INFO if renewal.is_repeated else logging.WARNING
                log.log(level, "%s: %s subscribed again", renewal.reason, _named(renewal.conids))
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
                self.health.link_lost(now)
                self._disconnected_since = self._disconnected_since or now
            case Reaction.VERIFY if self._in_session:
                self.health.link_restored(now, farms_away=farms_away(text))
                self._resync.set()
            case Reaction.RESUBSCRIBE if self._in_session:
                # The feeds come first: their state depends on what streamed until now.
                self.health.resubscribed(now)
                self._lines.market_data_lost()
                self._resync.set()
            case Reaction.FARM_BROKEN:
                self.health.farm_broken(farm_of(text), now)
            case Reaction.FARM_OK:
                self.health.farm_ok(farm_of(text), now)
            case Reaction.COMPETING_SESSION if self.health.competing_session(now):
                log.warning(
                    "%d %s: another login of this username has the market data (TWS, phone, live or paper); streams "
                    "pause until it ends, values still come from the account: end that login, or use a username of "
                    "its own for the API",
                    code,
                    text,
                )
            case _:
                pass


def _named(conids: frozenset[int]) -> str:
    """Return the number of contracts and the conids of the first."""
    more = ", …" if len(conids) > MOST_NAMED else ""
    return f"{len(conids)} contracts ({', '.join(map(str, sorted(conids)[:MOST_NAMED]))}{more})"
