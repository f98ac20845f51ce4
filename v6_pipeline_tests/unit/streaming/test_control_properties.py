"""The streamer's control, whatever happens in whichever order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from v6_pipeline.settings import Settings, StreamerMode
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease
from v6_pipeline.streaming.control import StreamerControl
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.state.databases import ManualClock, copy_of
from v6_pipeline_tests.unit.streaming.control_doubles import Spawned, dead, elsewhere

SPAWN, SUPERVISED = StreamerMode.SPAWN, StreamerMode.SUPERVISED

STEP = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from([SPAWN, SUPERVISED])),
    st.tuples(st.just("advance"), st.sampled_from([1, 10, 31, 61, 130])),
    st.tuples(st.just("attach"), st.sampled_from(["elsewhere", "dead"])),
    st.tuples(
        st.sampled_from(["heartbeat", "fail", "claim grant", "claim alone", "release", "stop", "run"]), st.none()
    ),
)
_numbers = itertools.count()


class Simulation:
    """A lease, its control plane and everybody else who may touch it."""

    def __init__(self, database: StateDatabase, home: Path) -> None:
        self._database = database
        self._home = home
        self._clock = ManualClock()
        self._leases = StreamerLease(database, self._clock)
        self._spawned = Spawned(database, self._clock)

    def do(self, name: str, value: Any) -> None:
        leases = self._leases
        state = leases.read()
        steps: dict[str, Callable[[], object]] = {
            "tick": lambda: self._tick(value),
            "advance": lambda: self._clock.advance(value),
            "claim grant": lambda: leases.claim_grant("supervised", elsewhere()),
            "claim alone": lambda: leases.claim(
                "alone", granted_by=GrantedBy.SELF, ttl_seconds=120, process=elsewhere()
            ),
            "release": lambda: leases.release(state.epoch),
            "stop": leases.request_stop,
            "run": leases.request_run,
        }
        owners_steps: dict[str, Callable[[], object]] = {
            "attach": lambda: leases.attach(state.epoch, dead() if value == "dead" else elsewhere()),
            "heartbeat": lambda: leases.heartbeat(state.epoch, {}),
            "fail": lambda: leases.heartbeat(state.epoch, {"error": "no gateway"}),
        }
        if state.is_live(self._clock.now):
            steps |= owners_steps
        if name in steps:
            steps[name]()

    def _tick(self, mode: StreamerMode) -> None:
        before, ever = self._leases.read(), list(self._spawned.epochs)
        control = StreamerControl(Settings(home=self._home, streamer=mode), self._database, self._clock, self._spawned)
        control.tick()
        after, new = self._leases.read(), self._spawned.epochs[len(ever) :]
        was_live = before.is_live(self._clock.now)

        assert len(new) <= 1
        assert all(epoch > max([before.epoch, *ever]) for epoch in new)
        if before.desired_state is DesiredState.STOP or (was_live and before.granted_by is GrantedBy.SELF):
            assert after == before
        if after.epoch != before.epoch or (was_live and not after.is_live(self._clock.now)):
            assert not self._leases.renew(before.epoch, ttl_seconds=1), "the former owner could go on"


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=3, max_size=25))
def test_there_are_never_two_owners_and_requests_are_respected(
    steps: list[tuple[str, Any]], sqlite_template: Path, tmp_path: Path
) -> None:
    database = copy_of(sqlite_template, tmp_path / f"{next(_numbers)}.db")
    try:
        simulation = Simulation(database, tmp_path)
        for name, value in steps:
            simulation.do(name, value)
    finally:
        database.close()
