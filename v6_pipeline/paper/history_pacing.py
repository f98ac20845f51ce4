"""IB's pacing of small historical bars, over all clients.

Belongs here: counting and refusing (https://interactivebrokers.github.io/tws-api/historical_limitations.html). Larger
bars are only slowed down, in `history`.
"""

from collections import deque
from dataclasses import dataclass

MOST_OPEN = 50
"""Requests that all clients together may have open, whatever their bars."""

_WINDOW_SECONDS, _MOST_IN_WINDOW = 600.0, 60
_IDENTICAL_SECONDS = 15.0
_SAME_CONTRACT_SECONDS, _TOO_MANY_OF_A_CONTRACT = 2.0, 6


@dataclass(frozen=True, slots=True)
class _Asked:
    at: float
    contract: str
    identity: str
    cost: int


class SmallBarPacing:
    """The requests for small bars of the last ten minutes."""

    def __init__(self) -> None:
        self._asked: deque[_Asked] = deque()

    def admit(self, now: float, *, contract: str, identity: str, cost: int) -> bool:
        """Count a request at `now`, in monotonic seconds; `False`, and not counted, if it violates a rule."""
        while self._asked and now - self._asked[0].at >= _WINDOW_SECONDS:
            self._asked.popleft()
        same = [item for item in self._asked if item.contract == contract and now - item.at < _SAME_CONTRACT_SECONDS]
        is_violation = (
            sum(item.cost for item in self._asked) + cost > _MOST_IN_WINDOW
            or any(item.identity == identity and now - item.at < _IDENTICAL_SECONDS for item in self._asked)
            or sum(item.cost for item in same) + cost >= _TOO_MANY_OF_A_CONTRACT
        )
        if not is_violation:
            self._asked.append(_Asked(now, contract, identity, cost))
        return not is_violation
