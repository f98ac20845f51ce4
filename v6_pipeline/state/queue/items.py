"""What is in the position queue: an item and its states, a leased batch, and the queue's figures."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from v6_pipeline.state.keys import Key


class QueueState(enum.StrEnum):
    """State of an item."""

    OPEN = "open"
    """Served next."""
    LEASED = "leased"
    """A worker has it."""
    WAITING = "waiting"
    """It failed and is not served before ``not_before``."""
    DEAD = "dead"
    """It failed too often, and stays until a person handles it or it is inserted again."""


class NewItem(NamedTuple):
    """An item to be put into the queue."""

    account: str
    conid: int
    symbol: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """A holding to be refreshed.

    ``queued_at`` is when it was first requested and decides its place; ``enqueued_at`` is when it was last requested:
    an observation made before that does not answer it. A request during a lease is kept in ``requeued_at`` and
    ``requeued_priority`` until the lease ends.
    """

    account: str
    conid: int
    symbol: str
    priority: int
    queued_at: datetime
    enqueued_at: datetime
    attempts: int
    not_before: datetime | None
    leased_until: datetime | None
    requeued_at: datetime | None
    requeued_priority: int | None
    last_error: str | None
    dead_at: datetime | None
    state: QueueState

    @property
    def key(self) -> Key:
        """(account, conid)."""
        return self.account, self.conid


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Items leased to one worker. ``token`` acknowledges them until ``leased_until``."""

    token: str
    items: tuple[QueueItem, ...]
    leased_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Number of items by state.

    ``oldest_age_seconds`` is the time since the oldest item that is not dead was first requested. ``by_priority``
    counts all that are not dead.
    """

    open: int
    leased: int
    waiting: int
    dead: int
    oldest_age_seconds: float | None
    by_priority: dict[int, int] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """All that are still to be refreshed."""
        return self.open + self.leased + self.waiting
