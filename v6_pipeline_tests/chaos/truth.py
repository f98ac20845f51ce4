"""Positions that were set at the gateway, and when: the truth for every row of the lake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from v6_pipeline_tests.chaos.lake_log import Key

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Change:
    """A quantity that a key has had since some moment between ``earliest`` and ``latest``."""

    earliest: datetime
    latest: datetime
    quantity: float


class PositionTruth:
    """The quantity of each (account, conid) over time."""

    def __init__(self, held: Iterable[tuple[Key, float]]) -> None:
        self._changes: dict[Key, list[Change]] = {
            key: [Change(_LONG_AGO, _LONG_AGO, quantity)] for key, quantity in held
        }

    def changed(self, key: Key, quantity: float, *, earliest: datetime, latest: datetime) -> None:
        """Record that the gateway received a new quantity between these instants."""
        before = self._changes.setdefault(key, [Change(_LONG_AGO, _LONG_AGO, 0.0)])
        before.append(Change(earliest, latest, quantity))

    def held(self) -> dict[Key, float]:
        """Return the positions that are held now."""
        return {key: changes[-1].quantity for key, changes in self._changes.items() if changes[-1].quantity}

    def closed(self) -> frozenset[Key]:
        """Return the positions that were held once and are not now."""
        return frozenset(key for key, changes in self._changes.items() if not changes[-1].quantity)

    def allows(self, key: Key, quantity: float, at: datetime, *, patience: timedelta) -> bool:
        """Return True if a row of ``at`` may have this quantity: the key had it then, or until ``patience`` before."""
        changes = self._changes.get(key, [])
        for index, change in enumerate(changes):
            ended = changes[index + 1].latest if index + 1 < len(changes) else None
            begun = change.earliest <= at
            if begun and (ended is None or ended >= at - patience) and change.quantity == quantity:
                return True
        return False
