"""A simulated Flex Web Service over real HTTP, and a clock that passes only when somebody waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache

from pydantic import SecretStr

from v6_pipeline.flex.exchange import FlexLimits
from v6_pipeline.flex.service import WINDOWS, FlexService, SharedPace
from v6_pipeline.paper.flex_server import QUERY_ID, TOKEN, FlexConfig, FlexServer
from v6_pipeline.paper.flex_statements import FlexQuery
from v6_pipeline.paper.past import Past
from v6_pipeline.paper.universe import build_universe
from v6_pipeline.state.pacing.web import wait_for

AS_OF = date(2026, 11, 20)
ACCOUNTS = ("SIM0000001", "SIM0000002")
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FIRST, LAST = date(2026, 11, 2), date(2026, 11, 6)


@cache
def past() -> Past:
    return Past(build_universe(seed=7, as_of=AS_OF, accounts=ACCOUNTS, positions=20))


@dataclass
class VirtualTime:
    """Waiting makes time pass, nothing else does."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.seconds

    def utcnow(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


class OwnPace(SharedPace):
    """The product's windows without a database."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._sent: list[datetime] = []
        self._paused_until = START
        self.pauses: list[float] = []

    def take(self) -> float:
        now = self._time.utcnow()
        wait = max(wait_for(self._sent, WINDOWS, now=now), self._paused_until - now)
        if wait <= timedelta(0):
            self._sent.append(now)
        return max(wait.total_seconds(), 0.0)

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._paused_until = self._time.utcnow() + timedelta(seconds=seconds)


def server_of(time: VirtualTime, *, query: FlexQuery | None = None, in_progress: int = 1) -> FlexServer:
    return FlexServer(
        past,
        FlexConfig(query=query or FlexQuery(), in_progress=in_progress, clock=time.clock, utcnow=time.utcnow),
    )


def service_of(
    server: FlexServer,
    time: VirtualTime,
    *,
    url: str | None = None,
    token: str = TOKEN,
    query_id: str = QUERY_ID,
    limits: FlexLimits | None = None,
    pace: OwnPace | None = None,
) -> FlexService:
    return FlexService(
        url=url or server.url,
        token=SecretStr(token),
        query_id=query_id,
        pace=pace or OwnPace(time),
        limits=limits,
        clock=time.clock,
        sleep=time.sleep,
    )
