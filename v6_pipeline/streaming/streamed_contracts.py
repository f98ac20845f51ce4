"""Streams that never bring a tick: a line that shows nothing is better used for a contract that waits for one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

SILENT_AFTER = timedelta(seconds=60)
"""A stream without any tick for that long, while others tick, is silent."""
REST = timedelta(minutes=10)
"""A silent contract that gave its line to another is tried again after that."""


class Silence:
    """Which streams have never ticked. Fed with what happens, asked with the time; no I/O.

    Outside of trading hours nothing ticks, and then nothing is silent: only beside others that tick does it mean
    something. A silent contract loses its line to an active one that waits, and keeps it otherwise.
    """

    def __init__(self) -> None:
        self._mute_since: dict[int, datetime] = {}
        self._rests_until: dict[int, datetime] = {}
        self._last_tick_at: datetime | None = None

    def subscribed(self, conid: int, now: datetime) -> None:
        """A contract has got a line."""
        self._mute_since[conid] = now

    def ticked(self, conid: int, now: datetime) -> None:
        """A contract has brought a tick."""
        self._last_tick_at = now
        self._mute_since.pop(conid, None)
        self._rests_until.pop(conid, None)

    def cancelled(self, conids: Iterable[int], now: datetime) -> None:
        """Contracts have lost their lines; the silent ones among them rest."""
        silent = self.silent(now)
        for conid in conids:
            self._mute_since.pop(conid, None)
            if conid in silent:
                self._rests_until[conid] = now + REST

    def lost(self, conids: Iterable[int]) -> None:
        """Contracts have no line any more, and through no fault of theirs: error 101, a refusal, data that was lost.

        What does not stream says nothing by its silence, and would otherwise count as mute from then on.
        """
        for conid in conids:
            self._mute_since.pop(conid, None)

    def begin_session(self) -> None:
        """A new connection: nothing is subscribed, and what was silent may not be so any more."""
        self._mute_since.clear()
        self._rests_until.clear()
        self._last_tick_at = None

    def silent(self, now: datetime) -> frozenset[int]:
        """Contracts that deserve a line less than any other: silent now, or resting from it."""
        self._rests_until = {conid: until for conid, until in self._rests_until.items() if until > now}
        others_tick = self._last_tick_at is not None and now - self._last_tick_at < SILENT_AFTER
        mute = (
            {conid for conid, since in self._mute_since.items() if now - since >= SILENT_AFTER} if others_tick else ()
        )
        return frozenset({*self._rests_until, *mute})
