"""A slot ledger on which a test takes one step of a slot's life at a time; the product records several at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.slots.allocation import AcquiredSlots
from v6_pipeline.state.slots.ledger import SlotChanges, SlotLedger


class StepLedger(SlotLedger):
    """``SlotLedger`` with a method per step."""

    def acquire(
        self,
        conids: Iterable[int],
        *,
        holder: str,
        purpose: SlotPurpose,
        ttl_seconds: float,
        priorities: Mapping[int, int] | None = None,
    ) -> AcquiredSlots:
        return self.record_and_acquire(
            SlotChanges(), conids, holder=holder, purpose=purpose, ttl_seconds=ttl_seconds, priorities=priorities
        )

    def record(self, holder: str, changes: SlotChanges) -> None:
        self.record_and_acquire(changes, holder=holder, purpose=SlotPurpose.BATCH, ttl_seconds=60)

    def confirm(self, holder: str, conids: Iterable[int]) -> None:
        self.record(holder, SlotChanges(confirmed=set(conids)))

    def report_exhausted(self, holder: str, conid: int) -> None:
        self.record(holder, SlotChanges(exhausted={conid}))

    def close(self, holder: str, conids: Iterable[int]) -> None:
        self.record(holder, SlotChanges(closing=set(conids)))

    def to_yield(self, holder: str) -> frozenset[int]:
        return self.usage().to_yield(holder)
