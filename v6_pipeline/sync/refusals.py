"""Contracts that the gateway gave no market data for: which ones, and for how long they are not asked for again."""

from __future__ import annotations

from datetime import datetime, timedelta

from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.market_data import Refusal

REFUSED_LINE_PAUSE = timedelta(seconds=120)
"""After error 101 (or 100, 420) a contract is not asked for again before that: TWS windows hold the lines."""
_PASSING = frozenset({Reaction.LINES_EXHAUSTED, Reaction.BACK_OFF})


class Refusals:
    """The refusals of one session; what was not subscribed (354) may be so after a new login."""

    def __init__(self) -> None:
        self._lasting: dict[int, Refusal] = {}
        self._until: dict[int, datetime] = {}

    def add(self, refusal: Refusal, now: datetime) -> None:
        """Note a refusal: for a while where lines or messages ran short, for the session where the data is not sold."""
        if refusal.reaction in _PASSING:
            self._until[refusal.conid] = now + REFUSED_LINE_PAUSE
        else:
            self._lasting[refusal.conid] = refusal

    def holds(self, conid: int, now: datetime) -> bool:
        """Whether a contract is not to be asked for at ``now``."""
        return conid in self._lasting or self._until.get(conid, now) > now

    def clear(self) -> None:
        """A new session begins."""
        self._lasting.clear()
        self._until.clear()

    def describe(self) -> dict[str, str]:
        """The lasting ones for the status: conid as text -> IB's code and text."""
        return {str(conid): f"{item.code} {item.text}" for conid, item in self._lasting.items()}
