"""``SlotLedger``: the market-data lines in use, so that all processes together never use more than there are.

A slot is one line: a contract subscribed by one holder. Its life, each step a row that every process sees:

1. ``record_and_acquire`` grants it, *unconfirmed*; the holder subscribes.
2. ``confirmed`` after a round trip that followed the subscribe brought no error 101: the gateway answers in order. Few
   lines are unconfirmed at a time over all processes, so a limit that falls draws a handful of 101s before all know.
   Or ``exhausted``: the ceiling is learned (``ceiling``), and the slot is deleted.
3. ``closing`` before the holder cancels, ``released`` after a round trip has confirmed the cancel.

Streams leave ``batch_floor`` lines to batches; ``allocation`` decides which holder gets a line. A slot that is not
renewed expires, so a dead process holds none for long; a holder that learns from ``renew`` that a slot is gone must
cancel its subscription at once, since the line may be another's by now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import Connection, and_, bindparam, delete, select, update

from v6_pipeline.model import SlotPurpose
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase, reads
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.keys import chunks
from v6_pipeline.state.schema import slot_demands, slot_limits, slots
from v6_pipeline.state.slots import samples as slot_samples
from v6_pipeline.state.slots.allocation import UNCONFIRMED_LINES, AcquiredSlots, Demand, Slot, SlotUsage, Wait, allocate
from v6_pipeline.state.slots.ceiling import LearnedLimit, LineLimit, after_confirmed, after_exhausted
from v6_pipeline.state.slots.samples import SlotSample
from v6_pipeline.state.upsert import Excluded, upsert

DEMAND_SECONDS = 5
"""A holder that does not request lines again within that time no longer waits."""
SAMPLE_EVERY = timedelta(minutes=1)
_GATEWAY = "gateway"
"""Name of the only row of ``slot_limits`` until several gateways share a database."""
_STREAMER = "streamer/"


def stream_holder(epoch: int) -> str:
    """Name of an epoch's streamer in the ledger."""
    return f"{_STREAMER}{epoch}"


def _epoch_of(holder: str) -> int | None:
    number = holder.removeprefix(_STREAMER)
    return int(number) if holder.startswith(_STREAMER) and number.isdecimal() else None


@dataclass(slots=True)
class SlotChanges:
    """State changes to record for a holder's slots, by conid, in the order in which they are applied."""

    exhausted: set[int] = field(default_factory=set)
    """The gateway answered 101."""
    confirmed: set[int] = field(default_factory=set)
    """Subscribed, and a round trip has brought no 101."""
    released: set[int] = field(default_factory=set)
    """Cancelled or refused, and a round trip has confirmed it."""
    closing: set[int] = field(default_factory=set)
    """About to be cancelled; in use until released."""

    def __bool__(self) -> bool:
        return bool(self.exhausted or self.confirmed or self.released or self.closing)


class SlotLedger:
    """The market-data lines of one gateway, shared by all processes.

    Each call is one write transaction, atomic over all processes.

    Args:
        ceiling: lines that streams and batches may use together: those that IB grants less those kept in reserve.
        batch_floor: lines of these that streams cannot take.
        unconfirmed_lines: lines over all processes that may be unconfirmed at a time.

    Attributes:
        round_trip_seconds: latency to the gateway, measured by the process; more lines may then be unconfirmed.
    """

    def __init__(
        self,
        database: StateDatabase,
        *,
        ceiling: int,
        batch_floor: int,
        clock: Clock | None = None,
        unconfirmed_lines: int = UNCONFIRMED_LINES,
    ) -> None:
        if not 0 <= batch_floor <= ceiling:
            msg = f"a batch floor of {batch_floor} lines under a ceiling of {ceiling}"
            raise ValueError(msg)
        self._database = database
        self._ceiling = ceiling
        self._batch_floor = batch_floor
        self._clock = clock or database.now
        self._unconfirmed_lines = unconfirmed_lines
        self.round_trip_seconds = 0.0

    @classmethod
    def from_settings(cls, settings: Settings, database: StateDatabase, clock: Clock | None = None) -> Self:
        """Build the ledger of the gateway that the settings name."""
        return cls(
            database,
            ceiling=settings.market_data_lines - settings.reserved_lines,
            batch_floor=settings.batch_lines,
            clock=clock,
        )

    def record_and_acquire(
        self,
        changes: SlotChanges,
        conids: Iterable[int] = (),
        *,
        holder: str,
        purpose: SlotPurpose,
        ttl_seconds: float,
        priorities: Mapping[int, int] | None = None,
    ) -> AcquiredSlots:
        """Record ``changes``, then take lines for ``conids`` while there are any, in one transaction.

        Slots that the holder already has are granted again and renewed. Contracts refused for lack of lines are
        recorded as a demand for a few seconds: batches then yield to streams, and share evenly among themselves.

        ``conids`` are served in their order. Slots last ``ttl_seconds`` unless renewed. ``priorities`` of the
        strategies, by conid, are stored for display only.
        """
        wanted = list(dict.fromkeys(conids))
        with self._database.write() as connection:
            now = self._clock()
            self._apply(connection, holder, changes, now)
            usage = self._usage(connection, now)
            answer = allocate(usage, wanted, holder=holder, purpose=purpose)
            row = {
                "holder": holder,
                "purpose": purpose.value,
                "acquired_at": now,
                "expires_at": now + timedelta(seconds=ttl_seconds),
            }
            rows = [row | {"conid": conid, "priority": (priorities or {}).get(conid)} for conid in answer.granted]
            upsert(connection, slots, rows, changes=_renewed)
            if wanted:
                self._note_demand(connection, usage, answer, holder, purpose)
        return answer

    def renew(self, holder: str, *, ttl_seconds: float) -> frozenset[int]:
        """Prolong a holder's slots and return their conids. Any other is lost: cancel its market data."""
        with self._database.write() as connection:
            now = self._clock()
            _sweep(connection, now)
            return _renew(connection, holder, expires_at=now + timedelta(seconds=ttl_seconds), now=now)

    def release(self, holder: str, conids: Iterable[int] | None = None) -> int:
        """Give slots back after the cancel of their market data was confirmed, or the connection has ended.

        Without ``conids`` all of them, and the holder's demands. Return the number of slots.
        """
        with self._database.write() as connection:
            _sweep(connection, self._clock())
            if conids is not None:
                return _remove(connection, holder, conids)
            connection.execute(_DROP_DEMANDS, {"owner": holder})
            return connection.execute(_REMOVE_ALL, {"owner": holder}).rowcount

    def release_earlier_streams(self, holder: str) -> int:
        """Give back the slots and demands of the streamers with a lower epoch than ``holder``; return how many slots.

        For a streamer that has connected: IB admits one connection with its client id, so theirs have ended. A
        ``holder`` that is no streamer's name has none before it.
        """
        epoch = _epoch_of(holder)
        if epoch is None:
            return 0
        with self._database.write() as connection:
            found = set(connection.execute(_HOLDERS).scalars()) | set(connection.execute(_WAITING).scalars())
            earlier = [name for name in found if (other := _epoch_of(name)) is not None and other < epoch]
            for name in earlier:
                connection.execute(_DROP_DEMANDS, {"owner": name})
            return sum(connection.execute(_REMOVE_ALL, {"owner": name}).rowcount for name in earlier)

    def usage(self) -> SlotUsage:
        """Read the lines in use and the demands: cheap enough to be polled."""
        with self._database.read() as connection:
            return self._usage(connection, self._clock())

    def sample(self) -> None:
        """Keep a sample of the usage, for charts, if a minute has passed since the last one."""
        now = self._clock()
        with self._database.read() as connection:
            newest = slot_samples.newest(connection)
            usage = self._usage(connection, now)
        if newest is not None and timedelta() <= now - newest < SAMPLE_EVERY:
            return
        sample = SlotSample(at=now, streams=usage.streams, batches=usage.batches, ceiling=usage.ceiling)
        slot_samples.add(self._database, sample)

    def _apply(self, connection: Connection, holder: str, changes: SlotChanges, now: datetime) -> None:
        _sweep(connection, now)
        if changes.confirmed:
            self._confirm(connection, holder, changes.confirmed - changes.exhausted, now)
        for conid in sorted(changes.exhausted):
            self._learn(connection, holder, conid, now)
        _remove(connection, holder, changes.released)
        for chunk in chunks(changes.closing):
            connection.execute(_CLOSE, {"owner": holder, "conids": chunk, "now": now})

    def _confirm(self, connection: Connection, holder: str, conids: set[int], now: datetime) -> None:
        for chunk in chunks(conids):
            connection.execute(_CONFIRM, {"owner": holder, "conids": chunk, "now": now})
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
            _save_limit(connection, known)

    def _learn(self, connection: Connection, holder: str, conid: int, now: datetime) -> None:
        before = _live(connection, now=now)
        granted_at = next((slot.acquired_at for slot in before if (slot.holder, slot.conid) == (holder, conid)), None)
        _remove(connection, holder, [conid])
        usage = self._usage(connection, now)
        known = after_exhausted(usage.limit, conid=conid, granted_at=granted_at, standing=usage.standing)
        _save_limit(connection, known)

    def _note_demand(
        self, connection: Connection, usage: SlotUsage, answer: AcquiredSlots, holder: str, purpose: SlotPurpose
    ) -> None:
        """Keep the holder's place among those that wait; one that was granted something goes to the end."""
        now = usage.limit.at
        before = next((item for item in usage.demands if (item.holder, item.purpose) == (holder, purpose)), None)
        wanted = len(answer.refused)
        if purpose is SlotPurpose.STREAM:
            held = usage.streams + len(answer.granted)
            wanted = min(wanted, usage.limit.stream_capacity + usage.limit.probe - held)
        if answer.wait not in {Wait.CONFIRM, Wait.LINES} or wanted <= 0:
            if before is not None:
                connection.execute(_DROP_DEMAND, {"owner": holder, "what_for": purpose.value})
            return
        demand = Demand(
            holder=holder,
            purpose=purpose,
            wanted=wanted,
            since=before.since if before is not None and not answer.granted else now,
            expires_at=now + timedelta(seconds=DEMAND_SECONDS),
        )
        upsert(connection, slot_demands, [asdict(demand) | {"purpose": purpose.value}])

    def _usage(self, connection: Connection, now: datetime) -> SlotUsage:
        learned = connection.execute(_LIMIT).one_or_none()
        known = LearnedLimit() if learned is None else LearnedLimit(**dict(zip(_LEARNED, learned, strict=True)))
        return SlotUsage(
            slots=_live(connection, now=now),
            limit=LineLimit(self._ceiling, self._batch_floor, known, now),
            demands=tuple(
                Demand(holder=holder, purpose=SlotPurpose(purpose), wanted=wanted, since=since, expires_at=expires_at)
                for holder, purpose, wanted, since, expires_at in connection.execute(_DEMANDS, {"now": now})
            ),
            unconfirmed_lines=self._unconfirmed_lines,
            round_trip_seconds=self.round_trip_seconds,
        )


@reads
def streams(connection: Connection, *, now: datetime) -> tuple[Slot, ...]:
    """The slots in use by streams, by conid."""
    return tuple(slot for slot in _live(connection, now=now) if slot.purpose is SlotPurpose.STREAM)


def _live(connection: Connection, *, now: datetime) -> tuple[Slot, ...]:
    # By position: the ledger is read several times a second by each process, and rows by name cost four times as much.
    return tuple(
        Slot(conid, holder, SlotPurpose(purpose), acquired_at, expires_at, priority, confirmed_at, closing_at)
        for conid, holder, purpose, acquired_at, expires_at, priority, confirmed_at, closing_at in connection.execute(
            _LIVE, {"now": now}
        )
    )


def _renewed(new: Excluded) -> dict[str, Any]:
    return {"expires_at": new.expires_at, "priority": new.priority}


def _renew(connection: Connection, holder: str, *, expires_at: datetime, now: datetime) -> frozenset[int]:
    """Live slots only: an expired one may be another holder's by now."""
    connection.execute(_RENEW, {"owner": holder, "now": now, "until": expires_at})
    return frozenset(connection.scalars(_HELD, {"owner": holder, "now": now}))


def _remove(connection: Connection, holder: str, conids: Iterable[int]) -> int:
    return sum(
        connection.execute(_REMOVE, {"owner": holder, "conids": chunk}).rowcount for chunk in chunks(set(conids))
    )


def _sweep(connection: Connection, now: datetime) -> None:
    connection.execute(_SWEEP_SLOTS, {"now": now})
    connection.execute(_SWEEP_DEMANDS, {"now": now})


def _save_limit(connection: Connection, known: LearnedLimit) -> None:
    upsert(connection, slot_limits, [{"name": _GATEWAY, **asdict(known)}])


# Built once, because building a query costs more than running it.
_IS_LIVE = slots.c.expires_at > bindparam("now")
_LIVE = select(*(slots.c[item.name] for item in fields(Slot))).where(_IS_LIVE).order_by(slots.c.conid, slots.c.holder)
_IS_OWNERS = slots.c.holder == bindparam("owner")
_ARE_OWNERS = and_(_IS_OWNERS, slots.c.conid.in_(bindparam("conids", expanding=True)))
_RENEW = update(slots).where(_IS_OWNERS, _IS_LIVE).values(expires_at=bindparam("until"))
_HELD = select(slots.c.conid).where(_IS_OWNERS, _IS_LIVE)
_CONFIRM = update(slots).where(_ARE_OWNERS, slots.c.confirmed_at.is_(None)).values(confirmed_at=bindparam("now"))
_CLOSE = update(slots).where(_ARE_OWNERS, slots.c.closing_at.is_(None)).values(closing_at=bindparam("now"))
_REMOVE_ALL = delete(slots).where(_IS_OWNERS)
_HOLDERS = select(slots.c.holder).distinct()
_WAITING = select(slot_demands.c.holder).distinct()
_REMOVE = delete(slots).where(_ARE_OWNERS)
_SWEEP_SLOTS = delete(slots).where(slots.c.expires_at <= bindparam("now"))
_LEARNED = tuple(item.name for item in fields(LearnedLimit))
_LIMIT = select(*(slot_limits.c[name] for name in _LEARNED)).where(slot_limits.c.name == _GATEWAY)
_DEMANDS = (
    select(*(slot_demands.c[item.name] for item in fields(Demand)))
    .where(slot_demands.c.expires_at > bindparam("now"))
    .order_by(slot_demands.c.holder, slot_demands.c.purpose)
)
_DROP_DEMANDS = delete(slot_demands).where(slot_demands.c.holder == bindparam("owner"))
_DROP_DEMAND = _DROP_DEMANDS.where(slot_demands.c.purpose == bindparam("what_for"))
_SWEEP_DEMANDS = delete(slot_demands).where(slot_demands.c.expires_at <= bindparam("now"))
