"""Changes of the strategies' registry: checked, and made in the one transaction that ``StrategyRegistry`` opens.

A change closes the row in force and adds another; what is so already stays as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import Connection

from v6_pipeline.errors import UsageError
from v6_pipeline.state.registry import rows
from v6_pipeline.state.registry.rows import MembershipRow, SelectorRow
from v6_pipeline.state.registry.selector import Selector

DEFAULT_PRIORITY = 100
"""Leaves room on both sides: 1 is more important, 200 less."""

_STRATEGY_NAME = re.compile(r"\w[\w .:/+-]{0,63}")


class RegistryChanges:
    """What changes in one transaction.

    Args:
        connection: in a write transaction.
        now: the instant of all changes, UTC.
    """

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self.made = False
        """Whether anything has changed."""
        self._ended: set[str] = set()

    def members(self, strategy: str) -> tuple[MembershipRow, ...]:
        """The contracts that a strategy uses now."""
        return rows.memberships_in_force(self._connection, strategy)

    def selectors(self, strategy: str) -> tuple[SelectorRow, ...]:
        """The selectors that a strategy uses now."""
        return rows.selectors_in_force(self._connection, strategy)

    def add_active(
        self,
        strategy: str,
        conids: Iterable[int],
        *,
        account: str | None = None,
        quantity: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        """Let a strategy use contracts; one that it uses already gets the new quantity and priority.

        Args:
            strategy: its name; a new one is created.
            conids: the contracts.
            account: only there, in capitals as IB writes them; in any if left out.
            quantity: of each contract, negative for short; all that is held if left out.
            priority: the smaller number is more important.

        Raises:
            UsageError: a name, conid, quantity or priority that cannot be.
        """
        wanted = tuple(dict.fromkeys(conids))
        account = None if account is None else account.strip().upper()
        check_membership(strategy, wanted, account=account, quantity=quantity, priority=priority)
        present = {(row.conid, row.account): row for row in self.members(strategy)}
        self._open_strategy(strategy)
        for conid in wanted:
            old = present.get((conid, account))
            if old is not None and (old.quantity, old.priority) == (quantity, priority):
                continue
            if old is not None:
                rows.close_membership(self._connection, old, at=self._now)
            rows.open_membership(
                self._connection,
                strategy=strategy,
                account=account,
                conid=conid,
                quantity=quantity,
                priority=priority,
                at=self._now,
            )
            self.made = True

    def add_selector(self, strategy: str, selector: Selector | str, priority: int = DEFAULT_PRIORITY) -> None:
        """Let a strategy use every holding that a selector matches, those to come included.

        Raises:
            UsageError: a name, selector or priority that cannot be.
        """
        text = Selector.parse(_parsed(selector).text).text  # what is stored can be read again
        check_strategy(strategy)
        check_priority(priority)
        self._open_strategy(strategy)
        old = next((row for row in self.selectors(strategy) if row.selector == text), None)
        if old is not None and old.priority == priority:
            return
        if old is not None:
            rows.close_selector(self._connection, old, at=self._now)
        rows.open_selector(self._connection, strategy=strategy, selector=text, priority=priority, at=self._now)
        self.made = True

    def remove_active(self, strategy: str, conids: Iterable[int] | None = None) -> int:
        """End a strategy's use of contracts, in all accounts; of everything, selectors too, if ``conids`` is left out.

        A strategy without contracts and selectors ends.

        Returns:
            How many entries ended.

        Raises:
            UsageError: there is no such strategy, or it does not use one of the contracts.
        """
        self._check_exists(strategy)
        members = self.members(strategy)
        if conids is None:
            return self._end(strategy, members, self.selectors(strategy))
        wanted = set(conids)
        missing = wanted - {row.conid for row in members}
        if missing:
            listed = ", ".join(str(conid) for conid in sorted(missing))
            raise UsageError(f"strategy {strategy} does not use {listed}: 'v6 strategies list' shows what it does")
        return self._end(strategy, [row for row in members if row.conid in wanted], ())

    def remove_selector(self, strategy: str, selector: Selector | str) -> None:
        """End a strategy's use of what a selector matches.

        Raises:
            UsageError: there is no such strategy, or it has no such selector.
        """
        text = _parsed(selector).text
        self._check_exists(strategy)
        found = [row for row in self.selectors(strategy) if row.selector == text]
        if not found:
            raise UsageError(f"strategy {strategy} has no selector {text}: 'v6 strategies list' shows them")
        self._end(strategy, (), found)

    def end_others(
        self, strategy: str, *, members: Collection[tuple[int, str | None]], selectors: Collection[str]
    ) -> None:
        """End all that a strategy uses but these contracts, each with its account or any, and texts of selectors."""
        kept = {(conid, account and account.strip().upper()) for conid, account in members}
        others = [row for row in self.members(strategy) if (row.conid, row.account) not in kept]
        more = [row for row in self.selectors(strategy) if row.selector not in selectors]
        if others or more:
            self._end(strategy, others, more)

    def _end(self, strategy: str, members: Iterable[MembershipRow], selectors: Iterable[SelectorRow]) -> int:
        ended = 0
        for member in members:
            rows.close_membership(self._connection, member, at=self._now)
            ended += 1
        for selector in selectors:
            rows.close_selector(self._connection, selector, at=self._now)
            ended += 1
        if not self.members(strategy) and not self.selectors(strategy):
            rows.close_strategy(self._connection, strategy, at=self._now)
            self._ended.add(strategy)
        self.made = True
        return ended

    def _open_strategy(self, strategy: str) -> None:
        if not rows.strategy_exists(self._connection, strategy):
            rows.open_strategy(self._connection, strategy, at=self._now)
            self.made = True

    def _check_exists(self, strategy: str) -> None:
        # One that has just ended is known: what it does not use is for the caller to say.
        if strategy not in self._ended and not rows.strategy_exists(self._connection, strategy):
            known = ", ".join(rows.names_in_force(self._connection)) or "none yet"
            raise UsageError(f"no strategy {strategy}: there are {known}")


def _parsed(selector: Selector | str) -> Selector:
    return Selector.parse(selector) if isinstance(selector, str) else selector


def check_membership(
    strategy: str, conids: Iterable[int], *, account: str | None, quantity: float | None, priority: int
) -> None:
    """What ``add_active`` refuses, without writing anything.

    Raises:
        UsageError: a name, conid, quantity or priority that cannot be.
    """
    check_strategy(strategy)
    check_priority(priority)
    _check_contracts(tuple(conids), account=account, quantity=quantity)


def check_strategy(strategy: str) -> None:
    """Refuse what cannot be a strategy's name.

    Raises:
        UsageError: it says what a name may be.
    """
    if not _STRATEGY_NAME.fullmatch(strategy) or strategy != strategy.strip():
        raise UsageError(
            f"{strategy!r} is no name for a strategy: up to 64 letters, digits, spaces or any of _ . : / + - , "
            "beginning with a letter or digit"
        )


def check_priority(priority: int) -> None:
    """Refuse what cannot be a priority.

    Raises:
        UsageError: it says what a priority may be.
    """
    if not 0 <= priority <= 1_000_000:
        raise UsageError(f"priority {priority} is not between 0 (most important) and 1000000")


def _check_contracts(conids: tuple[int, ...], *, account: str | None, quantity: float | None) -> None:
    if not conids:
        raise UsageError("no contracts are named: give at least one conid, or a selector")
    wrong = [conid for conid in conids if not 0 < conid < 2**63]
    if wrong:
        raise UsageError(f"{wrong[0]} is no conid: they are positive numbers")
    if account is not None and not account.strip():
        raise UsageError("the account is empty: leave it out for any account")
    if quantity is not None and (not math.isfinite(quantity) or quantity == 0):
        raise UsageError(f"quantity {quantity} cannot be: leave it out for all that is held")
