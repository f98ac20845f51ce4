"""Faults between the gateway and IB: the link, the data farms, a competing session.

Every public method but `greet` and `heal` is an action; see `actions`. `conditions` holds the state of the faults.
"""

from collections.abc import Callable, Collection
from enum import StrEnum

from v6_pipeline.paper.conditions import Farm, farm_notice, farm_of
from v6_pipeline.paper.contracts import Contract
from v6_pipeline.paper.fields import ClientId, Seconds
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.market_data import COMPETING_SESSION, MarketDataDesk
from v6_pipeline.paper.session import ClientSession, streams
from v6_pipeline.paper.timers import Timers

LINK_LOST = "Connectivity between IB and Trader Workstation has been lost."
SERVER_BROKEN = "Connectivity between Trader Workstation and server is broken. It will be restored automatically."


class LinkData(StrEnum):
    """State of the subscriptions after the link is restored; DEAD ones are reported as kept."""

    KEPT = "kept"
    LOST = "lost"
    DEAD = "dead"


class LinkFaults:
    """Faults between one gateway and IB; `sessions` lists the logged-in clients."""

    def __init__(
        self,
        market: Market,
        desk: MarketDataDesk,
        timers: Timers,
        sessions: Callable[[], Collection[ClientSession]],
    ) -> None:
        self._market = market
        self._desk = desk
        self._timers = timers
        self._sessions = sessions

    def greet(self, session: ClientSession) -> None:
        """Send the state of the link and the farms to a client that has just logged in."""
        link = self._market.link
        if not link.is_up:
            session.error(-1, 1100, LINK_LOST)
            return
        for farm in Farm:
            session.error(-1, *farm_notice(farm, is_ok=farm not in link.broken))

    def link_lost(self) -> None:
        """Lose the link (1100): no ticks, portfolio updates or contract details; repeated while down: 1100 again."""
        self._timers.cancel("server")
        self._market.link.is_up = False
        self._notify(1100, LINK_LOST)

    def link_restored(self, data: LinkData = LinkData.KEPT) -> None:
        """Restore the link: 1102 with data kept; 1101 without any subscription; or 1102 with streams that stay dead."""
        self._timers.cancel("server")
        self._market.link.is_up = True
        if data == LinkData.LOST:
            for session in self._sessions():
                self._desk.disconnected(session)
        elif data == LinkData.DEAD:
            self.kill_streams()
        code, outcome = (1101, "data lost") if data == LinkData.LOST else (1102, "data maintained")
        self._notify(
            code, f"Connectivity between IB and Trader Workstation has been restored - {outcome}. {self._farms()}"
        )

    def server_broken(self, seconds: Seconds, *, silent: bool = False) -> None:
        """Break the server (2110): a lost link that restores itself, with 1102 or without notice."""
        self._market.link.is_up = False
        self._notify(2110, SERVER_BROKEN)
        self._timers.after("server", seconds, self._link_up if silent else self.link_restored)

    def farm_broken(self, farm: Farm, seconds: Seconds | None = None, *, dead: bool = False) -> None:
        """Break a farm (2103, 2105 or 2157): no data from it, for `seconds` or until `farm_ok`."""
        self._market.link.broken.add(farm)
        self._notify(*farm_notice(farm, is_ok=False))
        self._timers.cancel(farm)
        if seconds is not None:
            self._timers.after(farm, seconds, lambda: self.farm_ok(farm, dead=dead))

    def farm_ok(self, farm: Farm, *, dead: bool = False) -> None:
        """Restore a farm (2104, 2106 or 2158); if `dead`, its streams send nothing until they are requested again."""
        self._timers.cancel(farm)
        self._market.link.broken.discard(farm)
        if dead:
            self._kill(lambda contract: farm_of(contract) == farm)
        self._notify(*farm_notice(farm, is_ok=True))

    def competing_session(self, seconds: Seconds | None = None, *, dead: bool = False) -> None:
        """Begin a competing session: 10197 on every request and no ticks, for `seconds` or until it is ended."""
        self._market.link.is_competing = True
        for session, subscription in streams(self._sessions()):
            session.error(subscription.ticker_id, 10197, COMPETING_SESSION)
        self._timers.cancel("competing")
        if seconds is not None:
            self._timers.after("competing", seconds, lambda: self.competing_session_ended(dead=dead))

    def competing_session_ended(self, *, dead: bool = False) -> None:
        """End the competing session without notice; if `dead`, only new requests receive ticks."""
        self._timers.cancel("competing")
        self._market.link.is_competing = False
        if dead:
            self.kill_streams()

    def kill_streams(self, conids: list[int] | None = None, client_id: ClientId | None = None) -> None:
        """Kill streams without notice: their lines stay taken, and no tick comes until they are requested again."""
        self._kill(lambda contract: conids is None or contract.conid in conids, client_id)

    def heal(self) -> None:
        """End all faults and notify the clients."""
        for farm in sorted(self._market.link.broken):
            self.farm_ok(farm)
        self.competing_session_ended()
        if not self._market.link.is_up:
            self.link_restored()

    def _link_up(self) -> None:
        self._market.link.is_up = True

    def _kill(self, is_hit: Callable[[Contract], bool], client_id: int | None = None) -> None:
        for session, subscription in streams(self._sessions()):
            if client_id in {None, session.client_id} and is_hit(subscription.contract):
                subscription.is_dead = True

    def _notify(self, code: int, text: str) -> None:
        for session in self._sessions():
            session.error(-1, code, text)

    def _farms(self) -> str:
        broken = self._market.link.broken
        if not broken:
            return f"All data farms are connected: {'; '.join(Farm)}."
        connected = "; ".join(farm for farm in Farm if farm not in broken)
        return f"The following farms are connected: {connected}. The following farms are not connected: " + (
            "; ".join(farm for farm in Farm if farm in broken) + "."
        )
