"""``SlotLedger``: who uses the market-data lines, so that all processes together never ask for more than there are.

A slot is one line: a contract subscribed by one holder. Streams leave ``batch_floor`` lines to batches; batches may use
whatever is free. A slot that is not renewed expires, so a dead process holds none for long; whoever learns from
``renew`` that a slot is gone must cancel its subscription at once, for the line may be another's by now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from v6_pipeline.model import SlotPurpose
from v6_pipeline.settings import Settings
from v6_pipeline.state import slots as rows
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.slots import Slot

__all__ = ["AcquiredSlots", "Slot", "SlotLedger", "SlotUsage", "allocate", "stream_holder"]


def stream_holder(epoch: int) -> str:
    """How the streamer of an epoch is called in the ledger."""
    return f"streamer/{epoch}"


@dataclass(frozen=True, slots=True)
class AcquiredSlots:
    """The answer to ``SlotLedger.acquire``, each in the order asked for."""

    granted: tuple[int, ...]
    refused: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotUsage:
    """The lines in use at one instant, and how many there may be."""

    slots: tuple[Slot, ...]
    ceiling: int
    batch_floor: int

    @property
    def streams(self) -> int:
        """Lines that streams use."""
        return sum(slot.purpose is SlotPurpose.STREAM for slot in self.slots)

    @property
    def batches(self) -> int:
        """Lines that batches use."""
        return len(self.slots) - self.streams

    @property
    def free(self) -> int:
        """Lines that a batch could take now."""
        return max(0, self.ceiling - len(self.slots))

    @property
    def free_for_streams(self) -> int:
        """Lines that a streamer could take now."""
        return max(0, min(self.free, self.ceiling - self.batch_floor - self.streams))


def allocate(usage: SlotUsage, conids: Sequence[int], *, holder: str, purpose: SlotPurpose) -> AcquiredSlots:
    """Which of ``conids`` get a slot, the first ones first.

    What the holder has for this purpose is granted again. Refused are: a contract that the holder has for the other
    purpose, a stream of what someone streams already, and everything once the lines are used up.
    """
    mine = {slot.conid: slot.purpose for slot in usage.slots if slot.holder == holder}
    streamed = {slot.conid for slot in usage.slots if slot.purpose is SlotPurpose.STREAM}
    free = usage.free_for_streams if purpose is SlotPurpose.STREAM else usage.free
    granted: list[int] = []
    refused: list[int] = []
    for conid in dict.fromkeys(conids):
        if conid in mine:
            (granted if mine[conid] is purpose else refused).append(conid)
        elif free > 0 and not (purpose is SlotPurpose.STREAM and conid in streamed):
            free -= 1
            granted.append(conid)
        else:
            refused.append(conid)
    return AcquiredSlots(tuple(granted), tuple(refused))


class SlotLedger:
    """The market-data lines of one gateway, shared by all processes.

    Args:
        database: the state database; its write transaction makes each call atomic over all processes.
        ceiling: lines that streams and batches may use together: those that IB grants less those kept in reserve.
        batch_floor: lines of these that streams cannot take.
        clock: tells the time.
    """

    def __init__(self, database: StateDatabase, *, ceiling: int, batch_floor: int, clock: Clock = utc_now) -> None:
        if not 0 <= batch_floor <= ceiling:
            msg = f"a batch floor of {batch_floor} lines under a ceiling of {ceiling}"
            raise ValueError(msg)
        self._database = database
        self._ceiling = ceiling
        self._batch_floor = batch_floor
        self._clock = clock

    @property
    def stream_capacity(self) -> int:
        """Lines that streams may use in all, whoever uses them now."""
        return self._ceiling - self._batch_floor

    @classmethod
    def from_settings(cls, settings: Settings, database: StateDatabase, clock: Clock = utc_now) -> SlotLedger:
        """The ledger of the gateway that the settings name."""
        return cls(
            database,
            ceiling=settings.market_data_lines - settings.reserved_lines,
            batch_floor=settings.batch_lines,
            clock=clock,
        )

    def acquire(self, conids: Iterable[int], *, holder: str, purpose: SlotPurpose, ttl_seconds: float) -> AcquiredSlots:
        """Take a line for each of ``conids``, as far as they go; the first ones first.

        What the holder has already is granted again and renewed.
        """
        wanted = list(conids)
        with self._database.write() as connection:
            now = self._clock()
            expires_at = now + timedelta(seconds=ttl_seconds)
            rows.sweep_expired(connection, now=now)
            usage = self._usage(rows.live(connection, now=now))
            answer = allocate(usage, wanted, holder=holder, purpose=purpose)
            rows.put(
                connection,
                [
                    Slot(conid=conid, holder=holder, purpose=purpose, acquired_at=now, expires_at=expires_at)
                    for conid in answer.granted
                ],
            )
        return answer

    def renew(self, holder: str, *, ttl_seconds: float) -> frozenset[int]:
        """Prolong all of a holder's slots; the conids that it still has. Any other is lost: cancel its market data."""
        with self._database.write() as connection:
            now = self._clock()
            rows.sweep_expired(connection, now=now)
            return rows.renew(connection, holder=holder, expires_at=now + timedelta(seconds=ttl_seconds), now=now)

    def release(self, holder: str, conids: Iterable[int] | None = None) -> int:
        """Give slots back, after their market data was cancelled; all if ``conids`` is left out. How many they were."""
        with self._database.write() as connection:
            now = self._clock()
            rows.sweep_expired(connection, now=now)
            return rows.remove(connection, holder=holder, conids=conids)

    def usage(self) -> SlotUsage:
        """The lines in use now."""
        with self._database.read() as connection:
            return self._usage(rows.live(connection, now=self._clock()))

    def _usage(self, live: tuple[Slot, ...]) -> SlotUsage:
        return SlotUsage(slots=live, ceiling=self._ceiling, batch_floor=self._batch_floor)
