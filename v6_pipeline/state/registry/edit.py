"""A change of what a strategy uses, checked as a whole before any of it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from v6_pipeline.errors import UsageError
from v6_pipeline.state.registry.changes import DEFAULT_PRIORITY, RegistryChanges, check_membership
from v6_pipeline.state.registry.registry import RegistryEntry, StrategyRegistry
from v6_pipeline.state.registry.selector import Selector


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
        """Write it, as a whole or not at all; what is so already stays as it is.

        Raises:
            UsageError: see ``check``; or what is to be removed is not there.
            StateError: the state database cannot be used.
        """
        self.check()
        with registry.changes() as changes:
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


def entries_of(registry: StrategyRegistry, strategy: str) -> list[RegistryEntry]:
    """What a strategy uses now."""
    return [entry for entry in registry.entries() if entry.strategy == strategy]
