"""Effects that faults excuse, and for how long: codes of the gateway, contracts without a line, fewer streams.

Each excuse ends with its fault and what the product is known to need after it, so that the oracle is as strict at the
end of a run as at its begin. A fault without a known end (the gateway was suspended when it was to begin) is an excuse
for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

GRACE_SECONDS = {100: 120.0, 101: 5.0, 354: 5.0}
"""Seconds after its fault in which a code may come, on the gateway's clock, including the time to read that clock.

A session that is ordered to refuse a message refuses its next one, which a stopped process, a blackhole and the
interval of the heartbeat may each delay. Once it is healed, the gateway sends none of the other codes, and no 101
either, because it then has more lines than we use.
"""
PROBES = (120.0, 240.0, 480.0)
"""The learned number of lines is tried upward after so long; later each time that it was in vain."""
PROBE_AFTER_HALVING = 20.0
"""And the first time where it was halved on a guess: in vain, if there are still as few lines."""
CLIMB_SECONDS = 120.0
"""To take the lines back one by one, with a round of faults in the middle."""


class Excuses:
    """All excuses of a run.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._periods: list[_Period] = []
        self._denied: dict[int, float] = {}
        """Contracts, and how often the streamer had logged in when they were on sale again."""
        self._rejected: set[int] = set()
        self._lines: int | None = None
        self._few_since = 0.0
        self._few_until = 0.0
        self._vain_probes = 0

    # Codes

    def codes_begin(self, codes: Iterable[int]) -> None:
        """A fault begins that brings these about."""
        self._periods += [_Period(code, self._clock()) for code in codes]

    def codes_end(self, codes: Iterable[int]) -> None:
        """The newest fault that brings these about has ended."""
        for code in codes:
            period = next(item for item in reversed(self._periods) if item.code == code)
            period.until = self._clock() + GRACE_SECONDS.get(code, 0.0)

    def explained(self, seen: Mapping[str, Any]) -> set[int]:
        """Codes of the gateway's statistics that came only while a fault explained them.

        Args:
            seen: the statistics, just asked for.
        """
        start = self._clock() - seen["seconds"]
        return {
            int(code)
            for code, times in seen["error_times"].items()
            if all(any(item.covers(int(code), start + at) for item in self._periods) for at in times)
        }

    # Contracts

    @property
    def unsold(self) -> set[int]:
        """Contracts that the product may leave alone."""
        return self._rejected | self._denied.keys()

    def rejected(self, conids: Iterable[int]) -> None:
        """The gateway turns some of the next requests for these away, whenever they come."""
        self._rejected |= set(conids)

    def denied(self, conids: Iterable[int]) -> None:
        """It refuses market data for these."""
        self._denied |= dict.fromkeys(conids, math.inf)

    def on_sale(self, conids: Iterable[int], *, logins: int) -> None:
        """It refuses them no more; ``logins`` of the streamer so far, the next of which asks for them again."""
        self._denied |= dict.fromkeys(conids, float(logins))

    def logged_in(self, logins: int) -> None:
        """So often has the streamer logged in by now."""
        self._denied = {conid: before for conid, before in self._denied.items() if logins <= before}

    # Lines

    def fewer_lines(self, lines: int) -> None:
        """The gateway grants only so many."""
        still_few = self._lines is not None and self._clock() < self._few_until
        self._lines = min(lines, self._lines) if still_few and self._lines is not None else lines
        self._few_since, self._few_until = self._clock(), math.inf

    def lines_are_back(self) -> None:
        """It grants all again, which the product finds out with its next attempt."""
        now = self._clock()
        self._vain_probes += now - self._few_since >= PROBE_AFTER_HALVING
        self._few_until = now + PROBES[min(self._vain_probes, len(PROBES) - 1)] + CLIMB_SECONDS
        self._vain_probes += 1  # the next time that there are few, an attempt may be under way

    def capacity(self, streams: int, batch_lines: int) -> int:
        """Number of contracts that must stream, of ``streams`` with all lines; batches keep ``batch_lines``."""
        if self._lines is None or self._clock() >= self._few_until:
            return streams
        return min(streams, max(0, self._lines - batch_lines - 1))


class _Period:
    """A period in which a code is excused."""

    __slots__ = ("begin", "code", "until")

    def __init__(self, code: int, begin: float) -> None:
        self.code = code
        self.begin = begin
        self.until = math.inf

    def covers(self, code: int, at: float) -> bool:
        return code == self.code and self.begin <= at <= self.until
