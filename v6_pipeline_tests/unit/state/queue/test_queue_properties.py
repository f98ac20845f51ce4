"""The queue against a model, over interleavings of inserts, leases, acknowledgements, failures and time.

Above all: what was asked for stays in the queue until an acknowledged lease that began after it was asked for.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from v6_pipeline.state.queue.items import Batch, QueueState
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.state.databases import ManualClock, copy_of

Key = tuple[str, int]
KEYS = st.tuples(st.sampled_from(["SIM1", "SIM2"]), st.integers(1, 3))
MAX_ATTEMPTS, BACKOFF, CAP = 3, 20.0, 30.0


@dataclass
class Wanted:
    """An item in the model."""

    priority: int
    queued_at: datetime
    enqueued_at: datetime
    attempts: int = 0
    not_before: datetime | None = None
    token: str | None = None
    leased_until: datetime | None = None
    again_at: datetime | None = None
    again_priority: int = 9
    is_dead: bool = False

    def end_lease(self) -> None:
        """Ends without success: a request during the lease is folded in."""
        if self.again_at is not None:
            self.enqueued_at = self.again_at
            self.priority = min(self.priority, self.again_priority)
        self.token = self.leased_until = self.again_at = None
        self.again_priority = 9

    def state(self, now: datetime) -> QueueState:
        if self.is_dead:
            return QueueState.DEAD
        if self.token is not None:
            return QueueState.LEASED
        return QueueState.WAITING if self.not_before is not None and self.not_before > now else QueueState.OPEN


class QueueMachine(RuleBasedStateMachine):
    template: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = copy_of(self.template, Path(self.folder.name) / "state.db")
        self.clock = ManualClock()
        self.queue = PositionQueue(
            self.database,
            self.clock,
            max_attempts=MAX_ATTEMPTS,
            backoff_seconds=BACKOFF,
            backoff_cap_seconds=CAP,
        )
        self.model: dict[Key, Wanted] = {}
        self.batches: list[Batch] = []
        self.asked_at: dict[Key, datetime] = {}

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @rule(key=KEYS, priority=st.integers(0, 2))
    def insert(self, key: Key, priority: int) -> None:
        self.queue.insert(key[1], "AAPL", priority, account=key[0])

        now = self.asked_at[key] = self.clock.now
        old = self.model.get(key)
        if old is None or old.is_dead:
            self.model[key] = Wanted(priority, now, now)
        elif old.token is not None:
            old.again_at, old.again_priority = now, min(old.again_priority, priority)
        else:
            old.priority, old.enqueued_at = min(old.priority, priority), now

    @rule(size=st.integers(1, 4), seconds=st.sampled_from([30, 60]))
    def get_batch(self, size: int, seconds: int) -> None:
        batch = self.queue.get_batch(size, lease_seconds=seconds)

        now = self.clock.now
        turn = sorted(
            (item.priority, item.queued_at, key)
            for key, item in self.model.items()
            if item.state(now) is QueueState.OPEN
        )
        assert [item.key for item in batch.items] == [key for _, _, key in turn[:size]]
        for item in batch.items:
            self.model[item.key].token = batch.token
            self.model[item.key].leased_until = now + timedelta(seconds=seconds)
        self.batches.append(batch)

    @rule(which=st.integers(0, 9), keys=st.sets(KEYS, max_size=6))
    def succeed(self, which: int, keys: set[Key]) -> None:
        token = self._token(which)
        mine = {key for key in keys if key in self.model and self.model[key].token == token}

        assert self.queue.mark_success(token, keys, self.clock.now) == mine
        for key in mine:
            item = self.model.pop(key)
            if item.again_at is not None:
                self.model[key] = Wanted(item.again_priority, item.again_at, item.again_at)
            else:
                assert item.enqueued_at >= self.asked_at.pop(key)

    @rule(which=st.integers(0, 9), keys=st.sets(KEYS, max_size=6))
    def fail(self, which: int, keys: set[Key]) -> None:
        token = self._token(which)
        mine = {key for key in keys if key in self.model and self.model[key].token == token}

        assert self.queue.mark_failed(token, keys, "time-out") == mine
        for key in mine:
            item = self.model[key]
            item.attempts += 1
            item.is_dead = item.attempts >= MAX_ATTEMPTS and item.again_at is None
            wait = min(CAP, BACKOFF * 2 ** (item.attempts - 1))
            item.not_before = None if item.is_dead else self.clock.now + timedelta(seconds=wait)
            item.end_lease()

    @rule(which=st.integers(0, 9))
    def extend(self, which: int) -> None:
        token = self._token(which)
        mine = [item for item in self.model.values() if item.token == token]
        until = self.clock.now + timedelta(seconds=45)

        assert self.queue.extend(token, lease_seconds=45) == (until if mine else None)
        for item in mine:
            assert item.leased_until is not None
            item.leased_until = max(item.leased_until, until)

    @rule()
    def retry(self) -> None:
        dead = [item for item in self.model.values() if item.is_dead]

        assert self.queue.retry() == len(dead)
        for item in dead:
            item.is_dead, item.attempts = False, 0
            item.queued_at = item.enqueued_at = self.clock.now

    @rule(seconds=st.sampled_from([1, 15, 30, 60]))
    def wait(self, seconds: int) -> None:
        now = self.clock.advance(seconds)
        for item in self.model.values():
            if item.leased_until is not None and item.leased_until <= now:
                item.end_lease()

    @invariant()
    def the_queue_is_the_model(self) -> None:
        now = self.clock.now
        found = {
            item.key: (item.state, item.priority, item.queued_at, item.enqueued_at, item.attempts)
            for item in self.queue.items()
        }
        assert found == {
            key: (item.state(now), item.priority, item.queued_at, item.enqueued_at, item.attempts)
            for key, item in self.model.items()
        }

    @invariant()
    def nothing_asked_for_is_lost(self) -> None:
        assert self.asked_at.keys() == {item.key for item in self.queue.items()}

    @invariant()
    def the_numbers_add_up(self) -> None:
        stats = self.queue.stats()
        states = [item.state(self.clock.now) for item in self.model.values()]
        assert [stats.open, stats.leased, stats.waiting, stats.dead] == [
            states.count(state) for state in (QueueState.OPEN, QueueState.LEASED, QueueState.WAITING, QueueState.DEAD)
        ]

    def _token(self, which: int) -> str:
        """Draw a token of a batch, preferably a new one, or one that was never issued."""
        return self.batches[-1 - which].token if which < len(self.batches) else "invented"


def test_the_queue_agrees_with_the_model(sqlite_template: Path) -> None:
    QueueMachine.template = sqlite_template
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            phases=[Phase.generate],  # to shrink a failure takes minutes of database work
            max_examples=examples(40),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
