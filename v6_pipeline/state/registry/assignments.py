"""The one rule that assigns holdings to strategies, for the registry as it is and as it was at an instant.

Pure functions of ``RegistryEntry``s; ``StrategyRegistry`` reads them from the state database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime

from v6_pipeline.model import Holding
from v6_pipeline.state.registry.selector import Selector


@dataclass(frozen=True, slots=True)
class Assignment:
    """A holding serves a strategy with ``quantity`` of it, or all (``None``), at the strategy's best priority."""

    strategy: str
    priority: int
    quantity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """A membership (has ``conid``) or a selector (has ``selector``) and when it was in force.

    ``account`` is that of a membership, ``None`` for any; ``quantity`` is of each contract, ``None`` for all of it.
    ``id`` is that of the row, where there is one.
    """

    strategy: str
    priority: int
    valid_from: datetime
    valid_to: datetime | None
    account: str | None = None
    conid: int | None = None
    quantity: float | None = None
    selector: Selector | None = None
    id: int | None = field(default=None, compare=False, repr=False)

    def covers(self, holding: Holding) -> bool:
        """Return whether a holding belongs to the strategy by this entry."""
        if self.selector is not None:
            return self.selector.matches(holding)
        return self.conid == holding.contract.conid and is_account(self.account, holding.account)


class Entries:
    """Entries in force at one instant, found by contract."""

    def __init__(self, entries: Iterable[RegistryEntry] = ()) -> None:
        self.selectors: list[RegistryEntry] = []
        self.members: dict[int, list[RegistryEntry]] = {}
        for entry in entries:
            if entry.conid is None:
                self.selectors.append(entry)
            else:
                self.members.setdefault(entry.conid, []).append(entry)
        for found in self.members.values():  # an entry of the account itself comes last, and wins
            found.sort(key=lambda entry: entry.account is not None)

    def assignments(self, holding: Holding) -> tuple[Assignment, ...]:
        """The strategies that a holding serves, the most important first.

        Each strategy once, with its best priority. For the quantity a membership of the account is preferred to one of
        any account, and both to a selector.
        """
        found: dict[str, Assignment] = {}
        for entry in (*self.selectors, *self.members.get(holding.contract.conid, ())):
            if entry.covers(holding):
                before = found.get(entry.strategy)
                priority = entry.priority if before is None else min(before.priority, entry.priority)
                found[entry.strategy] = Assignment(entry.strategy, priority, entry.quantity)
        return tuple(sorted(found.values(), key=lambda item: (item.priority, item.strategy)))


class RegistryAt:
    """Select from all entries the memberships and selectors in force at an aware instant.

    Contracts that settled before ``day`` serve no strategy.
    """

    def __init__(self, entries: Iterable[RegistryEntry], instant: datetime, *, day: date) -> None:
        self._day = day
        self._entries = Entries(entry for entry in entries if _in_force(entry, instant))

    def assignments(self, holding: Holding, *, settled: bool = False) -> tuple[Assignment, ...]:
        """The strategies that a holding served; of a settled contract those it served until then, if ``settled``."""
        if not settled and holding.contract.has_settled(self._day):
            return ()
        return self._entries.assignments(holding)


def strategy_ids(assignments: Iterable[Assignment]) -> tuple[str, ...]:
    """Names of the strategies, sorted, as a row has them."""
    return tuple(sorted(assignment.strategy for assignment in assignments))


def is_account(account: str | None, asked: str | None) -> bool:
    """Return whether an entry of ``account`` applies in ``asked``; ``None`` is any account, on both sides."""
    return account is None or asked is None or account == asked


def _in_force(entry: RegistryEntry, instant: datetime) -> bool:
    return entry.valid_from <= instant and (entry.valid_to is None or instant < entry.valid_to)
