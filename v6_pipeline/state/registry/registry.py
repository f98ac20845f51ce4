"""``StrategyRegistry``: which contracts belong to active strategies, and so are streamed.

A strategy has memberships (a contract, in one account or any, a quantity of it or all) and selectors, which apply to
every holding they match, so that a roll needs no hand. Priority: the smaller number is more important. Any process may
change the registry in the state database; questions are answered from memory, which ``reload_if_changed`` brings up to
date. History is kept.
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
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.registry import rows
from v6_pipeline.state.registry.changes import DEFAULT_PRIORITY, RegistryChanges
from v6_pipeline.state.registry.rows import MembershipRow, SelectorRow
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline.state.revisions import Revision

__all__ = ["DEFAULT_PRIORITY", "Assignment", "RegistryChanges", "RegistryEntry", "Selector", "StrategyRegistry"]

_ONE_INSTANT = timedelta(microseconds=1)  # what the database distinguishes


@dataclass(frozen=True, slots=True)
class Assignment:
    """A holding serves a strategy with ``quantity`` of it, or all (``None``), at the strategy's best priority."""

    strategy: str
    priority: int
    quantity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """A membership (has ``conid``) or a selector (has ``selector``) and when it was in force."""

    strategy: str
    priority: int
    valid_from: datetime
    valid_to: datetime | None
    account: str | None = None
    conid: int | None = None
    quantity: float | None = None
    selector: Selector | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """What the registry answers from; replaced as a whole, so that threads see one state or the next."""

    revisions: dict[Revision, int] = field(default_factory=dict)
    members: dict[int, tuple[MembershipRow, ...]] = field(default_factory=dict)
    selectors: tuple[tuple[Selector, SelectorRow], ...] = ()
    contracts: dict[int, ContractSpec] = field(default_factory=dict)
    held: dict[int, tuple[Holding, ...]] = field(default_factory=dict)


class StrategyRegistry:
    """The strategies and their contracts.

    Args:
        database: the state database.
        clock: tells the time.
        today: the day by which contracts expire; without it, New York's date.
        timezone: where a day begins, for ``active_on``.
    """

    def __init__(
        self,
        database: StateDatabase,
        clock: Clock = utc_now,
        *,
        today: Callable[[], date] | None = None,
        timezone: str = "America/New_York",
    ) -> None:
        self._database = database
        self._clock = clock
        self._zone = ZoneInfo(timezone)
        self._today = today or (lambda: clock().astimezone(EXCHANGE).date())
        self._view = _View()
        self._reported = 0

    def initialize(self) -> None:
        """Read everything; before this nothing is active."""
        self._load()
        self._reported = self._view.revisions[Revision.REGISTRY]

    def reload_if_changed(self) -> bool:
        """Bring the memory up to date; whether strategies changed since this was last asked. Mostly one small read.

        Held contracts that came or went are taken in too, but are no change of strategies.
        """
        with self._database.read() as connection:
            found = revisions.read(connection)
        if found != self._view.revisions:
            self._load()
        # What this object changed itself is in memory already, and news to the caller all the same.
        before, self._reported = self._reported, self._view.revisions[Revision.REGISTRY]
        return self._reported != before

    def is_active(self, conid: int, account: str | None = None) -> bool:
        """Whether a contract serves an active strategy, in this account or in any. From memory, no I/O.

        A contract that expired before today is not active. Selectors are matched with the holdings that are known.
        """
        view = self._view
        if self._has_expired(view.contracts.get(conid)):
            return False
        if any(is_account(row.account, account) for row in view.members.get(conid, ())):
            return True
        return any(
            is_account(holding.account, account) and selector.matches(holding)
            for holding in view.held.get(conid, ())
            for selector, _ in view.selectors
        )

    def assignments(self, holding: Holding) -> tuple[Assignment, ...]:
        """The strategies that a holding serves, the most important first. From memory, no I/O.

        A membership of the account is preferred to one of any account, and both to a selector, for the quantity.
        """
        view = self._view
        # Of the underlying IB's position messages say nothing: what is known of the contract does.
        holding = replace(holding, contract=view.contracts.get(holding.contract.conid, holding.contract))
        if self._has_expired(holding.contract):
            return ()
        found: dict[str, Assignment] = {}
        for selector, row in view.selectors:
            if selector.matches(holding):
                add_assignment(found, Assignment(row.strategy, row.priority))
        members = view.members.get(holding.contract.conid, ())
        for member in sorted(members, key=lambda row: row.account is not None):
            if is_account(member.account, holding.account):
                add_assignment(found, Assignment(member.strategy, member.priority, member.quantity))
        return tuple(sorted(found.values(), key=lambda item: (item.priority, item.strategy)))

    def get_all_active(self) -> frozenset[int]:
        """All active contracts: the members, and of the holdings those that selectors match. From memory."""
        view = self._view
        return frozenset(conid for conid in view.members.keys() | view.held.keys() if self.is_active(conid))

    def entries(self) -> tuple[RegistryEntry, ...]:
        """All memberships and selectors in force, by strategy."""
        with self._database.read() as connection:
            return _entries(rows.memberships_in_force(connection), rows.selectors_in_force(connection))

    def active_on(self, when: date | datetime) -> tuple[RegistryEntry, ...]:
        """What was in force at an instant, or at some time of a day."""
        if isinstance(when, datetime):
            start, end = when, when + _ONE_INSTANT
        else:
            start = datetime.combine(when, time(), self._zone)
            end = datetime.combine(when + timedelta(days=1), time(), self._zone)
        with self._database.read() as connection:
            return _entries(
                rows.memberships_between(connection, start, end), rows.selectors_between(connection, start, end)
            )

    @contextmanager
    def changes(self) -> Iterator[RegistryChanges]:
        """Several changes in one transaction: all of them are made, or, after an exception, none.

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

    def _has_expired(self, contract: ContractSpec | None) -> bool:
        return contract is not None and contract.has_expired(self._today())


def _read_view(connection: Connection) -> _View:
    """What questions are answered from. The counters are read first: a change while reading is seen next time."""
    counted = revisions.read(connection)
    members: dict[int, list[MembershipRow]] = {}
    for row in rows.memberships_in_force(connection):
        members.setdefault(row.conid, []).append(row)
    held: dict[int, list[Holding]] = {}
    for holding in holdings_store.list_open(connection):
        held.setdefault(holding.contract.conid, []).append(holding)
    known = contract_cache.get(connection, members.keys() | held.keys())
    return _View(
        revisions=counted,
        members={conid: tuple(found) for conid, found in members.items()},
        selectors=tuple((Selector.parse(row.selector), row) for row in rows.selectors_in_force(connection)),
        contracts={conid: item.spec for conid, item in known.items()},
        held={conid: tuple(found) for conid, found in held.items()},
    )


def add_assignment(found: dict[str, Assignment], new: Assignment) -> None:
    """Keep one assignment per strategy: the newer one's quantity, the better one's priority."""
    old = found.get(new.strategy)
    priority = new.priority if old is None else min(old.priority, new.priority)
    found[new.strategy] = Assignment(new.strategy, priority, new.quantity)


def is_account(account: str | None, asked: str | None) -> bool:
    """Whether what is in force in ``account`` matters in ``asked``; ``None`` is any account, on both sides."""
    return account is None or asked is None or account == asked


def _entries(members: Iterable[MembershipRow], selectors: Iterable[SelectorRow]) -> tuple[RegistryEntry, ...]:
    found = [replace(_entry(row), account=row.account, conid=row.conid, quantity=row.quantity) for row in members] + [
        replace(_entry(row), selector=Selector.parse(row.selector)) for row in selectors
    ]
    return tuple(sorted(found, key=lambda entry: entry.strategy))


def _entry(row: MembershipRow | SelectorRow) -> RegistryEntry:
    return RegistryEntry(strategy=row.strategy, priority=row.priority, valid_from=row.valid_from, valid_to=row.valid_to)
