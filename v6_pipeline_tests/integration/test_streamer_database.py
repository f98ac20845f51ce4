"""A streamer whose state database answers nothing: no error, no refusal, calls that do not return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest

from v6_pipeline import streamer
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.state import answers
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.streamer import GrantedBy, StreamerLease
from v6_pipeline.streamer import Authority, stream
from v6_pipeline.streaming import stream_lines
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.integration.streamer_rig import QUICK, Rig

pytestmark = pytest.mark.usefixtures("quick_flush")


class Frozen:
    """Every call of the state database hangs in its thread while it is frozen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._runs = threading.Event()
        self._runs.set()
        for name in ("read", "write"):
            monkeypatch.setattr(StateDatabase, name, self._wait_before(getattr(StateDatabase, name)))

    def _wait_before(self, begin: Any) -> Any:
        @contextmanager
        def begin_later(database: StateDatabase) -> Iterator[Any]:
            self._runs.wait()
            with begin(database) as connection:
                yield connection

        return begin_later

    def freeze(self) -> None:
        self._runs.clear()

    def thaw(self) -> None:
        self._runs.set()


@pytest.fixture
def database_frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Frozen]:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(streamer, "LAST_WORD_SECONDS", 0.1)
    monkeypatch.setattr(stream_lines, "RETURN_SECONDS", 0.1)
    frozen = Frozen(monkeypatch)
    yield frozen
    frozen.thaw()


def commits(rig: Rig) -> int:
    handle = rig.lake.table(STREAMED_POSITIONS).load()
    return -1 if handle is None else handle.version()


@pytest.mark.parametrize("authority", [Authority.ALONE, Authority.SPAWNED, Authority.OWNED])
async def test_a_streamer_gives_up_by_its_own_clock_while_every_call_of_the_database_hangs(
    rig: Rig, database_frozen: Frozen, authority: Authority
) -> None:
    rig.registry.add_active("s", rig.held()[:3])
    lease, stop = StreamerLease(rig.database, rig.clock), asyncio.Event()
    epoch = None
    if authority is Authority.SPAWNED:
        epoch = lease.claim("sensor", granted_by=GrantedBy.SENSOR, ttl_seconds=120)
    elif authority is Authority.OWNED:
        lease.grant(ttl_seconds=120)
    running = asyncio.create_task(
        stream(
            rig.settings,
            stop,
            authority=authority,
            epoch=epoch,
            clock=rig.clock,
            elapsed=lambda: rig.clock().timestamp(),
            policy=QUICK,
        )
    )
    await eventually(lambda: len(rig.subscribed()) == 3 or running.done(), "streaming")
    await eventually(lambda: lease.read().heartbeat_at is not None)
    ends_at = lease.read().expires_at
    assert ends_at is not None

    database_frozen.freeze()
    rig.clock.advance((ends_at - rig.clock()).total_seconds() - 4.9)

    # Before another may take over, the gateway has its lines back.
    await eventually(lambda: rig.subscribed() == {}, "the lines cancelled")
    await eventually(lambda: rig.gateway.statistics.clients == set(), "disconnected")
    assert rig.clock() < ends_at
    stop.set()
    await asyncio.wait({running}, timeout=10)
    assert running.done(), "the process may end, whatever its threads wait for"


async def test_a_streamer_writes_nothing_after_the_end_of_its_lease_though_no_other_has_taken_over(
    rig: Rig, database_frozen: Frozen
) -> None:
    """The table itself refuses an old owner only after the first commit of the next one."""
    rig.registry.add_active("s", rig.held()[:3])
    late = [0.0]
    running = asyncio.create_task(
        stream(
            rig.settings,
            asyncio.Event(),
            authority=Authority.ALONE,
            clock=rig.clock,
            elapsed=lambda: late[0],
            policy=QUICK,
        )
    )
    await eventually(lambda: len(rig.subscribed()) == 3 and commits(rig) > 1, "rows")
    database_frozen.freeze()
    late[0] = 1000.0  # as after a sleep of the machine: all timers are due at once
    ticked_at = rig.clock.advance(1)
    rig.gateway.tick_once()

    await asyncio.wait({running}, timeout=10)
    assert running.done()
    handle = rig.lake.table(STREAMED_POSITIONS).load()
    assert handle is not None
    assert pl.scan_delta(handle).select(pl.col("timestamp").max()).collect().item() < ticked_at


async def test_lines_are_cancelled_before_they_expire_though_exchange_rates_hang_first(
    rig: Rig, database_frozen: Frozen
) -> None:
    """The upkeep read them before it renewed the lines, and a call that hung kept it from both."""
    rig.registry.add_active("s", rig.held()[:3])
    async with rig.streaming() as running:
        await eventually(lambda: len(rig.subscribed()) == 3)
        upkeeps = running.upkeeps
        await eventually(lambda: running.upkeeps > upkeeps + 1)

        database_frozen.freeze()
        rig.clock.advance(stream_lines.GIVE_UP_SECONDS)

        await eventually(lambda: rig.subscribed() == {}, "the lines cancelled")
        database_frozen.thaw()
        await eventually(lambda: len(rig.subscribed()) == 3, "streaming again")


async def test_a_stop_is_obeyed_though_the_lake_answers_nothing_at_the_start(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, answers_at_last = threading.Event(), threading.Event()

    def hang(_appender: FencedAppender) -> int:
        opening.set()
        answers_at_last.wait()
        return 0

    monkeypatch.setattr(FencedAppender, "open", hang)
    stop = asyncio.Event()
    running = asyncio.create_task(stream(rig.settings, stop, authority=Authority.ALONE, clock=rig.clock))
    await eventually(opening.is_set)

    stop.set()

    await asyncio.wait_for(running, 10)
    assert StreamerLease(rig.database, rig.clock).read().owner is None
    answers_at_last.set()
