"""The registry as it was: which strategies a holding served at an instant.

Pure: ``StrategyRegistry.active_on`` gives the entries, which say when they were in force.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime

from v6_pipeline.model import Holding
from v6_pipeline.state.registry.registry import Assignment, RegistryEntry, add_assignment, is_account
from v6_pipeline.state.registry.selector import Selector


class RegistryAt:
    """The memberships and selectors in force at an instant.

    Args:
        entries: those of any time; what was not in force then is left out.
        instant: aware.
        day: the day by which contracts have expired: those with an expiry before it serve no strategy.
    """

    def __init__(self, entries: Iterable[RegistryEntry], instant: datetime, *, day: date) -> None:
        self._day = day
        self._selectors: list[tuple[Selector, RegistryEntry]] = []
        self._members: dict[int, list[RegistryEntry]] = {}
        for entry in entries:
            if not _in_force(entry, instant):
                continue
            if entry.selector is not None:
                self._selectors.append((entry.selector, entry))
            elif entry.conid is not None:
                self._members.setdefault(entry.conid, []).append(entry)
        for found in self._members.values():  # what is said of the account itself comes last, and wins
            found.sort(key=lambda entry: entry.account is not None)

    def assignments(self, holding: Holding, *, expired: bool = False) -> tuple[Assignment, ...]:
        """The strategies that a holding served, the most important first; as ``StrategyRegistry.assignments``.

        ``expired`` asks for those of an expired contract too: whose it was until then.
        """
        contract = holding.contract
        if not expired and contract.has_expired(self._day):
            return ()
        found: dict[str, Assignment] = {}
        for selector, entry in self._selectors:
            if selector.matches(holding):
                add_assignment(found, Assignment(entry.strategy, entry.priority))
        for entry in self._members.get(contract.conid, ()):
            if is_account(entry.account, holding.account):
                add_assignment(found, Assignment(entry.strategy, entry.priority, entry.quantity))
        return tuple(sorted(found.values(), key=lambda item: (item.priority, item.strategy)))


def _in_force(entry: RegistryEntry, instant: datetime) -> bool:
    return entry.valid_from <= instant and (entry.valid_to is None or instant < entry.valid_to)
