"""Plays rounds against a world and watches: faults begin and end, the oracle looks, recoveries are timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from v6_pipeline.errors import GatewayError
from v6_pipeline_tests.chaos.faults import Fault
from v6_pipeline_tests.chaos.figures import EventLog, Figures
from v6_pipeline_tests.chaos.oracle import Oracle
from v6_pipeline_tests.chaos.schedule import Planned, Round
from v6_pipeline_tests.chaos.world import World

RECOVERY_SECONDS = 45.0
"""Most seconds from the end of a fault to fresh rows of every contract that should stream."""
STEP_SECONDS = 0.1
LOOK_SECONDS = 0.5
SAMPLE_SECONDS = 3.0


@dataclass(slots=True)
class Runner:
    """Drives one world.

    Args:
        world: under test.
        oracle: looks at it.
        log: gets every event.
        deadline_seconds: after which a recovery is too late.
    """

    world: World
    oracle: Oracle
    log: EventLog
    deadline_seconds: float = RECOVERY_SECONDS
    figures: Figures = field(default_factory=Figures)
    _looked: float = 0.0
    _sampled: float = 0.0
    _said: int = 0

    def step(self) -> None:
        """A tenth of a second of watching."""
        now = time.monotonic()
        self.world.workers.step()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self.oracle.look()
            for violation in self.world.violations.found[self._said :]:
                self.log.write("violation", rule=violation.rule, detail=violation.detail)
            self._said = len(self.world.violations)
        if now - self._sampled >= SAMPLE_SECONDS:
            self._sampled = now
            self.figures.sample(self.world, now)
        time.sleep(STEP_SECONDS)

    def wait_for_streams(self, since: datetime, *, seconds: float | None = None) -> float | None:
        """Wait for rows with a price after ``since`` of all that should stream; return seconds, None if too late."""
        seconds = self.deadline_seconds if seconds is None else seconds
        started = since.timestamp()
        while not self.oracle.streams_fresh_since(since):
            if time.time() - started > seconds:
                return None
            self.step()
        return time.time() - started

    def wait_for(self, condition: Callable[[], object], seconds: float | None = None) -> bool:
        """Watch until a condition holds; whether it did in time."""
        deadline = time.monotonic() + (self.deadline_seconds if seconds is None else seconds)
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.step()
        return True

    def play(self, current: Round) -> float | None:
        """One round, and the recovery from it: seconds, None if too late."""
        self.log.write("round", number=current.number, faults=[repr(item) for item in current.faults])
        healed_at = self._break(current)
        names = ", ".join(item.fault.name for item in current.faults)
        taken = self.wait_for_streams(healed_at)
        self.figures.rounds += 1
        if taken is None:
            self._say_who_is_stale(healed_at, f"round {current.number} ({names})")
            # One slow recovery must not count as the next round's too.
            self.wait_for_streams(healed_at, seconds=4 * self.deadline_seconds)
            return None
        self.figures.recovered(taken, names)
        self.log.write("recovered", number=current.number, seconds=round(taken, 2))
        return taken

    def hit(self, fault: Fault) -> float | None:
        """A single fault and the recovery from it: seconds, None if too late."""
        healed_at = self._break(Round(0, (Planned(0.0, fault),)))
        taken = self.wait_for_streams(healed_at)
        if taken is None:
            self._say_who_is_stale(healed_at, fault.name)
        else:
            self.figures.recovered(taken, fault.name)
        return taken

    def _break(self, current: Round) -> datetime:
        """Begin and end the round's faults; when the last of them was healed."""
        started = time.monotonic()
        waiting = list(current.faults)
        lasting: list[tuple[float, Fault]] = []
        healed_at = datetime.now(UTC)
        try:
            while waiting or lasting:
                elapsed = time.monotonic() - started
                while waiting and waiting[0].at <= elapsed:
                    fault = waiting.pop(0).fault
                    lasting.append((elapsed, fault))
                    self._begin(fault)
                for begun, fault in list(lasting):
                    fault.step(self.world, elapsed - begun)
                    if elapsed - begun >= fault.seconds and self._end(fault):
                        lasting.remove((begun, fault))
                        if fault.breaks:
                            healed_at = datetime.now(UTC)
                self.step()
        except Exception:
            # What is broken still would be taken for the consequence of every later fault.
            for _, fault in lasting:
                with contextlib.suppress(Exception):
                    self._end(fault)
            raise
        return healed_at

    def _begin(self, fault: Fault) -> None:
        try:
            fault.begin(self.world)
        except GatewayError as error:  # out of reach because of another fault
            # A gateway that stands still finds the request in its socket later: then the fault has to be ended too.
            fault.happened = "did not answer" in str(error)
            self.log.write("late" if fault.happened else "skipped", fault=fault.name, error=str(error))
        if fault.happened:
            self.figures.faults[fault.name] += 1
        else:
            self.world.skipped += 1
        self.log.write("begin", fault=repr(fault), happened=fault.happened)

    def _end(self, fault: Fault) -> bool:
        """Heal it; what the gateway does not take now, being stopped, is tried again."""
        try:
            fault.end(self.world)
        except GatewayError as error:
            if "refused" in str(error):
                raise
            return False
        self.log.write("end", fault=fault.name)
        return True

    def _say_who_is_stale(self, since: datetime, after: str) -> None:
        stale = sorted(conid for conid in self.world.wanted() if self.oracle.price_times.get(conid, since) <= since)
        self.world.violations.add(
            "streaming again in time",
            f"{self.deadline_seconds:g} s after {after}: {len(stale)} active contracts without fresh rows, "
            f"such as {stale[:3]}; {self.world.stream_count()} must stream",
        )
