"""A model of the gateway's lines and of the processes that use them, for tests of the ledger.

The gateway reads each client's messages in order and at its own time; a process learns what became of them only then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.slots.allocation import AcquiredSlots
from v6_pipeline.state.slots.ledger import SlotChanges
from v6_pipeline_tests.step_ledger import StepLedger

TTL = 60


@dataclass
class GatewayLines:
    """The lines that there really are: from the subscribe to the cancel, whatever the ledger says."""

    limit: int
    lines: set[tuple[str, int]] = field(default_factory=set)
    refusals: int = 0
    peak: int = 0

    def subscribe(self, holder: str, conid: int) -> bool:
        assert (holder, conid) not in self.lines, "subscribed twice: the second line can never be cancelled"
        if len(self.lines) >= self.limit:
            self.refusals += 1
            return False
        self.lines.add((holder, conid))
        self.peak = max(self.peak, len(self.lines))
        return True

    def disconnect(self, holder: str) -> None:
        self.lines = {line for line in self.lines if line[0] != holder}


@dataclass
class Process:
    """A holder that keeps to the protocol. Its messages lie on the wire until ``deliver``."""

    ledger: StepLedger
    gateway: GatewayLines
    holder: str
    purpose: SlotPurpose
    wire: list[tuple[str, int]] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    changes: SlotChanges = field(default_factory=SlotChanges)
    stands_still: bool = False

    def request(self, wanted: Iterable[int] = (), *, ended: Iterable[int] = ()) -> AcquiredSlots:
        """Report changes, request lines, and send the cancels and subscribes."""
        closing = set(ended) & self.open
        self.changes.closing = closing
        answer = self.ledger.record_and_acquire(
            self.changes, wanted, holder=self.holder, purpose=self.purpose, ttl_seconds=TTL
        )
        self.changes = SlotChanges()
        self.wire += [("cancel", conid) for conid in sorted(closing)]
        self.open -= closing
        new = [conid for conid in answer.granted if conid not in self.open]
        self.wire += [("subscribe", conid) for conid in new]
        self.open |= set(new)
        return answer

    def deliver(self) -> None:
        """A round trip: the gateway has read what was sent, and its answers are here."""
        for what, conid in self.wire:
            if what == "cancel":
                self.gateway.lines.discard((self.holder, conid))
                self.changes.released.add(conid)
            elif self.gateway.subscribe(self.holder, conid):
                self.changes.confirmed.add(conid)
            else:
                self.open.discard(conid)
                self.changes.exhausted.add(conid)
        self.wire.clear()

    def report(self) -> None:
        self.ledger.record(self.holder, self.changes)
        self.changes = SlotChanges()

    def renew(self) -> None:
        """Prolong its lines; those that expired while it stood still are cancelled at once."""
        lost = self.open - self.ledger.renew(self.holder, ttl_seconds=TTL)
        self.wire += [("cancel", conid) for conid in sorted(lost)]
        self.open -= lost

    def crash(self) -> None:
        """The socket closes; the ledger gets no report."""
        self.gateway.disconnect(self.holder)

    def shed(self) -> frozenset[int]:
        """Return the lines that a holder releases now: for streams that need them, or those beyond its part."""
        usage = self.ledger.usage()
        if self.purpose is SlotPurpose.BATCH:
            return usage.to_yield(self.holder)
        return frozenset(sorted(self.open)[max(0, usage.limit.stream_target) :])
