"""A change of what a strategy uses, checked as a whole before any of it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from v6_pipeline.errors import UsageError
from v6_pipeline.sync.registry import DEFAULT_PRIORITY, RegistryEntry, Selector, StrategyRegistry, check_membership


class ChangeMode(StrEnum):
    """What becomes of what the strategy used before."""

    REPLACE = "replace"
    """It uses what is named, and nothing else."""
    ADD = "add"
    """It uses what is named beside the rest."""
    REMOVE = "remove"
    """It no longer uses what is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyChange:
    """What is to change.

    Attributes:
        strategy: its name.
        mode: how.
        conids: contracts.
        selectors: kinds of holdings, as ``symbol=SPX,sec_type=OPT``.
        account: of the contracts; any if left out.
        quantity: of each contract, negative for short; all that is held if left out.
        priority: the smaller number streams first.
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
        """Refuse what cannot be, without looking at the registry.

        Raises:
            UsageError: a name, conid, selector, quantity or priority that cannot be, or nothing is named.
        """
        self._parsed[:] = map(Selector.parse, self.selectors)
        if not self.conids and not self.selectors and self.mode is not ChangeMode.REPLACE:
            raise UsageError(f"nothing to {self.mode}: name conids or selectors")
        if self.quantity is not None and not self.conids:
            raise UsageError("quantity goes with conids: a selector takes all that is held")
        check_membership(
            self.strategy, self.conids or [1], account=self.account, quantity=self.quantity, priority=self.priority
        )

    def apply(self, registry: StrategyRegistry) -> None:
        """Write it; what is so already stays as it is.

        Raises:
            UsageError: see ``check``; or what is to be removed is not there.
            StateError: the state database cannot be used.
        """
        self.check()
        if self.mode is ChangeMode.REMOVE:
            self._remove(registry, self.conids, self._parsed)
            return
        if self.mode is ChangeMode.REPLACE:
            self._remove(registry, *self._others(entries_of(registry, self.strategy)))
        if self.conids:
            registry.add_active(
                self.strategy, self.conids, account=self.account, quantity=self.quantity, priority=self.priority
            )
        for selector in self._parsed:
            registry.add_selector(self.strategy, selector, self.priority)

    def _remove(self, registry: StrategyRegistry, conids: Sequence[int], selectors: Sequence[Selector]) -> None:
        missing = {selector.text for selector in selectors} - {
            entry.selector.text for entry in entries_of(registry, self.strategy) if entry.selector
        }
        if missing:
            raise UsageError(f"strategy {self.strategy} has no selector {min(missing)}: nothing was changed")
        if conids:
            registry.remove_active(self.strategy, conids)
        for selector in selectors:
            registry.remove_selector(self.strategy, selector)

    def _others(self, present: Sequence[RegistryEntry]) -> tuple[list[int], list[Selector]]:
        """What is used now and not named; a contract that is named for another account counts as such."""
        wanted = {(conid, self.account) for conid in self.conids}
        named = {selector.text for selector in self._parsed}
        conids = [item.conid for item in present if item.conid is not None and (item.conid, item.account) not in wanted]
        selectors = [item.selector for item in present if item.selector is not None and item.selector.text not in named]
        return list(dict.fromkeys(conids)), selectors


def entries_of(registry: StrategyRegistry, strategy: str) -> list[RegistryEntry]:
    """What a strategy uses now."""
    return [entry for entry in registry.entries() if entry.strategy == strategy]
