"""Contracts that the gateway gave no market data for: which ones, and for how long they are not asked for again."""

from __future__ import annotations

from datetime import datetime, timedelta

from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.market_data import Refusal

BACK_OFF_PAUSE = timedelta(seconds=120)
"""A contract whose request came too fast (100, 420) is not asked for again before that.

Error 101 is nothing against the contract: ``SlotLedger`` learns from it, and says when lines are tried for again.
"""


class Refusals:
    """The refusals of one session; what was not subscribed (354) may be so after a new login."""

    def __init__(self) -> None:
        self._lasting: dict[int, Refusal] = {}
        self._until: dict[int, datetime] = {}

    def add(self, refusal: Refusal, now: datetime) -> None:
        """Note a refusal: for a while where messages came too fast, for the session where the data is not sold."""
        if refusal.reaction is Reaction.BACK_OFF:
            self._until[refusal.conid] = now + BACK_OFF_PAUSE
        else:
            self._lasting[refusal.conid] = refusal

    def holds(self, conid: int, now: datetime) -> bool:
        """Whether a contract is not to be asked for at ``now``."""
        return conid in self._lasting or self._until.get(conid, now) > now

    def clear(self) -> None:
        """A new session begins."""
        self._lasting.clear()
        self._until.clear()

    def describe(self) -> dict[int, str]:
        """Return the lasting ones for the status: conid -> IB's code and text."""
        return {conid: f"{item.code} {item.text}" for conid, item in self._lasting.items()}
