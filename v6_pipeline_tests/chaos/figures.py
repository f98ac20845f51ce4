"""The figures of a run: counted while it goes, printed at its end."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import psutil

from v6_pipeline_tests.chaos.oracle import Oracle
from v6_pipeline_tests.chaos.processes import rss_megabytes
from v6_pipeline_tests.chaos.world import World

WARM_SECONDS = 45.0
"""After that a process has opened its tables and filled its caches."""

GROWTH_MEGABYTES = 80.0
"""The pools of delta-rs and polars grow by 20 to 40 MB with the first compactions; a leak passes this within a run."""


@dataclass(slots=True)
class Memory:
    """One process's resident memory in megabytes."""

    begun: float
    first: float | None = None
    last: float = 0.0
    peak: float = 0.0
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """Growth from the warm state to the last measurement; 0 if it never got warm."""
        return 0.0 if self.first is None else self.last - self.first


@dataclass(slots=True)
class Figures:
    """All figures of a run."""

    faults: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    recoveries: list[float] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    memory: dict[str, Memory] = field(default_factory=dict)
    peak_messages: int = 0
    peak_lines: int = 0

    def recovered(self, seconds: float, after: str) -> None:
        """All streamed again so long after the last fault's end."""
        self.recoveries.append(seconds)
        self.slowest = max(self.slowest, (seconds, after))

    def sample(self, world: World, now: float) -> None:
        """Look at each long-lived process's memory."""
        streamer = world.sensor.streamer
        processes = {"gateway": world.gateway.process.pid}
        if streamer is not None:
            processes[f"streamer {world.sensor.epoch}"] = streamer.pid
        for name, pid in processes.items():
            try:
                size = rss_megabytes(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue
            if size is None:
                continue
            memory = self.memory.setdefault(name, Memory(begun=now))
            memory.seconds = now - memory.begun
            memory.last, memory.peak = size, max(memory.peak, size)
            if memory.first is None and memory.seconds >= WARM_SECONDS:
                memory.first = size

    def swollen(self) -> list[str]:
        """Processes that grew more than a long life explains."""
        return [
            f"{name}: {item.first:.0f} -> {item.last:.0f} MB in {item.seconds:.0f} s"
            for name, item in self.memory.items()
            if item.first is not None and item.growth > GROWTH_MEGABYTES
        ]

    def lines(self, world: World, oracle: Oracle, seconds: float) -> list[str]:
        """The figures as text."""
        seen = oracle.statistics
        peak_lines = max(self.peak_lines, int(seen.get("peak_lines", 0)))
        peak_messages = max(self.peak_messages, int(seen.get("peak_rate", 0)))
        times = sorted(self.recoveries) or [0.0]
        rows = [
            ("seconds", f"{seconds:.0f}"),
            ("rounds, faults", f"{self.rounds}, {sum(self.faults.values())}"),
            ("faults by kind", ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))),
            ("streamers (epochs)", str(len(world.sensor.streamers))),
            ("sensor ticks", ", ".join(f"{name} {count}" for name, count in sorted(world.sensor.actions.items()))),
            ("sensor ticks failed", str(world.sensor.failed_ticks)),
            ("workers", ", ".join(f"{name} {count}" for name, count in sorted(world.workers.ended.items()))),
            ("recoveries", f"{len(self.recoveries)}"),
            ("recovery s, median / p90 / max", _spread(times)),
            ("slowest after", self.slowest[1]),
            ("streamed rows, commits", f"{world.streamed.rows}, {world.streamed.commits}"),
            ("queued rows, commits", f"{world.queued.rows}, {world.queued.commits}"),
            ("queue markers", str(len(world.markers))),
            ("peak lines of ceiling", f"{peak_lines} of {world.scale.ceiling}"),
            ("peak messages in a second", str(peak_messages)),
            ("codes", ", ".join(f"{code} x{count}" for code, count in sorted(seen.get("errors", {}).items()))),
            ("ticks sent", str(seen.get("ticks_sent"))),
            ("actions skipped", str(world.skipped)),
            ("memory MB, warm -> end (peak)", "; ".join(self._memory())),
            ("violations", str(len(world.violations))),
        ]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {text}" for name, text in rows]

    def _memory(self) -> list[str]:
        """The gateway and the streamer that lived longest."""
        streamers = {name: item for name, item in self.memory.items() if item.first is not None}
        return [
            f"{name} {item.first:.0f} -> {item.last:.0f} ({item.peak:.0f}) in {item.seconds:.0f} s"
            for name, item in sorted(streamers.items(), key=lambda pair: -pair[1].seconds)[:4]
        ]


def _spread(times: list[float]) -> str:
    ninety = times[min(len(times) - 1, int(len(times) * 0.9))]
    return f"{statistics.median(times):.1f} / {ninety:.1f} / {times[-1]:.1f}"


class EventLog:
    """A log of events, one JSON object a line: enough to see the cause of a violation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, event: str, **fields: object) -> None:
        """One line."""
        self._file.write(json.dumps({"at": datetime.now(UTC).isoformat(), "event": event, **fields}, default=str))
        self._file.write("\n")
        self._file.flush()

    def close(self) -> None:
        """No more."""
        self._file.close()
