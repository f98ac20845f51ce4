"""The gateway's limit falls and comes back while a streamer and workers go on: how many 101s that draws."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.slots.allocation import Wait
from v6_pipeline.state.slots.ceiling import PROBE_AFTER
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.state.slots.line_model import GatewayLines, Process

CEILING, FLOOR = 27, 3
ACTIVE = range(1, 41)
"""More than there are lines, so that the streamer always wants some."""


class Rig:
    """A streamer and four workers that never run out of work."""

    def __init__(self, database: StateDatabase, clock: ManualClock) -> None:
        self.clock = clock
        self.gateway = GatewayLines(30)
        self.ledger = StepLedger(database, ceiling=CEILING, batch_floor=FLOOR, clock=clock)
        self.streamer = Process(self.ledger, self.gateway, "streamer", SlotPurpose.STREAM)
        self.workers = [Process(self.ledger, self.gateway, f"run {number}", SlotPurpose.BATCH) for number in range(4)]
        self._next: Iterator[int] = count(100)

    def step(self) -> None:
        """Each process once: the streamer as far as it gets, each worker ends its quotes and asks for new lines."""
        self.streamer.request((), ended=self.streamer.shed())
        self.streamer.deliver()
        target = self.ledger.usage().limit.stream_target
        while True:
            wanted = [conid for conid in ACTIVE if conid not in self.streamer.open]
            answer = self.streamer.request(wanted[: max(0, target - len(self.streamer.open))])
            self.streamer.deliver()
            if answer.wait is not Wait.CONFIRM or not answer.granted:
                break
        self.streamer.report()
        for worker in self.workers:
            worker.request([next(self._next) for _ in range(3)], ended=worker.open)
        for worker in self.workers:  # all of them have asked before any of them hears
            worker.deliver()
        for worker in self.workers:
            worker.report()
        self.streamer.ledger.renew("streamer", ttl_seconds=60)
        self.clock.advance(2)

    def seconds(self, number: int) -> int:
        """Return the number of 101s that the gateway sent in that time."""
        before = self.gateway.refusals
        for _ in range(number // 2):
            self.step()
        return self.gateway.refusals - before

    def until_the_next_attempt(self) -> None:
        probe_at = self.ledger.usage().learned.probe_at
        assert probe_at is not None
        self.clock.advance((probe_at - self.clock.now).total_seconds() - 10)
        self.streamer.ledger.acquire(self.streamer.open, holder="streamer", purpose=SlotPurpose.STREAM, ttl_seconds=60)
        self.seconds(10)


@pytest.fixture
def rig(sqlite_database: StateDatabase, clock: ManualClock) -> Rig:
    rig = Rig(sqlite_database, clock)
    rig.seconds(4)
    assert (len(rig.streamer.open), rig.gateway.refusals) == (CEILING - FLOOR, 0)
    return rig


@pytest.mark.parametrize("limit", [24, 12, 0])
def test_a_fall_draws_a_handful_of_101s_and_each_later_attempt_one(rig: Rig, limit: int) -> None:
    rig.gateway.limit = limit

    assert rig.seconds(30) <= 5

    # A line that the gateway granted before stays; that it is the last one there is cannot be known.
    assert len(rig.gateway.lines) <= max(limit, 1)
    for _ in PROBE_AFTER[:2]:
        rig.streamer.ledger.renew("streamer", ttl_seconds=600)
        rig.until_the_next_attempt()
        assert rig.seconds(14) <= 1
        assert rig.ledger.usage().ceiling <= max(limit, 1)


def test_streams_come_back_by_themselves_with_the_limit(rig: Rig) -> None:
    rig.gateway.limit = 12
    rig.seconds(10)
    assert len(rig.streamer.open) <= 9
    rig.gateway.limit = 30
    rig.streamer.ledger.renew("streamer", ttl_seconds=600)
    rig.until_the_next_attempt()

    assert rig.seconds(5) == 0

    assert len(rig.streamer.open) == CEILING - FLOOR
    assert rig.ledger.usage().learned.learned is None
    assert rig.gateway.peak <= CEILING


def test_workers_go_on_with_what_there_is(rig: Rig) -> None:
    """Two lines at a time and one grant: the holder that has waited longest is next."""
    rig.gateway.limit = 12
    rig.seconds(10)
    served = set()
    for _ in range(6):
        rig.step()
        served |= {worker.holder for worker in rig.workers if worker.open}

    assert served == {worker.holder for worker in rig.workers}
