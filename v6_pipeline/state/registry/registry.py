"""``StrategyRegistry``: the contracts of active strategies, which are streamed.

A strategy has memberships (a contract, in one account or any, a quantity of it or all) and selectors, which apply to
every holding that they match, so that a roll needs no manual change. Priority: the smaller number is more important.
Any process may change the registry in the state database; queries are answered from memory, which
``reload_if_changed`` updates. History is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from v6_pipeline.calendar import EXCHANGE
from v6_pipeline.model import ContractSpec, Holding
from v6_pipeline.state import revisions
from v6_pipeline.state.account import contracts as contract_cache
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.registry import rows
from v6_pipeline.state.registry.assignments import Assignment, Entries, RegistryEntry, is_account
from v6_pipeline.state.registry.changes import DEFAULT_PRIORITY, RegistryChanges
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline.state.revisions import Revision

_ONE_INSTANT = timedelta(microseconds=1)  # resolution of the database


@dataclass(frozen=True, slots=True)
class _View:
    """The registry in memory; replaced as a whole, so that threads see one state or the next."""

    revisions: dict[Revision, int] = field(default_factory=dict)
    entries: Entries = field(default_factory=Entries)
    contracts: dict[int, ContractSpec] = field(default_factory=dict)
    held: dict[int, tuple[Holding, ...]] = field(default_factory=dict)


class StrategyRegistry:
    """The strategies and their contracts.

    ``today`` returns the day by which contracts expire, New York's date if left out; ``timezone`` is that of the days
    of ``active_on``.
    """

    def __init__(
        self,
        database: StateDatabase,
        clock: Clock | None = None,
        *,
        today: Callable[[], date] | None = None,
        timezone: str = "America/New_York",
    ) -> None:
        self._database = database
        self._clock = now = clock or database.now
        self._zone = ZoneInfo(timezone)
        self._today = today or (lambda: now().astimezone(EXCHANGE).date())
        self._view = _View()
        self._reported = 0

    def initialize(self) -> None:
        """Read the registry; before this no contract is active."""
        self._load()
        self._reported = self._view.revisions[Revision.REGISTRY]

    def reload_if_changed(self) -> bool:
        """Update the memory, mostly with one small read; return whether strategies changed since the last call.

        Changes of the held contracts are read as well, but do not count as changes of strategies.
        """
        with self._database.read() as connection:
            found = revisions.read(connection)
        if found != self._view.revisions:
            self._load()
        # A change made through this object is in memory already, but was not reported to the caller.
        before, self._reported = self._reported, self._view.revisions[Revision.REGISTRY]
        return self._reported != before

    def is_active(self, conid: int, account: str | None = None) -> bool:
        """Return whether a contract serves an active strategy, in this account or in any. From memory, no I/O.

        A contract is not active after its last trading day, when nothing ticks. Selectors are matched with the holdings
        that are known.
        """
        view = self._view
        contract = view.contracts.get(conid)
        if contract is not None and self.has_expired(contract):
            return False
        if any(is_account(entry.account, account) for entry in view.entries.members.get(conid, ())):
            return True
        return any(
            is_account(holding.account, account) and entry.covers(holding)
            for holding in view.held.get(conid, ())
            for entry in view.entries.selectors
        )

    def assignments(self, holding: Holding) -> tuple[Assignment, ...]:
        """The strategies that a holding serves, the most important first. From memory, no I/O.

        See ``Entries.assignments``. A contract serves until it settles, which may be after its last trading day: see
        ``has_expired`` for whether it still ticks.
        """
        view = self._view
        # IB's position messages have no underlying; the contract cache has it. But the newest message has the names.
        by = holding.contract
        contract = view.contracts.get(by.conid, by)
        if contract.symbol != by.symbol:
            contract = replace(contract, symbol=by.symbol, local_symbol=by.local_symbol or contract.local_symbol)
        holding = replace(holding, contract=contract)
        if holding.contract.has_settled(self._today()):
            return ()
        return view.entries.assignments(holding)

    def get_all_active(self) -> frozenset[int]:
        """All active contracts: the members, and the holdings that selectors match. From memory, no I/O."""
        view = self._view
        return frozenset(conid for conid in view.entries.members.keys() | view.held.keys() if self.is_active(conid))

    def entries(self, strategy: str | None = None) -> tuple[RegistryEntry, ...]:
        """Memberships and selectors in force, of one strategy or all, by strategy."""
        with self._database.read() as connection:
            return _by_strategy(rows.in_force(connection, strategy))

    def active_on(self, when: date | datetime) -> tuple[RegistryEntry, ...]:
        """Memberships and selectors in force at an instant, or at some time of a day."""
        if isinstance(when, datetime):
            start, end = when, when + _ONE_INSTANT
        else:
            start = datetime.combine(when, time(), self._zone)
            end = datetime.combine(when + timedelta(days=1), time(), self._zone)
        with self._database.read() as connection:
            return _by_strategy(rows.between(connection, start, end))

    @contextmanager
    def changes(self) -> Iterator[RegistryChanges]:
        """Make several changes in one transaction: all of them or, after an exception, none.

        Raises:
            StateError: the state database cannot be used.
        """
        with self._database.write() as connection:
            changes = RegistryChanges(connection, self._clock())
            yield changes
            if changes.made:
                revisions.bump(connection, Revision.REGISTRY)
        self._load()

    def add_active(
        self,
        strategy: str,
        conids: Iterable[int],
        *,
        account: str | None = None,
        quantity: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        """``RegistryChanges.add_active``, by itself."""
        with self.changes() as changes:
            changes.add_active(strategy, conids, account=account, quantity=quantity, priority=priority)

    def add_selector(self, strategy: str, selector: Selector | str, priority: int = DEFAULT_PRIORITY) -> None:
        """``RegistryChanges.add_selector``, by itself."""
        with self.changes() as changes:
            changes.add_selector(strategy, selector, priority)

    def remove_active(self, strategy: str, conids: Iterable[int] | None = None) -> int:
        """``RegistryChanges.remove_active``, by itself."""
        with self.changes() as changes:
            return changes.remove_active(strategy, conids)

    def remove_selector(self, strategy: str, selector: Selector | str) -> None:
        """``RegistryChanges.remove_selector``, by itself."""
        with self.changes() as changes:
            changes.remove_selector(strategy, selector)

    def _load(self) -> None:
        with self._database.read() as connection:
            self._view = _read_view(connection)

    def has_expired(self, contract: ContractSpec) -> bool:
        """Return whether the last trading day of a contract is over, by the exchange's date."""
        return contract.has_expired(self._today())


def _read_view(connection: Connection) -> _View:
    """Read the registry. The counters come first, so that a change in the meantime is seen by the next call."""
    counted = revisions.read(connection)
    entries = Entries(rows.in_force(connection))
    held: dict[int, list[Holding]] = {}
    for holding in holdings_store.list_open(connection):
        held.setdefault(holding.contract.conid, []).append(holding)
    known = contract_cache.get(connection, entries.members.keys() | held.keys())
    return _View(
        revisions=counted,
        entries=entries,
        contracts={conid: item.spec for conid, item in known.items()},
        held={conid: tuple(found) for conid, found in held.items()},
    )


def _by_strategy(entries: Iterable[RegistryEntry]) -> tuple[RegistryEntry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.strategy))
