"""At no instant do streams and batches exceed the ceiling, or streams their part of it, whatever the interleaving."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.slots import SlotLedger, SlotUsage
from v6_pipeline_tests.unit.state.databases import ManualClock, copy_of, sqlite_url

CEILING, FLOOR = 6, 2
CONIDS = st.lists(st.integers(1, 8), max_size=8)
HOLDERS = st.sampled_from(["streamer", "old streamer", "run 1", "run 2"])
TTLS = st.sampled_from([10, 30, 60])


def _check(usage: SlotUsage) -> None:
    assert len(usage.slots) <= CEILING
    assert usage.streams <= CEILING - FLOOR
    streamed = [slot.conid for slot in usage.slots if slot.purpose is SlotPurpose.STREAM]
    assert len(streamed) == len(set(streamed))


class LedgerMachine(RuleBasedStateMachine):
    """Several ledgers on one database, against a dictionary."""

    template: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "state.db"
        self.databases = [copy_of(self.template, path), StateDatabase.open(sqlite_url(path), name_for_messages="2nd")]
        self.clock = ManualClock()
        self.ledgers = [
            SlotLedger(database, ceiling=CEILING, batch_floor=FLOOR, clock=self.clock) for database in self.databases
        ]
        self.model: dict[tuple[int, str], tuple[SlotPurpose, float]] = {}
        self.seconds = 0.0

    def teardown(self) -> None:
        for database in self.databases:
            database.close()
        self.folder.cleanup()

    @initialize(conids=CONIDS)
    def start_streaming(self, conids: list[int]) -> None:
        self.acquire(0, conids, "streamer", SlotPurpose.STREAM, 60)

    @rule(which=st.sampled_from([0, 1]), conids=CONIDS, holder=HOLDERS, purpose=st.sampled_from(SlotPurpose), ttl=TTLS)
    def acquire(self, which: int, conids: list[int], holder: str, purpose: SlotPurpose, ttl: int) -> None:
        answer = self.ledgers[which].acquire(conids, holder=holder, purpose=purpose, ttl_seconds=ttl)

        assert sorted(answer.granted + answer.refused) == sorted(set(conids))
        for conid in answer.granted:
            self.model[conid, holder] = (purpose, self.seconds + ttl)
        for conid in answer.refused:
            assert self._may_be_refused(conid, holder, purpose)

    def _may_be_refused(self, conid: int, holder: str, purpose: SlotPurpose) -> bool:
        """Only for want of a line, or because the contract is taken: a ledger that refuses everything is safe, too."""
        live = self._live()
        streams = [key for key, (what, _) in live.items() if what is SlotPurpose.STREAM]
        is_full = len(live) == CEILING or (purpose is SlotPurpose.STREAM and len(streams) == CEILING - FLOOR)
        is_streamed = purpose is SlotPurpose.STREAM and conid in {key[0] for key in streams}
        return is_full or is_streamed or (conid, holder) in live

    @rule(which=st.sampled_from([0, 1]), holder=HOLDERS, ttl=TTLS)
    def renew(self, which: int, holder: str, ttl: int) -> None:
        kept = self.ledgers[which].renew(holder, ttl_seconds=ttl)

        live = self._live()
        assert kept == {conid for conid, owner in live if owner == holder}
        for conid in kept:
            self.model[conid, holder] = (live[conid, holder][0], self.seconds + ttl)

    @rule(which=st.sampled_from([0, 1]), holder=HOLDERS, conids=st.none() | CONIDS)
    def release(self, which: int, holder: str, conids: list[int] | None) -> None:
        gone = [key for key in self._live() if key[1] == holder and (conids is None or key[0] in conids)]

        assert self.ledgers[which].release(holder, conids) == len(gone)
        for key in gone:
            del self.model[key]

    @rule(seconds=st.sampled_from([1, 10, 29, 60]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.seconds += seconds

    @invariant()
    def nothing_is_exceeded_and_nothing_is_forgotten(self) -> None:
        usage = self.ledgers[1].usage()
        _check(usage)
        assert {(slot.conid, slot.holder): slot.purpose for slot in usage.slots} == {
            key: purpose for key, (purpose, _) in self._live().items()
        }

    def _live(self) -> dict[tuple[int, str], tuple[SlotPurpose, float]]:
        return {key: value for key, value in self.model.items() if value[1] > self.seconds}


def test_ledgers_agree_with_the_model(sqlite_template: Path) -> None:
    LedgerMachine.template = sqlite_template
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            phases=[Phase.generate],  # to shrink a failure takes minutes of database work
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


_HAMMER = """
import json, random, sys
from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.slots import SlotLedger

url, name, purpose = sys.argv[1:]
database = StateDatabase.open(url, name_for_messages="state")
ledger = SlotLedger(database, ceiling=6, batch_floor=2)
chance = random.Random(name)
print("ready", flush=True)
sys.stdin.readline()
ledger.acquire(chance.sample(range(1, 13), 5), holder=name, purpose=SlotPurpose(purpose), ttl_seconds=3600)
print("taken", flush=True)
sys.stdin.readline()
seen = []
for _ in range(40):
    conids = chance.sample(range(1, 13), 5)
    ledger.acquire(conids, holder=name, purpose=SlotPurpose(purpose), ttl_seconds=3600)
    usage = ledger.usage()
    seen.append([usage.streams, usage.batches])
    ledger.release(name, chance.sample(conids, 3))
    if chance.random() < 0.2:
        ledger.release(name)
print(json.dumps(seen), flush=True)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_hammer_one_ledger_never_exceed_it(
    kind: str, request: pytest.FixtureRequest, sqlite_database: StateDatabase, tmp_path: Path
) -> None:
    database, url = sqlite_database, sqlite_url(tmp_path / "state.db")
    if kind == "postgresql":
        database, url = request.getfixturevalue("postgres_database"), request.getfixturevalue("postgres_url")
    ledger = SlotLedger(database, ceiling=CEILING, batch_floor=FLOOR)
    names = {"streamer 1": "stream", "streamer 2": "stream", "run 1": "batch", "run 2": "batch"}

    seen = [usage for answer in _run_together(url, names, ledger) for usage in answer]

    assert len(seen) == 4 * 40
    assert all(streams <= CEILING - FLOOR and streams + batches <= CEILING for streams, batches in seen)


def _run_together(url: str, names: dict[str, str], ledger: SlotLedger) -> Iterable[list[list[int]]]:
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen([sys.executable, "-c", _HAMMER, url, *item], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for item in names.items()
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    _go(children)
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "taken\n"
    # Each asked once for more than is left: in whatever order, together they have all there is.
    assert len(ledger.usage().slots) == CEILING
    _go(children)
    for child in children:
        output, errors = child.communicate(timeout=90)
        assert errors == ""
        yield json.loads(output)


def _go(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
