"""``SlotLedger``: who uses the market-data lines, so that all processes together never ask for more than there are.

A slot is one line: a contract subscribed by one holder. Its life, each step a row that every process sees:

1. ``acquire`` grants it, *unconfirmed*; the holder subscribes.
2. ``confirm`` after a round trip that followed the subscribe brought no error 101: the gateway answers in order. Few
   lines are unconfirmed at a time over all processes, so a limit that falls draws a handful of 101s before all know.
   Or ``report_exhausted``: the ceiling is learned (``slot_ceiling``), and the line is nobody's.
3. ``close`` before the holder cancels, ``release`` after a round trip has confirmed the cancel.

``turn`` does several of these in one transaction. Streams leave ``batch_floor`` lines to batches; who gets what is
decided in ``slot_allocation``. A slot that is not renewed expires, so a dead process holds none for long; whoever
learns from ``renew`` that a slot is gone must cancel its subscription at once, for the line may be another's by now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection

from v6_pipeline.model import SlotPurpose
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.slots import limits as slot_limits
from v6_pipeline.state.slots import rows
from v6_pipeline.state.slots import samples as slot_samples
from v6_pipeline.state.slots.allocation import UNCONFIRMED_LINES, AcquiredSlots, SlotUsage, Wait, allocate
from v6_pipeline.state.slots.ceiling import LineLimit, after_confirmed, after_exhausted
from v6_pipeline.state.slots.limits import Demand, LearnedLimit
from v6_pipeline.state.slots.rows import Slot
from v6_pipeline.state.slots.samples import SlotSample

__all__ = [
    "AcquiredSlots",
    "Demand",
    "LearnedLimit",
    "Slot",
    "SlotChanges",
    "SlotLedger",
    "SlotUsage",
    "Wait",
    "allocate",
    "stream_holder",
]

DEMAND_SECONDS = 5
"""Who does not ask again within that time waits no more."""

SAMPLE_EVERY = timedelta(minutes=1)


def stream_holder(epoch: int) -> str:
    """How the streamer of an epoch is called in the ledger."""
    return f"streamer/{epoch}"


@dataclass(slots=True)
class SlotChanges:
    """What a holder has to tell of its lines, by conid, in the order in which it is taken in."""

    exhausted: set[int] = field(default_factory=set)
    """The gateway answered 101."""
    confirmed: set[int] = field(default_factory=set)
    """Subscribed, and a round trip has brought no 101."""
    released: set[int] = field(default_factory=set)
    """Cancelled or refused, and a round trip has confirmed it."""
    closing: set[int] = field(default_factory=set)
    """About to be cancelled."""

    def __bool__(self) -> bool:
        return bool(self.exhausted or self.confirmed or self.released or self.closing)


class SlotLedger:
    """The market-data lines of one gateway, shared by all processes.

    Args:
        database: the state database; its write transaction makes each call atomic over all processes.
        ceiling: lines that streams and batches may use together: those that IB grants less those kept in reserve.
        batch_floor: lines of these that streams cannot take.
        clock: tells the time.
        unconfirmed_lines: lines over all processes that may be unconfirmed at a time.
    """

    def __init__(
        self,
        database: StateDatabase,
        *,
        ceiling: int,
        batch_floor: int,
        clock: Clock = utc_now,
        unconfirmed_lines: int = UNCONFIRMED_LINES,
    ) -> None:
        if not 0 <= batch_floor <= ceiling:
            msg = f"a batch floor of {batch_floor} lines under a ceiling of {ceiling}"
            raise ValueError(msg)
        self._database = database
        self._ceiling = ceiling
        self._batch_floor = batch_floor
        self._clock = clock
        self._unconfirmed_lines = unconfirmed_lines

    @classmethod
    def from_settings(cls, settings: Settings, database: StateDatabase, clock: Clock = utc_now) -> SlotLedger:
        """The ledger of the gateway that the settings name."""
        return cls(
            database,
            ceiling=settings.market_data_lines - settings.reserved_lines,
            batch_floor=settings.batch_lines,
            clock=clock,
        )

    def acquire(
        self,
        conids: Iterable[int],
        *,
        holder: str,
        purpose: SlotPurpose,
        ttl_seconds: float,
        priorities: Mapping[int, int] | None = None,
    ) -> AcquiredSlots:
        """Take a line for each of ``conids``, as far as they go; the first ones first.

        What the holder has already is granted again and renewed. What is refused for want of lines is noted as a
        demand for a few seconds: batches then yield to streams, and share evenly among themselves.

        Args:
            conids: the contracts.
            holder: who asks.
            purpose: what for.
            ttl_seconds: how long the slots last unless renewed.
            priorities: of the strategies, by conid; for people to read.
        """
        return self.turn(
            SlotChanges(), conids, holder=holder, purpose=purpose, ttl_seconds=ttl_seconds, priorities=priorities
        )

    def turn(
        self,
        changes: SlotChanges,
        conids: Iterable[int] = (),
        *,
        holder: str,
        purpose: SlotPurpose,
        ttl_seconds: float,
        priorities: Mapping[int, int] | None = None,
    ) -> AcquiredSlots:
        """Take in ``changes``, then ``acquire``, in one transaction."""
        wanted = list(dict.fromkeys(conids))
        with self._database.write() as connection:
            now = self._clock()
            self._sweep(connection, now)
            self._take_in(connection, holder, changes, now)
            usage = self._usage(connection, now)
            answer = allocate(usage, wanted, holder=holder, purpose=purpose)
            expires_at = now + timedelta(seconds=ttl_seconds)
            rows.put(
                connection,
                [
                    Slot(
                        conid=conid,
                        holder=holder,
                        purpose=purpose,
                        priority=(priorities or {}).get(conid),
                        acquired_at=now,
                        expires_at=expires_at,
                    )
                    for conid in answer.granted
                ],
            )
            if wanted:
                self._note_demand(connection, usage, answer, holder, purpose)
        return answer

    def confirm(self, holder: str, conids: Iterable[int]) -> None:
        """Say that the gateway granted lines: a round trip that followed the subscribes has brought no error 101."""
        self.tell(holder, SlotChanges(confirmed=set(conids)))

    def report_exhausted(self, holder: str, conid: int) -> None:
        """Say that the gateway refused a line with error 101. The ceiling falls, and the line is given back."""
        self.tell(holder, SlotChanges(exhausted={conid}))

    def close(self, holder: str, conids: Iterable[int]) -> None:
        """Say that lines are about to be cancelled; they stay in use until they are released."""
        self.tell(holder, SlotChanges(closing=set(conids)))

    def tell(self, holder: str, changes: SlotChanges) -> None:
        """Take in ``changes`` in one transaction."""
        with self._database.write() as connection:
            now = self._clock()
            self._sweep(connection, now)
            self._take_in(connection, holder, changes, now)

    def renew(self, holder: str, *, ttl_seconds: float) -> frozenset[int]:
        """Prolong all of a holder's slots; the conids that it still has. Any other is lost: cancel its market data."""
        with self._database.write() as connection:
            now = self._clock()
            self._sweep(connection, now)
            return rows.renew(connection, holder=holder, expires_at=now + timedelta(seconds=ttl_seconds), now=now)

    def release(self, holder: str, conids: Iterable[int] | None = None) -> int:
        """Give slots back, after the cancel of their market data was confirmed, or the connection has gone.

        All of them, and the holder's place in the line, if ``conids`` is left out. How many they were.
        """
        with self._database.write() as connection:
            now = self._clock()
            self._sweep(connection, now)
            if conids is None:
                slot_limits.drop_demand(connection, holder=holder)
            return rows.remove(connection, holder=holder, conids=conids)

    def usage(self) -> SlotUsage:
        """The lines in use now, and who waits. Only reads: cheap enough to be polled."""
        with self._database.read() as connection:
            return self._usage(connection, self._clock())

    def to_yield(self, holder: str) -> frozenset[int]:
        """Contracts whose lines a batch should cancel and release now. Only reads; poll it about twice a second."""
        return self.usage().to_yield(holder)

    def sample(self) -> None:
        """Keep a sample of the usage, for pictures, if a minute has passed since the last one."""
        now = self._clock()
        with self._database.read() as connection:
            newest = slot_samples.newest(connection)
            usage = self._usage(connection, now)
        if newest is not None and timedelta() <= now - newest < SAMPLE_EVERY:
            return
        sample = SlotSample(at=now, streams=usage.streams, batches=usage.batches, ceiling=usage.ceiling)
        with self._database.write() as connection:
            slot_samples.add(connection, sample)

    def _take_in(self, connection: Connection, holder: str, changes: SlotChanges, now: datetime) -> None:
        if changes.confirmed:
            self._confirm(connection, holder, changes.confirmed - changes.exhausted, now)
        for conid in sorted(changes.exhausted):
            self._learn(connection, holder, conid, now)
        if changes.released:
            rows.remove(connection, holder=holder, conids=changes.released)
        if changes.closing:
            rows.close(connection, holder=holder, conids=changes.closing, now=now)

    def _confirm(self, connection: Connection, holder: str, conids: set[int], now: datetime) -> None:
        rows.confirm(connection, holder=holder, conids=conids, now=now)
        usage = self._usage(connection, now)
        granted = [slot.acquired_at for slot in usage.slots if slot.holder == holder and slot.conid in conids]
        if not granted:
            return
        known = after_confirmed(
            usage.limit,
            granted_at=max(granted),
            standing=usage.standing,
            used=len(usage.slots),
            streams=usage.streams,
        )
        if known != usage.learned:
            slot_limits.save_limit(connection, known)

    def _learn(self, connection: Connection, holder: str, conid: int, now: datetime) -> None:
        before = self._usage(connection, now).slots
        granted_at = next((slot.acquired_at for slot in before if (slot.holder, slot.conid) == (holder, conid)), None)
        rows.remove(connection, holder=holder, conids=[conid])
        usage = self._usage(connection, now)
        known = after_exhausted(usage.limit, conid=conid, granted_at=granted_at, standing=usage.standing)
        slot_limits.save_limit(connection, known)

    def _note_demand(
        self, connection: Connection, usage: SlotUsage, answer: AcquiredSlots, holder: str, purpose: SlotPurpose
    ) -> None:
        """Keep the holder's place in the line; who was granted something goes to its end."""
        now = usage.limit.at
        before = next((item for item in usage.demands if (item.holder, item.purpose) == (holder, purpose)), None)
        wanted = len(answer.refused)
        if purpose is SlotPurpose.STREAM:
            held = usage.streams + len(answer.granted)
            wanted = min(wanted, usage.limit.stream_capacity + usage.limit.probe - held)
        if answer.wait not in {Wait.TURN, Wait.LINES} or wanted <= 0:
            if before is not None:
                slot_limits.drop_demand(connection, holder=holder, purpose=purpose)
            return
        slot_limits.save_demand(
            connection,
            Demand(
                holder=holder,
                purpose=purpose,
                wanted=wanted,
                since=before.since if before is not None and not answer.granted else now,
                expires_at=now + timedelta(seconds=DEMAND_SECONDS),
            ),
        )

    def _sweep(self, connection: Connection, now: datetime) -> None:
        rows.sweep_expired(connection, now=now)
        slot_limits.sweep_demands(connection, now=now)

    def _usage(self, connection: Connection, now: datetime) -> SlotUsage:
        return SlotUsage(
            slots=rows.live(connection, now=now),
            limit=LineLimit(self._ceiling, self._batch_floor, slot_limits.limit(connection), now),
            demands=slot_limits.demands(connection, now=now),
            unconfirmed_lines=self._unconfirmed_lines,
        )
