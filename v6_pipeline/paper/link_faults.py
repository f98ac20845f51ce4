"""Faults between the gateway and IB: the link, the data farms, a competing session.

Belongs here: how such a fault begins and ends, and who is told in which words. What it does to ticks is `conditions`.
Every public method is an action; see `actions`.
"""

from collections.abc import Callable, Collection
from enum import StrEnum

from v6_pipeline.paper.conditions import Farm, farm_notice, farm_of
from v6_pipeline.paper.contracts import Contract
from v6_pipeline.paper.fields import ClientId, Seconds
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.market_data import COMPETING_SESSION, MarketDataDesk
from v6_pipeline.paper.session import ClientSession, Subscription
from v6_pipeline.paper.timers import Timers

LINK_LOST = "Connectivity between IB and Trader Workstation has been lost."
SERVER_BROKEN = "Connectivity between Trader Workstation and server is broken. It will be restored automatically."


class LinkData(StrEnum):
    """What a restored link says of the data, and whether that is true: dead ones are said to be kept."""

    KEPT = "kept"
    LOST = "lost"
    DEAD = "dead"


class LinkFaults:
    """Faults between one gateway and IB; `sessions` lists the clients that are logged in."""

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
        """Tell a client that has just logged in how things stand."""
        link = self._market.link
        if not link.is_up:
            session.error(-1, 1100, LINK_LOST)
            return
        for farm in Farm:
            session.error(-1, *farm_notice(farm, is_ok=farm not in link.broken))

    def link_lost(self) -> None:
        """1100: no ticks, no portfolio updates, no contract details; again while it lasts: 1100 again."""
        self._timers.cancel("server")
        self._market.link.is_up = False
        self._tell(1100, LINK_LOST)

    def link_restored(self, data: LinkData = LinkData.KEPT) -> None:
        """1102, data kept; or 1101, and every subscription is gone; or a 1102 after which no stream ticks again."""
        self._timers.cancel("server")
        self._market.link.is_up = True
        if data == LinkData.LOST:
            for session in self._sessions():
                self._desk.disconnected(session)
        elif data == LinkData.DEAD:
            self.kill_streams()
        code, outcome = (1101, "data lost") if data == LinkData.LOST else (1102, "data maintained")
        self._tell(
            code, f"Connectivity between IB and Trader Workstation has been restored - {outcome}. {self._farms()}"
        )

    def server_broken(self, seconds: Seconds, *, silent: bool = False) -> None:
        """2110: as a lost link, which restores itself; with 1102, or silently with ticks."""
        self._market.link.is_up = False
        self._tell(2110, SERVER_BROKEN)
        self._timers.after("server", seconds, self._link_up if silent else self.link_restored)

    def farm_broken(self, farm: Farm, seconds: Seconds | None = None, *, dead: bool = False) -> None:
        """2103, 2105 or 2157: nothing comes from the farm, for `seconds` or until it is OK; see `farm_ok`."""
        self._market.link.broken.add(farm)
        self._tell(*farm_notice(farm, is_ok=False))
        self._timers.cancel(farm)
        if seconds is not None:
            self._timers.after(farm, seconds, lambda: self.farm_ok(farm, dead=dead))

    def farm_ok(self, farm: Farm, *, dead: bool = False) -> None:
        """2104, 2106 or 2158: ticks come again; or it says so, and its streams stay dead until asked for again."""
        self._timers.cancel(farm)
        self._market.link.broken.discard(farm)
        if dead:
            self._kill(lambda contract: farm_of(contract) == farm)
        self._tell(*farm_notice(farm, is_ok=True))

    def competing_session(self, seconds: Seconds | None = None, *, dead: bool = False) -> None:
        """10197 on every request, open and new, and no ticks; for `seconds` or until it has ended."""
        self._market.link.is_competing = True
        for session, subscription in self._streams():
            session.error(subscription.ticker_id, 10197, COMPETING_SESSION)
        self._timers.cancel("competing")
        if seconds is not None:
            self._timers.after("competing", seconds, lambda: self.competing_session_ended(dead=dead))

    def competing_session_ended(self, *, dead: bool = False) -> None:
        """Ticks come again, without a word; or only for requests that are made from now on."""
        self._timers.cancel("competing")
        self._market.link.is_competing = False
        if dead:
            self.kill_streams()

    def kill_streams(self, conids: list[int] | None = None, client_id: ClientId | None = None) -> None:
        """Streams go dead without a word: their lines stay taken, and no tick comes until they are asked for again."""
        self._kill(lambda contract: conids is None or contract.conid in conids, client_id)

    def heal(self) -> None:
        """End all that lasts, and say so."""
        for farm in sorted(self._market.link.broken):
            self.farm_ok(farm)
        self.competing_session_ended()
        if not self._market.link.is_up:
            self.link_restored()

    def _link_up(self) -> None:
        self._market.link.is_up = True

    def _kill(self, is_hit: Callable[[Contract], bool], client_id: int | None = None) -> None:
        for session, subscription in self._streams():
            if client_id in {None, session.client_id} and is_hit(subscription.contract):
                subscription.is_dead = True

    def _streams(self) -> list[tuple[ClientSession, Subscription]]:
        return [
            (session, subscription)
            for session in self._sessions()
            for subscription in session.subscriptions.market_data.values()
        ]

    def _tell(self, code: int, text: str) -> None:
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
