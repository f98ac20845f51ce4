"""The rules by which lines are granted and yielded: pure functions of the lines in use at one instant.

Streams outrank batches down to the batch floor, never the reverse. Batches share evenly the lines that streams leave,
so that no worker has all of them for a whole run. A line counts from its grant until its release, after its cancel was
confirmed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from v6_pipeline.model import SlotPurpose
from v6_pipeline.state.slots.ceiling import LearnedLimit, LineLimit

UNCONFIRMED_LINES = 2
"""Lines over all processes that may be unconfirmed at a gateway without latency: a limit that falls draws that many
101s. It then draws at most five in half a minute, however many processes there are."""
UNCONFIRMED_PER_SECOND = 30.0
"""Further lines that may be unconfirmed for each second of the round trip: about as many as the message rate carries in
that time, so that messages and lines limit the quotes, and the latency does not. They are on their way when the first
101 arrives: a limit that falls draws up to 14 of these at 400 ms, and more the longer the wire."""
UNCONFIRMED_MOST = 16
"""Limit of these further lines, reached at a round trip of half a second."""
UNCONFIRMED_FOR = timedelta(seconds=15)
"""A holder that has not confirmed a line by then has died or stalled, and no longer delays the others."""

PRECEDENCE_AFTER = timedelta(seconds=1)
"""A holder that has waited for that long goes first. A shorter time would leave lines idle between grants."""


class Wait(enum.StrEnum):
    """Prospects of a holder that was refused lines."""

    NOT_NEEDED = "not_needed"
    """Every line was granted, or never will be: the contract is streamed already."""
    CONFIRM = "confirm"
    """There are lines; others are being confirmed: request again at once."""
    LINES = "lines"
    """Lines will become free: batches end or yield. Request again within a second."""
    PAUSE = "pause"
    """The gateway has just answered 101: no process requests a line before ``retry_at``."""
    NONE_LEFT = "none_left"
    """All lines for this purpose are in use, without a known end."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A market-data line in use.

    ``priority`` is the strategy's (lower is more important), ``None`` for a batch. ``confirmed_at`` is the time when
    the gateway's grant was confirmed, ``closing_at`` the time when its holder began to cancel it.
    """

    conid: int
    holder: str
    purpose: SlotPurpose
    acquired_at: datetime
    expires_at: datetime
    priority: int | None = None
    confirmed_at: datetime | None = None
    closing_at: datetime | None = None

    @property
    def is_standing(self) -> bool:
        """True while the gateway is known to have the line: confirmed, and not being cancelled."""
        return self.confirmed_at is not None and self.closing_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A holder that has waited since ``since`` for ``wanted`` lines beyond those that it has."""

    holder: str
    purpose: SlotPurpose
    wanted: int
    since: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AcquiredSlots:
    """Contracts that were granted a line, and those that were refused one, in the order of the request."""

    granted: tuple[int, ...]
    refused: tuple[int, ...]
    wait: Wait = field(default=Wait.NOT_NEEDED, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotUsage:
    """The lines in use at one instant, the limit and the demands."""

    slots: tuple[Slot, ...]
    limit: LineLimit
    demands: tuple[Demand, ...] = ()
    unconfirmed_lines: int = UNCONFIRMED_LINES
    round_trip_seconds: float = 0.0
    """Latency between the gateway and the process that reads this."""

    @property
    def ceiling(self) -> int:
        """Lines that streams and batches may use together now; fewer than by the settings after an error 101."""
        return self.limit.ceiling

    @property
    def configured_ceiling(self) -> int:
        """Lines that streams and batches may use together by the settings."""
        return self.limit.configured

    @property
    def batch_floor(self) -> int:
        """Lines that streams leave to batches now."""
        return self.limit.floor

    @property
    def learned(self) -> LearnedLimit:
        """The limit learned from 101 errors."""
        return self.limit.known

    @property
    def streams(self) -> int:
        """Lines that streams use."""
        return sum(slot.purpose is SlotPurpose.STREAM for slot in self.slots)

    @property
    def batches(self) -> int:
        """Lines that batches use."""
        return len(self.slots) - self.streams

    @property
    def standing(self) -> int:
        """Lines that the gateway is known to have now."""
        return sum(slot.is_standing for slot in self.slots)

    @property
    def unconfirmed(self) -> int:
        """Lines that the gateway may still refuse, except those of holders that seem to have died."""
        oldest = self.limit.at - UNCONFIRMED_FOR
        return sum(slot.confirmed_at is None and slot.acquired_at > oldest for slot in self.slots)

    @property
    def free(self) -> int:
        """Lines that a batch could take now if no other batch wanted any."""
        return max(0, self.ceiling - len(self.slots))

    @property
    def free_for_streams(self) -> int:
        """Lines that a streamer could take now."""
        return max(0, min(self.free, self.limit.stream_capacity - self.streams))

    @property
    def stream_demand(self) -> int:
        """Number of lines that streams wait for."""
        return sum(item.wanted for item in self.demands if item.purpose is SlotPurpose.STREAM)

    @property
    def new_lines(self) -> int:
        """New lines that may be subscribed at this moment, while others are unconfirmed."""
        if self.limit.is_paused:
            return 0
        in_transit = min(int(UNCONFIRMED_PER_SECOND * self.round_trip_seconds), UNCONFIRMED_MOST)
        allowed = self.unconfirmed_lines + in_transit
        if self.limit.is_probing or self.limit.is_alarmed:
            allowed = 1
        elif self.limit.is_careful:
            allowed = 1 + in_transit // 2
        return max(0, allowed - self.unconfirmed)

    def new_lines_of(self, holder: str, purpose: SlotPurpose) -> int:
        """``new_lines`` less one for each holder that has waited longer, so that a busy one does not take all."""
        if purpose is SlotPurpose.STREAM:
            return self.new_lines
        mine = next((item.since for item in self.demands if (item.holder, item.purpose) == (holder, purpose)), None)
        oldest = self.limit.at - PRECEDENCE_AFTER
        before = sum(
            item.holder != holder
            and item.since <= oldest
            and (mine is None or item.since < mine)
            and self.room(item.holder, item.purpose) > 0
            for item in self.demands
        )
        return max(0, self.new_lines - before)

    @property
    def _free(self) -> int:
        """``free``, plus the line beyond the ceiling that is tried now."""
        return max(0, self.ceiling + self.limit.probe - len(self.slots))

    def room(self, holder: str, purpose: SlotPurpose) -> int:
        """Further lines that a holder may take, regardless of unconfirmed ones."""
        if purpose is SlotPurpose.STREAM:
            return max(0, min(self._free, self._stream_room))
        room = min(self._free, self._share(holder) - self._held(holder, purpose))
        if self.stream_demand:
            room = min(room, self.batch_floor - self.batches)
        return max(0, room)

    def room_to_come(self, purpose: SlotPurpose) -> int:
        """Lines that may become free for a holder: those of batches beyond their floor, or those of other batches."""
        if purpose is SlotPurpose.STREAM:
            spare = self._free + max(0, self.batches - self.batch_floor)
            return max(0, min(spare, self._stream_room))
        return max(0, self.ceiling - self.streams)

    def to_yield(self, holder: str) -> frozenset[int]:
        """Contracts whose lines a batch should give up now, for streams that wait or a ceiling that fell.

        Over all batches, the lines taken first go first: they are nearest to their quote, and IB answers a cancel that
        comes too soon with an error.
        """
        above_floor = self.batches - self.batch_floor
        wanted = min(self.stream_demand, max(0, self._stream_room)) - self._free
        wanted = min(max(wanted, len(self.slots) - self.ceiling), above_floor)
        lines = [slot for slot in self.slots if slot.purpose is SlotPurpose.BATCH]
        still = wanted - sum(slot.closing_at is not None for slot in lines)
        if still <= 0:
            return frozenset()
        oldest = sorted(
            (slot for slot in lines if slot.closing_at is None),
            key=lambda slot: (slot.acquired_at, slot.holder, slot.conid),
        )
        return frozenset(slot.conid for slot in oldest[:still] if slot.holder == holder)

    @property
    def _stream_room(self) -> int:
        return self.limit.stream_capacity + self.limit.probe - self.streams

    def _held(self, holder: str, purpose: SlotPurpose) -> int:
        return sum(slot.holder == holder and slot.purpose is purpose for slot in self.slots)

    def _share(self, holder: str) -> int:
        """Number of the lines left by streams that a batch may have while others want some as well."""
        wanted = {item.holder: item for item in self.demands if item.purpose is SlotPurpose.BATCH}
        held = {slot.holder for slot in self.slots if slot.purpose is SlotPurpose.BATCH}
        total = self.ceiling + self.limit.probe - self.streams
        if not (held | wanted.keys()) - {holder}:
            return total
        # The remainder of the division goes to those that have waited longest, then to the rest.
        order = sorted(wanted, key=lambda name: (wanted[name].since, name))
        order += sorted((held | {holder}) - wanted.keys())
        wants = {
            name: self._held(name, SlotPurpose.BATCH) + (wanted[name].wanted if name in wanted else 0) for name in order
        }
        wants[holder] = total  # the caller limits it to the request
        return fair_shares([wants[name] for name in order], total)[order.index(holder)]


def fair_shares(wants: Sequence[int], total: int) -> tuple[int, ...]:
    """Divide ``total`` evenly, giving none more than it wants; the remainder goes to the first ones."""
    shares = [0] * len(wants)
    left = max(0, total)
    while left > 0:
        unsatisfied = [index for index, want in enumerate(wants) if shares[index] < want]
        if not unsatisfied:
            break
        each = max(1, left // len(unsatisfied))
        for index in unsatisfied:
            more = min(each, wants[index] - shares[index], left)
            shares[index] += more
            left -= more
    return tuple(shares)


def allocate(usage: SlotUsage, conids: Iterable[int], *, holder: str, purpose: SlotPurpose) -> AcquiredSlots:
    """Decide which of ``conids`` get a slot, in their order.

    A slot that the holder has for this purpose is granted again. It refuses a contract that the holder has for the
    other purpose or is cancelling, a stream of a contract that is streamed already, and every new line once the lines
    are used up or enough of them are unconfirmed.
    """
    mine = {slot.conid: slot for slot in usage.slots if slot.holder == holder}
    streamed = {slot.conid for slot in usage.slots if slot.purpose is SlotPurpose.STREAM}
    room, new = usage.room(holder, purpose), usage.new_lines_of(holder, purpose)
    granted: list[int] = []
    refused: list[int] = []
    short = 0
    for conid in dict.fromkeys(conids):
        slot = mine.get(conid)
        if slot is not None:
            again = slot.purpose is purpose and slot.closing_at is None
            (granted if again else refused).append(conid)
        elif purpose is SlotPurpose.STREAM and conid in streamed:
            refused.append(conid)
        elif room > 0 and new > 0:
            room, new = room - 1, new - 1
            granted.append(conid)
        else:
            short += 1
            refused.append(conid)
    return AcquiredSlots(
        tuple(granted), tuple(refused), _wait(usage, purpose, room=room, short=short, is_served=bool(granted))
    )


def _wait(usage: SlotUsage, purpose: SlotPurpose, *, room: int, short: int, is_served: bool) -> Wait:
    if short == 0:
        return Wait.NOT_NEEDED
    if usage.limit.is_paused:
        return Wait.PAUSE
    # While more lines are probed, each one that is confirmed makes room for the next.
    if room > 0 or (usage.limit.is_probing and (is_served or usage.unconfirmed > 0)):
        return Wait.CONFIRM
    return Wait.LINES if usage.room_to_come(purpose) > 0 else Wait.NONE_LEFT
