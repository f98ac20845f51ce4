"""Changes of the registry: checked, and made in the one transaction that ``StrategyRegistry.changes`` opens.

A change closes the row in force and adds another; an entry that does not differ is not changed.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from v6_pipeline.errors import UsageError
from v6_pipeline.state.registry import rows
from v6_pipeline.state.registry.assignments import RegistryEntry
from v6_pipeline.state.registry.selector import Selector

if TYPE_CHECKING:
    from v6_pipeline.state.registry.registry import StrategyRegistry

DEFAULT_PRIORITY = 100
"""Leaves room on both sides: 1 is more important, 200 less."""

_STRATEGY_NAME = re.compile(r"\w[\w .:/+-]{0,63}")


class RegistryChanges:
    """Changes in one write transaction, all at the instant ``now`` (UTC)."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self.made = False
        """True once a change was made."""
        self._ended: set[str] = set()

    def add_active(
        self,
        strategy: str,
        conids: Iterable[int],
        *,
        account: str | None = None,
        quantity: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        """Add contracts to a strategy; one that it uses already gets the new quantity and priority.

        A new strategy is created. Without ``account`` the contracts count in any account; ``quantity`` is of each
        contract, negative for short, all that is held if left out; the smaller ``priority`` is more important.

        Raises:
            UsageError: an invalid name, conid, quantity or priority.
        """
        wanted = tuple(dict.fromkeys(conids))
        account = None if account is None else account.strip().upper()
        check_membership(strategy, wanted, account=account, quantity=quantity, priority=priority)
        present = {(entry.conid, entry.account): entry for entry in rows.in_force(self._connection, strategy)}
        self._open_strategy(strategy)
        for conid in wanted:
            entry = RegistryEntry(
                strategy=strategy,
                priority=priority,
                valid_from=self._now,
                valid_to=None,
                account=account,
                conid=conid,
                quantity=quantity,
            )
            old = present.get((conid, account))
            if old is None or (old.quantity, old.priority) != (quantity, priority):
                self._replace(old, entry)

    def add_selector(self, strategy: str, selector: Selector | str, priority: int = DEFAULT_PRIORITY) -> None:
        """Add every holding that a selector matches to a strategy, future ones included.

        Raises:
            UsageError: an invalid name, selector or priority.
        """
        parsed = _parsed(selector)
        check_strategy(strategy)
        check_priority(priority)
        self._open_strategy(strategy)
        old = next((entry for entry in rows.in_force(self._connection, strategy) if entry.selector == parsed), None)
        if old is None or old.priority != priority:
            entry = RegistryEntry(
                strategy=strategy, priority=priority, valid_from=self._now, valid_to=None, selector=parsed
            )
            self._replace(old, entry)

    def remove_active(self, strategy: str, conids: Iterable[int] | None = None) -> int:
        """Remove contracts from a strategy, in all accounts; everything, selectors too, if ``conids`` is left out.

        A strategy without contracts and selectors ends. Return the number of entries that ended.

        Raises:
            UsageError: there is no such strategy, or it does not use one of the contracts.
        """
        self._check_exists(strategy)
        entries = rows.in_force(self._connection, strategy)
        if conids is None:
            return self._end(strategy, entries)
        wanted = set(conids)
        missing = wanted - {entry.conid for entry in entries}
        if missing:
            listed = ", ".join(str(conid) for conid in sorted(missing))
            raise UsageError(f"strategy {strategy} does not use {listed}: 'v6 strategies list' shows what it does")
        return self._end(strategy, [entry for entry in entries if entry.conid in wanted])

    def remove_selector(self, strategy: str, selector: Selector | str) -> None:
        """Remove a selector from a strategy.

        Raises:
            UsageError: there is no such strategy, or it has no such selector.
        """
        parsed = _parsed(selector)
        self._check_exists(strategy)
        found = [entry for entry in rows.in_force(self._connection, strategy) if entry.selector == parsed]
        if not found:
            raise UsageError(f"strategy {strategy} has no selector {parsed.text}: 'v6 strategies list' shows them")
        self._end(strategy, found)

    def end_others(
        self, strategy: str, *, members: Collection[tuple[int, str | None]], selectors: Collection[str]
    ) -> None:
        """Remove all entries of a strategy except these contracts (account ``None`` is any) and selector texts."""
        others = _others(rows.in_force(self._connection, strategy), members=members, selectors=selectors)
        if others:
            self._end(strategy, others)

    def _replace(self, old: RegistryEntry | None, new: RegistryEntry) -> None:
        if old is not None:
            rows.close_entry(self._connection, old, at=self._now)
        rows.open_entry(self._connection, new)
        self.made = True

    def _end(self, strategy: str, entries: Collection[RegistryEntry]) -> int:
        for entry in entries:
            rows.close_entry(self._connection, entry, at=self._now)
        if not rows.in_force(self._connection, strategy):
            rows.close_strategy(self._connection, strategy, at=self._now)
            self._ended.add(strategy)
        self.made = True
        return len(entries)

    def _open_strategy(self, strategy: str) -> None:
        if not rows.strategy_exists(self._connection, strategy):
            rows.open_strategy(self._connection, strategy, at=self._now)
            self.made = True

    def _check_exists(self, strategy: str) -> None:
        # A strategy that has just ended is known: the caller reports what it does not use.
        if strategy not in self._ended and not rows.strategy_exists(self._connection, strategy):
            known = ", ".join(rows.names_in_force(self._connection)) or "none yet"
            raise UsageError(f"no strategy {strategy}: there are {known}")


def _others(
    entries: Iterable[RegistryEntry], *, members: Collection[tuple[int, str | None]], selectors: Collection[str]
) -> list[RegistryEntry]:
    """Return the entries except these contracts (account ``None`` is any) and selector texts."""
    kept = {(conid, account and account.strip().upper()) for conid, account in members}

    def is_kept(entry: RegistryEntry) -> bool:
        if entry.selector is not None:
            return entry.selector.text in selectors
        return (entry.conid, entry.account) in kept

    return [entry for entry in entries if not is_kept(entry)]


def _parsed(selector: Selector | str) -> Selector:
    """Parse a selector into its one spelling, as it is stored."""
    return Selector.parse(selector if isinstance(selector, str) else selector.text)


def check_membership(
    strategy: str, conids: Iterable[int], *, account: str | None, quantity: float | None, priority: int
) -> None:
    """Check the arguments of ``add_active`` without writing.

    Raises:
        UsageError: an invalid name, conid, quantity or priority.
    """
    check_strategy(strategy)
    check_priority(priority)
    _check_contracts(tuple(conids), account=account, quantity=quantity)


def check_strategy(strategy: str) -> None:
    """Check a strategy's name.

    Raises:
        UsageError: the name is invalid.
    """
    if not _STRATEGY_NAME.fullmatch(strategy) or strategy != strategy.strip():
        raise UsageError(
            f"{strategy!r} is not a strategy name: up to 64 letters, digits, spaces or any of _ . : / + - , "
            "beginning with a letter or digit"
        )


def check_priority(priority: int) -> None:
    """Check a priority.

    Raises:
        UsageError: the priority is out of range.
    """
    if not 0 <= priority <= 1_000_000:
        raise UsageError(f"priority {priority} is not between 0 (most important) and 1000000")


def _check_contracts(conids: tuple[int, ...], *, account: str | None, quantity: float | None) -> None:
    if not conids:
        raise UsageError("no contracts are named: give at least one conid, or a selector")
    wrong = [conid for conid in conids if not 0 < conid < 2**63]
    if wrong:
        raise UsageError(f"{wrong[0]} is not a conid: conids are positive numbers")
    if account is not None and not account.strip():
        raise UsageError("the account is empty: leave it out for any account")
    if quantity is not None and (not math.isfinite(quantity) or quantity == 0):
        raise UsageError(f"quantity {quantity} is not valid: leave it out for all that is held")


class ChangeMode(enum.StrEnum):
    """Effect on the entries that the strategy had before."""

    REPLACE = "replace"
    """The named entries replace them."""
    ADD = "add"
    """The named entries are added."""
    REMOVE = "remove"
    """The named entries are removed."""
    END = "end"
    """All entries are removed, and the strategy with them; none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyChange:
    """A change of a strategy's entries, checked as a whole before any of it is written.

    ``selectors`` are texts such as ``symbol=SPX,sec_type=OPT``; the rest is as for ``RegistryChanges.add_active``.
    """

    strategy: str
    mode: ChangeMode
    conids: Sequence[int] = ()
    selectors: Sequence[str] = ()
    account: str | None = None
    quantity: float | None = None
    priority: int = DEFAULT_PRIORITY

    _parsed: list[Selector] = field(init=False, default_factory=list, repr=False, compare=False)

    def check(self) -> None:
        """Check the change without reading the registry.

        Raises:
            UsageError: an invalid name, conid, selector, quantity or priority; nothing is named, or something to END.
        """
        check_strategy(self.strategy)
        self._parsed[:] = map(Selector.parse, self.selectors)
        is_named = bool(self.conids or self.selectors)
        if self.mode is ChangeMode.END and is_named:
            raise UsageError("END ends the whole strategy: leave conids and selectors empty, or REMOVE some of them")
        if self.mode is not ChangeMode.END and not is_named:
            raise UsageError(f"nothing to {self.mode}: name conids or selectors (END ends the whole strategy)")
        if self.quantity is not None and not self.conids:
            raise UsageError("quantity goes with conids: a selector takes all that is held")
        check_membership(
            self.strategy, self.conids or [1], account=self.account, quantity=self.quantity, priority=self.priority
        )

    def ends(self, entries: Sequence[RegistryEntry]) -> list[RegistryEntry]:
        """Return those of the strategy's ``entries`` that the change ends."""
        self.check()
        if self.mode is ChangeMode.ADD:
            return []
        selectors = {selector.text for selector in self._parsed}
        if self.mode is ChangeMode.REPLACE:
            return _others(entries, members={(conid, self.account) for conid in self.conids}, selectors=selectors)
        return [
            entry
            for entry in entries
            if self.mode is ChangeMode.END
            or (entry.conid in self.conids if entry.selector is None else entry.selector.text in selectors)
        ]

    def apply(self, registry: StrategyRegistry) -> None:
        """Write the change as a whole or not at all; entries that do not differ are not changed.

        Raises:
            UsageError: see ``check``; or an entry to be removed does not exist.
            StateError: the state database cannot be used.
        """
        self.check()
        with registry.changes() as changes:
            if self.mode is ChangeMode.END:
                changes.remove_active(self.strategy)
                return
            if self.mode is ChangeMode.REMOVE:
                self._remove(changes)
                return
            if self.conids:
                changes.add_active(
                    self.strategy, self.conids, account=self.account, quantity=self.quantity, priority=self.priority
                )
            for selector in self._parsed:
                changes.add_selector(self.strategy, selector, self.priority)
            if self.mode is ChangeMode.REPLACE:
                changes.end_others(
                    self.strategy,
                    members={(conid, self.account) for conid in self.conids},
                    selectors={selector.text for selector in self._parsed},
                )

    def _remove(self, changes: RegistryChanges) -> None:
        if self.conids:
            changes.remove_active(self.strategy, self.conids)
        for selector in self._parsed:
            changes.remove_selector(self.strategy, selector)
