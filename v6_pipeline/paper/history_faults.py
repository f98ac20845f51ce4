"""Faults of historical data.

Belongs here: ordering a fault. What it does to a request is in `history`. Every public method is an action; see
`actions`.
"""

from v6_pipeline.paper.fields import Count, Seconds
from v6_pipeline.paper.history import HistoryDesk, Refusal, Refused


class HistoryFaults:
    """What may be wrong with the historical data of one gateway."""

    def __init__(self, desk: HistoryDesk) -> None:
        self._desk = desk

    def delay_history(self, seconds: Seconds) -> None:
        """Answer historical requests so much later, until healed."""
        self._desk.extra_seconds = seconds

    def ignore_history(self, count: Count = 1, conids: list[int] | None = None) -> None:
        """Never answer the next historical requests for these contracts, or for any."""
        self.refuse_history(Refusal.SILENCE, count, conids)

    def refuse_history(self, why: Refusal = Refusal.PACING, count: Count = 1, conids: list[int] | None = None) -> None:
        """Refuse the next historical requests for these contracts, or for any."""
        self._desk.refusals.append(Refused(why, count, None if conids is None else frozenset(conids)))

    def heal(self) -> None:
        """Forget what is still to come."""
        self._desk.extra_seconds = 0.0
        self._desk.refusals.clear()
