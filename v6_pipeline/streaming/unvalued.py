"""Contracts that hold a line which brings no data, or no price: after a while the queue values them. Pure.

While another login has the market data, a farm is broken for hours, or IB sells no data for a contract and does not say
so, the account's own feed still knows what a position is worth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta


class Unvalued:
    """Since when which contract has had a line and no value.

    Args:
        after: how long one may be without.
    """

    def __init__(self, after: timedelta) -> None:
        self._after = after
        self._since: dict[int, datetime] = {}

    def look(self, valued: Iterable[int], unvalued: Iterable[int], now: datetime) -> None:
        """What the lines bring now. One in neither, for it is being subscribed anew, stays as it was."""
        for conid in unvalued:
            self._since.setdefault(conid, now)
        for conid in valued:
            self._since.pop(conid, None)

    def keep(self, conids: Collection[int]) -> None:
        """Forget all others: they have no line any more, and are queued therefore."""
        self._since = {conid: since for conid, since in self._since.items() if conid in conids}

    def due(self, now: datetime) -> list[int]:
        """Those that have been without for too long; call ``queued`` once they are."""
        return [conid for conid, since in self._since.items() if now - since >= self._after]

    def queued(self, conids: Iterable[int], now: datetime) -> None:
        """They are refreshed once; if they stay without a value, again after the same time."""
        self._since |= dict.fromkeys(conids, now)
