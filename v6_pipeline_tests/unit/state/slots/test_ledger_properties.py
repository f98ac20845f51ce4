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
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.slots.allocation import AcquiredSlots, SlotUsage, Wait
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.state.databases import ManualClock, copy_of, sqlite_url
from v6_pipeline_tests.unit.state.slots.line_model import TTL, GatewayLines, Process

STREAM, BATCH = SlotPurpose.STREAM, SlotPurpose.BATCH
CEILING, FLOOR, UNCONFIRMED = 6, 2, 2
CONIDS = st.lists(st.integers(1, 8), max_size=8, unique=True)
WHO = st.sampled_from(["streamer", "other streamer", "run 1", "run 2"])


class LedgerMachine(RuleBasedStateMachine):
    """Four processes with a ledger each on two connections to one file, and the lines as the gateway has them."""

    template: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "state.db"
        self.databases = [copy_of(self.template, path), StateDatabase.open(sqlite_url(path), name_for_messages="2nd")]
        self.clock = ManualClock()
        self.gateway = GatewayLines(CEILING)
        self.started = 0
        self.processes: dict[str, Process] = {}
        for role in ("streamer", "other streamer", "run 1", "run 2"):
            self._start(role)
        self.watcher = self._ledger()

    def teardown(self) -> None:
        """Whatever happened, nothing is left over once all have gone and their leases have run out."""
        for role in list(self.processes):
            self.crash(role)
        self.clock.advance(TTL)
        usage = self.watcher.usage()
        assert (usage.slots, usage.demands) == ((), ())
        for database in self.databases:
            database.close()
        self.folder.cleanup()

    def _ledger(self) -> StepLedger:
        database = self.databases[self.started % 2]
        return StepLedger(database, ceiling=CEILING, batch_floor=FLOOR, clock=self.clock, unconfirmed_lines=UNCONFIRMED)

    def _start(self, role: str) -> None:
        self.started += 1
        purpose = STREAM if "streamer" in role else BATCH
        holder = f"{role}/{self.started}"
        self.processes[role] = Process(self._ledger(), self.gateway, holder, purpose)

    @rule(role=WHO, conids=CONIDS, ended=CONIDS)
    def turn(self, role: str, conids: list[int], ended: list[int]) -> None:
        process = self.processes[role]
        process.request((), ended=ended)  # so that the ledger as it is seen here is the one that the grant is made from
        before = self.watcher.usage()
        answer = process.request(conids)
        self._check_grant(before, process, answer)

    @rule(role=WHO)
    def fill(self, role: str) -> None:
        """Take all available lines, each confirmed before the next, so that the ceilings are reached."""
        process = self.processes[role]
        process.deliver()
        while True:
            process.report()
            before = self.watcher.usage()
            answer = process.request(conid for conid in range(1, 9) if conid not in process.open)
            self._check_grant(before, process, answer)
            process.deliver()
            if not answer.granted:
                return

    def _check_grant(self, before: SlotUsage, process: Process, answer: AcquiredSlots) -> None:
        mine = {slot.conid for slot in before.slots if slot.holder == process.holder}
        new = [conid for conid in answer.granted if conid not in mine]
        after = self.watcher.usage()
        if new:
            allowed = 1 if before.limit.is_careful else UNCONFIRMED
            assert not before.limit.is_paused
            assert after.unconfirmed <= allowed
            assert len(after.slots) <= before.ceiling + before.limit.probe
            if process.purpose is STREAM:
                assert after.streams <= before.limit.stream_capacity + before.limit.probe
            elif before.stream_demand:
                assert after.batches <= before.batch_floor
        elif process.purpose is BATCH and answer.wait is not Wait.NOT_NEEDED:
            # Demand never takes from batches what is theirs: below the floor a line that is there is given, unless
            # another batch has more need of it or is still being confirmed.
            assert (
                before.new_lines == 0
                or before.free == 0
                or self._others_wait(before, process)
                or (before.stream_demand and before.batches >= before.batch_floor)
            )
        if process.purpose is STREAM and not new and answer.wait is Wait.NONE_LEFT:
            assert before.streams >= before.limit.stream_capacity or before.batches <= before.batch_floor

    @staticmethod
    def _others_wait(usage: SlotUsage, process: Process) -> bool:
        batches = {slot.holder for slot in usage.slots if slot.purpose is BATCH}
        batches |= {item.holder for item in usage.demands if item.purpose is BATCH}
        return bool(batches - {process.holder})

    @rule(role=WHO)
    def round_trip(self, role: str) -> None:
        self.processes[role].deliver()

    @rule(role=WHO)
    def report(self, role: str) -> None:
        self.processes[role].report()

    @rule(role=WHO)
    def settle(self, role: str) -> None:
        """The usual course, so that there is something to lose."""
        self.round_trip(role)
        self.report(role)

    @rule(role=WHO)
    def give_up_what_is_due(self, role: str) -> None:
        process = self.processes[role]
        due = process.shed()
        if process.purpose is BATCH:
            usage = self.watcher.usage()
            yielded = sum(len(usage.to_yield(item.holder)) for item in self.processes.values())
            assert yielded <= max(0, usage.batches - usage.batch_floor)
        process.request((), ended=due)

    @rule(role=WHO)
    def crash(self, role: str) -> None:
        self.processes[role].crash()
        self._start(role)

    @rule(role=WHO)
    def die_and_be_succeeded(self, role: str) -> None:
        """After its lease the dead one's lines are another's, the same contracts among them."""
        self.crash(role)
        self.wait(TTL)
        self.fill(role)

    @rule(role=WHO)
    def end(self, role: str) -> None:
        """End a holder in order: cancel, disconnect, release."""
        process = self.processes[role]
        self.gateway.disconnect(process.holder)
        process.ledger.release(process.holder)
        self._start(role)

    @rule(limit=st.integers(0, CEILING))
    def tws_takes_or_returns_lines(self, limit: int) -> None:
        self.gateway.limit = limit

    @rule(seconds=st.sampled_from([1, 2, 10, 30, 120, 480]))
    def wait(self, seconds: int) -> None:
        """The living renew in time."""
        while seconds > 0:
            step = min(seconds, TTL // 2)
            self.clock.advance(step)
            seconds -= step
            for process in self.processes.values():
                if not process.stands_still:
                    process.renew()

    @rule(role=WHO, seconds=st.sampled_from([1, TTL - 1, TTL, 3 * TTL]))
    def stand_still(self, role: str, seconds: int) -> None:
        """Stopped with its lines, and continued: lines that expired in the meantime are cancelled first."""
        process = self.processes[role]
        process.stands_still = True
        self.wait(seconds)
        for other in ("streamer", "run 1", "run 2"):
            if other != role:
                self.fill(other)
                self.the_ledger_covers_what_the_gateway_has()
        process.stands_still = False
        process.renew()
        process.deliver()

    @invariant()
    def the_ledger_covers_what_the_gateway_has(self) -> None:
        usage = self.watcher.usage()
        known = {(slot.holder, slot.conid) for slot in usage.slots}
        moving = [process for process in self.processes.values() if not process.stands_still]
        lines = {line for line in self.gateway.lines if line[0] in {process.holder for process in moving}}
        assert lines <= known
        assert {(process.holder, conid) for process in moving for conid in process.open} <= known | {
            (process.holder, conid) for process in moving for conid in process.changes.exhausted
        }
        assert len(lines) <= len(known) <= CEILING
        assert usage.streams <= CEILING - FLOOR
        streamed = [slot.conid for slot in usage.slots if slot.purpose is STREAM]
        assert len(streamed) == len(set(streamed))
        assert all(
            (slot.holder, slot.conid) in self.gateway.lines
            for slot in usage.slots
            if slot.is_standing and any(slot.holder == process.holder for process in self.processes.values())
        )


def test_ledgers_agree_with_the_gateway(sqlite_template: Path) -> None:
    LedgerMachine.template = sqlite_template
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            phases=[Phase.generate],  # to shrink a failure takes minutes of database work
            max_examples=examples(15),
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


_HAMMER = """
import json, random, sys
from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.step_ledger import StepLedger

url, name, purpose = sys.argv[1:]
database = StateDatabase.open(url, name_for_messages="state")
ledger = StepLedger(database, ceiling=6, batch_floor=2, unconfirmed_lines=6)
chance = random.Random(name)
print("ready", flush=True)
sys.stdin.readline()
ledger.acquire(chance.sample(range(1, 13), 5), holder=name, purpose=SlotPurpose(purpose), ttl_seconds=3600)
print("taken", flush=True)
sys.stdin.readline()
seen = []
for _ in range(20):
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
    ledger = StepLedger(database, ceiling=CEILING, batch_floor=FLOOR)
    names = {"streamer 1": "stream", "streamer 2": "stream", "run 1": "batch", "run 2": "batch"}

    seen = [usage for answer in _run_together(url, names, ledger) for usage in answer]

    assert len(seen) == 4 * 20
    assert all(streams <= CEILING - FLOOR and streams + batches <= CEILING for streams, batches in seen)


def _run_together(url: str, names: dict[str, str], ledger: StepLedger) -> Iterable[list[list[int]]]:
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
