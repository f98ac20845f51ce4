"""A market-data line: its states, its record, and the events that its owner receives.

Does not belong here: the transitions (``subscriptions``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.model import ContractSpec, Quote


class LineState(enum.StrEnum):
    """The state of a line between its grant by the ledger and its release there."""

    SUBSCRIBING = "subscribing"
    """Requested; no round trip has followed, so the gateway may still refuse it."""
    LIVE = "live"
    """The request brought a tick, or a round trip has followed it and brought no error 101."""
    CANCELLING = "cancelling"
    """Cancelled; no round trip has followed, so the gateway may still hold it."""
    EXHAUSTED = "exhausted"
    """Refused with error 101; the ledger lowers its ceiling when this is reported."""
    RELEASING = "releasing"
    """The gateway does not hold it; the ledger releases it when this is reported."""


@dataclass(slots=True)
class Line:
    """One line of a connection."""

    state: LineState
    opened_at: float
    """Loop time of the request, in seconds."""
    is_reported_live: bool = False


class LineListener:
    """Receives the events of a connection's lines, on the loop; a method that is not overridden ignores its event."""

    def on_subscribed(self, spec: ContractSpec) -> None:
        """Take note that a contract's market data was requested."""

    def on_quote(self, conid: int, quote: Quote) -> None:
        """Take note of a tick."""

    def on_cancelled(self, conid: int) -> None:
        """Take note that the owner ended a subscription."""

    def on_confirmed(self) -> None:
        """Take note that the gateway confirmed requests and cancels: the next step reports them to the ledger."""

    def on_lost(self, conid: int) -> None:
        """Take note that a line expired in the ledger or could not be renewed, or that IB lost its data."""

    def on_remark(self, conid: int, remark: str) -> None:
        """Take note of IB's code and text for a request that goes on, such as 10089: it may never tick."""

    def on_refused(self, refusal: Refusal) -> None:
        """Take note of a refusal; the next ``step`` or ``report`` gives the line back."""
